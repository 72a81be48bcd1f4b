-- Python values in Lua.
--
--   str        Lua string, UTF-8                       int       Lua number (exact up to 2^53)
--   bool       Lua boolean                             missing   nil, never a value of an expression
--   None       M.none                                  float     { kind = "float", x = number }
--   list       { kind = "list", n = count, ... }       tuple, range: the same with their own kind
--   dict       { kind = "dict", n, keys = { ... }, map = { [hash key] = value } }, in order of insertion
--   big int    { kind = "bigint", digits = "123…" }: read from JSON, printed exactly, no arithmetic
--   Markup     { kind = "markup", s = string }
--   Undefined  { kind = "undefined", … }               generators { kind = "gen", make = function, … }
--   dict views { kind = "view", n, name, ... }         macros, functions, loops, namespaces: see their makers
--
-- Templates cannot mutate a list or dict (jinja2's immutable sandbox), so values are shared, never copied.

local errors = require "llm.jinja.errors"

local M = {}

M.none = { kind = "none" }

-- Marks what this module made, so that a plain table from outside that looks like a value is not taken for one.
local Value = {}

function M.is_value(t)
  return getmetatable(t) == Value
end

-- Largest magnitude at which every integer is exact in a Lua number.
M.MAX_INT = 2 ^ 53

function M.float(x)
  return setmetatable({ kind = "float", x = x }, Value)
end

function M.bigint(digits)
  return setmetatable({ kind = "bigint", digits = digits }, Value)
end

function M.list(items, n)
  items.kind, items.n = "list", n
  return setmetatable(items, Value)
end

function M.tuple(items, n)
  items.kind, items.n = "tuple", n
  return setmetatable(items, Value)
end

function M.markup(s)
  return { kind = "markup", s = s }
end

function M.kind(v)
  return type(v) == "table" and v.kind or nil
end

-- A generator: `make` is called at the first use and returns its items as an array and their count.
function M.gen(make, name)
  return { kind = "gen", make = make, name = name or "generator" }
end

-- A function of the runtime. `params` names its parameters for keyword arguments; `raw` ones receive
-- (args, n, kwargs) as they are. `self` is passed first when the function is a bound method.
function M.native(name, fn, params, raw)
  return { kind = "function", name = name, fn = fn, params = params or {}, raw = raw }
end

-- Undefined: `name` missing from the context (no `owner`), or from the value `owner`; or with a `hint` of its own.
function M.undefined(name, owner, hint, error_type)
  return { kind = "undefined", name = name, owner = owner, hint = hint, error_type = error_type }
end

local TYPE_NAMES = {
  none = "NoneType", bigint = "int", markup = "Markup", undefined = "Undefined", macro = "Macro",
  loop = "LoopContext", namespace = "TemplateNamespace", cycler = "Cycler", joiner = "Joiner",
}

function M.type_name(v)
  local t = type(v)
  if t == "string" then return "str" end
  if t == "number" then return "int" end
  if t == "boolean" then return "bool" end
  local kind = v.kind
  if kind == "view" or kind == "gen" then return v.name end
  if kind == "function" then return v.self ~= nil and "builtin_function_or_method" or "function" end
  return TYPE_NAMES[kind] or kind
end

local MODULES = {
  macro = "jinja2.runtime.", loop = "jinja2.runtime.", markup = "markupsafe.", cycler = "jinja2.utils.",
  joiner = "jinja2.utils.", undefined = "jinja2.runtime.",
  namespace = "transformers.utils.chat_template_utils.",
}

-- How jinja2 names the type of a value in messages about missing attributes.
local function described_type(v)
  if v == M.none then return "None" end
  return (MODULES[M.kind(v)] or "") .. M.type_name(v) .. " object"
end

function M.undefined_message(u, repr)
  if u.hint then return u.hint end
  if u.owner == nil then return repr(u.name) .. " is undefined" end
  if type(u.name) == "string" then
    return repr(described_type(u.owner)) .. " has no attribute " .. repr(u.name)
  end
  return described_type(u.owner) .. " has no element " .. repr(u.name)
end

-- The Lua table key under which a dict keeps the Python key `v`: equal keys (1, 1.0, True) have the same one.
function M.key(v)
  local t = type(v)
  if t == "string" or t == "number" then return v end
  if t == "boolean" then return v and 1 or 0 end
  local kind = v.kind
  if kind == "float" then return v.x == v.x and v.x or v end
  if kind == "markup" then return v.s end
  if kind == "bigint" then return "\0int" .. v.digits end
  if kind == "undefined" then return "\0undefined" end
  if kind == "tuple" then
    local parts = {}
    for i = 1, v.n do
      local k = M.key(v[i])
      local text = tostring(k)
      parts[i] = type(k):sub(1, 1) .. #text .. ":" .. text
    end
    return "\0tuple" .. table.concat(parts)
  end
  if kind == "list" or kind == "dict" then
    errors.type_error("unhashable type: '" .. kind .. "'")
  end
  return v
end

local key = M.key

function M.dict()
  return setmetatable({ kind = "dict", n = 0, keys = {}, map = {} }, Value)
end

function M.dict_set(d, k, v)
  local h = key(k)
  if d.map[h] == nil then
    local n = d.n + 1
    d.n, d.keys[n] = n, k
  end
  d.map[h] = v
end

function M.dict_get(d, k)
  return d.map[key(k)]
end

-- A dict from an array of alternating keys and values, `n` pairs.
function M.dict_of(flat, n)
  local d = M.dict()
  for i = 1, n do M.dict_set(d, flat[2 * i - 1], flat[2 * i]) end
  return d
end

function M.truth(v)
  local t = type(v)
  if t == "boolean" then return v end
  if t == "string" then return v ~= "" end
  if t == "number" then return v ~= 0 end
  local kind = v.kind
  if kind == "none" or kind == "undefined" then return false end
  if kind == "float" then return v.x ~= 0 end
  if kind == "markup" then return v.s ~= "" end
  if kind == "gen" or kind == "namespace" then return true end
  local n = v.n
  return n == nil or n > 0
end

return M
