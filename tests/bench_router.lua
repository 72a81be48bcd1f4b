-- Prefix affinity against the other ways to balance: how much of the prompts three engines find cached. Chats of several
-- applications, each with a system prompt of its own, more of them than one engine's KV memory keeps.
--   llmlua tests/bench_router.lua
local llm, openai = require "llm", require "llm.openai"

local opts = llm.options(arg, {
  summary = "Measures the prefix hit rate behind llm.upstreams.",
  engine = false,
  { name = "engines", type = "integer", initial = 3, min = 2, help = "engines, on the null model" },
  { name = "apps", type = "integer", initial = 96, min = 1, help = "system prompts" },
  { name = "requests", type = "integer", initial = 3000, min = 1, help = "of a run" },
  { name = "clients", type = "integer", initial = 24, min = 1, help = "at a time" },
  { name = "step_ms", type = "number", initial = 2, min = 0, help = "of a step of the null model" },
})

local SYSTEM, QUESTION = 2048, 64 -- bytes, which are the null model's tokens

-- KV memory of an engine: an even share of all system prompts, and what runs.
local function room_of()
  local engine = llm.engine { load_format = "null", max_model_len = 4096 }
  local tokens = (opts.apps / opts.engines) * SYSTEM + math.ceil(opts.clients / opts.engines) * 2 * (SYSTEM + 80)
  local bytes = tokens * engine:info().kv_bytes_per_token
  engine:close()
  return bytes
end

local function run(balance, room)
  local engines = {}
  for i = 1, opts.engines do
    engines[i] = llm.engine { load_format = "null", null_step_ms = opts.step_ms, max_model_len = 4096,
                              kv_cache_memory = room, max_num_batched_tokens = 2048, max_num_seqs = 32 + i }
  end
  local pool = llm.upstreams { balance = balance, interval = 0, unpack(engines) }
  local server = llm.server { host = "127.0.0.1", port = 0 }
  server:post("/v1/completions", pool:handler(openai.completions))
  assert(server:listen())
  local state, sent, ttft = 1, 0, {}
  local function random(n)
    state = (state * 1103515245 + 12345) % 2 ^ 31
    return math.floor(state / 2 ^ 31 * n)
  end
  local workers, begun = {}, llm.now()
  for i = 1, opts.clients do workers[i] = i end
  llm.parallel(workers, function()
    while sent < opts.requests do
      sent = sent + 1
      local app = random(opts.apps)
      local text = ("app %d "):format(app):rep(SYSTEM):sub(1, SYSTEM) .. ("q%d "):format(sent):rep(QUESTION):sub(1, QUESTION)
      local start = llm.now()
      local reply = assert(llm.fetch(server:url() .. "/v1/completions", { method = "POST", stream = true,
        headers = { ["Content-Type"] = "application/json" },
        body = llm.json.encode { prompt = text, max_tokens = 16, stream = true } }))
      assert(reply.status == 200 and reply:read())
      ttft[#ttft + 1] = llm.now() - start
      assert(reply:text())
    end
  end)
  local seconds, queries, hits = llm.now() - begun, 0, 0
  for _, engine in ipairs(engines) do
    local stats = engine:stats()
    queries, hits = queries + stats.n_prefix_queries, hits + stats.n_prefix_hits
    engine:close()
  end
  server:close()
  table.sort(ttft)
  return { balance, ("%.1f %%"):format(100 * hits / queries), ("%.1f"):format(1e3 * ttft[math.ceil(#ttft / 2)]),
           ("%.1f"):format(1e3 * ttft[math.ceil(#ttft * 0.99)]), ("%.0f"):format(opts.requests / seconds) }
end

local rows, room = {}, room_of()
for i, balance in ipairs { "round_robin", "least_load", "prefix" } do rows[i] = run(balance, room) end
print(("%-12s %12s %14s %14s %12s"):format("balance", "prefix hits", "TTFT p50 ms", "TTFT p99 ms", "requests/s"))
for _, row in ipairs(rows) do print(("%-12s %12s %14s %14s %12s"):format(unpack(row))) end
