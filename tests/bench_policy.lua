-- What policies cost: a call of a hook, the start of a request, a graph in place of the engine's own sampling, a reload.
--   llmlua tests/bench_policy.lua [--model MODEL] [--batch 32] [--tokens 128] [--rounds 5]

local llm = require "llm"
local core = require "llm.core"

local opts = llm.options(arg, {
  summary = "Costs of policies on the default model.",
  { name = "batch", type = "integer", initial = 32, help = "requests at once" },
  { name = "tokens", type = "integer", initial = 128, help = "a request" },
  { name = "rounds", type = "integer", initial = 5, help = "of which the median counts" },
})
opts.model = opts.model or "models/SmolLM2-135M-Instruct.Q4_1.gguf"
opts.max_model_len = opts.max_model_len or 1024
local engine = llm.engine(opts)

local prompts = {}
for i = 1, opts.batch do prompts[i] = ("%d. Once upon a time, there was a"):format(i) end

local function median(list)
  table.sort(list)
  return list[math.floor((#list + 1) / 2)]
end

local function params(more)
  local p = { temperature = 0.8, top_p = 0.95, seed = 1, ignore_eos = true, max_tokens = opts.tokens, detokenize = false }
  for name, value in pairs(more or {}) do p[name] = value end
  return p
end

-- Tokens a second of a batch.
local function rate(more)
  local start = core.now()
  engine:generate(prompts, params(more), { progress = false })
  return opts.batch * opts.tokens / (core.now() - start)
end

local function usage(name)
  for _, info in ipairs(engine:policies()) do
    if info.active and info.name == name then return info end
  end
end

local function load(name, body)
  engine:load_policy(name, ('local llm = require "llm"\nlocal policy = llm.policy %q\n'):format(name) .. body)
end

-- µs a call of the policy's hooks, the loop around them included, once they are compiled.
local function cost(name, body)
  load(name, body)
  rate { policy = name }
  local list = {}
  for i = 1, opts.rounds do
    local before = usage(name)
    rate { policy = name }
    local after = usage(name)
    list[i] = (after.seconds - before.seconds) / (after.n_calls - before.n_calls) * 1e6
  end
  return median(list)
end

local rows = {}
local function row(name, value, unit, goal) rows[#rows + 1] = { name, value, unit, goal or "" } end

row("empty hook", ("%.3f"):format(cost("empty", "function policy.candidates() end policy.max_candidates = 1")), "µs",
  "0.05")
row("candidates: greedy if sure", ("%.3f"):format(cost("sure",
  "function policy.candidates(c, req) if c[1].prob > 0.9 then return c[1].token end end")), "µs", "0.5")
row("candidates: a pass over 256", ("%.3f"):format(cost("pass", [[
  function policy.candidates(c, req)
    local h = 0
    for i = 1, #c do h = h - c[i].prob * c[i].logprob end
    if h < 0.1 then return c[1].token end
  end]])), "µs")
row("candidates: state and random", ("%.3f"):format(cost("state", [[
  function policy.init(req) req.state.n = 0 end
  function policy.candidates(c, req)
    req.state.n = req.state.n + 1
    if req:random() < 0.5 and req.output[-1] ~= c[1].token then return c[1].token end
  end]])), "µs")
row("logits: ten tokens", ("%.3f"):format(cost("ten", "function policy.logits(row) for i = 0, 9 do row[i] = -1 end end")),
  "µs, with the check of the row")
row("logits: the whole row", ("%.1f"):format(cost("whole",
  "function policy.logits(row) for i = 0, #row - 1 do row[i] = row[i] * 1.01 end end")), "µs")

-- The start of a request: what init and the tables of a sequence take.
load("start", "function policy.init(req) req.state.list = {} end function policy.candidates() end")
local before = usage "start"
local function starts(n)
  local list = {}
  for i = 1, n do list[i] = "x" end
  local t = core.now()
  engine:generate(list, { max_tokens = 1, policy = "start" }, { progress = false })
  local with = core.now() - t
  for _, account in ipairs(core.accounts()) do
    if account.kind == "policy" and account.name == "start" then return account.seconds, account.calls, with end
  end
end
starts(100)
local s1, c1 = starts(0)
local s2, c2 = starts(1000)
row("start and end of a request (init, hook, done)", ("%.2f"):format((s2 - s1) / 1000 * 1e6), "µs", "200")

-- The default sampling, by the engine and by a graph; pairs in turn.
load("default", "function policy.graph(g, x) return g.default(x) end")
rate {}
rate { policy = "default" }
local ratios, own, graph = {}, {}, {}
for i = 1, opts.rounds do
  own[i] = rate {}
  graph[i] = rate { policy = "default" }
  ratios[i] = graph[i] / own[i]
end
row("tok/s, the engine's sampling", ("%.0f"):format(median(own)), ("batch %d"):format(opts.batch))
row("tok/s, the same as a graph", ("%.0f"):format(median(graph)), ("ratio %.4f"):format(median(ratios)), "0.99")
local hooks = {}
for i = 1, opts.rounds do hooks[i] = rate { policy = "sure" } / rate {} end
row("tok/s with a candidates hook", ("%.4f"):format(median(hooks)), "of that without")

-- Loading, its state and self-test included.
local times = {}
for i = 1, 100 do
  local t = core.now()
  load("empty", "function policy.candidates() end")
  times[i] = core.now() - t
end
row("load of a policy", ("%.2f"):format(median(times) * 1e3), "ms")

print(llm.table.columns({ "", "measured", "unit", "goal" }, rows))
engine:close()
