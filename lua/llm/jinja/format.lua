-- Python's two ways to format: "%s" % value and "{}".format(value).

local budget = require "llm.jinja.budget"
local errors = require "llm.jinja.errors"
local text = require "llm.jinja.text"
local unicode = require "llm.jinja.unicode"
local value = require "llm.jinja.value"

local M = {}

local str, repr, kind_of = text.str, text.repr, value.kind

local function number(v, what)
  if type(v) == "number" then return v end
  if type(v) == "boolean" then return v and 1 or 0 end
  if kind_of(v) == "float" then return v.x end
  errors.type_error(what .. " is required, not " .. value.type_name(v))
end

-- Pads `s` to `width` characters; align is "<", ">", "^" or "=" (after the sign).
local function pad(s, width, fill, align)
  local missing = width - unicode.len(s)
  if missing <= 0 then return s end
  budget.text(width)
  if align == "=" then
    local sign, rest = s:match("^([-+ ]?)(.*)$")
    return sign .. fill:rep(missing) .. rest
  end
  if align == "<" then return s .. fill:rep(missing) end
  if align == "^" then
    local left = math.floor(missing / 2)
    return fill:rep(left) .. s .. fill:rep(missing - left)
  end
  return fill:rep(missing) .. s
end
M.pad = pad

local function in_base(n, base)
  if n == 0 then return "0" end
  local digits = {}
  while n > 0 do
    local d = n % base
    table.insert(digits, 1, ("0123456789abcdef"):sub(d + 1, d + 1))
    n = (n - d) / base
  end
  return table.concat(digits)
end

local PREFIX = { x = "0x", X = "0X", o = "0o", b = "0b" }
local BASE = { x = 16, X = 16, o = 8, b = 2 }

-- The digits of `n` in a conversion like "x" or "d", with sign.
local function int_digits(n, conversion, sign, alternate)
  local body = BASE[conversion] and in_base(math.abs(n), BASE[conversion]) or text.int_text(math.abs(n))
  if conversion == "X" then body = body:upper() end
  if alternate and PREFIX[conversion] then body = PREFIX[conversion] .. body end
  return (n < 0 and "-" or (sign ~= "-" and sign or "")) .. body
end

