-- The watchdog (lua/watchdog.h) through llm.core: what runs too long is stopped, however it resists, and its state goes
-- on working. With the system's LuaJIT compiled loops are not stopped: there the compiler is off.

local core = require "llm.core"

if not core.checks_hooks then jit.off() end

local LIMIT = 0.01

local function loop() while true do end end

-- name = function that does not return by itself.
local runaways = {
  ["an empty loop"] = loop,
  ["a loop of pcall"] = function() while true do pcall(loop) end end,
  ["pcall in pcall to the end of the stack"] = function()
    local function f()
      pcall(f)
      loop()
    end
    f()
  end,
  ["an endless message handler"] = function() while true do xpcall(loop, loop) end end,
  ["an endless message handler under a C function"] = function()
    while true do string.gsub("x", ".", function() xpcall(loop, loop) end) end
  end,
  ["a loop in a coroutine"] = function() while true do coroutine.wrap(loop)() end end,
  ["a loop in a coroutine in a pcall in a coroutine"] = function()
    while true do
      pcall(coroutine.wrap(function()
        while true do pcall(coroutine.wrap(function() while true do pcall(loop) end end)) end
      end))
    end
  end,
  ["arithmetic"] = function()
    local x = 0
    for i = 1, 1e15 do x = x + i % 7 end
    return x
  end,
  ["tables"] = function()
    local t = {}
    while true do
      t[#t + 1] = {}
      if #t > 1000 then t = {} end
    end
  end,
  ["pairs"] = function()
    local t = { 1, 2, a = 1 }
    while true do
      for _ in pairs(t) do end
    end
  end,
  ["tail calls"] = function()
    local function f(n) return f(n + 1) end
    return f(1)
  end,
  ["a metamethod"] = function() return setmetatable({}, { __index = loop }).x end,
  ["a comparator"] = function() table.sort({ 1, 2, 3 }, loop) end,
  ["goto"] = function() ::again:: goto again end,
  ["repeat until"] = function() repeat until false end,
}

describe("the watchdog", function()
  for name, f in pairs(runaways) do
    it("stops " .. name, function()
      local account = core.account("policy", "spec", nil, LIMIT)
      local ok, message, killed = core.resume(account, coroutine.create(f))
      assert.is_false(ok)
      assert.matches("stopped: it has run for more than 10 ms", message)
      assert.is_true(killed)
      -- The state has no hook left, and its compiler works.
      assert.is_nil(debug.gethook())
      local sum = 0
      for i = 1, 1000 do sum = sum + i end
      assert.equal(500500, sum)
    end)
  end

  it("says the line", function()
    local account = core.account("policy", "spec", nil, LIMIT)
    local f = assert(loadstring("local x\n\nwhile true do x = 1 end", "@here.lua"))
    local _, message = core.resume(account, coroutine.create(f))
    assert.matches("^here.lua:3: stopped", message)
  end)

  it("lets what ends in time alone", function()
    local account = core.account("policy", "spec", nil, 5)
    local co = coroutine.create(function(a, b)
      local c = coroutine.yield(a + b)
      error("no " .. c, 0)
    end)
    assert.same({ true, 3 }, { core.resume(account, co, 1, 2) })
    assert.same({ false, "no way" }, { core.resume(account, co, "way") })
    assert.same({ false, "cannot resume dead coroutine", false }, { core.resume(account, co) })
  end)

  it("lets a script go on that is past its soft limit, and counts it", function()
    local account = core.account("policy", "soft spec", LIMIT)
    local function slow()
      local start = core.now()
      while core.now() < start + 5 * LIMIT do end
      return "done"
    end
    assert.same({ true, "done" }, { core.resume(account, coroutine.create(slow)) })
    local sum
    for _, entry in ipairs(core.accounts()) do
      if entry.name == "soft spec" then sum = entry end
    end
    assert.same({ "policy", 1, 1, 0, 0 }, { sum.kind, sum.calls, sum.overruns, sum.kills, sum.errors })
    assert.is_true(sum.seconds >= 5 * LIMIT)
  end)

  it("books calls, kills and errors to their account", function()
    local function account_of(name)
      for _, entry in ipairs(core.accounts()) do
        if entry.name == name then return { entry.calls, entry.kills, entry.errors } end
      end
    end
    local account = core.account("handler", "books spec", nil, LIMIT)
    core.resume(account, coroutine.create(function() end))
    core.resume(account, coroutine.create(loop))
    core.resume(account, coroutine.create(function() error "no" end))
    account:error()
    assert.same({ 3, 1, 1 }, account_of "books spec")
    local other = core.account("handler", "other books spec", nil, 5)
    core.resume(account, coroutine.create(function() core.switch_account(other) end))
    assert.same({ 4, 1, 1 }, account_of "books spec")
    assert.same({ 1, 0, 0 }, account_of "other books spec")
  end)

  it("does not count an inner call against the outer one", function()
    local outer, inner = core.account("handler", "outer", nil, 3 * LIMIT), core.account("handler", "inner", nil, 5)
    local ok, result = core.resume(outer, coroutine.create(function()
      return select(2, core.resume(inner, coroutine.create(function()
        local start = core.now()
        while core.now() < start + 10 * LIMIT do end
        return "inner done"
      end)))
    end))
    assert.same({ true, "inner done" }, { ok, result })
    ok = core.resume(outer, coroutine.create(function()
      core.resume(inner, coroutine.create(function() end))
      loop()
    end))
    assert.is_false(ok)
  end)

  it("does not count what is further inside either", function()
    local outer, inner = core.account("handler", "outer", nil, 3 * LIMIT), core.account("handler", "inner", nil, 5)
    local function nested(depth, f)
      if depth == 0 then return f() end
      return select(2, core.resume(depth == 1 and inner or outer, coroutine.create(function() return nested(depth - 1, f) end)))
    end
    local done = nested(4, function()
      local start = core.now()
      while core.now() < start + 10 * LIMIT do end
      return "innermost done"
    end)
    assert.equal("innermost done", done)
    local start = core.now()
    local ok = core.resume(outer, coroutine.create(function()
      nested(2, function() while core.now() < start + 10 * LIMIT do end end)
      while core.now() < start + 12 * LIMIT do end
    end))
    assert.is_true(ok)
  end)
end)
