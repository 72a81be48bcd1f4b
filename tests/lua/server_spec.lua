-- Tasks, routes, requests and responses, through real sockets: server and client share one event loop.
local llm = require "llm"
local http = require "llm.http"
local net = require "llm.net"
local router = require "llm.router"
local support = require "support"
local tasks = require "llm.task"

local function in_task(f) return function() tasks.run(f) end end

-- A server on a free port, closed with the test's task; log collects what handlers do wrong.
local function open_server(options)
  options = options or {}
  options.host, options.port = options.host or "127.0.0.1", 0
  local server = llm.server(options)
  server.log = {}
  server.on_error = function(failure) table.insert(server.log, tostring(failure)) end
  assert(server:listen())
  tasks.own(server, server.close)
  return server, server:url()
end

describe("an engine", function()
  -- A coroutine that is no task blocks; it takes what is there, also what others wait for.
  it("that is used in a plain coroutine wakes the tasks that wait for it", in_task(function()
    local engine = llm.engine { load_format = "null", null_step_ms = 1 }
    local n, me = 0, tasks.running()
    tasks.spawn(function()
      for delta in engine:stream("a", { max_tokens = 20 }) do n = n + #delta.token_ids end
      tasks.wake(me)
    end)
    local out
    local plain = coroutine.wrap(function() out = engine:generate("b", { max_tokens = 60 })[1].outputs[1] end)
    plain()
    assert.equal(60, #out.token_ids)
    if n < 20 then tasks.wait() end
    assert.equal(20, n)
    engine:close()
  end))
end)

describe("a response", function()
  it("has a chunk for each token's text", in_task(function()
    local server, url = open_server()
    local texts = { "plain", 'a "quote"', "", "back\\slash", "line\nand\ttab\r\b\f\1\31\127", "\0nul", "é😀", ("x\""):rep(400) }
    local ends, total = {}, 0
    for i, text in ipairs(texts) do
      total = total + #text
      ends[i] = total
    end
    server:get("/tokens", function(_, res)
      res:tokens('data: {"t":"', table.concat(texts), ends, '"}\n\n')
      res:tokens('data: {"t":"', 'one "more"', nil, '"}\n\n')
    end)
    for i, wrong in ipairs { { 3, 2, 4 }, { 5, 4 }, { -1, 4 } } do
      server:get("/wrong" .. i, function(_, res) res:tokens("", "abcd", wrong, "") end)
    end
    local got = {}
    for line in assert(llm.fetch(url .. "/tokens")).body:gmatch "data: (%b{})\n\n" do
      got[#got + 1] = assert(llm.json.decode(line)).t
    end
    local expected = { "plain", 'a "quote"', texts[4], texts[5], texts[6], texts[7], texts[8], 'one "more"' }
    assert.same(expected, got)
    assert.equal(0, #server.log)
    for i = 1, 3 do llm.fetch(url .. "/wrong" .. i) end
    assert.equal(3, #server.log)
    assert.truthy(server.log[1]:find("the ends must ascend", 1, true))
  end))
end)

describe("a task", function()
  it("runs on when a server that was closed is collected", in_task(function()
    do
      local server = llm.server { host = "127.0.0.1", port = 0 }
      assert(server:listen())
      server:close()
    end
    collectgarbage()
    collectgarbage()
    llm.sleep(0.001) -- would never end
  end))

  it("sleeps while others run", in_task(function()
    local order = {}
    tasks.spawn(function()
      llm.sleep(0.02)
      table.insert(order, "slow")
    end)
    tasks.spawn(function()
      llm.sleep(0.001)
      table.insert(order, "fast")
    end)
    table.insert(order, "first")
    llm.sleep(0.05)
    assert.same({ "first", "fast", "slow" }, order)
  end))

  it("is canceled where it waits, even if it swallows that, and closes what it owns", in_task(function()
    local closed, caught = {}, {}
    local task = tasks.spawn(function()
      tasks.own("thing", function(thing) table.insert(closed, thing) end)
      table.insert(caught, select(2, pcall(llm.sleep, 100)))
      llm.sleep(100)
      table.insert(caught, "not reached")
    end, function(_, ok, failure)
      assert.is_false(ok)
      table.insert(caught, failure)
    end)
    tasks.cancel(task, "left")
    assert.same({ "thing" }, closed)
    assert.equal(2, #caught)
    for _, failure in ipairs(caught) do
      assert.is_true(tasks.is_canceled(failure))
      assert.equal("canceled: left", tostring(failure))
    end
  end))

  it("gives its results and errors to run", function()
    assert.same({ 1, nil, 3 }, { tasks.run(function() llm.sleep(0.001) return 1, nil, 3 end) })
    assert.has_error(function() tasks.run(function() llm.sleep(0.001) error({ code = 7 }) end) end, { code = 7 })
    assert.equal(0, tasks.count())
  end)

  it("ends the loop with an error that nobody asked for", function()
    local ok, failure = pcall(tasks.run, function()
      tasks.spawn(function() llm.sleep(0.001) error("lost") end)
      llm.sleep(1)
    end)
    assert.is_false(ok)
    assert.truthy(tostring(failure):find("lost", 1, true))
  end)

  it("is what waiting needs", function()
    assert.has_error(function() tasks.wait() end)
  end)
end)

describe("the router", function()
  local routes = router.new()
  local function handler() end
  for _, path in ipairs { "/", "/v1/models", "/v1/models/:id", "/v1/models/*rest", "/a.b/:x/c/:y" } do
    routes:add("GET", path, handler)
  end
  routes:add("POST", "/v1/models", handler)

  it("finds plain paths before patterns, and patterns in order", function()
    for path, found in pairs { ["/"] = "/", ["/v1/models"] = "/v1/models", ["/v1/models/m"] = "/v1/models/:id",
                               ["/v1/models/org/m"] = "/v1/models/*rest", ["/a.b/1/c/2"] = "/a.b/:x/c/:y" } do
      assert.equal(found, routes:find("GET", path).path, path)
    end
    for _, path in ipairs { "/v1", "/v1/models/", "/aXb/1/c/2", "/a.b/1/c/", "//" } do
      assert.is_nil((routes:find("GET", path)), path)
    end
  end)

  it("captures parameters", function()
    assert.same({ x = "1", y = "2-%3" }, select(2, routes:find("GET", "/a.b/1/c/2-%3")))
    assert.same({ rest = "org/m" }, select(2, routes:find("GET", "/v1/models/org/m")))
  end)

  it("knows the methods of a path", function()
    assert.equal("/v1/models", routes:find("HEAD", "/v1/models").path)
    local route, allowed = routes:find("PUT", "/v1/models")
    assert.is_false(route)
    assert.same({ "GET", "HEAD", "OPTIONS", "POST" }, allowed)
  end)

  it("refuses what is no route", function()
    assert.has_error(function() routes:add("GET", "v1", handler) end)
    assert.has_error(function() routes:add("GET", "/v1", {}) end)
  end)
end)

describe("a server", function()
  it("answers with what the handler writes or returns", in_task(function()
    local server, url = open_server()
    server:get("/json/:name", function(req, res) res:status(201):header("X-A", "1"):json { hello = req.params.name } end)
    server:get("/text", function() return "plain" end)
    server:get("/table", function() return { 1, 2 } end)
    server:get("/nothing", function() end)
    server:get("/pieces", function(_, res) for i = 1, 3 do res:write("<", tostring(i), ">") end end)
    server:get("/events", function(_, res) res:event("{}") res:event("[DONE]") end)
    server:post("/echo", function(req)
      return { args = req:args(), json = req:json(), kind = req:header "Content-Type", method = req.method }
    end)

    local reply = assert(llm.fetch(url .. "/json/you%20there"))
    assert.equal(201, reply.status)
    assert.equal("application/json", reply.headers["content-type"])
    assert.equal("1", reply.headers["x-a"])
    assert.equal('{"hello":"you there"}', reply.body)
    assert.equal("plain", llm.fetch(url .. "/text").body)
    assert.equal("[1,2]", llm.fetch(url .. "/table").body)
    assert.equal(204, llm.fetch(url .. "/nothing").status)
    assert.equal("<1><2><3>", llm.fetch(url .. "/pieces").body)
    reply = llm.fetch(url .. "/events")
    assert.equal("data: {}\n\ndata: [DONE]\n\n", reply.body)
    assert.truthy(reply.headers["content-type"]:find("text/event-stream", 1, true))
    reply = llm.fetch(url .. "/echo?a=1%202&b", { method = "POST", headers = { ["Content-Type"] = "x/y" },
                                                  body = '{"n":[1,null]}' })
    assert.same({ args = { a = "1 2", b = "" }, json = { n = { 1, llm.json.null } }, kind = "x/y", method = "POST" },
      llm.json.decode(reply.body, { null = llm.json.null }))
    reply = llm.fetch(url .. "/text", { method = "HEAD" })
    assert.equal("5", reply.headers["content-length"])
    assert.equal("", reply.body)
  end))

  it("answers errors in one shape", in_task(function()
    local server, url = open_server { max_body = 1000 }
    server:get("/refuse", function() http.error(429, "later", { param = "n", headers = { ["Retry-After"] = 3 } }) end)
    server:get("/bug", function() return nil + 1 end)
    server:post("/json", function(req) return req:json() end)
    server:get("/late", function(_, res) res:write("begun") error("too late") end)
    server:get("/split", function(_, res) res:header("X", "a\r\nSet-Cookie: b") end)
    local function failure(path, options)
      local reply = assert(llm.fetch(url .. path, options))
      assert.equal("application/json", reply.headers["content-type"])
      local e = assert(llm.json.decode(reply.body)).error
      assert.equal(reply.status, e.code)
      return e, reply
    end
    local e, reply = failure("/refuse")
    assert.same({ message = "later", type = "RateLimitError", param = "n", code = 429 }, e)
    assert.equal("3", reply.headers["retry-after"])
    assert.equal(404, failure("/none").code)
    assert.equal(400, failure("/json", { method = "POST", body = "{" }).code)
    assert.equal(413, failure("/json", { method = "POST", body = ("x"):rep(2000) }).code)
    _, reply = failure("/json")
    assert.equal(405, reply.status)
    assert.equal("OPTIONS, POST", reply.headers.allow)
    assert.equal(204, llm.fetch(url .. "/json", { method = "OPTIONS" }).status)
    assert.equal(0, #server.log)
    assert.equal(500, failure("/bug").code)
    assert.truthy(server.log[1]:find("server_spec.lua", 1, true))
    assert.equal(500, failure("/split").code)
    local cut, message = llm.fetch(url .. "/late")
    assert.is_nil(cut)
    assert.truthy(message:find("lost within the response", 1, true))
    assert.equal(3, #server.log)
  end))

  it("runs layers around everything, outermost first", in_task(function()
    local server, url = open_server()
    server:get("/x", function(req) return req.ctx.trail .. "x" end)
    server:use(function(req, res, next)
      req.ctx.trail = "1"
      res:header("X-Layer", "yes")
      return next(req, res)
    end)
    server:use(function(req, res, next)
      if req.path == "/shut" then http.error(401, "who are you?") end
      req.ctx.trail = req.ctx.trail .. "2"
      return next(req, res)
    end)
    assert.equal("12x", llm.fetch(url .. "/x").body)
    assert.equal(401, llm.fetch(url .. "/shut").status)
    local reply = llm.fetch(url .. "/nowhere")
    assert.equal(404, reply.status)
    assert.equal("yes", reply.headers["x-layer"])
  end))

  it("serves many at once, and gives each request its id", in_task(function()
    local server, url = open_server()
    local now, most, ids, n = 0, 0, {}, 0
    server:get("/", function(req)
      now = now + 1
      most = math.max(most, now)
      ids[req.id] = true
      llm.sleep(0.02)
      now = now - 1
    end)
    local me = tasks.running()
    for _ = 1, 50 do
      tasks.spawn(function() llm.fetch(url) end, function()
        n = n + 1
        if n == 50 then tasks.wake(me) end
      end)
    end
    tasks.wait()
    assert.is_true(most > 10)
    local n_ids = 0
    for _ in pairs(ids) do n_ids = n_ids + 1 end
    assert.equal(50, n_ids)
    llm.fetch(url, { headers = { ["X-Request-Id"] = "mine-1" } })
    llm.fetch(url, { headers = { ["X-Request-Id"] = "bad id" } })
    assert.is_true(ids["mine-1"])
    assert.is_nil(ids["bad id"])
  end))

  it("makes a handler wait for a slow client, and ends it when the client leaves", in_task(function()
    local server, url = open_server { send_buffer = 16384 }
    local written, ended = 0, nil
    server:get("/", function(_, res)
      tasks.own("it", function() ended = true end)
      for _ = 1, 10000 do
        res:write(("x"):rep(10000))
        written = written + 1
      end
    end)
    local reply = assert(llm.fetch(url, { stream = true }))
    assert.is_string(reply:read())
    local before
    repeat
      before = written
      llm.sleep(0.05)
    until written == before
    assert.is_true(written < 9000)
    assert.is_nil(ended)
    reply:close()
    for _ = 1, 100 do
      if ended then break end
      llm.sleep(0.01)
    end
    assert.is_true(ended)
    assert.equal(0, #server.log)
    assert.is_true(server:stats().n_exchanges == 0)
  end))

  it("drains", in_task(function()
    local server, url = open_server()
    local me = tasks.running()
    server:get("/", function() llm.sleep(0.05) return "done" end)
    local body
    tasks.spawn(function() body = llm.fetch(url).body end)
    llm.sleep(0.01)
    server:drain(nil, function() tasks.wake(me) end)
    assert.is_nil((llm.fetch(url .. "/again")))
    tasks.wait()
    llm.sleep(0.01)
    assert.equal("done", body)
  end))

  it("says why it cannot listen", in_task(function()
    local server = open_server()
    local second = llm.server { host = "127.0.0.1", port = server.port }
    local port, message = second:listen()
    assert.is_nil(port)
    assert.truthy(message:find("in use", 1, true))
    second:close()
    second = llm.server { port = 0, ssl_certfile = "/nonexistent.pem" }
    port, message = second:listen()
    assert.is_nil(port)
    assert.truthy(message:find("/nonexistent.pem: No such file", 1, true), message)
    second:close()
  end))
end)

describe("llm.fetch", function()
  it("fails with a message", function()
    local reply, message = llm.fetch("http://127.0.0.1:1/", { timeout = 5 })
    assert.is_nil(reply)
    assert.truthy(message:find("127.0.0.1:1", 1, true))
    assert.is_nil((llm.fetch("ftp://x")))
    assert.has_error(function() llm.fetch(7) end)
    assert.has_error(function() llm.fetch("http://127.0.0.1:1/", { stream = true }) end)
  end)

  it("bounds what it takes", in_task(function()
    local server, url = open_server()
    server:get("/", function() return ("x"):rep(5000) end)
    assert.equal(5000, #llm.fetch(url, { max_body = 5000 }).body)
    local reply, message = llm.fetch(url, { max_body = 4999 })
    assert.is_nil(reply)
    assert.truthy(message:find("max_body", 1, true))
    server:get("/slow", function() llm.sleep(1) end)
    reply, message = llm.fetch(url .. "/slow", { timeout = 0.03 })
    assert.is_nil(reply)
    assert.truthy(message:find("timed out", 1, true))
  end))

  it("reads a body in pieces", in_task(function()
    local server, url = open_server()
    server:get("/", function(_, res) for i = 1, 3 do res:write(tostring(i)) llm.sleep(0.005) end end)
    local reply, parts = llm.fetch(url, { stream = true }), {}
    for text in function() return reply:read() end do parts[#parts + 1] = text end
    assert.same({ "1", "2", "3" }, parts)
  end))
end)

describe("a runaway handler", function()
  -- With the system's LuaJIT compiled loops are not stopped: there the compiler is off.
  local core = require "llm.core"
  local soft, hard
  setup(function()
    if not core.checks_hooks then jit.off() end
    soft, hard = tasks.SOFT, tasks.HARD
    tasks.SOFT, tasks.HARD = 0.02, 0.05
  end)
  teardown(function()
    tasks.SOFT, tasks.HARD = soft, hard
    jit.on()
  end)

  it("fails its own request, and no other", in_task(function()
    local engine = llm.engine { load_format = "null", null_step_ms = 1 }
    local server, url = open_server()
    server:get("/loop", function() while true do end end)
    server:get("/pcall", function() while true do pcall(function() while true do end end) end end)
    server:get("/begun", function(_, res)
      res:write "begun"
      while true do end
    end)
    server:post("/stream", function(_, res)
      for delta in engine:stream("a", { max_tokens = 400, ignore_eos = true }) do res:write(("x"):rep(#delta.token_ids)) end
    end)
    local lengths = llm.parallel({ 1, 2, 3, 4, "/loop", "/pcall", "/begun" }, function(what)
      if type(what) == "number" then return #llm.fetch(url .. "/stream", { method = "POST", body = "" }).body end
      local reply, message = llm.fetch(url .. what)
      if what == "/begun" then return reply == nil and message or "whole" end
      local failure = assert(llm.json.decode(reply.body)).error
      assert.same({ 500, 500 }, { reply.status, failure.code })
      return 0
    end)
    for i = 1, 4 do assert.equal(400, lengths[i]) end
    assert.truthy(lengths[7] ~= "whole") -- cut off, so that it cannot be taken for an answer
    assert.equal(3, #server.log)
    for _, message in ipairs(server.log) do assert.truthy(message:find("stopped: it has run for more than 50 ms", 1, true)) end
    assert.equal(404, llm.fetch(url .. "/other").status)
    engine:close()
  end))
end)

describe("the engine in handlers", function()
  if not io.open(support.model()) then return pending("no default model") end

  it("streams to many at once as it generates alone", in_task(function()
    local engine = support.engine()
    local server, url = open_server()
    local params = { max_tokens = 12, temperature = 0 }
    server:post("/stream", function(req, res)
      for delta in engine:stream(req.body, params) do res:write(delta.text) end
    end)
    server:post("/batch", function(req)
      return engine:generate({ req.body }, params, { progress = false })[1].outputs[1].text
    end)
    local me, n, bodies = tasks.running(), 0, {}
    for i = 1, 8 do
      local path = i <= 4 and "/stream" or "/batch"
      tasks.spawn(function()
        bodies[i] = llm.fetch(url .. path, { method = "POST", body = "The capital of France is" }).body
      end, function()
        n = n + 1
        if n == 8 then tasks.wake(me) end
      end)
    end
    tasks.wait()
    assert.is_true(#bodies[1] > 0)
    for i = 2, 8 do assert.equal(bodies[1], bodies[i]) end
  end))

  it("stops when the client leaves", in_task(function()
    local engine = support.engine()
    local server, url = open_server()
    server:post("/stream", function(req, res)
      for delta in engine:stream(req.body, { max_tokens = 1500, ignore_eos = true }) do res:write(delta.text) end
    end)
    server:post("/whole", function(req)
      return engine:generate(req.body, { max_tokens = 1500, ignore_eos = true }, { progress = false })[1].outputs[1].text
    end)
    local reply = llm.fetch(url .. "/stream", { method = "POST", body = "Once", stream = true })
    reply:read()
    assert.is_true(engine:stats().n_running > 0)
    reply:close()
    assert.is_nil((llm.fetch(url .. "/whole", { method = "POST", body = "Once", timeout = 0.2 })))
    for _ = 1, 300 do
      if engine:stats().n_blocks_used == 0 then break end
      llm.sleep(0.01)
    end
    assert.equal(0, engine:stats().n_blocks_used)
    assert.equal(0, engine:stats().n_running)
    assert.same({}, server.log)
  end))
end)

describe("net", function()
  it("parses queries", function()
    assert.same({ a = "2", ["b c"] = "d/e", f = "" }, net.query("a=1&a=2&b+c=d%2Fe&f&bad=%zz"))
    assert.equal("a b", net.unescape("a%20b"))
    assert.is_nil(net.unescape("%0"))
  end)
end)
