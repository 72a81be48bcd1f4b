-- Methods of str. Each entry of `methods` is a native function (see value.native) that takes the string first.

local budget = require "llm.jinja.budget"
local errors = require "llm.jinja.errors"
local format = require "llm.jinja.format"
local seq = require "llm.jinja.seq"
local unicode = require "llm.jinja.unicode"
local value = require "llm.jinja.value"

local M = { methods = {} }

local none, kind_of, type_name = value.none, value.kind, value.type_name
local find, sub = string.find, string.sub

local function def(name, params, fn, raw)
  M.methods[name] = value.native(name, fn, params, raw)
end

-- A str argument (Markup counts), or nil for an absent or None one when `optional`.
local function string_arg(v, what, optional)
  if type(v) == "string" then return v end
  if optional and (v == nil or v == none) then return nil end
  if kind_of(v) == "markup" then return v.s end
  if optional == "strip" then errors.type_error(what .. " arg must be None or str") end
  if optional then errors.type_error("must be str or None, not " .. type_name(v)) end
  errors.type_error(v == nil and what .. " lacks an argument"
    or what .. " must be str, not " .. type_name(v))
end

local function int_arg(v, default)
  if v == nil then return default end
  if type(v) == "number" then return v end
  if type(v) == "boolean" then return v and 1 or 0 end
  errors.type_error("'" .. type_name(v) .. "' object cannot be interpreted as an integer")
end

for _, side in ipairs { "strip", "lstrip", "rstrip" } do
  local strip = unicode[side]
  def(side, { "chars" }, function(s, chars) return strip(s, string_arg(chars, side, "strip")) end)
end

