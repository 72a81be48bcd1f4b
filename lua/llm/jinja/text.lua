-- Values as text: str(), repr() and numbers the way Python prints them.

local budget = require "llm.jinja.budget"
local errors = require "llm.jinja.errors"
local unicode = require "llm.jinja.unicode"
local value = require "llm.jinja.value"

local M = {}

local format, find, floor, concat = string.format, string.find, math.floor, table.concat
local none = value.none

-- The shortest decimal that reads back as `x`, as Python's repr() of a float.
function M.float_text(x)
  if x ~= x then return "nan" end
  if x == math.huge then return "inf" end
  if x == -math.huge then return "-inf" end
  if x == 0 then return 1 / x < 0 and "-0.0" or "0.0" end
  local text
  for precision = 0, 16 do
    text = format("%." .. precision .. "e", x)
    if tonumber(text) == x then break end
  end
  local sign, lead, rest, exponent = text:match("^(%-?)(%d)%.?(%d*)e([-+]%d+)$")
  local digits, point = lead .. rest, tonumber(exponent) + 1
  if point > 16 or point < -3 then
    return format("%s%s%se%s%02d", sign, lead, rest ~= "" and "." .. rest or "", point > 0 and "+" or "-",
      math.abs(point - 1))
  end
  if point <= 0 then return sign .. "0." .. ("0"):rep(-point) .. digits end
  if point >= #digits then return sign .. digits .. ("0"):rep(point - #digits) .. ".0" end
  return sign .. digits:sub(1, point) .. "." .. digits:sub(point + 1)
end

function M.int_text(n)
  return format("%.0f", n)
end

local ESCAPES = { ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\\"] = "\\\\" }

local function escaped(c)
  if unicode.is_printable(c) then return c end
  local cp = unicode.decode(c)
  return format(cp < 0x100 and "\\x%02x" or cp < 0x10000 and "\\u%04x" or "\\U%08x", cp)
end

-- repr() of a str.
function M.quote(s)
  budget.text(#s)
  local mark = (find(s, "'", 1, true) and not find(s, '"', 1, true)) and '"' or "'"
  if find(s, "[%c\\\127-\255]") or (mark == "'" and find(s, "'", 1, true)) then
    s = s:gsub("[\n\r\t\\]", ESCAPES)
    s = s:gsub("[%z\1-\31\127]", escaped)
    if not unicode.is_ascii(s) then s = s:gsub("[\192-\255][\128-\191]*", escaped) end
    if mark == "'" then s = s:gsub("'", "\\'") end
  end
  return mark .. s .. mark
end

local repr

local function repr_items(v, depth, open, close)
  local parts = {}
  for i = 1, v.n do parts[i] = repr(v[i], depth) end
  return open .. concat(parts, ", ") .. close
end

local function repr_dict(d, depth)
  local parts = {}
  for i = 1, d.n do
    local k = d.keys[i]
    parts[i] = repr(k, depth) .. ": " .. repr(value.dict_get(d, k), depth)
  end
  return "{" .. concat(parts, ", ") .. "}"
end

local REPR = {
  none = function() return "None" end,
  undefined = function() return "Undefined" end,
  float = function(v) return M.float_text(v.x) end,
  bigint = function(v) return v.digits end,
  markup = function(v) return "Markup(" .. M.quote(v.s) .. ")" end,
  list = function(v, depth) return repr_items(v, depth, "[", "]") end,
  tuple = function(v, depth) return repr_items(v, depth, "(", v.n == 1 and ",)" or ")") end,
  dict = repr_dict,
  range = function(v)
    local text = "range(" .. M.int_text(v.start) .. ", " .. M.int_text(v.stop)
    return text .. (v.step ~= 1 and ", " .. M.int_text(v.step) or "") .. ")"
  end,
  view = function(v, depth) return v.name .. repr_items(v, depth, "([", "])") end,
  gen = function(v) return "<" .. v.name .. " object>" end,
  namespace = function(v, depth) return "<Namespace " .. repr_dict(v.attrs, depth) .. ">" end,
  macro = function(v) return "<Macro " .. M.quote(v.name or "anonymous") .. ">" end,
  ["function"] = function(v) return "<function " .. v.name .. ">" end,
  loop = function(v) return "<LoopContext " .. v.i .. "/" .. v.n .. ">" end,
}

repr = function(v, depth)
  local t = type(v)
  if t == "string" then return M.quote(v) end
  if t == "number" then return M.int_text(v) end
  if t == "boolean" then return v and "True" or "False" end
  if depth > budget.MAX_VALUE_DEPTH then errors.raise("RecursionError", "maximum recursion depth exceeded") end
  budget.spend(2)
  local render = REPR[v.kind]
  return render and render(v, depth + 1) or "<" .. value.type_name(v) .. " object>"
end

function M.repr(v)
  local text = repr(v, 0)
  budget.text(#text)
  return text
end

-- str(): what {{ v }} prints.
function M.str(v)
  local t = type(v)
  if t == "string" then return v end
  if t == "number" then
    if v == floor(v) and v < 1e15 and v > -1e15 then return format("%d", v) end
    return M.int_text(v)
  end
  if t == "boolean" then return v and "True" or "False" end
  if v == none then return "None" end
  if v.kind == "undefined" then return "" end
  if v.kind == "markup" then return v.s end
  return M.repr(v)
end

local HTML = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&#34;", ["'"] = "&#39;" }

-- markupsafe.escape: text safe in HTML, as Markup.
function M.escape(v)
  if value.kind(v) == "markup" then return v end
  local s = M.str(v):gsub("[&<>\"']", HTML)
  budget.text(#s)
  return value.markup(s)
end

return M
