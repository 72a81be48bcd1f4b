-- Tests, `x is name(…)`: native functions from the value and arguments to a Lua boolean.

local ops = require "llm.jinja.ops"
local seq = require "llm.jinja.seq"
local text = require "llm.jinja.text"
local unicode = require "llm.jinja.unicode"
local value = require "llm.jinja.value"

local M = { table = {} }

local none, kind_of, str = value.none, value.kind, text.str

local function def(names, params, fn)
  for name in names:gmatch("%S+") do M.table[name] = value.native(name, fn, params) end
end

local function is_int(v)
  return type(v) == "number" or kind_of(v) == "bigint"
end

local function modulo_is(v, by, wanted)
  return ops.eq(ops.mod(v, by), wanted)
end

def("defined", {}, function(v) return kind_of(v) ~= "undefined" end)
def("undefined", {}, function(v) return kind_of(v) == "undefined" end)
def("none", {}, function(v) return v == none end)
def("boolean", {}, function(v) return type(v) == "boolean" end)
def("true", {}, function(v) return v == true end)
def("false", {}, function(v) return v == false end)
def("integer", {}, is_int)
def("float", {}, function(v) return kind_of(v) == "float" end)
def("number", {}, function(v) return is_int(v) or type(v) == "boolean" or kind_of(v) == "float" end)
def("string", {}, function(v) return type(v) == "string" or kind_of(v) == "markup" end)
def("mapping", {}, function(v) return kind_of(v) == "dict" end)
def("iterable", {}, seq.is_iterable)
def("callable", {}, function(v)
  local kind = kind_of(v)
  return kind == "function" or kind == "macro" or kind == "joiner" or kind == "loop" or kind == "undefined"
end)
def("sequence", {}, function(v)
  local kind = kind_of(v)
  return type(v) == "string" or kind == "list" or kind == "tuple" or kind == "dict" or kind == "range"
    or kind == "markup" or kind == "undefined"
end)
def("escaped", {}, function(v) return kind_of(v) == "markup" end)
def("sameas", { "other" }, function(v, other) return v == other end)
def("odd", {}, function(v) return modulo_is(v, 2, 1) end)
def("even", {}, function(v) return modulo_is(v, 2, 0) end)
def("divisibleby", { "num" }, function(v, num) return modulo_is(v, num, 0) end)
def("lower", {}, function(v) return unicode.has_case(str(v), false) end)
def("upper", {}, function(v) return unicode.has_case(str(v), true) end)
def("in", { "seq" }, function(v, container) return ops.contains(v, container) end)
def("== eq equalto", { "other" }, ops.eq)
def("!= ne", { "other" }, ops.ne)
def("> gt greaterthan", { "other" }, ops.gt)
def(">= ge", { "other" }, ops.ge)
def("< lt lessthan", { "other" }, ops.lt)
def("<= le", { "other" }, ops.le)
def("filter", {}, function(v) return require "llm.jinja.filters".table[str(v)] ~= nil end)
def("test", {}, function(v) return M.table[str(v)] ~= nil end)

return M
