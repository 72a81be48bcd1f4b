-- Filters on single values, and the registry: `table` maps a name to a native function whose first argument is the
-- value. The filters on sequences are in sequence_filters.lua.

local budget = require "llm.jinja.budget"
local errors = require "llm.jinja.errors"
local format = require "llm.jinja.format"
local json = require "llm.jinja.json"
local ops = require "llm.jinja.ops"
local seq = require "llm.jinja.seq"
local sequence_filters = require "llm.jinja.sequence_filters"
local str_methods = require "llm.jinja.str_methods"
local text = require "llm.jinja.text"
local unicode = require "llm.jinja.unicode"
local value = require "llm.jinja.value"

local M = { table = {} }

local none, kind_of, str, truth = value.none, value.kind, text.str, value.truth

local function def(name, params, fn, raw)
  M.table[name] = value.native(name, fn, params, raw)
end

local function absent(v)
  return v == nil or v == none
end

-- A filter that maps text to text: Markup stays Markup, other values are taken as their str().
local function text_filter(name, params, fn)
  def(name, params, function(v, ...)
    budget.spend(1)
    local s = fn(str(v), ...)
    return kind_of(v) == "markup" and value.markup(s) or s
  end)
end

local function method(name)
  return str_methods.methods[name].fn
end

text_filter("upper", {}, method "upper")
text_filter("lower", {}, method "lower")
text_filter("capitalize", {}, method "capitalize")
text_filter("trim", { "chars" }, method "strip")
text_filter("center", { "width" }, function(s, width) return method "center"(s, width or 80) end)

