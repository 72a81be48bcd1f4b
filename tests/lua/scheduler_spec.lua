-- Schedulers in Lua: what on_arrival, on_finish and on_preempt may do, loading, failures, limits; over HTTP too.
local llm = require "llm"
local openai = require "llm.openai"
local support = require "support"
local tasks = require "llm.task"

local function in_task(f) return function() tasks.run(f) end end

local n_engines = 0
-- A null engine, closed with the test's task. options: of llm.engine.
local function open_engine(options)
  n_engines = n_engines + 1
  local all = { load_format = "null", null_step_ms = 1, max_num_seqs = 16, max_num_queued_reqs = 100000 + n_engines }
  for name, value in pairs(options or {}) do all[name] = value end
  local engine = llm.engine(all)
  tasks.own(engine, engine.close)
  return engine
end

local function load(engine, body, options)
  return engine:load_scheduler("test", 'local llm = require "llm"\n' .. body, options)
end

-- What became of a request: finish_reason, or nil and the failure.
local function run(engine, prompt, params, options)
  local stream, message = engine:try_stream(prompt, params or { max_tokens = 4 }, options)
  if not stream then return nil, { message = message } end
  local finish
  local ok, why = pcall(function()
    for delta in stream do finish = delta.finish_reason or finish end
  end)
  if ok then return finish end
  return nil, stream.failure or { message = why }
end

