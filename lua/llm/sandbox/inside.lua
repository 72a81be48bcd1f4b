-- What a client's script sees (lua/sandbox.h). This file runs once in each sandbox's state, before the script: it builds
-- the script's environment out of the libraries' functions and returns the function that runs the script. Afterwards
-- the globals are emptied. A function that the script can reach must be bounded in time (a millisecond at most in C,
-- where no hook reaches it), must call no Lua function from C (it could then not be put aside), and must tell nothing
-- of addresses.

-- system: {call, preempted}; match(s, pattern, init, once), find(s, text, init): bounded; write(text): the output.
local system, match, find, write = ...
local CALL, PREEMPTED = 1, 2

local assert, error, getmetatable, ipairs, load, next, pairs, pcall, rawequal, rawget, rawset, select, setmetatable =
  assert, error, getmetatable, ipairs, load, next, pairs, pcall, rawequal, rawget, rawset, select, setmetatable
local raw_tonumber, raw_tostring, type, unpack, xpcall = tonumber, tostring, type, unpack, xpcall
local floor, concat = math.floor, table.concat
local byte, char, len, sub = string.byte, string.char, string.len, string.sub
local raw_format, raw_lower, raw_rep, raw_reverse, raw_upper = string.format, string.lower, string.rep, string.reverse,
  string.upper
local create, raw_resume, raw_yield, running, status = coroutine.create, coroutine.resume, coroutine.yield,
  coroutine.running, coroutine.status

local MAX_STRING = 2 ^ 20   -- bytes that a library function takes or makes
local MAX_SOURCE = 2 ^ 16   -- bytes that are compiled at once
local MAX_ITEMS = 2 ^ 17    -- elements that a library function goes through

local env = {}
local main_coroutine

local function check(value, wanted, n, name)
  if type(value) == wanted then return value end
  error(raw_format("bad argument #%d to '%s' (%s expected, got %s)", n, name, wanted, type(value)), 3)
end

local function check_string(value, n, name)
  if type(value) == "number" then value = raw_tostring(value) end
  if type(value) ~= "string" then
    error(raw_format("bad argument #%d to '%s' (string expected, got %s)", n, name, type(value)), 3)
  end
  if len(value) > MAX_STRING then error(raw_format("'%s': the string is too long", name), 3) end
  return value
end

local function check_integer(value, default, n, name)
  if value == nil then value = default end
  local number = raw_tonumber(value)
  if not number then
    error(raw_format("bad argument #%d to '%s' (number expected, got %s)", n, name, type(value)), 3)
  end
  return number >= 0 and floor(number) or -floor(-number)
end

-- ---- values --------------------------------------------------------------------------------------------------

local ids, n_ids = setmetatable({}, { __mode = "k" }), 0

-- Tables and functions by number: their addresses would tell where the process has its memory.
local function tostring(value)
  local text, kind = raw_tostring(value), type(value)
  if kind == "string" or kind == "number" or kind == "boolean" or kind == "nil" then return text end
  if type(text) ~= "string" then error("'__tostring' must return a string", 2) end
  if sub(text, 1, len(kind) + 2) ~= kind .. ": " then return text end
  if not ids[value] then
    n_ids = n_ids + 1
    ids[value] = n_ids
  end
  return kind .. ": " .. ids[value]
end

local function tonumber(value, base)
  if type(value) == "string" and len(value) > 4096 then return nil end
  if base == nil then return raw_tonumber(value) end
  return raw_tonumber(value, base)
end

-- ---- strings -------------------------------------------------------------------------------------------------

local strings = { byte = byte, char = char, len = len, sub = sub }

function strings.lower(s) return raw_lower(check_string(s, 1, "lower")) end
function strings.upper(s) return raw_upper(check_string(s, 1, "upper")) end
function strings.reverse(s) return raw_reverse(check_string(s, 1, "reverse")) end

function strings.rep(s, n, separator)
  s, n = check_string(s, 1, "rep"), check_integer(n, nil, 2, "rep")
  separator = separator == nil and "" or check_string(separator, 3, "rep")
  if n < 1 then return "" end
  if (len(s) + len(separator)) * n > MAX_STRING or n > MAX_STRING then error("resulting string too large", 2) end
  return raw_rep(s, n, separator)
