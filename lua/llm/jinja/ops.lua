-- Operators with Python's meaning: arithmetic that keeps int and float apart, comparison, membership.

local budget = require "llm.jinja.budget"
local errors = require "llm.jinja.errors"
local format = require "llm.jinja.format"
local text = require "llm.jinja.text"
local value = require "llm.jinja.value"

local M = {}

local floor, abs = math.floor, math.abs
local float, type_name, kind_of = value.float, value.type_name, value.kind
local str = text.str

-- An operation on an Undefined value fails with the message about what is undefined.
function M.fail_undefined(u)
  errors.raise(u.error_type or "UndefinedError", value.undefined_message(u, text.repr))
end
local fail_undefined = M.fail_undefined

local function check_undefined(a, b)
  if kind_of(a) == "undefined" then fail_undefined(a) end
  if kind_of(b) == "undefined" then fail_undefined(b) end
end

local function unsupported(symbol, a, b)
  check_undefined(a, b)
  if kind_of(a) == "bigint" or kind_of(b) == "bigint" then
    errors.raise("OverflowError", "integers beyond 2^53 take part in no arithmetic")
  end
  errors.type_error("unsupported operand type(s) for " .. symbol .. ": '" .. type_name(a) .. "' and '"
    .. type_name(b) .. "'")
end

-- The Lua number of an int, bool or float and whether it is a float; nil for anything else.
local function number(v)
  local t = type(v)
  if t == "number" then return v, false end
  if t == "boolean" then return v and 1 or 0, false end
  if v.kind == "float" then return v.x, true end
end
M.number = number

local function int_result(r)
  if abs(r) > value.MAX_INT then errors.raise("OverflowError", "integer result beyond 2^53") end
  return r
end

local function arithmetic(symbol, op)
  return function(a, b)
    local x, xf = number(a)
    local y, yf = number(b)
    if not x or not y then return unsupported(symbol, a, b) end
    local r = op(x, y)
    if xf or yf then return float(r) end
    return int_result(r)
  end
end

local function is_text(v)
  return type(v) == "string" or kind_of(v) == "markup"
end

local function join_items(a, b)
  budget.spend(a.n + b.n)
  local out, n = { kind = a.kind }, a.n
  for i = 1, n do out[i] = a[i] end
  for i = 1, b.n do out[n + i] = b[i] end
  out.n = n + b.n
  return out
end

local add_numbers = arithmetic("+", function(x, y) return x + y end)

