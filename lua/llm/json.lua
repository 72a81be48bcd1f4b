-- JSON by dkjson, with what it leaves to its user: which tables are arrays, in which order keys come, null, and
-- strings that are not UTF-8.

local core = require "llm.core"
local dkjson = require "dkjson"

local M = {}

M.null = dkjson.null

local array_meta = { __jsontype = "array" }
local object_meta = { __jsontype = "object" }

-- Marks a table as an array, so that an empty one prints as [].
function M.array(t) return setmetatable(t or {}, array_meta) end

-- Marks a table as an object; its keys are strings. order: list of keys that come first.
function M.object(t, order)
  return setmetatable(t or {}, order and { __jsontype = "object", __jsonorder = order } or object_meta)
end

-- Length of the UTF-8 character at i in s, nil if the bytes there are none (RFC 3629: no overlong forms, no
-- surrogates, nothing above U+10FFFF).
local function character(s, i)
  local a, b = s:byte(i, i + 1)
  if a < 0x80 then return 1 end
  b = b or 0
  local n, low, high = nil, 0x80, 0xbf
  if a >= 0xc2 and a <= 0xdf then
    n = 2
  elseif a >= 0xe0 and a <= 0xef then
    n = 3
    if a == 0xe0 then low = 0xa0 elseif a == 0xed then high = 0x9f end
  elseif a >= 0xf0 and a <= 0xf4 then
    n = 4
    if a == 0xf0 then low = 0x90 elseif a == 0xf4 then high = 0x8f end
  end
  if not n or b < low or b > high then return nil end
  for k = i + 2, i + n - 1 do
    local c = s:byte(k) or 0
    if c < 0x80 or c > 0xbf then return nil end
  end
  return n
end

-- s with U+FFFD for every byte that is not part of valid UTF-8: JSON is UTF-8.
function M.utf8(s)
  if core.is_utf8(s) then return s end
  local parts, i, start = {}, 1, 1
  while i <= #s do
    local n = character(s, i)
    if n then
      i = i + n
    else
      parts[#parts + 1] = s:sub(start, i - 1)
      parts[#parts + 1] = "\239\191\189"
      i = i + 1
      start = i
    end
  end
  parts[#parts + 1] = s:sub(start)
  return table.concat(parts)
end

-- options: {indent = true, keyorder = {…}}. The text; or nil and a message (a function, a cycle).
function M.encode(value, options)
  options = options or {}
  local ok, text = pcall(dkjson.encode, value, { indent = options.indent, keyorder = options.keyorder })
  if not ok then return nil, "cannot make JSON: " .. tostring(text) end
  return text
end

-- The value; or nil and a message with line and column. JSON's null becomes options.null (default: nil).
function M.decode(text, options)
  local value, position, message = dkjson.decode(text, 1, options and options.null, object_meta, array_meta)
  if message then return nil, "malformed JSON: " .. message end
  local rest = text:find("[^%s]", position)
  if rest then return nil, ("malformed JSON: text after the value, at byte %d"):format(rest) end
  return value
end

return M
