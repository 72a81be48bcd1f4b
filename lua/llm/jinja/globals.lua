-- Global functions of a chat template. Nothing here reaches the host but the clock.

local budget = require "llm.jinja.budget"
local errors = require "llm.jinja.errors"
local seq = require "llm.jinja.seq"
local text = require "llm.jinja.text"
local value = require "llm.jinja.value"

local M = {}

local native = value.native

local MAX_RANGE = 100000

local function int(v)
  if type(v) == "number" then return v end
  if type(v) == "boolean" then return v and 1 or 0 end
  errors.type_error("'" .. value.type_name(v) .. "' object cannot be interpreted as an integer")
end

local function range(start, stop, step)
  if start == nil then errors.type_error("range expected at least 1 argument, got 0") end
  if stop == nil then start, stop = 0, start end
  start, stop, step = int(start), int(stop), step == nil and 1 or int(step)
  if step == 0 then errors.value_error("range() arg 3 must not be zero") end
  local n = math.max(0, math.ceil((stop - start) / step))
  if n > MAX_RANGE then
    errors.raise("OverflowError", "Range too big. The sandbox blocks ranges larger than MAX_RANGE ("
      .. MAX_RANGE .. ").")
  end
  budget.spend(n)
  local r = { kind = "range", n = n, start = start, stop = stop, step = step }
  for i = 1, n do r[i] = start + (i - 1) * step end
  return r
end

-- dict(mapping or pairs, **kwargs), also what namespace() takes.
local function make_dict(args, n, kwargs)
  local d = value.dict()
  local source = args[1]
  if value.kind(source) == "dict" then
    for i = 1, source.n do value.dict_set(d, source.keys[i], value.dict_get(source, source.keys[i])) end
  elseif n > 0 then
    local items, count = seq.items(source)
    for i = 1, count do
      local pair = seq.unpack(items[i], 2)
      value.dict_set(d, pair[1], pair[2])
    end
  end
  for i = 1, kwargs and kwargs.n or 0 do
    value.dict_set(d, kwargs.keys[i], value.dict_get(kwargs, kwargs.keys[i]))
  end
  return d
end

local function check_attribute_name(name)
  if type(name) == "string" and name:sub(1, 1) == "_" then
    errors.raise("SecurityError", "Chat templates cannot store underscore-prefixed attributes on a namespace, but got "
      .. text.repr(name) .. ". Please rename the attribute.")
  end
end

local function namespace(args, n, kwargs)
  local attrs = make_dict(args, n, kwargs)
  for i = 1, attrs.n do check_attribute_name(attrs.keys[i]) end
  return { kind = "namespace", attrs = attrs }
end

-- {% set ns.name = v %}
function M.set_attribute(ns, name, v)
  check_attribute_name(name)
  value.dict_set(ns.attrs, name, v)
end

function M.require_namespace(v)
  if value.kind(v) ~= "namespace" then
    errors.raise("TemplateRuntimeError", "cannot assign attribute on non-namespace object")
  end
end

-- Conversions that strftime of the C library knows; others are undefined behaviour there and printed as they are.
local CONVERSIONS = "[aAbBcCdDeFgGhHIjklmMnpPrRsStTuUVwWxXyYzZ%%]"

local now -- seconds since the epoch, or nil for the clock's

-- Fixes the time that strftime_now sees; nil gives the clock back.
function M.set_now(seconds)
  now = seconds
end

local function strftime_now(pattern)
  if type(pattern) ~= "string" then
    errors.type_error("strftime() argument 1 must be str, not " .. (pattern and value.type_name(pattern) or "NoneType"))
  end
  local seconds = now or os.time()
  return (pattern:gsub("%%([-_0^#]?)(.)", function(flag, c)
    if c == "f" and flag == "" then return "000000" end
    if not c:find(CONVERSIONS) then return "%" .. flag .. c end
    return os.date("%" .. flag .. c, seconds)
  end))
end

local function raise_exception(message)
  errors.raise("TemplateError", message == nil and "None" or text.str(message))
end

M.table = {
  range = native("range", range, { "start", "stop", "step" }),
  dict = native("dict", make_dict, nil, true),
  namespace = native("namespace", namespace, nil, true),
  raise_exception = native("raise_exception", raise_exception, { "message" }),
  strftime_now = native("strftime_now", strftime_now, { "format" }),
  joiner = native("joiner", function(sep)
    return { kind = "joiner", sep = sep == nil and ", " or sep, used = false }
  end, { "sep" }),
  cycler = native("cycler", function(args, n)
    if n == 0 then errors.raise("RuntimeError", "at least one item has to be provided") end
    local c = { kind = "cycler", n = n, at = 0 }
    for i = 1, n do c[i] = args[i] end
    return c
  end, nil, true),
}

return M
