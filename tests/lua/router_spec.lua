-- llm.upstreams and scripts/router.lua: who gets a request, and what happens when a server does not answer.
local llm = require "llm"
local openai = require "llm.openai"
local prefixes = require "llm.upstreams.prefixes"
local process = require "process"
local support = require "support"
local tasks = require "llm.task"

local function in_task(f) return function() tasks.run(f) end end

-- A server of this process whose handlers say what they do wrong in its log.
local function open_server()
  local server = llm.server { host = "127.0.0.1", port = 0 }
  server.log = {}
  server.on_error = function(failure) table.insert(server.log, tostring(failure)) end
  assert(server:listen())
  tasks.own(server, server.close)
  return server, server:url()
end

-- A router before these upstreams. Returns the pool and the router's URL.
local function open_router(options)
  options.interval = options.interval or 0
  local pool = llm.upstreams(options)
  local server, url = open_server()
  server:post("/*path", pool:handler())
  server:get("/ready", pool:ready())
  tasks.own(pool, pool.close)
  return pool, url
end

local function post(url, body)
  return assert(llm.fetch(url .. "/v1/completions", { method = "POST", body = llm.json.encode(body),
                                                      headers = { ["Content-Type"] = "application/json" } }))
end

-- Counts what a pretended server is asked; answer(req, res, n) replies.
local function pretend(answer)
  local server, url = open_server()
  local seen = { n = 0 }
  server:post("/*path", function(req, res)
    seen.n = seen.n + 1
    seen.path, seen.query, seen.body, seen.headers = req.path, req.query, req.body, req:headers()
    return answer(req, res, seen.n)
  end)
  server:get("/health", function() return "" end)
  return url, seen
end

local function says(name) return function(_, res) res:json { from = name } end end

local DONE = "data: [DONE]\n\n"
local function event(text) return ('data: {"choices":[{"text":"%s"}]}\n\n'):format(text) end

describe("the map of prefixes", function()
  it("knows the longest beginning that each upstream has seen", function()
    local map, a, b = prefixes.new(), {}, {}
    local shared = ("0123456789abcdef"):rep(64) -- 1024 bytes
    map:note(shared .. ("x"):rep(600), a)
    map:note(shared .. ("y"):rep(600), b)
    local seen = map:seen(shared .. ("y"):rep(600))
    assert.equal(1024, seen[a])
    assert.equal(1536, seen[b])
    assert.is_nil(next(map:seen("z" .. shared)))
  end)

  it("forgets what nobody asks for, and is bounded", function()
    local map, a = prefixes.new(8), {}
    local kept = ("k"):rep(256)
    map:note(kept, a)
    for i = 1, 100 do
      map:note(i .. ("-"):rep(256), a)
      assert.equal(256, map:seen(kept)[a])
    end
    assert.is_nil(map:seen(1 .. ("-"):rep(256))[a])
    local n = 0
    for _ in pairs(map.young) do n = n + 1 end
    for _ in pairs(map.old) do n = n + 1 end
    assert.truthy(n <= 16)
  end)

  it("reads prompts of all endpoints, apart by model and salt", function()
    local text = prefixes.text_of
    assert.equal(text { model = "m", prompt = "hello" }, text { model = "m", prompt = { "hello" } }:gsub("\n$", ""))
    assert.truthy(text { messages = { { role = "user", content = { { type = "text", text = "seen" } } } } }:find "user:seen")
    assert.truthy(text { model = "m", prompt = { 1, 22, 3 } }:find("1,22,3,", 1, true))
    assert.truthy(text { model = "m", prompt = "p" } ~= text { model = "n", prompt = "p" })
    assert.truthy(text { cache_salt = "a", prompt = "p" } ~= text { cache_salt = "b", prompt = "p" })
    assert.is_nil(text { model = "m" })
    assert.is_nil(text "no table")
  end)
end)

