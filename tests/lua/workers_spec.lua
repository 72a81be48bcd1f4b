-- Several threads serve (--workers): one engine, one port, and what has to be one for all of them: metrics, reloads,
-- the end.
local llm = require "llm"
local support = require "support"
local tasks = require "llm.task"

-- %s: what the script does before it serves.
local SCRIPT = [[
local llm, openai = require "llm", require "llm.openai"
local opts = llm.options(arg, openai.options)
local engine = llm.engine(opts)
local server = llm.server(openai.server_options(opts))
openai.protect(server, opts)
server:post("/v1/completions", openai.completions(engine, opts))
server:get("/metrics", llm.metrics)
server:get("/ready", openai.ready(engine, server))
server:get("/load", openai.load(engine, server))
server:get("/who", function()
  llm.sleep(0.02)
  return tostring((llm.worker()))
end)
server:get("/slow", function()
  llm.sleep(1.5)
  return "done"
end)
%s
server:run(function() io.stderr:write("at ", server:url(), "\n") end)
engine:close()
]]

-- Starts the program; returns {url, path, log, pid}. words: more of its arguments.
local function start(extra, words)
  local path, log = support.file(SCRIPT:format(extra or ""), ".lua"), os.tmpname()
  local pipe = io.popen(('{ %s %s --load-format null --host 127.0.0.1 --port 0 --api-key k --workers 3 '
    .. '--disable-access-log %s & echo $! >&3; wait $!; echo "exit code $?"; } 3>&1 >%s 2>&1 &')
    :format(support.quote(support.program), path, words or "", log))
  local p = { path = path, log = log, pid = pipe:read "*l" }
  pipe:close()
  for _ = 1, 1000 do
    local text = support.slurp(log)
    p.url = text:match "at (http%S+)"
    if p.url or text:find "exit code" then break end
    llm.sleep(0.01)
  end
  return p
end

-- Waits for the program's end. Returns what it has logged, and its exit code (nil: it did not end).
local function await_end(p)
  local text, code
  for _ = 1, 2000 do
    text = support.slurp(p.log)
    code = text:match "exit code (%d+)"
    if code then break end
    llm.sleep(0.01)
  end
  if not code then os.execute("kill -KILL " .. p.pid) end
  os.remove(p.path)
  os.remove(p.log)
  return text, tonumber(code)
end

local KEY = { ["x-api-key"] = "k" }

local function get(p, path) return assert(llm.fetch(p.url .. path, { headers = KEY })) end

-- n requests at once, on connections of their own. Returns their replies.
local function at_once(n, f)
  local me, replies, left = tasks.running(), {}, n
  for i = 1, n do
    tasks.spawn(f, function(_, ok, reply)
      replies[i] = ok and reply or { body = tostring(reply) }
      left = left - 1
      if left == 0 then tasks.wake(me) end
    end, nil, i)
  end
  while left > 0 do tasks.wait() end
  return replies
end

