-- The types an option can have: how its value reads on a command line, and what a script may give.

local M = {}

local binary = { k = 1024, m = 1024 ^ 2, g = 1024 ^ 3, t = 1024 ^ 4 }
local decimal = { k = 1e3, m = 1e6, g = 1e9, t = 1e12 }

local function scaled(text, factor_of)
  local digits, unit = text:match("^%s*([%d.]+)%s*(%a*)%s*$")
  local value = tonumber(digits)
  local factor = value and factor_of(unit)
  local result = factor and value * factor
  if result and result == math.floor(result) then return result end
end

-- "24MiB", "2GiB", "500MB", "1.5G" (binary), "4096".
local function parse_bytes(text)
  return scaled(text, function(unit)
    if unit == "" or unit:lower() == "b" then return 1 end
    local letter, rest = unit:sub(1, 1):lower(), unit:sub(2)
    if rest == "" or rest:lower() == "ib" then return binary[letter] end
    if rest:lower() == "b" then return decimal[letter] end
  end)
end

local function is_whole(v) return type(v) == "number" and v == math.floor(v) and math.abs(v) <= 2 ^ 53 end

local function parse_whole(text)
  local v = text:match("^%s*[+-]?%d+%s*$") and tonumber(text)
  return is_whole(v) and v or nil
end

-- As vLLM: "32k" is 32000, "32K" is 32768, "4096"; -1 where that means no limit.
local function parse_count(text)
  return parse_whole(text) or scaled(text, function(unit)
    if unit == "" then return 1 end
    if #unit > 1 then return nil end
    return unit:lower() == unit and decimal[unit] or binary[unit:lower()]
  end)
end

local function parse_wholes(text)
  local list = {}
  for piece in (text .. ","):gmatch("([^,]*),") do
    local v = parse_whole(piece)
    if not v then return nil end
    list[#list + 1] = v
  end
  return list
end

local function parse_bias(text)
  local map = {}
  local body = text:match("^%s*{(.*)}%s*$") or text
  for piece in (body .. ","):gmatch("([^,]*),") do
    local id, bias = piece:match('^%s*"?(%d+)"?%s*:%s*([-+%d.eE]+)%s*$')
    if not (id and tonumber(bias)) then return nil end
    map[tonumber(id)] = tonumber(bias)
  end
  return map
end

local function parse_names(text)
  local list = {}
  for name in text:gmatch "[^,%s]+" do list[#list + 1] = name end
  return #list > 1 and list or list[1]
end

local function parse_object(text)
  local value = require("llm.json").decode(text)
  return type(value) == "table" and value or nil
end

local booleans = { ["true"] = true, ["1"] = true, yes = true, on = true,
                   ["false"] = false, ["0"] = false, no = false, off = false }

local function list_of(is_element)
  return function(v)
    if type(v) ~= "table" then return false end
    for _, element in ipairs(v) do
      if not is_element(element) then return false end
    end
    return true
  end
end

local function is_string(v) return type(v) == "string" end

-- name -> what it is called, parse (text -> value or nil), is (may a script give this value?), and shown: the
-- placeholder in --help. lenient: a script may also give the text.
M.types = {
  string = { what = "a string", shown = "TEXT", parse = function(s) return s end, is = is_string },
  path = { what = "a path", shown = "PATH", parse = function(s) return s end, is = is_string },
  boolean = { what = "true or false", parse = function(s) return booleans[s:lower()] end,
              is = function(v) return type(v) == "boolean" end },
  integer = { what = "a whole number", shown = "N", parse = parse_whole, is = is_whole },
  number = { what = "a number", shown = "X", parse = tonumber,
             is = function(v) return type(v) == "number" end },
  count = { what = "a whole number such as 4096, 32k (32000) or 32K (32768)", shown = "N", parse = parse_count,
            is = is_whole, lenient = true },
  bytes = { what = "a size such as 24MiB, 2GiB or a number of bytes", shown = "SIZE", parse = parse_bytes,
            is = is_whole, lenient = true },
  integers = { what = "a list of whole numbers such as 1,2,3", shown = "N,N,...", parse = parse_wholes,
               is = list_of(is_whole) },
  strings = { what = "a string or a list of strings", shown = "TEXT", parse = function(s) return s end,
              is = function(v) return is_string(v) or list_of(is_string)(v) end },
  policy = { what = "the name of a policy, or a list of names and of {name = …, args = {…}}", shown = "NAME,...",
             parse = parse_names, is = function(v) return is_string(v) or type(v) == "table" end },
  object = { what = "an object such as {\"tau\": 5}", shown = "JSON", parse = parse_object,
             is = function(v) return type(v) == "table" end },
  bias = { what = "a map from token id to bias, such as 50256:-100,11:2.5", shown = "ID:X,...", parse = parse_bias,
           is = function(v) return type(v) == "table" end },
}

local function join(choices)
  local quoted = {}
  for i, choice in ipairs(choices) do quoted[i] = "'" .. choice .. "'" end
  return table.concat(quoted, ", ")
end

-- What a value of entry must be, in words.
function M.wanted(entry)
  return entry.choices and "one of " .. join(entry.choices) or M.types[entry.type].what
end

-- Is value allowed by entry's choices and range? true, or nil and what it must be.
local function within(entry, value)
  if entry.choices then
    for _, choice in ipairs(entry.choices) do
      if choice == value then return true end
    end
    return nil, "one of " .. join(entry.choices)
  end
  if entry.min and value < entry.min or entry.max and value > entry.max then
    if not entry.max then return nil, ("at least %.14g"):format(entry.min) end
    if not entry.min then return nil, ("at most %.14g"):format(entry.max) end
    return nil, ("between %.14g and %.14g"):format(entry.min, entry.max)
  end
  return true
end

local function shown(value)
  return type(value) == "string" and ("'%s'"):format(value) or type(value) == "number" and ("%.14g"):format(value)
    or "a " .. type(value)
end

-- The value that text stands for on a command line; label names the option. Or nil, message.
function M.parse(entry, text, label)
  local kind = M.types[entry.type]
  local value = kind.parse(text)
  if value == nil then return nil, ("%s must be %s; it is '%s'"):format(label, kind.what, text) end
  local ok, wanted = within(entry, value)
  if not ok then return nil, ("%s must be %s; it is '%s'"):format(label, wanted, text) end
  return value
end

-- The same for a value from a script.
function M.check(entry, value, label)
  local kind = M.types[entry.type]
  if kind.lenient and type(value) == "string" then return M.parse(entry, value, label) end
  if not kind.is(value) then
    return nil, ("%s must be %s; it is %s"):format(label, kind.what, shown(value))
  end
  local ok, wanted = within(entry, value)
  if not ok then return nil, ("%s must be %s; it is %s"):format(label, wanted, shown(value)) end
  return value
end

return M
