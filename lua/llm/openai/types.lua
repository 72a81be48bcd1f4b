-- The types of request parameters: from a value of template.from_json to what the engine takes; nil for a value of
-- another type. what: the type in words, as messages say it.

local json = require "llm.json"
local template = require "llm.template"

local M = {}

local function kind_of(v) return type(v) == "table" and v.kind or nil end
M.kind_of = kind_of

local function number(v)
  if type(v) == "number" then return v end
  if kind_of(v) == "float" and v.x == v.x and math.abs(v.x) < math.huge then return v.x end
end

local function integer(v)
  local x = number(v)
  if x and x == math.floor(x) and math.abs(x) <= 2 ^ 53 then return x end
end

local function string(v) return type(v) == "string" and v or nil end

local function boolean(v)
  if type(v) == "boolean" then return v end
end

local function list_of(v, read)
  if kind_of(v) ~= "list" then return nil end
  local list = {}
  for i = 1, v.n do
    list[i] = read(v[i])
    if list[i] == nil then return nil end
  end
  return list
end
M.list_of, M.read_integer = list_of, integer

local function bias(v)
  if kind_of(v) ~= "dict" then return nil end
  local map = {}
  for key, value in pairs(v.map) do
    local id = tonumber(key)
    local x = number(value)
    if not (id and id == math.floor(id) and x) then return nil end
    map[id] = x
  end
  return map
end

local function response_format(v)
  if kind_of(v) == "dict" and v.map.type == "text" then return "text" end
end

local function stream_options(v)
  if kind_of(v) ~= "dict" then return nil end
  local options = {}
  for _, name in ipairs { "include_usage", "continuous_usage_stats" } do
    local value = v.map[name]
    if value ~= nil and value ~= template.none then
      if type(value) ~= "boolean" then return nil end
      options[name] = value
    end
  end
  return options
end

M.number = { what = "a number", read = number }
M.integer = { what = "a whole number", read = integer }
M.string = { what = "a string", read = string }
M.boolean = { what = "true or false", read = boolean }
M.strings = { what = "a string or a list of strings", read = function(v)
  return type(v) == "string" and { v } or list_of(v, string)
end }
M.integers = { what = "a list of token ids", read = function(v) return list_of(v, integer) end }
M.bias = { what = "an object from token ids to numbers", read = bias }
M.list = { what = "a list", read = function(v) return kind_of(v) == "list" and v or nil end }
M.object = { what = "an object", read = function(v) return kind_of(v) == "dict" and v or nil end }
M.any = { what = "a value", read = function(v) return v end }
M.response_format = { what = '{"type": "text"}: structured output is not available in this server',
                      read = response_format }
M.stream_options = { what = "an object with include_usage and continuous_usage_stats, true or false",
                     read = stream_options }

-- A value of template.from_json as a plain one for llm.json.
function M.plain(v)
  local kind = kind_of(v)
  if v == template.none then return json.null end
  if kind == "float" then return v.x end
  if kind == "bigint" then return tonumber(v.digits) end
  if kind == "list" then
    local list = json.array()
    for i = 1, v.n do list[i] = M.plain(v[i]) end
    return list
  end
  if kind == "dict" then
    local object, order = {}, {}
    for i, key in ipairs(v.keys) do
      order[i] = key
      object[key] = M.plain(v.map[key])
    end
    return json.object(object, order)
  end
  return v
end

M.plain_object = { what = "an object", read = function(v) return kind_of(v) == "dict" and M.plain(v) or nil end }

local function policy_use(v)
  if type(v) == "string" then return v end
  if kind_of(v) ~= "dict" or type(v.map.name) ~= "string" then return nil end
  local args = v.map.args
  if args == nil or args == template.none then return v.map.name end
  return kind_of(args) == "dict" and { name = v.map.name, args = M.plain(args) } or nil
end
M.policy = { what = 'a name, or a list of names and of {"name": …, "args": {…}}', read = function(v)
  return policy_use(v) or list_of(v, policy_use)
end }

return M
