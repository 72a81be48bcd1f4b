-- Hostile scripts, each another idea or another way to it; tests/lua/hostile_spec.lua runs each in a sandbox. An entry is
-- {what it tries, script}; the script may end, fail or be stopped: what it must not do is in the spec. One that returns
-- "escaped" says itself that it has got what it should not.
local M = {}

local function add(what, script) M[#M + 1] = { what, script } end

-- ---- names that lead outside ---------------------------------------------------------------------------------

-- Each of these is one way in other sandboxes; each is looked for as a global and through _G and the environment.
for _, name in ipairs { "io", "os", "ffi", "debug", "package", "jit", "require", "module", "dofile", "loadfile", "getfenv",
                        "setfenv", "newproxy", "collectgarbage", "gcinfo", "arg", "llm", "core", "system", "match" } do
  add("the global " .. name, ("if %s ~= nil or rawget(_G, %q) ~= nil or _G[%q] ~= nil then return 'escaped' end"):format(name, name, name))
end
add("string.dump", "if string.dump then return 'escaped' end")
add("ffi through require", "return require('ffi') and 'escaped'")
add("io through package.loaded", "return package.loaded.io and 'escaped'")
add("a C library through package.loadlib", "return package.loadlib('libc.so.6', 'system') and 'escaped'")
add("the registry", "return debug.getregistry() and 'escaped'")
add("io.open", "return io.open('/etc/passwd'):read('*a') and 'escaped'")
add("os.execute", "os.execute('touch hostile-was-here') return 'escaped'")
add("os.exit", "os.exit(1)")
add("os.getenv", "return os.getenv 'HOME' and 'escaped'")
add("io.popen", "return io.popen('id'):read '*a' and 'escaped'")
add("dofile of a file", "dofile '/etc/passwd' return 'escaped'")
add("loadfile of a file", "return loadfile '/etc/passwd' and 'escaped'")
add("load with a reader that gives a path", "return load(function() return '@/etc/passwd' end) and 'escaped'")
add("ffi.C", "local ffi = require 'ffi' ffi.cdef 'int system(const char *)' ffi.C.system 'id' return 'escaped'")
add("names in upper case and with spaces", "for k in pairs(_G) do local n = tostring(k):lower() if n == 'io' or n == 'os' or n == 'ffi' then return 'escaped' end end")

-- ---- ways around the environment -------------------------------------------------------------------------------

add("getfenv of level 0", "return getfenv(0).io and 'escaped'")
add("setfenv of a library function", "setfenv(print, {}) return 'escaped'")
add("the environment of loaded text", "local f = load 'return io or os or debug' return f() and 'escaped'")
add("the globals of loaded text with an empty environment", "local f = load('return _G', 'x', 't', {}) return f() and 'escaped'")
add("the environment of a coroutine", "local co = coroutine.create(load 'return io') local _, io = coroutine.resume(co) return io and 'escaped'")
add("an environment that asks its metatable", "local f = load('return io', 'x', 't', setmetatable({}, { __index = _G })) return f() and 'escaped'")
add("a metatable on the environment", "setmetatable(_G, { __index = function(_, k) return k == 'io' and nil end }) return io and 'escaped'")
add("_G of _G of _G", "local g = _G for i = 1, 10 do g = g._G end return g.io and 'escaped'")
add("_ENV", "return _ENV and 'escaped'")
add("raw globals", "return rawget(_G, 'os') and 'escaped'")
add("all functions reachable from _G", [[
  local seen = {}
  local function walk(t)
    if seen[t] then return end
    seen[t] = true
    for k, v in next, t do
      if k == 'dump' or k == 'execute' or k == 'popen' or k == 'getinfo' or k == 'sethook' or k == 'loadlib' then return 'escaped' end
      if type(v) == 'table' then local r = walk(v) if r then return r end end
    end
  end
  return walk(_G)]])
add("the string metatable", "return getmetatable('') and 'escaped'")
add("the string metatable's __index", "getmetatable('').__index = function() return 1 end return 'escaped'")
add("a metatable for strings", "setmetatable('', {}) return 'escaped'")
add("methods of strings", "return ('').dump and 'escaped'")
add("string functions of the real library through a literal", "local s = 'x' return (s.gfind or s.dump) and 'escaped'")
add("replacing string functions to catch the host's calls", "string.format = function() error 'mine' end string.find = nil print(1) return json.encode { 1 }")
add("metatables of functions", "return getmetatable(print) and 'escaped'")
add("metatables of numbers", "return getmetatable(1) and 'escaped'")
add("metatables of nil", "return getmetatable(nil) and 'escaped'")
add("metatables of coroutines", "return getmetatable(coroutine.create(print)) and 'escaped'")
add("metatable of the engine object", "return getmetatable(engine) and 'escaped'")
add("replacing the engine's methods", "engine.generate = function() return 'mine' end return engine:generate('a')")
add("the engine with another self", "engine.generate({ handle = 1 }, 'x') return 'escaped'")
add("a table in place of the engine", "return setmetatable({}, { __index = engine }):generate 'a'")
add("upvalues by name", "return debug.getupvalue(print, 1) and 'escaped'")
add("locals of the caller", "return debug.getlocal(2, 1) and 'escaped'")
add("an error object with the host's internals", "local ok, e = pcall(engine.generate, engine, function() end) return type(e) ~= 'string' and 'escaped'")
add("a traceback", "local ok, e = pcall(error, 'x', 99) return e:find '/' and 'escaped'")
add("paths in messages", "local ok, e = pcall(string.rep) return tostring(e):find('/', 1, true) and 'escaped'")
add("names of files in messages of the host", "local ok, e = pcall(tools.none) return tostring(e):find('%.lua') and 'escaped'")
add("the arguments of the chunk", "return ... and 'escaped'")
add("select below the arguments", "return select(-1, 1, 2) == nil and 'escaped'")
add("vararg of the main function", "local t = { ... } return #t > 0 and 'escaped'")

-- ---- bytecode ------------------------------------------------------------------------------------------------

local header = ("%q"):format("\27LJ\2\8\0"):gsub("\n", "n")
for _, case in ipairs {
  { "LuaJIT's header", header }, { "Lua 5.1's header", [["\27Lua\81\0\1\4\4\4\8\0"]] }, { "a lone escape", [["\27"]] },
  { "an escape after spaces", [[" \27LJ\2"]] }, { "an escape after a shebang", [["#!x\n\27LJ\2"]] },
  { "an escape after a byte order mark", [["\239\187\191\27LJ\2"]] },
} do
  add("bytecode: " .. case[1], ("local f = load(%s) return f and 'escaped'"):format(case[2]))
  add("bytecode with loadstring: " .. case[1], ("local f = loadstring(%s) return f and 'escaped'"):format(case[2]))
end
for _, mode in ipairs { "b", "bt", "", "tb", "x" } do
  add("bytecode in mode '" .. mode .. "'", ("local f = load('\\27LJ\\2', 'x', %q) return f and 'escaped'"):format(mode))
end
add("bytecode in pieces", "local n = 0 local f = load(function() n = n + 1 return ({ '\\27L', 'J\\2' })[n] end) return f and 'escaped'")
add("dump of a function", "return string.dump(function() end) and 'escaped'")
add("dump through a method", "return (''):dump() and 'escaped'")
add("the program itself as bytecode", "\27LJ\2\8\0")
add("a chunk name that is a path", "local f = load('error(1)', '@/etc/passwd') local _, e = pcall(f) return tostring(e):find 'root:' and 'escaped'")
add("a chunk name that is long", "load('x', ('n'):rep(1e6))")

-- ---- addresses ---------------------------------------------------------------------------------------------------

for what, value in pairs { table = "{}", ["function"] = "function() end", builtin = "string.find", thread = "coroutine.create(print)",
                           metatable = "setmetatable({}, {})" } do
  add("address of a " .. what .. " by tostring", ("return tostring(%s):find '0x' and 'escaped'"):format(value))
  add("address of a " .. what .. " by format", ("return ('%%s'):format(%s):find '0x' and 'escaped'"):format(value))
  add("address of a " .. what .. " by %p", ("return ('%%p'):format(%s) and 'escaped'"):format(value))
end
add("address by %p with flags", "return ('%-20p'):format({}) and 'escaped'")
add("address by concatenation", "return pcall(function() return {} .. '' end) and 'escaped'")
add("address by print", "print({}, print)")
add("address by error", "error(setmetatable({}, { __tostring = function() return 'table: 0x12345678' end }))")
add("address by a comparator", "local t = {} for i = 1, 9 do t[i] = {} end return pcall(table.sort, t) and 'escaped'")

-- ---- endless loops -----------------------------------------------------------------------------------------------

local loops = {
  ["while"] = "while true do end", ["repeat"] = "repeat until false", ["goto"] = "::a:: goto a", ["numeric for"] = "for i = 1, 1e300 do end",
  ["for of step 0"] = "for i = 1, 2, 0 do end", ["tail call"] = "local function f() return f() end f()",
  ["mutual tail calls"] = "local g local function f() return g() end function g() return f() end f()",
  ["next that never ends"] = "for k in function() return 1 end do end", ["pairs of a growing table"] = "local t = {} for i = 1, 1e9 do t[i % 100] = i end",
  ["arithmetic"] = "local x = 1 while true do x = (x * 16807) % 2147483647 end", ["strings"] = "local n = 0 while true do n = #tostring(n) + n end",
  ["tables"] = "while true do local t = { {}, {}, {} } end", ["closures"] = "while true do local f = function() return f end end",
  ["varargs"] = "local function f(...) return select('#', ...) end while true do f(1, 2, 3, nil) end",
  ["upvalues"] = "local n = 0 local function f() n = n + 1 end while true do f() end",
}
local around = {
  ["bare"] = "%s", ["in pcall"] = "while true do pcall(function() %s end) end",
  ["as a message handler"] = "while true do xpcall(error, function() %s end) end",
  ["in a coroutine"] = "while true do coroutine.wrap(function() %s end)() end",
  ["in pcall in a coroutine in pcall"] = "while true do pcall(function() coroutine.wrap(function() pcall(function() %s end) end)() end) end",
}
for where, frame in pairs(around) do
  for what, loop in pairs(loops) do
    if where == "bare" or what == "while" or what == "goto" or what == "tail call" or what == "numeric for" then
      add(("endless: %s, %s"):format(what, where), (frame:gsub("%%s", function() return loop end)))
    end
  end
end
local metamethods = { __index = "x.y", __newindex = "x.y = 1", __call = "x()", __add = "x + 1", __concat = "x .. 'a'", __eq = "x == setmetatable({}, getmetatable(x))",
                      __lt = "x < x", __le = "x <= x", __unm = "-x", __tostring = "tostring(x)", __mod = "x % 2", __pow = "x ^ 2" }
for name, use in pairs(metamethods) do
  add("endless: in " .. name, ("local m = {} m.%s = function() while true do end end local x = setmetatable({}, m) return %s"):format(name,
    use:find "=%s" and "(function() " .. use:gsub("==", "~=") .. " end)()" or use))
end
add("endless: __index chain in a circle", "local a, b = {}, {} setmetatable(a, { __index = b }) setmetatable(b, { __index = a }) return a.x")
add("endless: __gc of a table", "for i = 1, 100 do setmetatable({}, { __gc = function() while true do end end }) end local t = {} for i = 1, 1e5 do t = { t } end")
add("endless: __tostring in print", "print(setmetatable({}, { __tostring = function() while true do end end }))")
add("endless: __tostring in format", "return ('%s'):format(setmetatable({}, { __tostring = function() while true do end end }))")
add("endless: __tostring in error", "error(setmetatable({}, { __tostring = function() while true do end end }))")
add("endless: __metatable", "return getmetatable(setmetatable({}, { __metatable = setmetatable({}, { __index = function() while true do end end }) })).x")
add("endless: the function of gsub", "return ('x'):gsub('.', function() while true do end end)")
add("endless: the table of gsub", "return ('x'):gsub('.', setmetatable({}, { __index = function() while true do end end }))")
add("endless: gsub in pcall in gsub", "while true do ('x'):gsub('.', function() pcall(function() ('x'):gsub('.', function() while true do end end) end) end) end")
add("endless: a comparator", "table.sort({ 3, 1, 2 }, function() while true do end end)")
add("endless: a comparator that lies", "local t = {} for i = 1, 1000 do t[i] = i % 7 end while true do table.sort(t, function() return true end) end")
add("endless: a comparator at random", "local t = {} for i = 1, 1e4 do t[i] = i end while true do table.sort(t, function() return math.random() < 0.5 end) end")
add("endless: gmatch of nothing", "for x in ('x'):gmatch '' do while true do end end")
add("endless: pcall that recurses to the end of the stack", "local function f() pcall(f) while true do end end f()")
add("endless: xpcall that recurses through its handler", "local function f() xpcall(error, f) while true do end end f()")
add("endless: error in the handler of an error", "while true do xpcall(error, function() error 'again' end) end")
add("endless: coroutines that resume each other", [[
  local a, b
  a = coroutine.wrap(function() while true do b() end end)
  b = coroutine.wrap(function() while true do coroutine.yield() end end)
  a()]])
add("endless: a yield in pcall", "local co = coroutine.wrap(function() while true do pcall(coroutine.yield) end end) while true do co() end")
add("endless: coroutine.wrap in an iterator", "for x in coroutine.wrap(function() while true do coroutine.yield(1) end end) do end")
add("endless: loaded text", "load('while true do end')()")
add("endless: text that loads itself", "s = 'return load(s)()' return load(s)()")
add("endless: compiling", "while true do load(('x=1 '):rep(10000)) end")
add("endless: printing", "while true do print('x') end")
add("endless: calls of the host", "while true do json.encode(1) end")
add("endless: failing calls of the host", "while true do pcall(engine.generate, engine) end")
add("endless: json of a large value", "local t = {} for i = 1, 1e4 do t[i] = 'xxxxxxxxxxxxxxxx' end while true do json.encode(t) end")
add("catching the end in a loop", "local function again() local ok = pcall(function() while true do end end) return again() end again()")
add("yielding out of the main program", "coroutine.yield('call', 'x')")
add("the host's yield from a coroutine", "local co = coroutine.create(function() coroutine.yield('tool', 'x') end) return coroutine.resume(co)")

-- ---- stacks ----------------------------------------------------------------------------------------------------

add("stack: recursion", "local function f() return 1 + f() end return f()")
add("stack: recursion in pcall", "local function f() return pcall(f) end return f()")
add("stack: a metamethod that calls itself", "local t = setmetatable({}, { __index = function(t, k) return t[k] end }) return t.x")
add("stack: __tostring that calls itself", "local t = setmetatable({}, { __tostring = function(t) return tostring(t) end }) return tostring(t)")
add("stack: __concat that calls itself", "local t = setmetatable({}, { __concat = function(a, b) return a .. b end }) return t .. t")
add("stack: __call chain", "local t = print for i = 1, 1e4 do t = setmetatable({}, { __call = t }) end return t()")
add("stack: __index chain", "local t = {} for i = 1, 1e4 do t = setmetatable({}, { __index = t }) end return t.x")
add("stack: coroutines in coroutines", "local function f() return coroutine.wrap(f)() end return f()")
add("stack: coroutines in coroutines in pcall", "local function f() pcall(coroutine.wrap(f)) end f()")
add("stack: gsub in gsub", "local function f() return ('x'):gsub('x', f) end return f()")
add("stack: sort in sort", "local function f() table.sort({ 1, 2 }, f) end f()")
add("stack: many results of unpack", "return unpack({}, 1, 1e8)")
add("stack: many results of unpack, below", "return unpack({}, -1e9, 1e9)")
add("stack: many results of unpack, overflow", "return unpack({}, 2147483647, -2147483648)")
add("stack: many arguments", "return select('#', unpack({}, 1, 7000))")
add("stack: many bytes", "return ('x'):rep(1e5):byte(1, -1)")
add("stack: string.char of many", "return string.char(unpack({}, 1, 1e6))")
add("stack: concatenation of many operands", "return load('return ' .. ('\"x\"..'):rep(5000) .. '1')()")
add("stack: nested brackets", "return load('return ' .. ('('):rep(30000) .. ('1') .. (')'):rep(30000))")
add("stack: nested tables in source", "return load('return ' .. ('{'):rep(30000) .. ('}'):rep(30000))")
add("stack: nested functions in source", "return load(('return function() '):rep(3000) .. ('end '):rep(3000))")
add("stack: many locals", "local s = {} for i = 1, 300 do s[i] = 'local a' .. i .. ' = 1 ' end return load(table.concat(s))")
add("stack: many upvalues", "local s = {} for i = 1, 199 do s[i] = 'local a' .. i .. ' ' end return load(table.concat(s) .. ' return function() return ' .. ('a1+'):rep(300) .. 'a199 end')")
add("stack: many constants", "local s = {} for i = 1, 9000 do s[i] = 'x=' .. i .. '.5 ' end local f = load(table.concat(s)) return f and f()")
add("stack: long jumps", "return load('while true do ' .. ('x=1 '):rep(16000) .. ' if x then break end end')")
add("stack: left-nested comparison", "return load('return ' .. ('not '):rep(16000) .. '1')")
add("stack: unary minus", "return load('return ' .. ('- '):rep(30000) .. '1')")
add("stack: else if", "return load(('if x then else '):rep(4000) .. ('end '):rep(4000))")

-- ---- memory ----------------------------------------------------------------------------------------------------

add("memory: a table that grows", "local t = {} for i = 1, 1e12 do t[i] = i end")
add("memory: tables in tables", "local t = {} while true do t = { t, {} } end")
add("memory: a hash that grows", "local t = {} for i = 1, 1e12 do t['k' .. i] = i end")
add("memory: doubling a string", "local s = 'x' while true do s = s .. s end")
add("memory: doubling a string in pcall", "while true do pcall(function() local s = 'x' while true do s = s .. s end end) end")
add("memory: different strings", "local t = {} for i = 1, 1e9 do t[i] = ('x'):rep(1000) .. i end")
add("memory: string.rep", "return ('x'):rep(1e10)")
add("memory: string.rep of the empty string", "return (''):rep(1e15)")
add("memory: string.rep with a separator", "return (''):rep(1e9, 'abc')")
add("memory: string.rep by overflow", "return ('x'):rep(2 ^ 63)")
add("memory: string.rep of a negative count", "return ('x'):rep(-2 ^ 63)")
add("memory: string.rep of NaN", "return ('x'):rep(0 / 0)")
add("memory: string.rep of a string with a large one", "local s = ('x'):rep(1e6) return s:rep(1e6)")
add("memory: format with a width", "return ('%1000000000d'):format(1)")
add("memory: format with a precision", "return ('%.1000000000f'):format(1)")
add("memory: format with many strings", "local s = ('x'):rep(2 ^ 20) return ('%s'):rep(200):format(unpack((function() local t = {} for i = 1, 200 do t[i] = s end return t end)()))")
add("memory: format %q", "return ('%q'):format(('\\0'):rep(2 ^ 20))")
add("memory: gsub that grows", "local s = ('x'):rep(1e5) while true do s = s:gsub('x', 'xx') end")
add("memory: gsub with a long replacement", "return ('x'):rep(1e5):gsub('x', ('y'):rep(1e5))")
add("memory: gsub with captures", "return ('x'):rep(1e4):gsub('.*', ('%0'):rep(1000))")
add("memory: table.concat", "local t, s = {}, ('x'):rep(2 ^ 20) for i = 1, 1000 do t[i] = s end return table.concat(t)")
add("memory: table.concat with a separator", "return table.concat({}, ('x'):rep(2 ^ 20), 1, 1000)")
add("memory: table.concat of a range", "return table.concat({}, '', 1, 2 ^ 53)")
add("memory: table.concat of a negative range", "return table.concat({}, '', -2 ^ 53, 2 ^ 53)")
add("memory: table.insert far away", "local t = {} t[2 ^ 26] = 1 table.insert(t, 1, 1) return #t")
add("memory: table.insert at the front", "local t = {} while true do table.insert(t, 1, 1) end")
add("memory: a table constructor", "return load('return {' .. ('{},'):rep(20000) .. '}')()")
add("memory: coroutines", "local t = {} for i = 1, 1e9 do t[i] = coroutine.create(function() end) end")
add("memory: suspended coroutines with stacks", "local t = {} for i = 1, 1e9 do local co = coroutine.wrap(function() local function f(n) if n > 0 then return 1 + f(n - 1) end coroutine.yield() end f(1000) end) co() t[i] = co end")
add("memory: closures", "local t = {} for i = 1, 1e9 do t[i] = function() return i end end")
add("memory: prototypes", "local t = {} for i = 1, 1e9 do t[i] = load('return ' .. i) end")
add("memory: varargs that double", "local function f(...) return f(..., ...) end f(1)")
add("memory: arguments that grow", "local function f(...) return f(1, ...) end f()")
add("memory: weak tables", "local t = setmetatable({}, { __mode = 'k' }) local keep = {} while true do local k = {} t[k] = {} keep[#keep + 1] = k end")
add("memory: ephemerons", "local t = setmetatable({}, { __mode = 'k' }) local k = {} while true do local n = {} t[k] = n k = n end")
add("memory: tostring of many tables", "while true do tostring({}) end")
add("memory: printing large strings", "while true do print(('x'):rep(2 ^ 20)) end")
add("memory: passing large data out", "return ('x'):rep(2 ^ 20)")
add("memory: passing many values out", "local t = {} for i = 1, 2e5 do t[i] = i end return t")
add("memory: passing a large graph out", "local t = {} for i = 1, 20 do t = { t, t } end return t")
add("memory: a circle passed out", "local t = {} t.t = t return t")
add("memory: deep data passed out", "local t = {} for i = 1, 1e5 do t = { t } end return t")
add("memory: a list said to be long", "return { n = 2 ^ 53 }")
add("memory: a sparse list", "return { [1] = 1, [2 ^ 40] = 2 }")
add("memory: json of a long list", "return json.encode { n = 2 ^ 53 }")
add("memory: decoding deep JSON", "return json.decode(('['):rep(1e5) .. (']'):rep(1e5))")
add("memory: errors with large messages", "error(('x'):rep(2 ^ 20))")
add("memory: errors with large messages in loops", "while true do pcall(error, ('x'):rep(2 ^ 20)) end")
add("memory: filling it, then going on", "local t = {} pcall(function() while true do t[#t + 1] = ('x'):rep(100) .. #t end end) local u = {} while true do pcall(function() u[#u + 1] = {} end) end")

-- ---- patterns and long C functions -----------------------------------------------------------------------------

for what, pattern in pairs { ["a? n times"] = "('a?'):rep(25) .. ('a'):rep(25)", [".- n times"] = "('.-'):rep(30) .. 'b'", [".* n times"] = "('.*'):rep(30) .. 'b'",
                             ["a- n times"] = "('a-'):rep(49) .. 'b'", ["nested captures"] = "('('):rep(31) .. '.*' .. (')'):rep(31) .. 'b'",
                             ["back references"] = "'(.*)(.*)(.*)%1%2%3b'", ["balanced"] = "('%b()'):rep(20)", ["frontiers"] = "('%f[a].*'):rep(20) .. 'b'",
                             ["a long set"] = "'[' .. ('x'):rep(1e5) .. ']*b'", ["a set of ranges"] = "('[a-z]*'):rep(20) .. 'b'" } do
  for _, f in ipairs { "find", "match", "gsub", "gmatch" } do
    local rest = f == "gsub" and ", ''" or ""
    local call = ("string.%s(('a'):rep(1000), %s%s)"):format(f, pattern, rest)
    add(("pattern: %s in %s"):format(what, f), "while true do pcall(function() " .. (f == "gmatch" and "for x in " .. call .. " do end" or call) .. " end) end")
  end
end
add("pattern: malformed, all of one and two bytes", "for a = 0, 255 do for b = 0, 255 do pcall(string.find, 'aa', string.char(a, b)) end end")
add("pattern: ends in a percent sign", "return ('x'):find '%'")
add("pattern: a set without an end", "return ('x'):find '[^'")
add("pattern: a set that ends in a percent sign", "return ('x'):find '[%'")
add("pattern: %b without bytes", "return ('x'):find '%b'")
add("pattern: %f without a set", "return ('x'):find '%f'")
add("pattern: a back reference to an open capture", "return ('x'):find '(%1)'")
add("pattern: a back reference to a position", "return ('x'):find '()%1'")
add("pattern: zero bytes", "return ('a\\0b\\0'):find '[%z\\0]%z', ('a\\0b'):find('\\0b', 1, true)")
add("pattern: start beyond the end", "return ('x'):find('', 2 ^ 40), ('x'):find('', -2 ^ 40), ('x'):find('', 0 / 0)")
add("long C: upper of a large string", "local s = ('x'):rep(2 ^ 20) while true do s:upper() end")
add("long C: upper of a doubled string", "local s = ('x'):rep(2 ^ 20) s = s .. s return s:upper()")
add("long C: find in a large string", "local s = ('a'):rep(2 ^ 20) while true do s:find(('a'):rep(1000) .. 'b', 1, true) end")
add("long C: reverse", "local s = ('x'):rep(2 ^ 20) while true do s:reverse() end")
add("long C: tonumber of a long string", "local s = ('1'):rep(2 ^ 20) while true do tonumber(s) end")
add("long C: tonumber in another base", "local s = ('z'):rep(2 ^ 20) while true do tonumber(s, 36) end")
add("long C: next over holes", "local t = {} for i = 1, 2e5 do t[i .. ''] = 1 end for k in pairs(t) do t[k] = nil end while true do next(t) end")
add("long C: length of a sparse table", "local t = {} t[1] = 1 for i = 1, 40 do t[2 ^ i] = 1 end while true do local n = #t end")
add("long C: sort of many", "local t = {} for i = 1, 1e5 do t[i] = -i end table.sort(t)")
add("long C: remove from the front", "local t = {} for i = 1, 1e5 do t[i] = i end while true do table.remove(t, 1) t[#t + 1] = 1 end")
add("long C: maxn", "local t = {} for i = 1, 1e5 do t[i] = i end while true do table.maxn(t) end")
add("long C: comparing large strings", "local a, b = ('x'):rep(2 ^ 20) .. 'a', ('x'):rep(2 ^ 20) .. 'b' while true do local c = a < b end")
add("long C: hashes that collide", "local t = {} for i = 1, 1e5 do t[('x'):rep(64) .. i .. ('y'):rep(64)] = i end")
add("long C: math with huge numbers", "while true do math.fmod(1e308, 1e-308) end")
add("long C: random ranges", "return math.random(-2 ^ 63, 2 ^ 63), math.random(1, 0)")
add("long C: bit operations with odd counts", "return bit.lshift(1, 1e300), bit.rol(1, -1), bit.tohex(1, 2 ^ 31)")

return M