describe("a scheduler", function()
  it("refuses requests with a status and a message", in_task(function()
    local engine = open_engine()
    load(engine, [[
      llm.scheduler { on_arrival = function(req)
        if req.tenant == "rude" then return 429, "slow down" end
        if req.n_prompt > 50 then return false end
      end }]])
    assert.equal("length", run(engine, "hello", { max_tokens = 4 }, { tenant = "kind" }))
    local _, failure = run(engine, "hello", { max_tokens = 4 }, { tenant = "rude" })
    assert.equal(429, failure.refusal)
    assert.equal("slow down", failure.message)
    _, failure = run(engine, ("x"):rep(100))
    assert.equal(503, failure.refusal)
    engine:remove_scheduler()
    assert.equal("length", run(engine, "hello", { max_tokens = 4 }, { tenant = "rude" }))
  end))

  it("sees what a request is, and when and how it ends", in_task(function()
    local engine = open_engine()
    load(engine, [[
      local n = 0
      llm.scheduler {
        on_arrival = function(req)
          local ids = req:tokens()
          assert(#ids == req.n_prompt and #req:tokens(2) == 2 and req.n == 1 and req.max_tokens == 7)
          assert(req.engine.blocks > 0 and req.engine.running == 0 and req.weight == 1 and req.timeout == nil)
          assert(req.tenant == "t" and req.cache_salt == "s")
          req.state.mine = n
        end,
        on_finish = function(req)
          assert(req.state.mine == n and req.n_output == 7 and req.finish_reason == "length")
          assert(not pcall(req.tokens, req))
          n = n + 1
          if n == 3 then error("all three have been seen") end
        end }]])
    for _ = 1, 3 do
      assert.equal("length", run(engine, "hello", { max_tokens = 7 }, { tenant = "t", cache_salt = "s" }))
    end
    local errors
    for _, account in ipairs(require("llm.core").accounts()) do
      if account.kind == "policy" and account.name == "scheduler" then errors = account.errors end
    end
    assert.equal(1, errors) -- the last of on_finish; on_arrival had none
  end))

  it("gives requests their priority and their timeout", in_task(function()
    local engine = open_engine { max_num_seqs = 1, null_step_ms = 2 }
    load(engine, [[
      llm.scheduler { on_arrival = function(req)
        if req.tenant == "urgent" then req.priority = -1 end
        if req.tenant == "hasty" then req.timeout = 0.02 end
      end }]])
    local order, left, me = {}, 4, tasks.running()
    for i, tenant in ipairs { "a", "b", "urgent", "hasty" } do
      tasks.spawn(function()
        local finish, failure = run(engine, "hello", { max_tokens = 20 }, { tenant = tenant })
        order[#order + 1] = tenant
        if tenant == "hasty" then
          assert.equal("ECANCELED", failure.code)
        else
          assert.equal("length", finish)
        end
      end, function(_, ok, why)
        if not ok then order.failure = why end
        left = left - 1
        if left == 0 then tasks.wake(me) end
      end)
      if i == 1 then llm.sleep(0.005) end -- it runs
    end
    if left > 0 then tasks.wait() end
    assert.is_nil(order.failure)
    local places = {}
    for i, tenant in ipairs(order) do places[tenant] = i end
    assert.truthy(places.urgent < places.b)
  end))

  it("whose callback fails is as if it were not there", in_task(function()
    local engine = open_engine()
    for _, body in ipairs { 'error("on purpose")', "return 17", "return 'no'", "req.priority = 'x'", "req.weight = -1",
                            "req.tenant = ('x'):rep(64)", "req.timeout = 0/0", "while true do end" } do
      load(engine, "llm.scheduler { on_arrival = function(req) " .. body .. " end }", { deadline = 0.01 })
      assert.equal("length", run(engine, "hello"))
    end
  end))

  it("picks who waits again when memory is short", in_task(function()
    local info = open_engine():info()
    local engine = open_engine { max_model_len = 512, kv_cache_memory = 1024 * info.kv_bytes_per_token }
    load(engine, [[
      local calls = 0
      llm.scheduler {
        name = "picker",
        on_arrival = function(req) req.state.known = true end,
        on_preempt = function(list)
          calls = calls + 1
          for _, one in ipairs(list) do assert(one.req.state.known and one.n_prompt == 100 and one.tenant == "t") end
          if calls % 3 == 0 then return #list end
          if calls % 3 == 1 then return list[1] end
        end }]])
    local prompts = {}
    for i = 1, 16 do prompts[i] = ("%d"):format(i % 10):rep(100) end
    local outputs = engine:generate(prompts, { max_tokens = 200, ignore_eos = true, temperature = 0 }, { tenant = "t" })
    for _, output in ipairs(outputs) do assert.equal(200, #output.outputs[1].token_ids) end
    assert.truthy(engine:stats().n_preemptions > 0)
    for _, account in ipairs(require("llm.core").accounts()) do
      if account.kind == "policy" and account.name == "picker" then assert.equal(0, account.errors) end
    end
    assert.equal(0, engine:stats().n_blocks_used)
  end))

  it("that does not load leaves the one before it", in_task(function()
    local engine = open_engine()
    load(engine, "llm.scheduler { on_arrival = function() return 418, 'the first' end }")
    for _, wrong in ipairs { "llm.scheduler {}", "llm.scheduler { on_arival = print }", "llm.scheduler { on_arrival = 1 }",
                             "llm.scheduler { on_arrival = print, test = function() error 'no' end }", "syntax error" } do
      assert.is_false((pcall(load, engine, wrong)))
    end
    local _, failure = run(engine, "hello")
    assert.equal(418, failure.refusal)
  end))

  it("serves tenants fairly without a script", in_task(function()
    local engine = open_engine { max_num_seqs = 2, null_step_ms = 1 }
    local order, left, me = {}, 44, tasks.running()
    local function send(tenant)
      tasks.spawn(function()
        run(engine, "hello", { max_tokens = 10 }, { tenant = tenant })
        order[#order + 1] = tenant
      end, function()
        left = left - 1
        if left == 0 then tasks.wake(me) end
      end)
    end
    for _ = 1, 40 do send "many" end
    for _ = 1, 4 do send "few" end
    if left > 0 then tasks.wait() end
    local last
    for i, tenant in ipairs(order) do
      if tenant == "few" then last = i end
    end
    assert.truthy(last <= 16, last) -- in the order of arrival it would be the 44th
  end))
end)

describe("a pinned prefix", function()
  it("stays when others come, until its time is over", in_task(function()
    local engine = open_engine { max_model_len = 512, kv_cache_memory = 1024 * 512, null_step_ms = 0 }
    local function cached(prompt) return engine:generate(prompt, { max_tokens = 1 })[1].num_cached_tokens end
    local function crowd()
      for i = 1, 10 do engine:generate(("%d!"):format(i):rep(200):sub(1, 400), { max_tokens = 1 }) end
    end
    local text = ("pinned "):rep(30)
    local id, n = engine:pin(text)
    assert.equal(208, n)
    assert.equal(13, engine:stats().n_blocks_pinned)
    crowd()
    assert.equal(208, cached(text .. "and more"))
    assert.is_true(engine:unpin(id))
    assert.is_nil((engine:unpin(id)))
    crowd()
    assert.equal(0, cached(text .. "and more"))
    assert.is_true(engine:evict(text))
    assert.equal(0, cached(text .. "and more"))
    assert.is_nil((engine:pin("short")))
    assert.is_false((pcall(engine.pin, engine, 5)))
  end))
end)

describe("tenant_limits.lua over HTTP", function()
  it("limits a tenant by the name of its key, and nobody else", in_task(function()
    local engine = open_engine { null_step_ms = 5 }
    engine:load_scheduler(support.root .. "/scripts/schedulers/tenant_limits.lua")
    local keys = support.file "key-a alice\nkey-b bob\nkey-c\n"
    local server = llm.server { host = "127.0.0.1", port = 0 }
    openai.protect(server, { api_key_file = keys, disable_access_log = true })
    os.remove(keys)
    server:post("/v1/completions", openai.completions(engine))
    assert(server:listen())
    tasks.own(server, server.close)
    local function post(key, tenant, max_tokens, timeout)
      return assert(llm.fetch(server:url() .. "/v1/completions", { method = "POST",
        headers = { Authorization = "Bearer " .. key, ["X-Tenant"] = tenant, ["Content-Type"] = "application/json" },
        body = llm.json.encode { prompt = "hello", max_tokens = max_tokens or 4, ignore_eos = true, timeout = timeout } }))
    end
    local statuses, left, me = {}, 12, tasks.running()
    for _ = 1, 12 do
      tasks.spawn(function()
        local reply = post("key-a", "bob", 100)
        statuses[reply.status] = (statuses[reply.status] or 0) + 1
        if reply.status == 429 then
          assert.equal("1", reply.headers["retry-after"])
          assert.truthy(reply.body:find("alice has 8 requests under way", 1, true))
        end
      end, function()
        left = left - 1
        if left == 0 then tasks.wake(me) end
      end)
    end
    while engine:stats().n_running < 8 do llm.sleep(0.002) end
    assert.equal(200, post("key-b").status)
    assert.equal(200, post("key-c", "carol").status)
    if left > 0 then tasks.wait() end
    assert.same({ [200] = 8, [429] = 4 }, statuses)
    assert.equal(504, post("key-b", nil, 1000, 0.05).status)
    assert.equal(401, post("wrong").status)
  end))
end)
