-- What generated code may use: one table of functions, given to every compiled template. There is nothing else in
-- its reach; its environment is empty.

local access = require "llm.jinja.access"
local budget = require "llm.jinja.budget"
local errors = require "llm.jinja.errors"
local filters = require "llm.jinja.filters"
local globals = require "llm.jinja.globals"
local ops = require "llm.jinja.ops"
local seq = require "llm.jinja.seq"
local tests = require "llm.jinja.tests"
local text = require "llm.jinja.text"
local value = require "llm.jinja.value"

local R = {
  none = value.none, float = value.float, list = value.list, tuple = value.tuple, dict_of = value.dict_of,
  truth = value.truth, undefined = value.undefined,
  str = text.str,
  attr = access.attr, item = access.item, call = access.call, method = access.call_method,
  method1 = access.call_method1, call_native = access.call_native,
  slice = seq.slice, iter = seq.items, unpack = seq.unpack,
  tick = budget.spend,
  set_attribute = globals.set_attribute, require_namespace = globals.require_namespace,
}

for _, name in ipairs {
  "add", "add_all", "sub", "mul", "div", "floordiv", "mod", "pow", "neg", "pos", "concat", "eq", "ne", "lt", "le",
  "gt", "ge", "contains", "lacks", "chain",
} do
  R[name] = ops[name]
end

local truth, str, undefined, charge = value.truth, text.str, value.undefined, budget.output

-- A variable's value; nil in a frame means undefined.
function R.get(v, name)
  if v == nil then return undefined(name) end
  return v
end

function R.is_set(v) return v ~= nil and truth(v) end
function R.is_defined(v) return v ~= nil and not (type(v) == "table" and v.kind == "undefined") end

-- `a or b` is (or_value(a) or b), `a and b` is unbox(and_value(a) or b): Python's truth, evaluated only as far as
-- needed, without a function for each operand. Every true Python value is a true Lua value; the one false Python
-- value that Lua takes for absent, False, travels in a box.
local FALSE = {}

function R.or_value(v) return truth(v) and v end

function R.and_value(v)
  if truth(v) then return nil end
  if v == false then return FALSE end
  return v
end

function R.box(v)
  if v == false then return FALSE end
  return v
end

function R.unbox(v)
  if v == FALSE then return false end
  return v
end

-- Output buffers.
function R.buffer() return { n = 0 } end

function R.write(buffer, s)
  charge(#s)
  local n = buffer.n + 1
  buffer.n, buffer[n] = n, s
end

function R.out(buffer, v)
  if type(v) ~= "string" then v = str(v) end
  charge(#v)
  local n = buffer.n + 1
  buffer.n, buffer[n] = n, v
end

-- The text of a buffer that becomes a value again.
function R.captured(buffer)
  local s = table.concat(buffer, "", 1, buffer.n)
  budget.refund_output(#s)
  return s
end

function R.finished(buffer) return table.concat(buffer, "", 1, buffer.n) end

function R.macro(name, params, uses_caller, uses_kwargs, uses_varargs, fn)
  return {
    kind = "macro", name = name, params = params, fn = fn, uses_caller = uses_caller, uses_kwargs = uses_kwargs,
    uses_varargs = uses_varargs,
  }
end

function R.missing_param(name)
  return undefined(name, nil, "parameter " .. text.quote(name) .. " was not provided")
end

function R.no_else(line)
  return undefined(value.none, nil, "the inline if-expression on line " .. line
    .. " evaluated to false and no else section was defined.")
end

function R.loop(items, n, depth0, recurse)
  return { kind = "loop", items = items, n = n, i = 0, depth0 = depth0, recurse = recurse }
end

-- The items for which `test` holds.
function R.keep(items, n, test)
  local out, kept = {}, 0
  for i = 1, n do
    if test(items[i]) then
      kept = kept + 1
      out[kept] = items[i]
    end
  end
  return out, kept
end

-- A call with *star and **star_star (nil when absent); `f` takes (args, n, kwargs).
function R.spread(f, args, n, kwargs, star, star_star)
  if star then
    local items, count = seq.items(star)
    for i = 1, count do args[n + i] = items[i] end
    n = n + count
  end
  if star_star then
    local merged = value.dict()
    for _, d in ipairs { kwargs or value.dict(), star_star } do
      if value.kind(d) ~= "dict" then errors.type_error("argument after ** must be a mapping") end
      for i = 1, d.n do value.dict_set(merged, d.keys[i], value.dict_get(d, d.keys[i])) end
    end
    kwargs = merged
  end
  return f(args, n, kwargs)
end

R.filters, R.tests = filters.table, tests.table
R.F, R.T = {}, {}
for name, f in pairs(filters.table) do R.F[name] = f.fn end
for name, f in pairs(tests.table) do R.T[name] = f.fn end

function R.no_filter(name)
  errors.raise("TemplateRuntimeError", "No filter named " .. text.quote(name) .. " found.")
end

function R.no_test(name)
  errors.raise("TemplateRuntimeError", "No test named " .. text.quote(name) .. " found.")
end

return R
