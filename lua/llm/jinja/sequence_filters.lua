-- Filters on sequences. Those that are generators in jinja2 (map, select, unique, items …) give generators here too:
-- they print as such, have no length, and can be walked once.

local access = require "llm.jinja.access"
local budget = require "llm.jinja.budget"
local errors = require "llm.jinja.errors"
local ops = require "llm.jinja.ops"
local seq = require "llm.jinja.seq"
local text = require "llm.jinja.text"
local unicode = require "llm.jinja.unicode"
local value = require "llm.jinja.value"

local M = {}

local none, kind_of, str, truth = value.none, value.kind, text.str, value.truth

local function given(v)
  return v ~= nil and v ~= none
end

local function flag(v)
  return v ~= nil and truth(v)
end

-- Keys of items for sorting and grouping: an attribute path or the item, strings in lower case unless `cased`.
local function key_maker(attribute, cased, default)
  local get = given(attribute) and access.path(attribute)
  return function(item)
    local k = item
    if get then k = get(item, default) end
    if not cased and type(k) == "string" then k = unicode.lower(k) end
    return k
  end
end

local function keys_of(items, n, make)
  local keys = {}
  for i = 1, n do keys[i] = make(items[i]) end
  return keys
end

-- sorted(items, key): Python's reverse keeps equal items in their order.
local function sorted(items, keys, n, reverse)
  if reverse then return seq.sort(items, keys, n, ops.gt) end
  return seq.sort(items, keys, n, ops.lt)
end