end

-- The argument of each directive; those of %s and %q become text here, as a __tostring called from C could not yield.
function strings.format(format, ...)
  format = check_string(format, 1, "format")
  local arguments, n, i, at = { ... }, select("#", ...), 0, 1
  local total = len(format)
  while true do
    at = find(format, "%", at)
    if not at then break end
    local _, last = match(format, "%%[-+ #0]*%d*%.?%d*", at, true)
    local conversion = sub(format, last + 1, last + 1)
    if conversion ~= "%" then
      i = i + 1
      if conversion == "p" then error("invalid option '%p' to 'format'", 2) end
      if (conversion == "s" or conversion == "q") and i <= n then
        if type(arguments[i]) ~= "string" then arguments[i] = tostring(arguments[i]) end
        total = total + len(arguments[i])
        if total > MAX_STRING then error("'format': the result is too long", 2) end
      end
    end
    at = last + 2
  end
  return raw_format(format, unpack(arguments, 1, n))
end

local function start_of(init, s)
  if init < 0 then init = len(s) + init + 1 end
  if init > len(s) then return len(s) + 1 end
  return init < 1 and 1 or init
end

local function without_anchor(pattern)
  if byte(pattern, 1) == 94 then return sub(pattern, 2), true end
  return pattern, false
end

local function is_plain(pattern) return not match(pattern, "[%^%$%*%+%?%.%(%)%[%%%-]", 1, false) end

function strings.find(s, pattern, init, plain)
  s, pattern = check_string(s, 1, "find"), check_string(pattern, 2, "find")
  init = start_of(check_integer(init, 1, 3, "find"), s)
  if plain or is_plain(pattern) then return find(s, pattern, init) end
  local body, once = without_anchor(pattern)
  return match(s, body, init, once)
end

local function captures(s, first, last, ...)
  if not first then return nil end
  if select("#", ...) == 0 then return sub(s, first, last) end
  return ...
end

function strings.match(s, pattern, init)
  s, pattern = check_string(s, 1, "match"), check_string(pattern, 2, "match")
  init = start_of(check_integer(init, 1, 3, "match"), s)
  local body, once = without_anchor(pattern)
  return captures(s, match(s, body, init, once))
end

function strings.gmatch(s, pattern)
  s, pattern = check_string(s, 1, "gmatch"), check_string(pattern, 2, "gmatch")
  local at = 1
  local function take(first, last, ...)
    if not first then
      at = len(s) + 2
      return nil
    end
    at = last >= first and last + 1 or last + 2
    return captures(s, first, last, ...)
  end
  return function()
    if at > len(s) + 1 then return nil end
    return take(match(s, pattern, at, false))
  end
end

