-- The program that runs this script with llmlua_lua.h: what it gives to scripts.

local engines = require "llm.engine"
local found, core = pcall(require, "llm.host_core")

local M = {}

-- The engine that the program has added by this name. It is the program's to close.
function M.engine(name)
  if not found then error("llm.host is for scripts in a C program (llmlua_lua.h); this one runs by itself", 2) end
  local handle, message = core.engine(name)
  if not handle then error(message, 2) end
  return assert(engines.open({ model = handle:info().path }, function() return handle end))
end

return M