-- "%.<precision>f" with ties to even, as in C; LuaJIT's own rounds them away from zero.
local function fixed(x, precision)
  local rounded = string.format("%." .. precision .. "f", x)
  local exact = string.format("%." .. precision + 25 .. "f", x)
  local kept, rest = exact:sub(1, #exact - 25), exact:sub(-25)
  if precision == 0 then kept = kept:gsub("%.$", "") end
  if rest:find("^50*$") and tonumber(kept:sub(-1)) % 2 == 0 then return kept end
  return rounded
end
M.fixed = fixed

local function float_digits(x, conversion, precision, sign)
  local body
  if x ~= x or x == math.huge or x == -math.huge then
    body = x ~= x and "nan" or "inf"
  elseif conversion == "f" then
    body = fixed(math.abs(x), math.min(precision or 6, 70))
  else
    body = string.format("%." .. math.min(precision or 6, 99) .. conversion, math.abs(x))
  end
  return ((x < 0 or 1 / x < 0) and "-" or (sign ~= "-" and sign or "")) .. body
end

local function percent_one(conversion, flags, precision, v, at)
  local sign = flags:find("+", 1, true) and "+" or flags:find(" ", 1, true) and " " or "-"
  if conversion == "s" or conversion == "r" or conversion == "a" then
    local s = conversion == "s" and str(v) or repr(v)
    return precision and unicode.slice(s, 0, precision) or s
  elseif conversion == "c" then
    if type(v) == "number" then return unicode.encode(v) end
    return str(v)
  elseif conversion:find("[diu]") then
    local n = number(v, "%" .. conversion .. " format: a real number")
    return int_digits(n < 0 and math.ceil(n) or math.floor(n), "d", sign)
  elseif conversion:find("[xXo]") then
    if type(v) ~= "number" and type(v) ~= "boolean" then
      errors.type_error("%" .. conversion .. " format: an integer is required, not " .. value.type_name(v))
    end
    return int_digits(number(v), conversion, sign, flags:find("#", 1, true))
  elseif conversion:find("[eEfFgG]") then
    if type(v) == "string" or value.kind(v) and kind_of(v) ~= "float" then
      errors.type_error("must be real number, not " .. value.type_name(v))
    end
    return float_digits(number(v, "a number"), conversion == "F" and "f" or conversion, precision, sign)
  end
  errors.value_error(("unsupported format character '%s' (0x%x) at index %d"):format(conversion, conversion:byte(), at))
end

-- template % args: args is a tuple, a dict for %(name)s, or one value.
function M.percent(template, args)
  local is_tuple, is_dict = kind_of(args) == "tuple", kind_of(args) == "dict"
  local used, count = 0, is_tuple and args.n or 1
  local function next_arg()
    used = used + 1
    if used > count then errors.type_error("not enough arguments for format string") end
    return is_tuple and args[used] or args
  end
  local out, at = {}, 1
  while true do
    local mark = template:find("%", at, true)
    if not mark then break end
    out[#out + 1] = template:sub(at, mark - 1)
    local name, flags, width, dot, precision, conversion, stop =
      template:match("^%%(%b())([-+ #0]*)([%d*]*)(%.?)(%d*)(.)()", mark)
    if not name then
      flags, width, dot, precision, conversion, stop =
        template:match("^%%([-+ #0]*)([%d*]*)(%.?)([%d*]*)(.)()", mark)
    end
    if not conversion then errors.value_error("incomplete format") end
    if conversion == "%" then
      out[#out + 1] = "%"
    else
      if width == "*" then width = number(next_arg(), "* wants int") end
      if precision == "*" then precision = number(next_arg(), "* wants int") end
      local v
      if name then
        if not is_dict then errors.type_error("format requires a mapping") end
        local key = name:sub(2, -2)
        v = value.dict_get(args, key)
        if v == nil then errors.raise("KeyError", text.quote(key)) end
        used = count
      else
        v = next_arg()
      end
      local s = percent_one(conversion, flags, dot ~= "" and (tonumber(precision) or 0) or nil, v,
        stop - 2)
      local left = flags:find("-", 1, true)
      local zero = flags:find("0", 1, true) and not left and not conversion:find("[sra]")
      out[#out + 1] = pad(s, tonumber(width) or 0, zero and "0" or " ", left and "<" or zero and "=" or ">")
    end
    at = stop
  end
  out[#out + 1] = template:sub(at)
  if used < count and not is_dict and (is_tuple or used == 0) then
    errors.type_error("not all arguments converted during string formatting")
  end
  local s = table.concat(out)
  budget.text(#s)
  return s
end

local function group_thousands(s, mark)
  local sign, whole, rest = s:match("^([-+ ]?)(%d+)(.*)$")
  if not whole then return s end
  whole = whole:reverse():gsub("(%d%d%d)", "%1" .. mark):reverse()
  if whole:sub(1, 1) == mark then whole = whole:sub(2) end
  return sign .. whole .. rest
end

-- format(v, spec) of str, int and float: [[fill]align][sign][#][0][width][,][.precision][type].
function M.spec(v, spec)
  if spec == "" then return str(v) end
  local fill, align, rest = spec:match("^([%z\1-\127\192-\255][\128-\191]*)([<>=^])(.*)$")
  if not fill then
    align, rest = spec:match("^([<>=^])(.*)$")
    if not align then rest = spec end
  end
  local sign, alternate, zero, width, comma, precision, conversion =
    rest:match("^([-+ ]?)(#?)(0?)(%d*)([,_]?)(%.?%d*)([%a%%]?)$")
  local is_text = type(v) == "string" or kind_of(v) == "markup"
  if not sign or (is_text and (conversion:find("[^s]") or sign ~= "" or comma ~= "")) then
    errors.value_error("Invalid format specifier")
  end
  local digits = tonumber(precision:sub(2))
  local s
  if is_text then
    s = digits and unicode.slice(str(v), 0, digits) or str(v)
  elseif kind_of(v) == "float" or conversion:find("[eEfFgG%%]") then
    local x = number(v, "a number")
    if conversion == "" and not digits then
      s = text.float_text(x)
    elseif conversion == "%" then
      s = float_digits(x * 100, "f", digits, sign) .. "%"
    else
      s = float_digits(x, conversion == "" and "g" or conversion:gsub("F", "f"), digits, sign)
    end
  elseif type(v) == "number" or type(v) == "boolean" then
    if conversion == "c" then
      s = unicode.encode(v)
    elseif type(v) == "boolean" and conversion == "" then
      s = str(v)
    else
      s = int_digits(number(v), conversion, sign, alternate ~= "")
    end
  else
    errors.type_error("unsupported format string passed to " .. value.type_name(v) .. ".__format__")
  end
  if comma ~= "" then s = group_thousands(s, comma) end
  if zero ~= "" and not align then fill, align = fill or "0", is_text and "<" or "=" end
  return pad(s, tonumber(width) or 0, fill or " ", align or (is_text and "<" or ">"))
end

local access -- loaded late: access.lua needs this module for str.format

-- A replacement field's value: "0", "name", then .attr and [item] steps.
local function field_value(path, args, n, kwargs, auto)
  access = access or require "llm.jinja.access"
  local first, rest = path:match("^([^.%[]*)(.*)$")
  local v
  if first == "" then
    if auto.mode == "manual" then
      errors.value_error("cannot switch from manual field specification to automatic field numbering")
    end
    auto.mode, auto.n = "auto", auto.n + 1
    first = tostring(auto.n - 1)
  elseif first:find("^%d+$") then
    if auto.mode == "auto" then
      errors.value_error("cannot switch from automatic field numbering to manual field specification")
    end
    auto.mode = "manual"
  end
  local index = first:find("^%d+$") and tonumber(first)
  if index then
    if index >= n then
      errors.raise("IndexError", "tuple index out of range")
    end
    v = args[index + 1]
  else
    v = kwargs and value.dict_get(kwargs, first)
    if v == nil then errors.raise("KeyError", text.quote(first)) end
  end
  while rest ~= "" do
    local attr, tail = rest:match("^%.([^.%[]+)(.*)$")
    if attr then
      v = access.attr(v, attr)
    else
      attr, tail = rest:match("^%[([^%]]+)%](.*)$")
      if not attr then errors.value_error("Missing ']' in format string") end
      v = access.item(v, attr:find("^%d+$") and tonumber(attr) or attr)
    end
    rest = tail
  end
  return v
end

-- str.format with positional args[1..n] and a dict of keyword arguments or nil.
function M.braces(template, args, n, kwargs, auto, depth)
  auto = auto or { n = 0 }
  if (depth or 0) > 2 then errors.value_error("Max string recursion exceeded") end
  local out, at = {}, 1
  while true do
    local mark = template:find("[{}]", at)
    if not mark then break end
    out[#out + 1] = template:sub(at, mark - 1)
    local brace = template:sub(mark, mark)
    if template:sub(mark + 1, mark + 1) == brace then
      out[#out + 1] = brace
      at = mark + 2
    elseif brace == "}" then
      errors.value_error("Single '}' encountered in format string")
    else
      local field = template:match("^%b{}", mark)
      if not field then
        errors.value_error(template:sub(mark + 1) == "" and "Single '{' encountered in format string"
          or "expected '}' before end of string")
      end
      local path, conversion, spec = field:match("^{([^!:]*)(!?[rsa]?):?(.*)}$")
      local v = field_value(path, args, n, kwargs, auto)
      if conversion == "!r" or conversion == "!a" then v = repr(v) elseif conversion == "!s" then v = str(v) end
      if spec:find("{", 1, true) then spec = M.braces(spec, args, n, kwargs, auto, (depth or 0) + 1) end
      out[#out + 1] = M.spec(v, spec)
      at = mark + #field
    end
  end
  out[#out + 1] = template:sub(at)
  local s = table.concat(out)
  budget.text(#s)
  return s
end

return M
