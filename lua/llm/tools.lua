-- llm.tool(name, f): functions that client scripts (llm.client_script) may call as tools.name(…). Arguments and results
-- are plain data; f runs in the request's task and may wait. A reload of the script registers its own.

local M = { list = {} }

-- Registers f under a name; nil removes it.
function M.tool(name, f)
  if type(name) ~= "string" or not name:find "^[%a_][%w_]*$" then error("a tool's name is a Lua name", 2) end
  if f ~= nil and type(f) ~= "function" then error("a tool is a function", 2) end
  M.list[name] = f
end

function M.names()
  local names = {}
  for name in pairs(M.list) do names[#names + 1] = name end
  table.sort(names)
  return names
end

return M
