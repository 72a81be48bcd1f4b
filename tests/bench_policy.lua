-- What policies cost: a call of a hook, the start of a request, a load. bench_policy_batch.lua is about graphs.
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

local function load(name, body, where)
  (where or engine):load_policy(name, ('local llm = require "llm"\nlocal policy = llm.policy %q\n'):format(name) .. body)
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

-- The same where nothing evicts anything from the caches between two steps: a model that computes nothing, 256 sequences.
local function bare_cost(name, body)
  local bare = llm.engine { model = opts.model, load_format = "null", max_model_len = 512, max_num_seqs = 256,
                            max_num_batched_tokens = 2048 }
  load(name, body, bare)
  local many, list = {}, {}
  for i = 1, 256 do many[i] = "x " .. i end
  local function spent()
    local info = bare:policies()[1]
    return info.seconds, info.n_calls
  end
  for i = 1, opts.rounds + 1 do
    local seconds, calls = spent()
    bare:generate(many, { policy = name, max_tokens = 200, detokenize = false, ignore_eos = true }, { progress = false })
    local seconds_after, calls_after = spent()
    list[i - 1] = (seconds_after - seconds) / (calls_after - calls) * 1e6 -- the first round is for the compiler
  end
  bare:close()
  return median(list)
end

local rows = {}
local function row(name, value, unit, goal) rows[#rows + 1] = { name, value, unit, goal or "" } end

local EMPTY = "function policy.candidates() end policy.max_candidates = 1"
local SURE = "function policy.candidates(c, req) if c[1].prob > 0.9 then return c[1].token end end policy.max_candidates = 16"
row("empty hook, caches warm", ("%.3f"):format(bare_cost("empty", EMPTY)), "µs", "0.05")
row("greedy if sure, caches warm", ("%.3f"):format(bare_cost("sure", SURE)), "µs")
row("empty hook", ("%.3f"):format(cost("empty", EMPTY)), "µs")
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
local function starts(n)
  local list = {}
  for i = 1, n do list[i] = "x" end
  engine:generate(list, { max_tokens = 1, policy = "start" }, { progress = false })
  for _, account in ipairs(core.accounts()) do
    if account.kind == "policy" and account.name == "start" then return account.seconds end
  end
end
local first = starts(100)
row("a request: init, one hook, done", ("%.2f"):format((starts(1000) - first) / 1000 * 1e6), "µs", "200")

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