-- Which workers have answered, a set, how often in all, and what else they said.
local function who(p, n)
  local seen, others = {}, {}
  for _, reply in ipairs(at_once(n, function() return get(p, "/who") end)) do
    if reply.body:find "^%d$" then seen[tonumber(reply.body)] = true else others[#others + 1] = reply.body end
  end
  return seen, others
end

-- The kernel spreads connections by their addresses: of 60 all go to one of three workers once in 10^28 times.
local function with(extra, words, f)
  return function()
    local p
    tasks.run(function()
      p = start(extra, words)
      assert.truthy(p.url, support.slurp(p.log))
      local ok, failure = pcall(f, p)
      if not p.told then os.execute(("kill -TERM %s 2>/dev/null"):format(p.pid)) end
      local text, code = await_end(p)
      if not ok then error(tostring(failure) .. "\n" .. text, 0) end
      assert.equal(0, code, text)
    end)
  end
end

describe("workers", function()
  it("share a port and an engine; ids are unique", with(nil, nil, function(p)
    local seen = who(p, 60)
    assert.truthy(seen[1] or seen[2] or seen[3])
    local n = 0
    for _ in pairs(seen) do n = n + 1 end
    assert.is_true(n > 1)
    local ids, body = {}, '{"prompt": "abc", "max_tokens": 7}'
    local replies = at_once(60, function()
      return llm.fetch(p.url .. "/v1/completions", { method = "POST", body = body,
        headers = { ["x-api-key"] = "k", ["Content-Type"] = "application/json" } })
    end)
    for _, reply in ipairs(replies) do
      assert.equal(200, reply.status)
      local id = reply.headers["x-request-id"]
      assert.is_nil(ids[id])
      ids[id] = true
      assert.truthy(reply.body:find("have this will your from they know", 1, true))
    end
    assert.truthy(get(p, "/metrics").body:find("vllm:generation_tokens_total{[^}]*} 420.0"))
  end))

  it("sum their metrics, whichever is asked", with(nil, nil, function(p)
    who(p, 60)
    for _, reply in ipairs(at_once(30, function() return get(p, "/metrics") end)) do
      assert.truthy(reply.body:find('http_requests_total{handler="/who",method="GET",status="2xx"} 60.0', 1, true))
      assert.truthy(reply.body:find('http_request_duration_seconds_count{handler="/who",method="GET"} 60.0', 1, true))
      local _, families = reply.body:gsub("# TYPE http_requests_total", "")
      assert.equal(1, families)
    end
    local slow = at_once(12, function(i)
      if i < 12 then return get(p, "/slow") end
      local reply
      for _ = 1, 100 do -- until all have come
        reply = get(p, "/load")
        if llm.json.decode(reply.body).server_load == 11 then break end
        llm.sleep(0.01)
      end
      return reply
    end)
    assert.equal(11, llm.json.decode(slow[12].body).server_load)
  end))

  it("load a script all together", with(nil, nil, function(p)
    local text = support.slurp(p.path)
    support.write(p.path, (text:gsub("return tostring%(%(llm.worker%(%)%)%)", 'return "new"')))
    local reply = assert(llm.fetch(p.url .. "/admin/reload", { method = "POST", headers = KEY }))
    assert.equal(200, reply.status)
    local seen, others = who(p, 60)
    assert.is_nil(next(seen))
    assert.equal(60, #others)
    for _, body in ipairs(others) do assert.equal("new", body) end
    local status = llm.json.decode(get(p, "/admin/scripts").body)
    assert.equal(3, status.workers)
    local last = status.generations[#status.generations]
    assert.is_true(last.active)
    assert.is_true(last.n_requests >= 60)
    assert.equal(200, assert(llm.fetch(p.url .. "/admin/rollback", { method = "POST", headers = KEY })).status)
  end))

  it("keep the old script in all if one of them cannot load the new one", with(nil, nil, function(p)
    support.write(p.path, SCRIPT:format 'if llm.worker() == 3 then error "not in the third" end')
    local reply = assert(llm.fetch(p.url .. "/admin/reload", { method = "POST", headers = KEY }))
    assert.equal(422, reply.status)
    local seen, others = who(p, 60)
    assert.equal(0, #others)
    assert.truthy(next(seen))
    for _ = 1, 100 do -- the watched file may be on its way
      local status = llm.json.decode(get(p, "/admin/scripts").body)
      assert.equal(1, #status.generations)
      if type(status.last_failure) == "table" and status.last_failure.line then
        assert.truthy(status.last_failure.message:find("worker 3: ", 1, true))
        assert.equal(18, status.last_failure.line)
        return
      end
      llm.sleep(0.02)
    end
    error "no failure was told"
  end))

  it("give up a script that does not end in one of them", with(nil, nil, function(p)
    support.write(p.path, SCRIPT:format "if llm.worker() == 2 then while true do end end")
    local reply = assert(llm.fetch(p.url .. "/admin/reload", { method = "POST", headers = KEY, idle_timeout = 60 }))
    assert.equal(422, reply.status)
    local failure = llm.json.decode(reply.body)
    assert.truthy(failure.error.message:find("worker 2: ", 1, true), reply.body)
    assert.truthy(failure.error.message:find("has not loaded within", 1, true), reply.body)
    local _, others = who(p, 30)
    assert.equal(0, #others)
  end))

  it("answer what is under way when they are told to end", with(nil, nil, function(p)
    local replies = at_once(31, function(i)
      if i <= 30 then return get(p, "/slow") end
      for _ = 1, 100 do
        if llm.json.decode(get(p, "/load").body).server_load >= 30 then break end
        llm.sleep(0.01)
      end
      p.told = true
      os.execute("kill -TERM " .. p.pid)
      return { body = "done" }
    end)
    for _, reply in ipairs(replies) do assert.equal("done", reply.body) end
  end))

  it("say that they are not ready before they close", with(nil, "--shutdown-delay 60", function(p) -- a second signal ends it
    assert.equal(200, get(p, "/ready").status)
    os.execute("kill -TERM " .. p.pid)
    for _ = 1, 100 do
      local replies = at_once(20, function() return get(p, "/ready") end)
      local n = 0
      for _, reply in ipairs(replies) do n = n + (reply.status == 503 and 1 or 0) end
      if n == 20 then return end
    end
    error "some worker goes on being ready"
  end))

  it("do not start if one of them fails", function()
    local path = support.file(SCRIPT:format 'if llm.worker() == 2 then error "not in the second" end', ".lua")
    local result = support.run { path, "--load-format", "null", "--host", "127.0.0.1", "--port", "0", "--workers", "3" }
    os.remove(path)
    assert.equal(1, result.code)
    assert.truthy(result.err:find("worker 2: " .. path .. ":18: not in the second", 1, true), result.err)
  end)

  it("end the program when one of them does", function()
    tasks.run(function()
      local p = start 'if llm.worker() == 2 then llm.task.spawn(function() llm.sleep(0.1) error "went wrong" end) end'
      local text, code = await_end(p)
      assert.equal(1, code, text)
      assert.truthy(text:find("worker 2: ", 1, true))
    end)
  end)

  it("need a port to share", function()
    local path, socket = support.file(SCRIPT:format "", ".lua"), os.tmpname() .. ".sock"
    local result = support.run { path, "--load-format", "null", "--uds", socket, "--workers", "2" }
    os.remove(path)
    assert.equal(1, result.code)
    assert.truthy(result.err:find("leave out one of the two", 1, true), result.err)
  end)
end)
