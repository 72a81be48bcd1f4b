-- Files that are read whole.

local M = {}

-- Its bytes, or nil and a message that begins with the path.
function M.read(path)
  local file, message = io.open(path, "rb")
  if not file then return nil, message end
  local text
  text, message = file:read "*a"
  file:close()
  return text, message -- a directory opens, but does not read
end

return M