-- A comma-separated attribute sorts by several keys.
local function multi_key(attribute, cased)
  if type(attribute) ~= "string" or not attribute:find(",", 1, true) then return key_maker(attribute, cased) end
  local makers = {}
  for path in attribute:gmatch("[^,]+") do makers[#makers + 1] = key_maker(path, cased) end
  return function(item)
    local parts = {}
    for i, make in ipairs(makers) do parts[i] = make(item) end
    return value.list(parts, #makers)
  end
end

local function extreme(name, better)
  return function(v, cased, attribute)
    local items, n = seq.items(v)
    if n == 0 then return value.undefined(none, nil, "No aggregated item, sequence was empty.") end
    local make = key_maker(attribute, flag(cased))
    local best, best_key = items[1], make(items[1])
    for i = 2, n do
      local k = make(items[i])
      if better(k, best_key) then best, best_key = items[i], k end
    end
    return best
  end
end

local function join(v, separator, attribute)
  local items, n = seq.items(v)
  local get = given(attribute) and access.path(attribute)
  separator = separator == nil and "" or str(separator)
  local parts, bytes = {}, 0
  for i = 1, n do
    local item = items[i]
    if get then item = get(item) end
    local s = str(item)
    parts[i], bytes = s, bytes + #s + #separator
  end
  budget.text(bytes)
  return table.concat(parts, separator, 1, n)
end

local function reverse(v)
  if type(v) == "string" or kind_of(v) == "markup" then return seq.slice(v, nil, nil, -1) end
  if not seq.is_iterable(v) then errors.raise("FilterArgumentError", "argument must be iterable") end
  local kind = kind_of(v)
  local items, n = seq.items(v)
  local out = {}
  for i = 1, n do out[i] = items[n + 1 - i] end
  if kind == "gen" or kind == "undefined" then return value.list(out, n) end
  return value.gen(function() return out, n end, kind == "list" and "list_reverseiterator" or "reversed")
end

local function dictsort(d, cased, by, descending)
  by = by or "key"
  if by ~= "key" and by ~= "value" then
    errors.raise("FilterArgumentError", 'You can only sort by either "key" or "value"')
  end
  if kind_of(d) == "undefined" then ops.fail_undefined(d) end
  if kind_of(d) ~= "dict" then
    errors.raise("AttributeError", "'" .. value.type_name(d) .. "' object has no attribute 'items'")
  end
  local pairs_view = access.dict_items(d)
  local make = key_maker(nil, flag(cased))
  local keys = keys_of(pairs_view, d.n, function(pair) return make(pair[by == "key" and 1 or 2]) end)
  return value.list(sorted(pairs_view, keys, d.n, flag(descending)), d.n)
end

local function unique(v, cased, attribute)
  local make = key_maker(attribute, flag(cased))
  return value.gen(function()
    local items, n = seq.items(v)
    local seen, out, count = {}, {}, 0
    for i = 1, n do
      local h = value.key(make(items[i]))
      if not seen[h] then
        seen[h] = true
        count = count + 1
        out[count] = items[i]
      end
    end
    return out, count
  end)
end

local function sum(v, attribute, start)
  local items, n = seq.items(v)
  local get = given(attribute) and access.path(attribute)
  local total = start == nil and 0 or start
  for i = 1, n do
    local item = items[i]
    if get then item = get(item) end
    total = ops.add(total, item)
  end
  return total
end

local function batch(v, size, fill)
  return value.gen(function()
    local items, n = seq.items(v)
    local out, count = {}, 0
    for first = 1, n, size do
      local row, width = {}, math.min(size, n - first + 1)
      for i = 1, width do row[i] = items[first + i - 1] end
      if given(fill) then
        budget.spend(size)
        while width < size do
          width = width + 1
          row[width] = fill
        end
      end
      count = count + 1
      out[count] = value.list(row, width)
    end
    return out, count
  end)
end

local function slices(v, parts, fill)
  return value.gen(function()
    local items, n = seq.items(v)
    budget.spend(parts)
    local per, extra = math.floor(n / parts), n % parts
    local out, at = {}, 0
    for p = 1, parts do
      local row, width = {}, per + (p <= extra and 1 or 0)
      for i = 1, width do row[i] = items[at + i] end
      at = at + width
      if given(fill) and p > extra then
        width = width + 1
        row[width] = fill
      end
      out[p] = value.list(row, width)
    end
    return out, parts
  end)
end

local function groupby(v, attribute, default, cased)
  local items, n = seq.items(v)
  local make = key_maker(attribute, flag(cased), default)
  local plain = key_maker(attribute, true, default)
  local ordered = sorted(items, keys_of(items, n, make), n, false)
  local out, count, last_key, members = {}, 0, nil, nil
  for i = 1, n do
    local item = ordered[i]
    local k = make(item)
    if count == 0 or not ops.eq(k, last_key) then
      members = value.list({}, 0)
      count = count + 1
      out[count], last_key = value.tuple({ plain(item), members }, 2), k
    end
    members.n = members.n + 1
    members[members.n] = item
  end
  return value.list(out, count)
end

-- The function that map("name", …) or select("name", …) applies: a filter or test called by its name.
local function named(registry, what, args, n, first, kwargs)
  local name = args[first]
  local f = registry()[str(name)]
  if not f then errors.raise("TemplateRuntimeError", "No " .. what .. " named " .. text.repr(name) .. ".") end
  local rest = { unpack(args, first + 1, n) }
  return function(item)
    return access.call_native(f, item, rest, n - first, kwargs)
  end
end

local function filters() return require "llm.jinja.filters".table end
local function tests() return require "llm.jinja.tests".table end

local function map(v, args, n, kwargs)
  return value.gen(function()
    if not truth(v) then return {}, 0 end
    local apply
    local attribute = kwargs and value.dict_get(kwargs, "attribute")
    if n == 0 and attribute ~= nil then
      local get, default = access.path(attribute), value.dict_get(kwargs, "default")
      apply = function(item) return get(item, default) end
    elseif n == 0 then
      errors.raise("FilterArgumentError", "map requires a filter argument")
    else
      apply = named(filters, "filter", args, n, 1, kwargs)
    end
    local items, count = seq.items(v)
    local out = {}
    for i = 1, count do out[i] = apply(items[i]) end
    return out, count
  end)
end

-- select, reject and their forms with an attribute.
local function chooser(wanted, by_attribute)
  return function(v, args, n, kwargs)
    return value.gen(function()
      if not truth(v) then return {}, 0 end
      local first, get = 1, nil
      if by_attribute then
        if n == 0 then errors.raise("FilterArgumentError", "Missing parameter for attribute name") end
        get, first = access.path(args[1]), 2
      end
      local check = n >= first and named(tests, "test", args, n, first, kwargs) or truth
      local items, count = seq.items(v)
      local out, kept = {}, 0
      for i = 1, count do
        local subject = items[i]
        if get then subject = get(subject) end
        if truth(check(subject)) == wanted then
          kept = kept + 1
          out[kept] = items[i]
        end
      end
      return out, kept
    end)
  end
end

local function first(v)
  local items, n = seq.items(v)
  if n == 0 then return value.undefined(none, nil, "No first item, sequence was empty.") end
  if kind_of(v) == "gen" and n > 1 then -- a generator keeps what was not taken
    v.make = function()
      local rest = {}
      for i = 2, n do rest[i - 1] = items[i] end
      return rest, n - 1
    end
  end
  return items[1]
end

local function last(v)
  if kind_of(v) == "gen" then errors.type_error("'" .. v.name .. "' object is not reversible") end
  local items, n = seq.items(v)
  if n == 0 then return value.undefined(none, nil, "No last item, sequence was empty.") end
  return items[n]
end

local function items_filter(d)
  if kind_of(d) ~= "undefined" and kind_of(d) ~= "dict" then
    errors.type_error("Can only get item pairs from a mapping.")
  end
  return value.gen(function()
    if kind_of(d) == "undefined" then return {}, 0 end
    local v = access.dict_items(d)
    return v, v.n
  end)
end

local function random(v)
  local items, n = seq.items(v)
  if n == 0 then return value.undefined(none, nil, "No random item, sequence was empty.") end
  return items[math.random(n)]
end

function M.install(def)
  def("join", { "d", "attribute" }, join)
  def("list", {}, seq.list)
  def("first", {}, first)
  def("last", {}, last)
  def("random", {}, random)
  def("reverse", {}, reverse)
  def("items", {}, items_filter)
  def("dictsort", { "case_sensitive", "by", "reverse" }, dictsort)
  def("unique", { "case_sensitive", "attribute" }, unique)
  def("sum", { "attribute", "start" }, sum)
  def("batch", { "linecount", "fill_with" }, batch)
  def("slice", { "slices", "fill_with" }, slices)
  def("groupby", { "attribute", "default", "case_sensitive" }, groupby)
  def("min", { "case_sensitive", "attribute" }, extreme("min", ops.lt))
  def("max", { "case_sensitive", "attribute" }, extreme("max", ops.gt))
  def("map", {}, map, true)
  def("select", {}, chooser(true, false), true)
  def("reject", {}, chooser(false, false), true)
  def("selectattr", {}, chooser(true, true), true)
  def("rejectattr", {}, chooser(false, true), true)
  def("sort", { "reverse", "case_sensitive", "attribute" }, function(v, descending, cased, attribute)
    local items, n = seq.items(v)
    return value.list(sorted(items, keys_of(items, n, multi_key(attribute, flag(cased))), n, flag(descending)), n)
  end)
end

return M
