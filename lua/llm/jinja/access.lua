-- Attributes, subscripts and calls, with the rules of jinja2's immutable sandbox: x.name prefers an attribute or
-- method over a key, x["name"] the other way round; methods that mutate are refused; what is missing is Undefined.

local budget = require "llm.jinja.budget"
local errors = require "llm.jinja.errors"
local ops = require "llm.jinja.ops"
local seq = require "llm.jinja.seq"
local str_methods = require "llm.jinja.str_methods"
local text = require "llm.jinja.text"
local value = require "llm.jinja.value"

local M = {}

local none, kind_of, native = value.none, value.kind, value.native
local type, unpack = type, unpack
local STR = str_methods.methods

-- A view on a dict: its keys, values or items.
local function view(name, d, make)
  local v = { kind = "view", name = name, n = d.n }
  for i = 1, d.n do v[i] = make(d.keys[i]) end
  budget.spend(d.n)
  return v
end

function M.dict_items(d)
  return view("dict_items", d, function(k) return value.tuple({ k, value.dict_get(d, k) }, 2) end)
end

local DICT = {
  get = native("get", function(d, k, default)
    if k == nil then errors.type_error("get expected at least 1 argument, got 0") end
    local v = value.dict_get(d, k)
    if v == nil then return default == nil and none or default end
    return v
  end, { "key", "default" }),
  keys = native("keys", function(d) return view("dict_keys", d, function(k) return k end) end),
  values = native("values", function(d)
    return view("dict_values", d, function(k) return value.dict_get(d, k) end)
  end),
  items = native("items", M.dict_items),
  copy = native("copy", function(d) return d end),
}

local function list_index(v, item)
  for i = 1, v.n do
    if ops.eq(v[i], item) then return i - 1 end
  end
  errors.value_error(text.repr(item) .. " is not in list")
end

local function list_count(v, item)
  local n = 0
  for i = 1, v.n do
    if ops.eq(v[i], item) then n = n + 1 end
  end
  return n
end

local TUPLE = {
  index = native("index", list_index, { "value" }),
  count = native("count", list_count, { "value" }),
}
local LIST = { index = TUPLE.index, count = TUPLE.count, copy = native("copy", function(v) return v end) }

local METHODS = { dict = DICT, list = LIST, tuple = TUPLE, range = TUPLE }

local function set_of(words)
  local set = {}
  for word in words:gmatch("%a+") do set[word] = true end
  return set
end
local MUTATORS = {
  dict = set_of "clear pop popitem setdefault update",
  list = set_of "append clear pop reverse insert sort extend remove",
}

local LOOP = {
  index = function(l) return l.i end,
  index0 = function(l) return l.i - 1 end,
  revindex = function(l) return l.n - l.i + 1 end,
  revindex0 = function(l) return l.n - l.i end,
  first = function(l) return l.i == 1 end,
  last = function(l) return l.i == l.n end,
  length = function(l) return l.n end,
  depth = function(l) return l.depth0 + 1 end,
  depth0 = function(l) return l.depth0 end,
  previtem = function(l)
    if l.i == 1 then return value.undefined(none, nil, "there is no previous item") end
    return l.items[l.i - 1]
  end,
  nextitem = function(l)
    if l.i == l.n then return value.undefined(none, nil, "there is no next item") end
    return l.items[l.i + 1]
  end,
}
local LOOP_METHODS = {
  cycle = native("cycle", function(l, args, n)
    if n == 0 then errors.type_error("no items for cycling given") end
    return args[(l.i - 1) % n + 1]
  end, nil, true),
  changed = native("changed", function(l, args, n)
    local now = value.tuple({ unpack(args, 1, n) }, n)
    local changed = not l.seen or not ops.eq(l.seen, now)
    l.seen = now
    return changed
  end, nil, true),
}

local CYCLER = {
  next = native("next", function(c)
    local v = c[c.at + 1]
    c.at = (c.at + 1) % c.n
    return v
  end),
  reset = native("reset", function(c)
    c.at = 0
    return none
  end),
}

-- A method as a value: the function with `self` filled in.
local function bind(method, self)
  return {
    kind = "function", name = method.name, fn = method.fn, params = method.params, raw = method.raw, self = self,
  }