-- Unlike str.title, the filter starts words only after white space and a few brackets.
text_filter("title", {}, function(s)
  budget.text(#s)
  local out, at_start = {}, true
  local chars, n = unicode.chars(s)
  for i = 1, n do
    local c = chars[i]
    out[i] = at_start and unicode.upper(c) or unicode.lower(c)
    at_start = c:find("[-({%[<]") ~= nil or unicode.is_space(c)
  end
  return table.concat(out)
end)

def("string", {}, function(v)
  if kind_of(v) == "markup" then return v end
  return str(v)
end)

def("replace", { "old", "new", "count" }, function(v, old, new, count)
  if new == nil then errors.type_error("replace needs the old and the new text") end
  return str_methods.replaced(str(v), str(old), str(new), not absent(count) and count or nil)
end)

def("default", { "default_value", "boolean" }, function(v, default, boolean)
  if kind_of(v) == "undefined" or (boolean ~= nil and truth(boolean) and not truth(v)) then
    if default == nil then return "" end
    return default
  end
  return v
end)
M.table.d = M.table.default

def("safe", {}, function(v) return value.markup(str(v)) end)
def("escape", {}, text.escape)
M.table.e = M.table.escape
def("forceescape", {}, function(v) return text.escape(str(v)) end)

def("length", {}, seq.len)
M.table.count = M.table.length

local function indent_unit(indent)
  if absent(indent) then return nil end
  if type(indent) == "string" then return indent end
  budget.text(indent > 0 and indent or 0)
  return (" "):rep(indent)
end

-- transformers' tojson: plain json.dumps, no HTML escapes, non-ASCII as it is.
def("tojson", { "ensure_ascii", "indent", "separators", "sort_keys" },
  function(v, ascii, indent, separators, sort_keys)
    local unit = indent_unit(indent)
    local item, key = unit and "," or ", ", ": "
    if not absent(separators) then
      local pair = seq.unpack(separators, 2)
      item, key = pair[1], pair[2]
    end
    return json.encode(v, {
      ascii = ascii ~= nil and truth(ascii), indent = unit, item_separator = item, key_separator = key,
      sort_keys = sort_keys ~= nil and truth(sort_keys),
    })
  end)

def("indent", { "width", "first", "blank" }, function(v, width, first, blank)
  if kind_of(v) == "undefined" then ops.fail_undefined(v) end
  if type(v) ~= "string" and kind_of(v) ~= "markup" then
    errors.type_error("unsupported operand type(s) for +=: '" .. value.type_name(v) .. "' and 'str'")
  end
  local unit = type(width) == "string" and width or (" "):rep(math.min(width or 4, 1000))
  local lines, n = unicode.split_lines(str(v) .. "\n")
  budget.text(#str(v) + n * #unit)
  local with_blank = blank ~= nil and truth(blank)
  for i = 2, n do
    if with_blank or lines[i] ~= "" then lines[i] = unit .. lines[i] end
  end
  local s = table.concat(lines, "\n", 1, n)
  if first ~= nil and truth(first) then s = unit .. s end
  return kind_of(v) == "markup" and value.markup(s) or s
end)

def("format", {}, function(v, args, n, kwargs)
  if kwargs and n > 0 then
    errors.raise("FilterArgumentError", "can't handle positional and keyword arguments at the same time")
  end
  return format.percent(str(v), kwargs or value.tuple({ unpack(args, 1, n) }, n))
end, true)

def("wordcount", {}, function(v)
  local chars, n = unicode.chars(str(v))
  budget.spend(n)
  local count, inside = 0, false
  for i = 1, n do
    local word = unicode.is_word(chars[i])
    if word and not inside then count = count + 1 end
    inside = word
  end
  return count
end)

def("truncate", { "length", "killwords", "end", "leeway" }, function(v, length, kill, tail, leeway)
  local s = str(v)
  length, tail, leeway = length or 255, tail or "...", absent(leeway) and 5 or leeway
  if unicode.len(s) <= length + leeway then return s end
  s = unicode.slice(s, 0, math.max(0, length - unicode.len(tail)))
  if not (kill ~= nil and truth(kill)) then s = s:match("^(.*) ") or s end
  return s .. tail
end)

def("striptags", {}, function(v)
  local s = str(v):gsub("<!%-%-.-%-%->", ""):gsub("<[^>]*>", "")
  local words, n = unicode.split_blank(s)
  s = table.concat(words, " ", 1, n)
  return (s:gsub("&lt;", "<"):gsub("&gt;", ">"):gsub("&#34;", '"'):gsub("&quot;", '"'):gsub("&#39;", "'")
    :gsub("&amp;", "&"))
end)

def("urlencode", {}, function(v)
  local function quote(s, slash)
    return (str(s):gsub(slash and "[^%w_.~/-]" or "[^%w_.~-]", function(c) return ("%%%02X"):format(c:byte()) end))
  end
  local kind = kind_of(v)
  if type(v) == "string" or not seq.is_iterable(v) or kind == "markup" then return quote(v, true) end
  local pairs_of = kind == "dict" and M.table.items.fn(v) or v
  local items, n = seq.items(pairs_of)
  local parts = {}
  for i = 1, n do
    local pair = seq.unpack(items[i], 2)
    parts[i] = quote(pair[1]):gsub("%%20", "+") .. "=" .. quote(pair[2]):gsub("%%20", "+")
  end
  return table.concat(parts, "&")
end)

-- The number a str spells, as int() or float() read it: digits with single underscores, white space around.
local function spelled_number(s)
  s = unicode.strip(s)
  if s:find("__", 1, true) or s:find("^[-+]?_") or s:find("_$") then return nil end
  s = s:gsub("_", "")
  return s
end

local function parse_int(s, base)
  s = spelled_number(s)
  if not s then return nil end
  local sign, body = s:match("^([-+]?)(.*)$")
  if base == 16 then body = body:gsub("^0[xX]", "") end
  if base == 8 then body = body:gsub("^0[oO]", "") end
  if base == 2 then body = body:gsub("^0[bB]", "") end
  if not body:find("^%w+$") or (base == 10 and not body:find("^%d+$")) then return nil end
  local n = tonumber(body, base)
  return n and (sign == "-" and -n or n)
end

local SPECIAL_FLOATS = { inf = math.huge, infinity = math.huge, nan = 0 / 0 }

local function parse_float(s)
  s = spelled_number(s)
  if not s then return nil end
  local sign, body = s:match("^([-+]?)(.*)$")
  local x = SPECIAL_FLOATS[body:lower()]
  if not x then
    if not (body:find("^%d+%.?%d*[eE][-+]?%d+$") or body:find("^%.%d+[eE][-+]?%d+$") or body:find("^%d+%.?%d*$")
      or body:find("^%.%d+$")) then
      return nil
    end
    x = tonumber(body)
  end
  return sign == "-" and -x or x
end

local function truncated(x)
  if x ~= x or x == math.huge or x == -math.huge then return nil end
  return x < 0 and math.ceil(x) or math.floor(x)
end

def("int", { "default", "base" }, function(v, default, base)
  if default == nil then default = 0 end
  local s = type(v) == "string" and v or kind_of(v) == "markup" and v.s
  if s then
    local n = parse_int(s, base or 10)
    if n then return n end
    local x = parse_float(s)
    return x and truncated(x) or default
  end
  if kind_of(v) == "undefined" then ops.fail_undefined(v) end
  if kind_of(v) == "bigint" then return v end
  local x = ops.number(v)
  return x and truncated(x) or default
end)

def("float", { "default" }, function(v, default)
  if kind_of(v) == "undefined" then ops.fail_undefined(v) end
  local s = type(v) == "string" and v or kind_of(v) == "markup" and v.s
  local x
  if s then x = parse_float(s) elseif kind_of(v) == "bigint" then x = tonumber(v.digits) else x = ops.number(v) end
  if x then return value.float(x) end
  if default == nil then return value.float(0) end
  return default
end)

def("abs", {}, function(v)
  local x, is_float = ops.number(v)
  if x then return is_float and value.float(math.abs(x)) or math.abs(x) end
  errors.type_error("bad operand type for abs(): '" .. value.type_name(v) .. "'")
end)

-- round() of the decimal text, so that ties are those of the exact binary value, as in Python.
local function round_common(x, precision)
  if precision >= 0 then return tonumber(format.fixed(x, math.min(precision, 30))) end
  local scale = 10 ^ -precision
  local scaled = x / scale
  local low = math.floor(scaled)
  local rest = scaled - low
  if rest > 0.5 or (rest == 0.5 and low % 2 == 1) then low = low + 1 end
  return low * scale
end

def("round", { "precision", "method" }, function(v, precision, how)
  precision, how = precision or 0, how or "common"
  if how ~= "common" and how ~= "ceil" and how ~= "floor" then
    errors.raise("FilterArgumentError", "method must be common, ceil or floor")
  end
  local x, is_float = ops.number(v)
  if not x then
    if kind_of(v) == "undefined" then ops.fail_undefined(v) end
    errors.type_error("type " .. value.type_name(v) .. " doesn't define __round__ method")
  end
  if how == "common" then
    if not is_float and precision >= 0 then return x end
    local r = round_common(x, precision)
    return is_float and value.float(r) or r
  end
  return value.float(math[how](x * 10 ^ precision) / 10 ^ precision)
end)

def("filesizeformat", { "binary" }, function(v, binary)
  binary = binary ~= nil and truth(binary)
  local bytes = M.table.float.fn(v, value.float(0)).x
  local base = binary and 1024 or 1000
  if bytes == 1 then return "1 Byte" end
  if bytes < base then return ("%d Bytes"):format(bytes) end
  local unit, prefix = base, "?"
  for p in ("kMGTPEZY"):gmatch(".") do
    unit, prefix = unit * base, p
    if bytes < unit then break end
  end
  return ("%.1f %s"):format(base * bytes / unit, binary and prefix:upper() .. "iB" or prefix .. "B")
end)

def("attr", { "name" }, function(v, name)
  local access = require "llm.jinja.access"
  if kind_of(v) == "dict" and value.kind(access.attr(v, name)) ~= "function" then return value.undefined(name, v) end
  return access.attr(v, name)
end)

sequence_filters.install(def)

return M
