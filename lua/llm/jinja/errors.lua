-- Errors that a template may raise: plain tables, thrown with error(), caught at the border in jinja.lua.
-- `type` is the name of the exception that Python would raise, `message` what str(exception) would say.

local M = {}

local Error = {}
Error.__index = Error
Error.__tostring = function(self)
  local where = self.line and ("template line " .. self.line .. ": ") or ""
  return where .. self.type .. ": " .. self.message
end

function M.new(type_name, message, line)
  return setmetatable({ type = type_name, message = message, line = line }, Error)
end

function M.is(value)
  return getmetatable(value) == Error
end

function M.raise(type_name, message, line)
  error(M.new(type_name, message, line), 0)
end

function M.type_error(message) M.raise("TypeError", message) end
function M.value_error(message) M.raise("ValueError", message) end

return M