-- The text that a match is replaced by; nil or false: the match stays.
local function replacement(repl, s, first, last, ...)
  local whole = sub(s, first, last)
  local capture = select("#", ...) > 0 and (...) or whole
  local kind = type(repl)
  if kind == "table" then return repl[capture] end
  if kind == "function" then
    if select("#", ...) > 0 then return (repl(...)) end
    return (repl(whole))
  end
  if not find(repl, "%", 1) then return repl end
  local parts, at = {}, 1
  while true do
    local mark = find(repl, "%", at)
    if not mark then break end
    parts[#parts + 1] = sub(repl, at, mark - 1)
    local digit = sub(repl, mark + 1, mark + 1)
    if digit == "0" then
      parts[#parts + 1] = whole
    elseif digit >= "1" and digit <= "9" then
      local i = raw_tonumber(digit)
      if i > select("#", ...) and not (i == 1 and select("#", ...) == 0) then
        error("invalid capture index in replacement string", 0)
      end
      parts[#parts + 1] = i == 1 and capture or (select(i, ...))
    else
      parts[#parts + 1] = digit
    end
    at = mark + 2
  end
  parts[#parts + 1] = sub(repl, at)
  return concat(parts)
end

local function substitute(parts, s, repl, first, last, ...)
  if not first then return nil end
  local text = replacement(repl, s, first, last, ...)
  if not text then
    text = sub(s, first, last)
  elseif type(text) ~= "string" and type(text) ~= "number" then
    error("invalid replacement value (a " .. type(text) .. ")", 0)
  end
  parts[#parts + 1] = text
  return first, last, len(text)
end

function strings.gsub(s, pattern, repl, max)
  s, pattern = check_string(s, 1, "gsub"), check_string(pattern, 2, "gsub")
  local kind = type(repl)
  if kind == "number" then repl, kind = raw_tostring(repl), "string" end
  if kind ~= "string" and kind ~= "table" and kind ~= "function" then
    error("bad argument #3 to 'gsub' (string, function or table expected, got " .. kind .. ")", 2)
  end
  max = max == nil and MAX_STRING + 1 or check_integer(max, nil, 4, "gsub")
  local body, once = without_anchor(pattern)
  local parts, at, copied, n, total = {}, 1, 1, 0, 0
  while n < max and at <= len(s) + 1 do
    local mark = #parts + 1
    parts[mark] = ""
    local first, last, length = substitute(parts, s, repl, match(s, body, at, once))
    if not first then break end
    parts[mark] = sub(s, copied, first - 1)
    total = total + length + first - copied
    if total > MAX_STRING then error("'gsub': the result is too long", 2) end
    n, copied = n + 1, last + 1
    at = last >= first and last + 1 or last + 2
    if once then break end
  end
  parts[#parts + 1] = sub(s, copied)
  return concat(parts), n
end

-- ---- tables --------------------------------------------------------------------------------------------------

local tables = { unpack = unpack }

function tables.insert(t, at, value, ...)
  check(t, "table", 1, "insert")
  local n = #t
  if select("#", ...) > 0 then error("wrong number of arguments to 'insert'", 2) end
  if value == nil then
    t[n + 1] = at
    return
  end
  at = check_integer(at, nil, 2, "insert")
  for i = n + 1, at + 1, -1 do t[i] = t[i - 1] end
  t[at] = value
end

function tables.remove(t, at)
  check(t, "table", 1, "remove")
  local n = #t
  at = check_integer(at, n, 2, "remove")
  if n == 0 and at == 0 then return nil end
  local value = t[at]
  for i = at, n - 1 do t[i] = t[i + 1] end
  if at <= n then t[n] = nil end
  return value
end

function tables.concat(t, separator, i, j)
  check(t, "table", 1, "concat")
  separator = separator == nil and "" or check_string(separator, 2, "concat")
  i, j = check_integer(i, 1, 3, "concat"), check_integer(j, #t, 4, "concat")
  if j - i >= MAX_ITEMS then error("'concat': too many elements", 2) end
  local total = 0
  for k = i, j do
    local value = rawget(t, k)
    if type(value) ~= "string" and type(value) ~= "number" then
      error(raw_format("invalid value (%s) at index %d in table for 'concat'", type(value), k), 2)
    end
    total = total + len(value) + len(separator)
    if total > MAX_STRING then error("'concat': the result is too long", 2) end
  end
  return concat(t, separator, i, j)
end

function tables.maxn(t)
  local max = 0
  for key in next, check(t, "table", 1, "maxn") do
    if type(key) == "number" and key > max then max = key end
  end
  return max
end

local function before(a, b) return a < b end

-- Heapsort: ends after n log n comparisons, whatever the comparison says.
function tables.sort(t, less)
  check(t, "table", 1, "sort")
  if less ~= nil then check(less, "function", 2, "sort") end
  less = less or before
  local function sift(root, n)
    local value = t[root]
    while true do
      local child = 2 * root
      if child > n then break end
      if child < n and less(t[child], t[child + 1]) then child = child + 1 end
      if not less(value, t[child]) then break end
      t[root], root = t[child], child
    end
    t[root] = value
  end
  local n = #t
  for root = floor(n / 2), 1, -1 do sift(root, n) end
  for last = n, 2, -1 do
    t[1], t[last] = t[last], t[1]
    sift(1, last - 1)
  end
end

-- ---- coroutines ----------------------------------------------------------------------------------------------

-- A time slice that is over, or a call of the host, in a coroutine of the script's own must get out to the host, and
-- the answer back in. Each resume passes both on.
local function after_resume(co, ok, ...)
  if ok and (system[PREEMPTED] or system[CALL]) then
    return after_resume(co, raw_resume(co, raw_yield(...)))
  end
  return ok, ...
end

local coroutines = { create = create, running = running, status = status }

function coroutines.resume(co, ...) return after_resume(co, raw_resume(co, ...)) end

local function result_or_error(ok, ...)
  if not ok then error((...), 0) end
  return ...
end

function coroutines.wrap(f)
  local co = create(f)
  return function(...) return result_or_error(coroutines.resume(co, ...)) end
end

function coroutines.yield(...)
  if running() == main_coroutine then error("attempt to yield from outside a coroutine", 2) end
  return raw_yield(...)
end

-- ---- the host ------------------------------------------------------------------------------------------------

local function answer(ok, ...)
  if not ok then error((...), 0) end
  return ...
end

local function call(...)
  system[CALL] = true
  return answer(raw_yield(...))
end

local engine = {}

local function method(name)
  return function(self, ...)
    if self ~= engine then error(raw_format("call it with a colon: engine:%s(…)", name), 2) end
    return call(name, ...)
  end
end

for _, name in ipairs { "generate", "chat", "tokenize", "detokenize", "info" } do engine[name] = method(name) end

-- for delta in engine:stream(prompt, params) do … end
function engine:stream(prompt, params)
  if self ~= engine then error("call it with a colon: engine:stream(…)", 2) end
  local id = call("stream", prompt, params)
  return function() return call("next", id) end
end

local json = {}
function json.encode(value) return call("json_encode", value) end
function json.decode(text) return call("json_decode", check_string(text, 1, "decode")) end

local function emit(text) return call("emit", check_string(text, 1, "emit")) end

local function print(...)
  for i = 1, select("#", ...) do
    if i > 1 then write "\t" end
    write(tostring((select(i, ...))))
  end
  write "\n"
end

-- ---- the environment -----------------------------------------------------------------------------------------

local function load_text(text, name, _, environment)
  text = check_string(text, 1, "load")
  if len(text) > MAX_SOURCE then return nil, raw_format("the text is longer than %d bytes", MAX_SOURCE) end
  name = name == nil and "=load" or sub(check_string(name, 2, "load"), 1, 64)
  return load(text, name, "t", environment == nil and env or environment)
end

local function copy(library)
  local new = {}
  for name, value in next, library do new[name] = value end
  return new
end

env._G, env._VERSION = env, _VERSION
env.assert, env.error, env.ipairs, env.pairs, env.next, env.select, env.type = assert, error, ipairs, pairs, next,
  select, type
env.pcall, env.xpcall, env.rawequal, env.rawget, env.rawset = pcall, xpcall, rawequal, rawget, rawset
env.getmetatable, env.setmetatable, env.unpack = getmetatable, setmetatable, unpack
env.tonumber, env.tostring, env.print, env.load, env.loadstring = tonumber, tostring, print, load_text, load_text
env.string, env.table, env.coroutine, env.math, env.bit = strings, tables, coroutines, copy(math), copy(bit)
env.engine, env.json, env.emit = engine, json, emit

local meta = getmetatable ""
meta.__index, meta.__metatable = strings, false

-- source: the script. given: request (a table for the script), tools (a list of names).
return function(source, given)
  main_coroutine = running()
  env.request, env.tools = given.request, {}
  for _, name in ipairs(given.tools) do
    env.tools[name] = function(...) return call("tool", name, ...) end
  end
  if len(source) > MAX_SOURCE then error(raw_format("the script is longer than %d bytes", MAX_SOURCE), 0) end
  local chunk, message = load(source, "=script", "t", env)
  if not chunk then error(message, 0) end
  return chunk()
end
