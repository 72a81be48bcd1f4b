-- Sequences and iteration: what a `for` walks over, lengths, subscripts and slices.

local budget = require "llm.jinja.budget"
local errors = require "llm.jinja.errors"
local ops = require "llm.jinja.ops"
local unicode = require "llm.jinja.unicode"
local value = require "llm.jinja.value"

local M = {}

local kind_of, type_name, none = value.kind, value.type_name, value.none

local INDEXED = { list = true, tuple = true, range = true }
local WALKED = { list = true, tuple = true, range = true, view = true }

local NOTHING = {}

-- The items of an iterable as an array (not to be changed) and their count. A generator is used up.
function M.items(v)
  if type(v) == "string" then
    local chars, n = unicode.chars(v)
    budget.spend(n)
    return chars, n
  end
  local kind = kind_of(v)
  if WALKED[kind] then
    budget.spend(v.n)
    return v, v.n
  elseif kind == "dict" then
    budget.spend(v.n)
    return v.keys, v.n
  elseif kind == "gen" then
    local make = v.make
    if not make then return NOTHING, 0 end
    v.make = nil
    local items, n = make()
    budget.spend(n)
    return items, n
  elseif kind == "undefined" then
    return NOTHING, 0
  elseif kind == "markup" then
    return M.items(v.s)
  end
  errors.type_error("'" .. type_name(v) .. "' object is not iterable")
end

function M.is_iterable(v)
  local kind = kind_of(v)
  return type(v) == "string" or WALKED[kind] or kind == "dict" or kind == "gen" or kind == "undefined"
    or kind == "markup" or kind == "loop" or false
end

-- len(v), or nil when it has none.
function M.length(v)
  if type(v) == "string" then return unicode.len(v) end
  local kind = kind_of(v)
  if WALKED[kind] or kind == "dict" or kind == "loop" then return v.n end
  if kind == "undefined" then return 0 end
  if kind == "markup" then return unicode.len(v.s) end
end

function M.len(v)
  local n = M.length(v)
  if not n then errors.type_error("object of type '" .. type_name(v) .. "' has no len()") end
  return n
end

-- A new list of the items.
function M.list(v)
  local items, n = M.items(v)
  local out = {}
  for i = 1, n do out[i] = items[i] end
  return value.list(out, n)
end

-- v[index] by position for what has positions: the item, or nil (out of range, or not such a thing).
function M.at(v, index)
  if type(index) == "boolean" then index = index and 1 or 0 end
  if type(index) ~= "number" then return nil end
  if type(v) == "string" then
    if index < 0 then index = index + unicode.len(v) end
    if index < 0 then return nil end
    local c = unicode.slice(v, index, index + 1)
    return c ~= "" and c or nil
  end
  local kind = kind_of(v)
  if kind == "markup" then
    local c = M.at(v.s, index)
    return c and value.markup(c)
  end
  if not INDEXED[kind] then return nil end
  if index < 0 then index = index + v.n end
  if index < 0 or index >= v.n then return nil end
  return v[index + 1]
end

local function bound(v, default)
  if v == nil or v == none then return default end
  if type(v) == "number" then return v end
  if type(v) == "boolean" then return v and 1 or 0 end
  errors.type_error("slice indices must be integers or None or have an __index__ method")
end

-- First index, end and step of a slice over `n` items, with Python's clamping.
local function slice_range(n, start, stop, step)
  step = bound(step, 1)
  if step == 0 then errors.value_error("slice step cannot be zero") end
  local low, high = 0, n
  if step < 0 then low, high = -1, n - 1 end
  local function clamp(v)
    if v < 0 then v = v + n end
    return math.max(low, math.min(high, v))
  end
  local first = bound(start, nil)
  local last = bound(stop, nil)
  first = first and clamp(first) or (step > 0 and 0 or n - 1)
  last = last and clamp(last) or (step > 0 and n or -1)
  return first, last, step
end

local function slice_text(s, start, stop, step)
  local n = unicode.len(s)
  local first, last, by = slice_range(n, start, stop, step)
  budget.text(#s)
  if by == 1 then return unicode.slice(s, first, last) end
  local chars = unicode.chars(s)
  local out = {}
  for i = first, by > 0 and last - 1 or last + 1, by do out[#out + 1] = chars[i + 1] end
  return table.concat(out)
end

-- v[start:stop:step]; absent bounds are nil.
function M.slice(v, start, stop, step)
  if type(v) == "string" then return slice_text(v, start, stop, step) end
  local kind = kind_of(v)
  if kind == "markup" then return value.markup(slice_text(v.s, start, stop, step)) end
  if INDEXED[kind] then
    local first, last, by = slice_range(v.n, start, stop, step)
    local out, n = { kind = kind == "tuple" and "tuple" or "list" }, 0
    for i = first, by > 0 and last - 1 or last + 1, by do
      n = n + 1
      out[n] = v[i + 1]
    end
    budget.spend(n)
    out.n = n
    if kind == "range" then
      out.kind, out.start, out.step = "range", v.start + first * v.step, v.step * by
      out.stop = v.start + last * v.step
    end
    return out
  end
  if kind == "undefined" then ops.fail_undefined(v) end
  if kind == "dict" then errors.type_error("unhashable type: 'slice'") end
  errors.type_error("'" .. type_name(v) .. "' object is not subscriptable")
end

-- The `count` items of v, for {% for a, b in … %} and {% set a, b = … %}.
function M.unpack(v, count)
  if not M.is_iterable(v) then
    errors.type_error("cannot unpack non-iterable " .. type_name(v) .. " object")
  end
  local items, n = M.items(v)
  if n < count then
    errors.value_error("not enough values to unpack (expected " .. count .. ", got " .. n .. ")")
  elseif n > count then
    errors.value_error("too many values to unpack (expected " .. count .. ")")
  end
  return items
end

-- Stable merge sort of items[1..n] by keys[1..n]; `before(a, b)` compares keys. Returns a new array. table.sort is
-- neither stable nor safe with a comparison that raises or contradicts itself.
function M.sort(items, keys, n, before)
  budget.spend(n * 4)
  local order, spare = {}, {}
  for i = 1, n do order[i] = i end
  local width = 1
  while width < n do
    for low = 1, n, 2 * width do
      local mid, high = math.min(low + width, n + 1), math.min(low + 2 * width, n + 1)
      local a, b = low, mid
      for k = low, high - 1 do
        if a < mid and (b >= high or not before(keys[order[b]], keys[order[a]])) then
          spare[k], a = order[a], a + 1
        else
          spare[k], b = order[b], b + 1
        end
      end
    end
    order, spare = spare, order
    width = width * 2
  end
  local out = {}
  for i = 1, n do out[i] = items[order[i]] end
  return out
end

return M