end

-- A str method as a method of Markup: the text is taken out and put back.
local function bind_markup(method, self)
  return native(method.name, function(args, n, kwargs)
    local r = M.call(bind(method, self.s), args, n, kwargs)
    if kind_of(r) == "list" then
      for i = 1, r.n do r[i] = value.markup(r[i]) end
    end
    return type(r) == "string" and value.markup(r) or r
  end, nil, true)
end

-- The attribute or method `name` of v, or nil.
local function attribute(v, name)
  if type(v) == "string" then return STR[name] and bind(STR[name], v) end
  local kind = kind_of(v)
  local methods = METHODS[kind]
  if methods then
    if methods[name] then return bind(methods[name], v) end
    if MUTATORS[kind] and MUTATORS[kind][name] then
      return value.undefined(name, v, "access to attribute '" .. name .. "' of '" .. value.type_name(v)
        .. "' object is unsafe.", "SecurityError")
    end
  elseif kind == "namespace" then
    return value.dict_get(v.attrs, name)
  elseif kind == "loop" then
    if LOOP[name] then return LOOP[name](v) end
    return LOOP_METHODS[name] and bind(LOOP_METHODS[name], v)
  elseif kind == "markup" then
    return STR[name] and bind_markup(STR[name], v)
  elseif kind == "macro" then
    if name == "name" then return v.name or none end
  elseif kind == "cycler" then
    if name == "current" then return v[v.at + 1] end
    return CYCLER[name] and bind(CYCLER[name], v)
  end
end

local function unsafe(v, name)
  return value.undefined(name, v, "access to attribute " .. text.repr(name) .. " of '" .. value.type_name(v)
    .. "' object is unsafe.", "SecurityError")
end

-- x.name
function M.attr(v, name)
  if type(v) == "table" then
    local kind = v.kind
    if kind == "dict" and not DICT[name] and not MUTATORS.dict[name] then
      local found = v.map[name]
      if found ~= nil then return found end
    elseif kind == "undefined" then
      ops.fail_undefined(v)
    end
  end
  local found = attribute(v, name)
  if found ~= nil then return found end
  if name:find("^__.*__$") then return unsafe(v, name) end
  return value.undefined(name, v)
end

-- x[index]
function M.item(v, index)
  local kind = kind_of(v)
  if kind == "dict" then
    local key_kind = kind_of(index)
    if key_kind ~= "list" and key_kind ~= "dict" then
      local found = value.dict_get(v, index)
      if found ~= nil then return found end
    end
  elseif kind == "undefined" then
    ops.fail_undefined(v)
  elseif type(index) ~= "string" then
    local found = seq.at(v, index)
    if found ~= nil then return found end
  end
  if kind_of(index) == "markup" then index = index.s end
  if type(index) == "string" then
    local found = attribute(v, index)
    if found ~= nil then return found end
    if index:find("^__.*__$") then return unsafe(v, index) end
  end
  return value.undefined(index, v)
end

-- Positions of keyword arguments among `params`: returns args and their count with kwargs merged in.
local function merge_keywords(f, args, n, kwargs)
  local out = {}
  for i = 1, n do out[i] = args[i] end
  for i = 1, kwargs.n do
    local name = kwargs.keys[i]
    local position
    for p, param in ipairs(f.params) do
      if param == name then position = p end
    end
    if not position then
      errors.type_error(f.name .. "() got an unexpected keyword argument '" .. name .. "'")
    elseif out[position] ~= nil then
      errors.type_error(f.name .. "() got multiple values for argument '" .. name .. "'")
    end
    out[position] = value.dict_get(kwargs, name)
    n = math.max(n, position)
  end
  return out, n
end

