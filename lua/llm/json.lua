-- JSON: dkjson reads it and quotes strings; which tables are arrays, in which order keys come, null, and what to do
-- with strings that are not UTF-8 is decided here.

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

-- ---- encoding ------------------------------------------------------------------------------------------------

-- How many elements t has as an array, nil if it is none: it has a key that is no index, or is mostly holes. A field
-- such as `n` makes no array of a table, whatever it says.
local function elements(t)
  local max, count = 0, 0
  for key in pairs(t) do
    if type(key) ~= "number" or key < 1 or key % 1 ~= 0 then return nil end
    count = count + 1
    if key > max then max = key end
  end
  if max > 10 and max > 2 * count then return nil end
  return max
end

-- Integers that a double holds exactly are printed exactly; NaN and infinities, which JSON lacks, are null.
local function number(x)
  if x ~= x or x == math.huge or x == -math.huge then return "null" end
  if x % 1 == 0 and math.abs(x) <= 2 ^ 53 then return ("%.0f"):format(x) end
  return tostring(x)
end

local function put(out, text) out[#out + 1] = text end

-- A line of its own, so deep, if the text is indented.
local function new_line(out, depth)
  if out.indent then put(out, "\n" .. ("  "):rep(depth)) end
end

local write

local function write_array(out, t, n, depth)
  put(out, "[")
  for i = 1, n do
    if i > 1 then put(out, ",") end
    write(out, t[i], depth)
  end
  put(out, "]")
end

local function write_object(out, t, order, depth)
  local first, done = true, {}
  local function pair(key, value)
    if type(key) ~= "string" and type(key) ~= "number" then
      error(("a %s cannot be a key"):format(type(key)), 0)
    end
    if not first then put(out, ",") end
    first = false
    new_line(out, depth)
    put(out, type(key) == "number" and '"' .. number(key) .. '"' or dkjson.quotestring(key))
    put(out, ":")
    write(out, value, depth)
  end
  put(out, "{")
  for _, key in ipairs(order or {}) do
    if t[key] ~= nil and not done[key] then
      pair(key, t[key])
      done[key] = true
    end
  end
  for key, value in pairs(t) do
    if not done[key] then pair(key, value) end
  end
  new_line(out, depth - 1)
  put(out, "}")
end

local function write_table(out, t, depth)
  if out.open[t] then error("a table contains itself", 0) end
  out.open[t] = true
  local meta = getmetatable(t)
  if type(meta) ~= "table" then meta = {} end
  local n = meta.__jsontype ~= "object" and elements(t)
  if n then
    write_array(out, t, n, depth + 1)
  else
    write_object(out, t, meta.__jsonorder or out.keyorder, depth + 1)
  end
  out.open[t] = nil
end

function write(out, value, depth)
  local kind = type(value)
  if value == nil or value == M.null then
    put(out, "null")
  elseif kind == "string" then
    put(out, dkjson.quotestring(value))
  elseif kind == "number" then
    put(out, number(value))
  elseif kind == "boolean" then
    put(out, tostring(value))
  elseif kind == "table" then
    write_table(out, value, depth)
  else
    error(("a %s has no form in JSON"):format(kind), 0)
  end
end

-- options: {indent = true, keyorder = {…}}. The text; or nil and a message (a function, a cycle). A table is an object
-- if it was marked as one or has a key that is no index, else an array, with null where it has holes.
function M.encode(value, options)
  local out = { indent = options and options.indent, keyorder = options and options.keyorder, open = {} }
  local ok, message = pcall(write, out, value, 0)
  if not ok then return nil, "cannot make JSON: " .. tostring(message) end
  return table.concat(out)
end

-- ---- decoding ------------------------------------------------------------------------------------------------

-- The value; or nil and a message with line and column. JSON's null becomes options.null (default: nil).
function M.decode(text, options)
  local value, position, message = dkjson.decode(text, 1, options and options.null, object_meta, array_meta)
  if message then return nil, "malformed JSON: " .. message end
  local rest = text:find("[^%s]", position)
  if rest then return nil, ("malformed JSON: text after the value, at byte %d"):format(rest) end
  return value
end

return M