for _, name in ipairs { "upper", "lower", "title", "capitalize", "swapcase" } do
  local convert = unicode[name]
  def(name, {}, function(s)
    budget.text(#s)
    return convert(s)
  end)
end
def("casefold", {}, function(s) return (unicode.lower(s):gsub("ß", "ss"):gsub("ς", "σ")) end)

-- Splits at `sep` from the left; returns an array and its length.
local function split_at(s, sep, limit)
  if sep == "" then errors.value_error("empty separator") end
  local out, n, at = {}, 0, 1
  while not limit or n < limit do
    local first, last = find(s, sep, at, true)
    if not first then break end
    n = n + 1
    out[n] = sub(s, at, first - 1)
    at = last + 1
  end
  out[n + 1] = sub(s, at)
  return out, n + 1
end

local function split_limit(v)
  local limit = int_arg(v, -1)
  return limit >= 0 and limit or nil
end

def("split", { "sep", "maxsplit" }, function(s, sep, maxsplit)
  budget.text(#s)
  sep = string_arg(sep, "split", true)
  local limit = split_limit(maxsplit)
  local out, n
  if sep then out, n = split_at(s, sep, limit) else out, n = unicode.split_blank(s, limit) end
  budget.spend(n)
  return value.list(out, n)
end)

local function reversed(array, n)
  local out = {}
  for i = 1, n do out[i] = array[n + 1 - i] end
  return out
end

-- From the right: split the reversed bytes and turn everything round again.
def("rsplit", { "sep", "maxsplit" }, function(s, sep, maxsplit)
  budget.text(#s)
  sep = string_arg(sep, "rsplit", true)
  local limit = split_limit(maxsplit)
  local out, n
  if not sep and not limit then
    out, n = unicode.split_blank(s)
  elseif sep then
    out, n = split_at(s:reverse(), sep:reverse(), limit)
    for i = 1, n do out[i] = out[i]:reverse() end
    out = reversed(out, n)
  else
    local words, count = unicode.split_blank(s)
    out, n = {}, 0
    local rest = unicode.rstrip(s)
    while n < limit and n < count do
      local word = words[count - n]
      n = n + 1
      out[n] = word
      rest = unicode.rstrip(sub(rest, 1, #rest - #word))
    end
    if n < count then
      n = n + 1
      out[n] = rest
    end
    out = reversed(out, n)
  end
  budget.spend(n)
  return value.list(out, n)
end)

def("splitlines", { "keepends" }, function(s, keepends)
  budget.text(#s)
  local out, n = unicode.split_lines(s, keepends ~= nil and value.truth(keepends))
  budget.spend(n)
  return value.list(out, n)
end)

-- Byte range of s[start:end], in characters.
local function window(s, start, stop)
  if (start == nil or start == none) and (stop == nil or stop == none) then return s, 0 end
  local n = unicode.len(s)
  local function clamp(v, default)
    if v == nil or v == none then return default end
    v = int_arg(v)
    if v < 0 then v = v + n end
    return math.max(0, math.min(n, v))
  end
  local first, last = clamp(start, 0), clamp(stop, n)
  if type(start) == "number" and start > n then return nil, first end
  return unicode.slice(s, first, last), first
end

-- A prefix or suffix argument: a str, or a tuple of them.
local function affix(name, matches)
  def(name, { "prefix", "start", "end" }, function(s, wanted, start, stop)
    local part = window(s, start, stop)
    if not part then return false end
    if kind_of(wanted) == "tuple" then
      for i = 1, wanted.n do
        if matches(part, string_arg(wanted[i], name)) then return true end
      end
      return false
    end
    if type(wanted) ~= "string" and kind_of(wanted) ~= "markup" then
      errors.type_error(name .. " first arg must be str or a tuple of str, not "
        .. (wanted == nil and "nothing" or type_name(wanted)))
    end
    return matches(part, string_arg(wanted, name))
  end)
end
affix("startswith", function(s, prefix) return sub(s, 1, #prefix) == prefix end)
affix("endswith", function(s, suffix) return suffix == "" or sub(s, -#suffix) == suffix end)

local function searcher(name, last, required)
  def(name, { "sub", "start", "end" }, function(s, wanted, start, stop)
    wanted = string_arg(wanted, name)
    budget.text(#s)
    local part, offset = window(s, start, stop)
    local at = part and find(part, wanted, 1, true)
    if at and last and wanted == "" then
      at = #part + 1
    elseif at and last then
      local next_at = at
      while next_at do
        at = next_at
        next_at = find(part, wanted, at + 1, true)
      end
    end
    if at then return offset + unicode.index_of_byte(part, at) end
    if required then errors.value_error("substring not found") end
    return -1
  end)
end
searcher("find", false, false)
searcher("rfind", true, false)
searcher("index", false, true)
searcher("rindex", true, true)

def("count", { "sub", "start", "end" }, function(s, wanted, start, stop)
  wanted = string_arg(wanted, "count")
  budget.text(#s)
  local part = window(s, start, stop)
  if not part then return 0 end
  if wanted == "" then return unicode.len(part) + 1 end
  local _, n = split_at(part, wanted)
  return n - 1
end)

-- str.replace; `count` nil or negative: all.
function M.replaced(s, old, new, count)
  local limit = count and count >= 0 and count or nil
  if old == "" then
    local chars, n = unicode.chars(s)
    local out = {}
    for i = 0, n do
      if not limit or i < limit then out[#out + 1] = new end
      out[#out + 1] = chars[i + 1]
    end
    budget.text(#s + #new * n)
    return table.concat(out)
  end
  if not find(s, old, 1, true) then
    budget.text(#s)
    return s
  end
  local parts, n = split_at(s, old, limit)
  budget.spend(n)
  budget.text(#s + (n - 1) * #new)
  return table.concat(parts, new, 1, n)
end

def("replace", { "old", "new", "count" }, function(s, old, new, count)
  if new == nil then
    errors.type_error("replace expected at least 2 arguments, got " .. (old == nil and 0 or 1))
  end
  old, new = string_arg(old, "replace() argument 1"), string_arg(new, "replace() argument 2")
  return M.replaced(s, old, new, int_arg(count, -1))
end)

def("join", { "iterable" }, function(s, iterable)
  if iterable == nil then errors.type_error("str.join() takes exactly one argument (0 given)") end
  if not seq.is_iterable(iterable) then errors.type_error("can only join an iterable") end
  local items, n = seq.items(iterable)
  local parts, bytes = {}, 0
  for i = 1, n do
    local item = items[i]
    if kind_of(item) == "markup" then item = item.s end
    if type(item) ~= "string" then
      errors.type_error("sequence item " .. (i - 1) .. ": expected str instance, " .. type_name(item) .. " found")
    end
    parts[i], bytes = item, bytes + #item + #s
  end
  budget.text(bytes)
  return table.concat(parts, s, 1, n)
end)

def("format", {}, function(s, args, n, kwargs) return format.braces(s, args, n, kwargs) end, true)
def("format_map", { "mapping" }, function(s, mapping) return format.braces(s, {}, 0, mapping) end)

-- Tests of every character.
local function every(name, check)
  def(name, {}, function(s)
    if s == "" then return false end
    budget.text(#s)
    local chars, n = unicode.chars(s)
    for i = 1, n do
      if not check(chars[i]) then return false end
    end
    return true
  end)
end
every("isdigit", unicode.is_digit)
every("isdecimal", function(c) return unicode.decimal(c) ~= nil end)
every("isnumeric", unicode.is_numeric)
every("isalpha", unicode.is_alpha)
every("isalnum", function(c) return unicode.is_alpha(c) or unicode.is_numeric(c) end)
every("isspace", unicode.is_space)
def("islower", {}, function(s) return unicode.has_case(s, false) end)
def("isupper", {}, function(s) return unicode.has_case(s, true) end)
def("istitle", {}, function(s) return unicode.is_title(s) end)
def("isascii", {}, function(s) return unicode.is_ascii(s) end)
def("isprintable", {}, function(s)
  local chars, n = unicode.chars(s)
  for i = 1, n do
    if not unicode.is_printable(chars[i]) then return false end
  end
  return true
end)
def("isidentifier", {}, function(s)
  if s == "" or find(s, "^%d") then return false end
  local chars, n = unicode.chars(s)
  for i = 1, n do
    if not unicode.is_word(chars[i]) then return false end
  end
  return true
end)

def("partition", { "sep" }, function(s, sep)
  sep = string_arg(sep, "partition")
  if sep == "" then errors.value_error("empty separator") end
  local first, last = find(s, sep, 1, true)
  if not first then return value.tuple({ s, "", "" }, 3) end
  return value.tuple({ sub(s, 1, first - 1), sep, sub(s, last + 1) }, 3)
end)

def("rpartition", { "sep" }, function(s, sep)
  sep = string_arg(sep, "rpartition")
  if sep == "" then errors.value_error("empty separator") end
  local first = find(s:reverse(), sep:reverse(), 1, true)
  if not first then return value.tuple({ "", "", s }, 3) end
  local stop = #s - first + 1
  return value.tuple({ sub(s, 1, stop - #sep), sep, sub(s, stop + 1) }, 3)
end)

def("removeprefix", { "prefix" }, function(s, prefix)
  prefix = string_arg(prefix, "removeprefix")
  return sub(s, 1, #prefix) == prefix and sub(s, #prefix + 1) or s
end)
def("removesuffix", { "suffix" }, function(s, suffix)
  suffix = string_arg(suffix, "removesuffix")
  return suffix ~= "" and sub(s, -#suffix) == suffix and sub(s, 1, -#suffix - 1) or s
end)

local function justify(name, align)
  def(name, { "width", "fillchar" }, function(s, width, fill)
    return format.pad(s, int_arg(width, 0), string_arg(fill, name, true) or " ", align)
  end)
end
justify("ljust", "<")
justify("rjust", ">")

-- Python's centre puts the odd blank left or right by the parity of the width.
def("center", { "width", "fillchar" }, function(s, width, fill)
  local missing = int_arg(width, 0) - unicode.len(s)
  if missing <= 0 then return s end
  budget.text(width)
  fill = string_arg(fill, "center", true) or " "
  local left = math.floor(missing / 2)
  if missing % 2 == 1 and width % 2 == 1 then left = left + 1 end
  return fill:rep(left) .. s .. fill:rep(missing - left)
end)

def("zfill", { "width" }, function(s, width) return format.pad(s, int_arg(width, 0), "0", "=") end)

def("expandtabs", { "tabsize" }, function(s, size)
  size = int_arg(size, 8)
  local out, column = {}, 0
  local chars, n = unicode.chars(s)
  for i = 1, n do
    local c = chars[i]
    if c == "\t" then
      local width = size > 0 and size - column % size or 0
      budget.text(width)
      out[i], column = (" "):rep(width), column + width
    else
      out[i] = c
      column = (c == "\n" or c == "\r") and 0 or column + 1
    end
  end
  return table.concat(out)
end)

return M
