-- Where C calls back into Lua: on which thread, what an error leaves behind, what the collector may take away.
local llm = require "llm"
local net = require "llm.net"
local tasks = require "llm.task"

-- A loop that gets compiled, with a rare branch, so that the machine code is left by a side exit.
local function hot(n, marks)
  local sum = 0
  for i = 1, n do
    if i % 7 == 0 then sum = sum + (marks[i] or 1) else sum = sum + i end
  end
  return sum
end

-- Nothing may come between pcall and the compiled loop: any call of a C function would put LuaJIT's idea of the running
-- thread right.
local function fail_and_go_hot(loop, n, marks)
  loop:after(0, function() error({}, 0) end)
  local ok = pcall(loop.run, loop)
  return hot(n, marks), ok
end

describe("an error that leaves the loop", function()
  for where, call in pairs {
    ["the main program"] = function(f, ...) return f(...) end,
    ["a coroutine"] = function(f, ...) return coroutine.wrap(f)(...) end,
  } do
    it("leaves compiled code on the right stack, in " .. where, function()
      local loop, marks = net.open(), {}
      for _ = 1, 100 do hot(200, marks) end
      local expected = hot(1000, marks)
      for _ = 1, 300 do
        local sum, ok = call(fail_and_go_hot, loop, 1000, marks)
        assert.is_false(ok)
        assert.equal(expected, sum)
      end
      loop:close()
    end)
  end

  it("is the callback's own", function()
    local loop = net.open()
    loop:after(0, function() error({ code = 7 }) end)
    local ok, failure = pcall(loop.run, loop)
    assert.is_false(ok)
    assert.truthy(tostring(failure):find("error object is a table", 1, true))
    loop:after(0, function() loop:stop() end)
    loop:run() -- goes on
    loop:close()
  end)
end)

describe("a callback", function()
  it("runs on the thread that runs the loop", function()
    local loop, seen = net.open(), {}
    local function run()
      loop:after(0, function()
        seen[#seen + 1] = coroutine.running() or "main"
        loop:stop()
      end)
      loop:run()
    end
    local main = coroutine.running() or "main"
    run()
    local co = coroutine.create(run)
    assert(coroutine.resume(co))
    assert.same({ main, co }, seen)
    loop:close()
  end)

  it("outlives the coroutine that asked for it", function()
    local loop, n = net.open(), 0
    for _ = 1, 50 do
      coroutine.wrap(function()
        loop:after(0, function()
          n = n + 1
          collectgarbage()
          if n == 50 then loop:stop() end
        end)
      end)()
    end
    collectgarbage()
    coroutine.wrap(function() loop:run() end)()
    assert.equal(50, n)
    loop:close()
  end)

  it("can neither run nor close the loop it is on", function()
    local loop, messages = net.open(), {}
    loop:after(0, function()
      messages = { select(2, pcall(loop.run, loop)), select(2, pcall(loop.close, loop)) }
      loop:stop()
    end)
    loop:run()
    assert.truthy(messages[1]:find("running already", 1, true))
    assert.truthy(messages[2]:find("is running", 1, true))
    loop:close()
    loop:close()
    assert.has_error(function() loop:run() end)
  end)

  it("cannot yield through C", function()
    local loop, message = net.open(), nil
    coroutine.wrap(function()
      loop:after(0, function()
        message = select(2, pcall(coroutine.yield))
        loop:stop()
      end)
      loop:run()
    end)()
    assert.truthy(tostring(message):find("yield", 1, true))
    loop:close()
  end)
end)

describe("a closed server", function()
  it("takes nothing with it when it is collected", function()
    for _ = 1, 3 do
      llm.server({ port = 0 }):close()
      collectgarbage()
      collectgarbage()
      tasks.run(function() llm.sleep(0.001) end) -- the loop still calls back
    end
  end)
end)

describe("a server under abuse", function()
  it("aborts, fails and collects in every callback, while compiled code runs between", function()
    tasks.run(function()
      local server = llm.server { host = "127.0.0.1", port = 0 }
      local n_failures, marks = 0, {}
      local expected = hot(500, marks)
      server.on_error = function() n_failures = n_failures + 1 end
      server:get("/abort", function(_, res)
        res:write("x")
        pcall(res.exchange.abort, res.exchange) -- on_done comes within the call, in this task
        if hot(500, marks) ~= expected then error "wrong sum" end
        llm.sleep(0)
      end)
      server:get("/fail", function() return nil + hot(500, marks) end)
      server:get("/collect", function(_, res)
        collectgarbage()
        res:write(tostring(hot(500, marks)))
        llm.sleep(0)
        collectgarbage()
      end)
      assert(server:listen())
      local url, n, done, me = server:url(), 0, {}, tasks.running()
      for i = 1, 120 do
        local path = ({ "/abort", "/fail", "/collect" })[i % 3 + 1]
        tasks.spawn(function() return llm.fetch(url .. path) end, function(_, ok, reply)
          done[path] = (done[path] or 0) + (ok and reply and 1 or 0)
          n = n + 1
          if n == 120 then tasks.wake(me) end
        end)
      end
      tasks.wait()
      assert.same({ ["/abort"] = 0, ["/fail"] = 40, ["/collect"] = 40 }, done)
      assert.equal(40, n_failures)
      tasks.spawn(function() llm.fetch(url .. "/collect") end)
      llm.sleep(0)
      server:close() -- with an exchange under way: its on_done comes here, in this task
      assert.equal(expected, hot(500, marks))
      repeat llm.sleep(0.001) until tasks.count() == 1 -- the client has heard of it
    end)
    collectgarbage()
    assert.equal(0, tasks.count())
  end)
end)