function M.add(a, b)
  if type(a) == "string" and type(b) == "string" then
    budget.text(#a + #b)
    return a .. b
  end
  local ka, kb = kind_of(a), kind_of(b)
  if is_text(a) and is_text(b) then -- one is Markup: the other one is escaped
    return value.markup(text.escape(a).s .. text.escape(b).s)
  end
  if (ka == "list" or ka == "tuple") and ka == kb then return join_items(a, b) end
  check_undefined(a, b)
  if is_text(a) then
    errors.type_error('can only concatenate str (not "' .. type_name(b) .. '") to str')
  elseif ka == "list" or ka == "tuple" then
    errors.type_error("can only concatenate " .. ka .. ' (not "' .. type_name(b) .. '") to ' .. ka)
  end
  return add_numbers(a, b)
end

-- a + b + c …, left to right.
function M.add_all(first, ...)
  local r = first
  for i = 1, select("#", ...) do r = M.add(r, (select(i, ...))) end
  return r
end

M.sub = arithmetic("-", function(x, y) return x - y end)

local mul_numbers = arithmetic("*", function(x, y) return x * y end)

local function repeated(v, count)
  if count < 0 then count = 0 end
  if type(v) == "string" then
    budget.text(#v * count)
    return v:rep(count)
  end
  if v.kind == "markup" then return value.markup(repeated(v.s, count)) end
  budget.spend(v.n * count)
  local out, n = { kind = v.kind }, 0
  for _ = 1, count do
    for i = 1, v.n do out[n + i] = v[i] end
    n = n + v.n
  end
  out.n = n
  return out
end

local function is_repeatable(v)
  local k = kind_of(v)
  return type(v) == "string" or k == "markup" or k == "list" or k == "tuple"
end

function M.mul(a, b)
  if is_repeatable(a) or is_repeatable(b) then
    if is_repeatable(b) then a, b = b, a end
    check_undefined(a, b)
    local count, is_float = number(b)
    if not count or is_float then
      errors.type_error("can't multiply sequence by non-int of type '" .. type_name(b) .. "'")
    end
    return repeated(a, count)
  end
  return mul_numbers(a, b)
end

function M.div(a, b)
  local x, y = number(a), number(b)
  if not x or not y then return unsupported("/", a, b) end
  if y == 0 then
    errors.raise("ZeroDivisionError", (kind_of(a) == "float" or kind_of(b) == "float") and "float division by zero"
      or "division by zero")
  end
  return float(x / y)
end

M.floordiv = arithmetic("//", function(x, y)
  if y == 0 then errors.raise("ZeroDivisionError", "integer division or modulo by zero") end
  return floor(x / y)
end)

local mod_numbers = arithmetic("%", function(x, y)
  if y == 0 then errors.raise("ZeroDivisionError", "integer modulo by zero") end
  return x - floor(x / y) * y
end)

function M.mod(a, b)
  if type(a) == "string" then return format.percent(a, b) end
  if kind_of(a) == "markup" then return value.markup(format.percent(a.s, b)) end
  return mod_numbers(a, b)
end

function M.pow(a, b)
  local x, xf = number(a)
  local y, yf = number(b)
  if not x or not y then return unsupported("** or pow()", a, b) end
  if x == 0 and y < 0 then errors.raise("ZeroDivisionError", "0.0 cannot be raised to a negative power") end
  if xf or yf or y < 0 then return float(x ^ y) end
  return int_result(x ^ y)
end

local function unary(symbol, op)
  return function(v)
    local x, is_float = number(v)
    if x then return is_float and float(op(x)) or op(x) end
    if v.kind == "undefined" then fail_undefined(v) end
    errors.type_error("bad operand type for unary " .. symbol .. ": '" .. type_name(v) .. "'")
  end
end
M.neg = unary("-", function(x) return -x end)
M.pos = unary("+", function(x) return x end)

-- a ~ b ~ c: all as text.
function M.concat(...)
  local parts, n, bytes = { ... }, select("#", ...), 0
  for i = 1, n do
    local s = str(parts[i])
    parts[i] = s
    bytes = bytes + #s
  end
  budget.text(bytes)
  return table.concat(parts, "", 1, n)
end

local eq

local function eq_items(a, b, depth)
  if a.n ~= b.n then return false end
  for i = 1, a.n do
    if not eq(a[i], b[i], depth) then return false end
  end
  return true
end

local function eq_dicts(a, b, depth)
  if a.n ~= b.n then return false end
  for h, v in pairs(a.map) do
    local w = b.map[h]
    if w == nil or not eq(v, w, depth) then return false end
  end
  return true
end

local function plain(v)
  local k = kind_of(v)
  if k == "markup" then return v.s end
  if k == "float" then return v.x end
  return v
end

eq = function(a, b, depth)
  if a == b then return kind_of(a) ~= "float" or a.x == a.x end
  local ta, tb = type(a), type(b)
  if ta == tb and ta ~= "table" then return false end
  local x, y = number(a), number(b)
  if x and y then return x == y end
  a, b = plain(a), plain(b)
  if type(a) ~= "table" or type(b) ~= "table" then return a == b end
  local ka, kb = a.kind, b.kind
  if ka ~= kb then return false end
  budget.spend(1)
  if depth > budget.MAX_VALUE_DEPTH then errors.raise("RecursionError", "maximum recursion depth exceeded") end
  if ka == "list" or ka == "tuple" or ka == "range" then return eq_items(a, b, depth + 1) end
  if ka == "dict" then return eq_dicts(a, b, depth + 1) end
  if ka == "bigint" then return a.digits == b.digits end
  return ka == "undefined"
end

function M.eq(a, b) return eq(a, b, 0) end
function M.ne(a, b) return not eq(a, b, 0) end

-- Whether a < b, or a == b too when `or_equal`; lists and tuples item by item. `symbol` and `swapped` are for the
-- message, which names the operands in their order in the template.
local function less(a, b, or_equal, symbol, swapped)
  a, b = plain(a), plain(b)
  local ta, tb = type(a), type(b)
  if ta == "boolean" then a, ta = a and 1 or 0, "number" end
  if tb == "boolean" then b, tb = b and 1 or 0, "number" end
  if ta == tb and ta ~= "table" then
    if or_equal then return a <= b end
    return a < b
  end
  local ka, kb = kind_of(a), kind_of(b)
  if ka == kb and (ka == "list" or ka == "tuple") then
    budget.spend(1)
    for i = 1, math.min(a.n, b.n) do
      if not eq(a[i], b[i], 0) then return less(a[i], b[i], false, symbol, swapped) end
    end
    if or_equal then return a.n <= b.n end
    return a.n < b.n
  end
  if swapped then a, b = b, a end
  check_undefined(a, b)
  errors.type_error("'" .. symbol .. "' not supported between instances of '" .. type_name(a) .. "' and '"
    .. type_name(b) .. "'")
end

function M.lt(a, b) return less(a, b, false, "<", false) end
function M.le(a, b) return less(a, b, true, "<=", false) end
function M.gt(a, b) return less(b, a, false, ">", true) end
function M.ge(a, b) return less(b, a, true, ">=", true) end

local seq -- loaded late: seq.lua needs this module

-- container contains item, i.e. `item in container`.
function M.contains(item, container)
  if type(container) == "string" or kind_of(container) == "markup" then
    if not is_text(item) then
      errors.type_error("'in <string>' requires string as left operand, not " .. type_name(item))
    end
    local whole = str(container)
    budget.spend(#whole / 64)
    return whole:find(str(item), 1, true) ~= nil
  end
  local k = kind_of(container)
  if k == "dict" then return value.dict_get(container, item) ~= nil end
  if k == "undefined" then return false end
  if k == nil or k == "none" or k == "float" or k == "bigint" or k == "function" or k == "macro" then
    errors.type_error("argument of type '" .. type_name(container) .. "' is not iterable")
  end
  seq = seq or require "llm.jinja.seq"
  local items, n = seq.items(container)
  for i = 1, n do
    if eq(items[i], item, 0) then return true end
  end
  return false
end

function M.lacks(item, container) return not M.contains(item, container) end

-- a < b < c …: every operand once, only as far as needed. Operands after the first come as functions.
function M.chain(first, ...)
  local left = first
  for i = 1, select("#", ...), 2 do
    local op, operand = select(i, ...)
    local right = operand()
    if not M[op](left, right) then return false end
    left = right
  end
  return true
end

return M