-- Calls a native function that is not `raw`: at most seven arguments, absent ones nil.
function M.call_native(f, self, args, n, kwargs)
  if f.raw then
    if self ~= nil then return f.fn(self, args, n, kwargs) end
    return f.fn(args, n, kwargs)
  end
  if kwargs then args, n = merge_keywords(f, args, n, kwargs) end
  if n > #f.params then
    errors.type_error(f.name .. "() takes at most " .. #f.params .. " arguments (" .. n .. " given)")
  end
  if self ~= nil then return f.fn(self, args[1], args[2], args[3], args[4], args[5], args[6]) end
  return f.fn(args[1], args[2], args[3], args[4], args[5], args[6], args[7])
end

local function macro_error(f, message)
  errors.type_error("macro " .. (f.name and text.repr(f.name) or "None") .. " " .. message)
end

-- Calls a macro: its arguments become the frame its code runs in.
local function call_macro(f, args, n, kwargs)
  local params, frame = f.params, {}
  local count = #params
  for i = 1, math.min(n, count) do frame[params[i]] = args[i] end
  local extra
  for i = 1, kwargs and kwargs.n or 0 do
    local name = kwargs.keys[i]
    local is_param = false
    for p = n + 1, count do is_param = is_param or params[p] == name end
    if is_param or (name == "caller" and f.uses_caller) then
      frame[name] = kwargs.map[name]
    elseif f.uses_kwargs then
      extra = extra or value.dict()
      value.dict_set(extra, name, kwargs.map[name])
    elseif name == "caller" then
      macro_error(f, "was invoked with two values for the special caller argument. This is most likely a bug.")
    else
      macro_error(f, "takes no keyword argument " .. text.repr(name))
    end
  end
  if f.uses_kwargs then frame.kwargs = extra or value.dict() end
  if f.uses_varargs then
    local rest = {}
    for i = count + 1, n do rest[i - count] = args[i] end
    frame.varargs = value.tuple(rest, math.max(0, n - count))
  elseif n > count then
    macro_error(f, "takes not more than " .. count .. " argument(s)")
  end
  if f.uses_caller and frame.caller == nil then
    frame.caller = value.undefined("caller", nil, "No caller defined")
  end
  budget.enter_call()
  local result = f.fn(frame)
  budget.leave_call()
  return result
end

-- f(args…, **kwargs); kwargs is a dict or nil.
function M.call(f, args, n, kwargs)
  budget.spend(1)
  if type(f) == "table" then
    local kind = f.kind
    if kind == "macro" then return call_macro(f, args, n, kwargs) end
    if kind == "function" then return M.call_native(f, f.self, args, n, kwargs) end
    if kind == "undefined" then ops.fail_undefined(f) end
    if kind == "loop" then
      if not f.recurse then
        errors.type_error("The loop must have the 'recursive' marker to be called recursively.")
      end
      budget.enter_call()
      local result = f.recurse(args[1], f.depth0 + 1)
      budget.leave_call()
      return result
    end
    if kind == "joiner" then
      if f.used then return f.sep end
      f.used = true
      return ""
    end
  end
  errors.type_error("'" .. value.type_name(f) .. "' object is not callable")
end

local function usual_method(v, name)
  if type(v) == "string" then return STR[name] end
  if type(v) == "table" and v.kind == "dict" then return DICT[name] end
end

-- v.name(args…): the usual methods without making a bound method first.
function M.call_method(v, name, args, n, kwargs)
  local method = usual_method(v, name)
  if not method then return M.call(M.attr(v, name), args, n, kwargs) end
  budget.spend(1)
  return M.call_native(method, v, args, n, kwargs)
end

-- The most frequent shape: one or no argument, by position.
function M.call_method1(v, name, a)
  local method = usual_method(v, name)
  if not method or method.raw or (a ~= nil and #method.params == 0) then
    return M.call_method(v, name, { a }, a ~= nil and 1 or 0)
  end
  budget.spend(1)
  return method.fn(v, a)
end

-- Follows a dotted path like "function.name" or "0.x", as attribute= arguments of filters do.
function M.path(attribute_path)
  local steps = {}
  if type(attribute_path) == "string" then
    for step in (attribute_path .. "."):gmatch("([^.]*)%.") do
      steps[#steps + 1] = step:find("^%d+$") and tonumber(step) or step
    end
  elseif attribute_path ~= none and attribute_path ~= nil then
    steps[1] = attribute_path
  end
  return function(v, default)
    for i = 1, #steps do
      v = M.item(v, steps[i])
      if default ~= nil and default ~= none and kind_of(v) == "undefined" then v = default end
    end
    return v
  end
end

return M