describe("a pool", function()
  it("refuses what it cannot use", function()
    for _, wrong in ipairs { {}, { "localhost:80" }, { "http://h", balance = "x" }, { "http://h", speed = 1 },
                             { { url = "http://h", weight = 0 } }, { 5 } } do
      assert.is_false((pcall(llm.upstreams, wrong)))
    end
  end)

  it("sends requests in turn, passing on path, query, body, status and headers", in_task(function()
    local first, seen = pretend(function(_, res) res:status(418):header("X-Own", "a b"):send("short", "text/x") end)
    local second, other = pretend(says "second")
    local _, url = open_router { { url = first .. "/v1/", api_key = "k1" }, second, balance = "round_robin" }
    local bodies = {}
    for i = 1, 4 do
      local reply = assert(llm.fetch(url .. "/v1/a%20b?c=%2F", { method = "POST", body = "body",
                                     headers = { Authorization = "Bearer mine", ["X-Request-Id"] = "id-1" } }))
      bodies[i] = reply.body
      if reply.body == "short" then
        assert.equal(418, reply.status)
        assert.equal("a b", reply.headers["x-own"])
        assert.equal("text/x", reply.headers["content-type"])
      end
    end
    table.sort(bodies)
    assert.same({ "short", "short", '{"from":"second"}', '{"from":"second"}' }, bodies)
    assert.equal("/v1/a b", seen.path)
    assert.equal("c=%2F", seen.query)
    assert.equal("body", seen.body)
    assert.equal("Bearer k1", seen.headers.authorization)
    assert.equal("Bearer mine", other.headers.authorization)
    assert.equal("id-1", other.headers["x-request-id"])
  end))

  it("sends a prompt where its beginning is known, and to the other when that has more to do", in_task(function()
    local held = {}
    local function answer(req, res)
      if req:json().hold then
        held[#held + 1] = tasks.running()
        tasks.wait()
      end
      res:json {}
    end
    local first, a = pretend(answer)
    local second, b = pretend(answer)
    local pool, url = open_router { first, second, slack = 2 }
    local prompt = ("a long beginning "):rep(100)
    local where = post(url, { prompt = prompt .. "1" }).headers["x-llmlua-upstream"]
    for i = 2, 9 do assert.equal(where, post(url, { prompt = prompt .. i }).headers["x-llmlua-upstream"]) end
    assert.equal(9, math.max(a.n, b.n))
    local left, me = 6, tasks.running()
    for _ = 1, 6 do
      tasks.spawn(function() post(url, { prompt = prompt, hold = true }) end, function()
        left = left - 1
        if left == 0 then tasks.wake(me) end
      end)
    end
    while #held < 6 do llm.sleep(0.001) end
    local loads = pool:stats()
    assert.truthy(loads[1].in_flight >= 2 and loads[2].in_flight >= 2)
    assert.equal(6, loads[1].in_flight + loads[2].in_flight)
    for _, task in ipairs(held) do tasks.wake(task) end
    if left > 0 then tasks.wait() end
  end))

  it("asks another server when one refuses, cannot be reached or breaks off before the first token", in_task(function()
    local gone = llm.server { host = "127.0.0.1", port = 0 }
    assert(gone:listen())
    local gone_url = gone:url()
    gone:close()
    local busy = pretend(function(_, res) res:status(503):header("Retry-After", "7"):send "busy" end)
    local broken = pretend(function(_, res)
      res:sse()
      res:write('data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n')
      res.exchange:cut()
      res.ended = true
    end)
    local cut = pretend(function(_, res)
      res:start(100)
      res:write "half of it"
      res.exchange:cut()
      res.ended = true
    end)
    local fine = pretend(says "fine")
    for _, bad in ipairs { gone_url, busy, broken, cut } do
      local pool, url = open_router { bad, fine, balance = "round_robin" }
      for _ = 1, 3 do
        local reply = post(url, { prompt = "p" })
        assert.equal(200, reply.status)
        assert.equal('{"from":"fine"}', reply.body)
      end
      assert.truthy(pool:stats()[1].requests >= 1)
      assert.equal(bad == busy, pool:stats()[1].up) -- one that is busy is not down
    end
    local _, url = open_router { busy, busy, attempts = 2 }
    local reply = post(url, { prompt = "p" })
    assert.equal(503, reply.status)
    assert.equal("7", reply.headers["retry-after"])
    _, url = open_router { gone_url, cut }
    reply = post(url, { prompt = "p" })
    assert.equal(502, reply.status)
    assert.truthy(reply.body:find("no server could answer", 1, true))
  end))

  it("tells the client when a server breaks off after the first token, in whole events", in_task(function()
    local broken, seen = pretend(function(_, res)
      res:sse()
      res:write(event "one")
      res:write(event "two", 'data: {"choices":[{"te')
      llm.sleep(0.02)
      res.exchange:cut()
      res.ended = true
    end)
    local spare, other = pretend(says "spare")
    local pool, url = open_router { broken, spare, balance = "round_robin" }
    pool.turn = 1
    local reply = post(url, { prompt = "p", stream = true })
    assert.equal(1, seen.n)
    assert.equal(0, other.n)
    local events = {}
    for data in reply.body:gmatch "data: ([^\n]*)\n\n" do events[#events + 1] = data end
    assert.equal(4, #events)
    assert.equal("two", llm.json.decode(events[2]).choices[1].text)
    local failure = llm.json.decode(events[3]).error
    assert.equal(502, failure.code)
    assert.truthy(failure.message:find("broke off", 1, true))
    assert.equal("[DONE]", events[4])
  end))

  it("lets a slow client slow the server down, and passes everything on", in_task(function()
    local sent, total = 0, 4000
    local payload = ("x"):rep(10000)
    local source = pretend(function(_, res)
      res:sse()
      for i = 1, total do
        res:write(event(i .. payload))
        sent = i
      end
      res:write(DONE)
    end)
    local _, url = open_router { source }
    local reply = assert(llm.fetch(url .. "/v1/completions", { method = "POST", body = "{}", stream = true }))
    local before
    repeat
      before = sent
      llm.sleep(0.1)
    until sent == before and sent > 0
    assert.truthy(sent < total, sent) -- 40 MB do not fit into the buffers on the way
    local n, text = 0, ""
    for piece in function() return reply:read() end do
      text = text .. piece
      text = text:gsub('data: {"choices":%[{"text":"(%d+)x+"}%]}\n\n', function(i)
        n = n + 1
        assert.equal(n, tonumber(i))
        return ""
      end)
    end
    assert.equal(total, n)
    assert.equal(DONE, text)
  end))

  it("gives up what a server does for a client that has left", in_task(function()
    local ended
    local source = pretend(function(_, res)
      tasks.own({}, function() ended = true end)
      res:sse()
      while true do
        res:write(event "more")
        llm.sleep(0.001)
      end
    end)
    local pool, url = open_router { source }
    local reply = assert(llm.fetch(url .. "/v1/completions", { method = "POST", body = "{}", stream = true }))
    assert(reply:read())
    reply:close()
    while not ended do llm.sleep(0.001) end
    while pool:stats()[1].in_flight > 0 do llm.sleep(0.001) end
  end))

  it("looks at servers: leaves one that is ill, takes it back when it is well, counts what others send it", in_task(function()
    local ill, looks, running = true, 0, 5
    local server, first = open_server()
    server:get("/health", function(_, res)
      looks = looks + 1
      res:status(ill and 500 or 200):send ""
    end)
    server:get("/load", function(_, res) res:json { running = running, waiting = 1 } end)
    server:post("/*path", says "first")
    local second = pretend(says "second")
    local pool, url = open_router { first, second, balance = "least_load", interval = 0.01 }
    assert.equal(200, llm.fetch(url .. "/ready").status)
    while pool:stats()[1].up do llm.sleep(0.001) end
    for _ = 1, 4 do assert.equal('{"from":"second"}', post(url, { prompt = "p" }).body) end
    ill = false
    while pool:stats()[1].load ~= 6 do llm.sleep(0.001) end -- after its pause
    assert.is_true(pool:stats()[1].up)
    for _ = 1, 4 do assert.equal('{"from":"second"}', post(url, { prompt = "p" }).body) end
    running = -1
    while pool:stats()[1].load ~= 0 do llm.sleep(0.001) end
    local from = {}
    for _ = 1, 4 do from[post(url, { prompt = "p" }).body] = true end
    assert.is_true(from['{"from":"first"}'] and from['{"from":"second"}'])
    pool:close()
    llm.sleep(0.05)
    local before = looks
    llm.sleep(0.05)
    assert.equal(before, looks)
  end))

  it("serves engines of this process", in_task(function()
    local engines = {}
    for i = 1, 2 do engines[i] = llm.engine { load_format = "null", null_step_ms = 1, max_num_seqs = 8 + i } end
    local pool = llm.upstreams { engines[1], engines[2], interval = 0 }
    assert.is_false((pcall(pool.handler, pool)))
    local server, url = open_server()
    server:post("/v1/completions", pool:handler(openai.completions))
    for i = 1, 6 do
      local reply = post(url, { prompt = ("%d "):format(i):rep(200), max_tokens = 4 })
      assert.equal(200, reply.status)
      assert.equal(4, llm.json.decode(reply.body).usage.completion_tokens)
    end
    assert.equal(6, engines[1]:stats().n_finished + engines[2]:stats().n_finished)
    assert.truthy(engines[1]:stats().n_finished >= 1 and engines[2]:stats().n_finished >= 1)
    for _, engine in ipairs(engines) do engine:close() end
  end))
end)

describe("router.lua before three servers", function()
  -- What became of a streamed request: {status, tokens, done, failure, upstream}.
  local function stream(url, prompt, note)
    local reply = assert(llm.fetch(url .. "/v1/completions", { method = "POST", stream = true,
      headers = { ["Content-Type"] = "application/json" },
      body = llm.json.encode { prompt = prompt, max_tokens = 40, stream = true } }))
    note.status, note.upstream, note.tokens = reply.status, reply.headers["x-llmlua-upstream"], 0
    local rest = ""
    for piece in function() return reply:read() end do
      rest = rest .. piece
      rest = rest:gsub("data: ([^\n]*)\n\n", function(data)
        local value = data ~= "[DONE]" and assert(llm.json.decode(data)) or {}
        if data == "[DONE]" then note.done = true end
        if value.error then note.failure = value.error end
        if value.choices and value.choices[1] and value.choices[1].text ~= "" then note.tokens = note.tokens + 1 end
        return ""
      end)
    end
  end

  it("fails no request before its first token when one is killed, and says so after it", in_task(function()
    local servers, args = {}, { "router.lua", "--port", 0, "--host", "127.0.0.1", "--disable-access-log" }
    for i = 1, 3 do
      servers[i] = process.start { "serve.lua", "--load-format", "null", "--null-step-ms", 10, "--port", 0, "--host",
                                   "127.0.0.1", "--disable-access-log" }
      tasks.own(servers[i], servers[i].stop)
      args[#args + 1] = "--upstream"
      args[#args + 1] = servers[i].url
    end
    local router = process.start(args)
    tasks.own(router, router.stop)
    local victim = servers[2].url:gsub("^http://", "")
    local notes, running, killed = {}, 0, false
    for i = 1, 60 do
      notes[i] = {}
      running = running + 1
      tasks.spawn(stream, function(_, ok, failure)
        running = running - 1
        if not ok then notes[i].raised = tostring(failure) end
      end, nil, router.url, ("request %d "):format(i):rep(40), notes[i])
      llm.sleep(0.005)
      if not killed and i >= 30 then
        for _, note in ipairs(notes) do
          if note.upstream == victim and note.tokens > 0 and not note.done and not killed then
            servers[2]:signal "KILL"
            killed = true
          end
        end
      end
    end
    while running > 0 do llm.sleep(0.01) end
    assert.is_true(killed)
    local whole, broken = 0, 0
    for i, note in ipairs(notes) do
      assert.is_nil(note.raised)
      assert.equal(200, note.status, i)
      assert.is_true(note.done)
      if note.failure then
        broken = broken + 1
        assert.equal(victim, note.upstream)
        assert.truthy(note.tokens > 0 and note.tokens < 40)
        assert.equal(502, note.failure.code)
        assert.truthy(note.failure.message:find(victim, 1, true))
      else
        whole = whole + 1
        assert.equal(40, note.tokens)
      end
    end
    assert.truthy(broken >= 1 and whole >= 30, broken)
    local text = llm.fetch(router.url .. "/metrics").body
    assert.truthy(text:find('llmlua:upstream_up{upstream="' .. victim .. '"} 0.0', 1, true))
    assert.equal(200, llm.fetch(router.url .. "/v1/models").status)
    assert.equal(3, #llm.json.decode(llm.fetch(router.url .. "/upstreams").body))
  end))
end)
