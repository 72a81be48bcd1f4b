-- What a prompt does with a line: compiles it, runs it, prints what it is worth, completes names. For the prompt of
-- llmlua -i, and for those that attach to a server.

local pretty = require("llm.table").pretty

local M = {}

local CHUNK = "=stdin"

-- Does the message of loadstring say that the text only lacks an end?
local function incomplete(message) return message and message:find("'?<eof>'?$") ~= nil end

-- A function for the text, as an expression if it can be one; or nil, message, incomplete.
function M.compile(text)
  local body = text:gsub("^%s*=", "")
  local expression, why_not = loadstring("return " .. body, CHUNK)
  if expression then return expression end
  local chunk, message = loadstring(text, CHUNK)
  if chunk then return chunk end
  return nil, message, incomplete(message) or incomplete(why_not)
end

-- How these values read; nil if there are none.
function M.format(...)
  local parts = {}
  for i = 1, select("#", ...) do parts[i] = pretty((select(i, ...))) end
  return #parts > 0 and table.concat(parts, "\t") or nil
end

-- Without the lines about the prompt itself.
function M.trim_traceback(text)
  text = text:gsub("\n%s*%[C%]: in function 'xpcall'.*$", "")
  return (text:gsub("\n%s*%[builtin#%d+%]: at 0x%x+", "")) -- a tail call of a library function has no name
end

-- The fields of a value, its own and those that __index leads to, that begin with `start`: a set of names.
local function names_of(object, start)
  local found = {}
  for _ = 1, 8 do
    if type(object) == "string" then object = string end
    if type(object) ~= "table" then
      local meta = debug.getmetatable(object)
      object = meta and rawget(meta, "__index")
      if type(object) ~= "table" then break end
    end
    for key in next, object do
      local name = type(key) == "string" and key:match("^[%a_][%w_]*$")
      if name and name:sub(1, #start) == start and name:sub(1, 2) ~= "__" then found[name] = true end
    end
    local meta = getmetatable(object)
    object = type(meta) == "table" and rawget(meta, "__index") or nil
    if object == nil then break end
  end
  return found
end

-- Candidates for the word under the cursor: globals of env, or fields and methods of what comes before the last dot or
-- colon.
function M.complete(word, env)
  local path, separator, start = word:match("^(.*)([.:])([%w_]*)$")
  local object = env
  if path then
    for name in path:gmatch("[^.:]+") do
      local ok, value = pcall(function() return object[name] end)
      if not ok then return {} end
      object = value
    end
  else
    path, separator, start = "", "", word
  end
  local list = {}
  for name in pairs(names_of(object, start)) do list[#list + 1] = path .. separator .. name end
  table.sort(list)
  return list
end

return M
