-- Random requests on a device and on the CPU, side by side: the same tokens but for near-ties, and nothing left behind.
-- Prompts share beginnings, some requests sample (seeded) and some do not, some want several sequences, some ask for all
-- that sampling has, log-probabilities of prompts and outputs, which are compared too, and policies of each kind, some are
-- given up half-way, and KV memory is so small that sequences are set back. Ends with one line; exit code 1: something is
-- wrong, and the lines before say what.
local llm = require "llm"
local opts = llm.options(arg, {
  { name = "config", type = "path", help = "directory with a config.json" },
  { name = "requests", type = "integer", initial = 3000, help = "most" },
  { name = "seconds", type = "number", initial = 40, help = "begin no more after this time" },
  { name = "dice", type = "integer", initial = 1, help = "seed of the requests" },
  { name = "plain", type = "boolean", initial = false, help = "nothing beyond plain sampling" },
})
opts.model, opts.load_format, opts.skip_tokenizer_init = opts.config, "dummy", true
opts.dtype = opts.dtype or "float32"
opts.kv_cache_memory = opts.kv_cache_memory or "2MiB"
opts.block_size = opts.block_size or 16
opts.max_model_len = opts.max_model_len or 512
opts.max_num_seqs = opts.max_num_seqs or 48
opts.max_num_batched_tokens = opts.max_num_batched_tokens or 384
opts.max_logprobs = opts.max_logprobs or -1
local reference_opts = { device = "cpu" }
for _, name in ipairs{ "model", "load_format", "skip_tokenizer_init", "dtype", "kv_cache_memory", "block_size",
  "max_model_len", "max_num_seqs", "max_num_batched_tokens", "max_logprobs", "seed" } do reference_opts[name] = opts[name] end
-- Logits of two float32 backends differ by less; tokens closer than this are as good as equal.
local NEAR = 2e-3
local WAVE = 96

math.randomseed(opts.dice)
local random = math.random
local engine, reference = llm.engine(opts), llm.engine(reference_opts)
local vocab = engine:info().vocab_size
local beginnings = {}
for i = 1, 6 do
  beginnings[i] = {}
  for k = 1, 200 do beginnings[i][k] = random(0, vocab - 1) end
end

local wrong = 0
local function complain(...)
  wrong = wrong + 1
  if wrong <= 20 then print(string.format(...)) end
end

-- Hooks and graphs that change what is chosen, some of them by what has been chosen before.
local policies = {
  even = "function p.graph(g, logits) local t = g.tokens() "
    .. "return g.where(g.eq(g.floor(t / 2) * 2, t), logits - 1, logits) end",
  used = "function p.graph(g, logits) local s = g.state{ n = 0 } s.n = s.n + 1 "
    .. "return logits - g.counts('output') * 0.5 - g.where(g.gt(s.n, 20), 0.25, 0) * g.counts('prompt') end",
  second = "function p.candidates(c, req) if #c > 1 and #req.output % 3 == 1 then return c[2].token end end",
  fourth = "function p.logits(row, req) for i = 0, #row - 1, 4 do row[i] = row[i] - 2 end end",
}
local policy_names = { "even", "used", "second", "fourth" }

local function load_policies()
  for name, hook in pairs(policies) do
    local path = os.tmpname()
    local file = assert(io.open(path, "w"))
    file:write('local llm = require "llm"\nlocal p = llm.policy("', name, '")\n', hook, "\nreturn p\n")
    file:close()
    assert(engine:load_policy(path))
    assert(reference:load_policy(path))
    os.remove(path)
  end
end
if not opts.plain then load_policies() end

local function some_tokens(n)
  local ids = {}
  for i = 1, n do ids[i] = random(0, vocab - 1) end
  return ids
end

local function ask_for_more(params)
  if random() < 0.3 then params.repetition_penalty = 1 + random() end
  if random() < 0.2 then params.frequency_penalty = random() end
  if random() < 0.2 then params.presence_penalty = random() - 0.5 end
  if random() < 0.2 then
    params.min_tokens, params.stop_token_ids = random(0, params.max_tokens), some_tokens(3)
  end
  if random() < 0.2 then params.allowed_token_ids = some_tokens(200) end
  if random() < 0.2 then
    params.logit_bias = {}
    for _, id in ipairs(some_tokens(20)) do params.logit_bias[id] = random(-5, 5) end
  end
  if random() < 0.2 then params.logprobs = random() < 0.9 and random(0, 20) or 100 end
  if random() < 0.15 then params.prompt_logprobs = random() < 0.9 and random(0, 20) or 100 end -- 100: the host's rows
  if random() > 0.4 then return end
  params.policy = {}
  for i = 1, random(2) do params.policy[i] = policy_names[random(#policy_names)] end
end

local function think_of(number)
  local ids, beginning = {}, beginnings[random(#beginnings)]
  for i = 1, random() < 0.7 and random(120) or 0 do ids[i] = beginning[i] end
  for _ = 1, random(40) do ids[#ids + 1] = random(0, vocab - 1) end
  local params = { max_tokens = random(120), ignore_eos = true, detokenize = false, seed = number, temperature = 0 }
  if random() < 0.5 then
    params.temperature = 0.5 + random()
    params.top_k = random() < 0.5 and random(50) or nil
    params.top_p = random() < 0.5 and 0.8 or nil
    params.min_p = random() < 0.2 and 0.05 or nil
    params.n = random() < 0.2 and random(2, 4) or nil
  end
  if random() < 0.3 then params.stop_token_ids = { random(0, vocab - 1), random(0, vocab - 1) } end
  -- Many of these ask for more, in turns with those of whom none does.
  local asks = not opts.plain and math.floor(number / WAVE) % 3 > 0 and random() < 0.6
  if asks then ask_for_more(params) end
  return { number = number, ids = ids, params = params, asks = asks,
    give_up = random() < 0.2 and random(0, 30) or nil }
end

-- Begins a request; what comes is kept by sequence.
local function begin(e, request)
  local run = { stream = e:stream(request.ids, request.params), outputs = {} }
  for i = 0, (request.params.n or 1) - 1 do run.outputs[i] = { ids = {}, rows = {} } end
  return run
end

-- Takes one delta, waiting for it; true: there is no more.
local function advance(run, give_up)
  local delta = run.stream:next()
  if not delta then return true end
  local output = run.outputs[delta.index]
  for _, id in ipairs(delta.token_ids) do output.ids[#output.ids + 1] = id end
  for _, row in ipairs(delta.logprobs or {}) do output.rows[#output.rows + 1] = row end
  output.finish = delta.finish_reason or output.finish
  if not give_up or #run.outputs[0].ids < give_up then return false end
  run.stream:close()
  run.given_up = true
  return true
end

local function drive(runs)
  local live = #runs
  while live > 0 do
    for _, r in ipairs(runs) do
      if not r.over and advance(r.run, r.give_up) then
        r.over = true
        live = live - 1
      end
    end
  end
end

local counts = { tokens = 0, greedy_ties = 0, sampled = 0, drifts = 0, rows = 0 }

-- A row of log-probabilities of this token and the k likeliest, on both: the same numbers, place by place; at a place may
-- be another token that is about as likely.
local function compare_row(what, id, k, got, want)
  if not got or not want or not got[id] or not want[id] then return complain("%s: no log-probability", what) end
  counts.rows = counts.rows + 1
  local d = math.abs(got[id].logprob - want[id].logprob)
  if d > NEAR then complain("%s: token %d has %g, not %g", what, id, got[id].logprob, want[id].logprob) end
  local mine, theirs = {}, {}
  for _, e in pairs(got) do if e.rank <= k then mine[e.rank] = e.logprob end end
  for _, e in pairs(want) do if e.rank <= k then theirs[e.rank] = e.logprob end end
  for rank = 1, k do
    local a, b = mine[rank], theirs[rank]
    if not a or not b or math.abs(a - b) > NEAR then
      complain("%s: rank %d has %s, not %s", what, rank, tostring(a), tostring(b))
    end
  end
end

local function compare_prompt(request, got, want)
  local k = request.params.prompt_logprobs
  if not k then return end
  if not got or not want or #got ~= #request.ids or #want ~= #request.ids then
    return complain("request %d: not all of its prompt has log-probabilities", request.number)
  end
  for i = 2, #request.ids do
    compare_row(("request %d, prompt token %d"):format(request.number, i), request.ids[i], k, got[i], want[i])
  end
end

-- By the reference's logits, how much likelier the first of two tokens is than the second, after these ids.
local function gap(ids, a, b)
  local params = { temperature = 0, max_tokens = 1, ignore_eos = true, detokenize = false, logprobs = 20 }
  local row = reference:generate({ ids }, params, { progress = false })[1].outputs[1].logprobs[1]
  return row[a] and row[b] and math.abs(row[a].logprob - row[b].logprob) or math.huge
end

-- What a device gave, against the reference's; the first difference explains all that follow.
local function compare(request, index, got, want, given_up)
  local n = given_up and math.min(#got.ids, #want.ids) or math.max(#got.ids, #want.ids)
  counts.tokens = counts.tokens + #got.ids
  for i = 1, n do
    local a, b = got.ids[i], want.ids[i]
    if a ~= b then
      if not a or not b then
        return complain("request %d.%d: %d tokens, not %d", request.number, index, #got.ids, #want.ids)
      end
      if request.params.temperature > 0 or request.asks then
        counts.drifts = counts.drifts + 1
        return
      end
      local ids = {}
      for k = 1, #request.ids do ids[k] = request.ids[k] end
      for k = 1, i - 1 do ids[#ids + 1] = want.ids[k] end
      local d = gap(ids, a, b)
      if d < NEAR then
        counts.greedy_ties = counts.greedy_ties + 1
      else
        complain("request %d: token %d is %d, not %d, which is likelier by %g", request.number, i, a, b, d)
      end
      return
    end
    if request.params.logprobs then
      compare_row(("request %d.%d, token %d"):format(request.number, index, i), a, request.params.logprobs, got.rows[i],
        want.rows[i])
    end
  end
  if not given_up and got.finish ~= want.finish then
    complain("request %d.%d ends by %s, not %s", request.number, index, got.finish, want.finish)
  end
end

local began, n_requests, n_outputs = llm.now(), 0, 0
while n_requests < opts.requests and llm.now() - began < opts.seconds do
  local runs, pairs_of = {}, {}
  for i = 1, math.min(WAVE, opts.requests - n_requests) do
    local request = think_of(n_requests + i)
    local mine, theirs = begin(engine, request), begin(reference, request)
    pairs_of[i] = { request = request, mine = mine, theirs = theirs }
    runs[#runs + 1] = { run = mine, give_up = request.give_up }
    runs[#runs + 1] = { run = theirs, give_up = request.give_up }
  end
  drive(runs)
  for _, p in ipairs(pairs_of) do
    if not (p.mine.given_up or p.theirs.given_up) then
      compare_prompt(p.request, p.mine.stream:info().prompt_logprobs, p.theirs.stream:info().prompt_logprobs)
    end
    for index = 0, (p.request.params.n or 1) - 1 do
      n_outputs = n_outputs + 1
      if p.request.params.temperature > 0 or p.request.asks then counts.sampled = counts.sampled + 1 end
      compare(p.request, index, p.mine.outputs[index], p.theirs.outputs[index], p.mine.given_up or p.theirs.given_up)
    end
  end
  n_requests = n_requests + #pairs_of
  if random() < 0.1 then
    engine:reset_prefix_cache()
    reference:reset_prefix_cache()
  end
end

-- A draw falls between two tokens now and then when logits differ in their last digits.
if counts.drifts > 2 + counts.sampled / 200 then
  complain("%d of %d sampled outputs differ", counts.drifts, counts.sampled)
end

-- What was given up ends within a step.
local function expect_rest(name, e)
  local stats, deadline = e:stats(), llm.now() + 10
  while stats.n_running + stats.n_waiting + stats.n_blocks_used > 0 and llm.now() < deadline do
    llm.sleep(0.01)
    stats = e:stats()
  end
  if stats.n_running + stats.n_waiting + stats.n_blocks_used > 0 then
    complain("%s: %d run, %d wait, %d pages are used", name, stats.n_running, stats.n_waiting, stats.n_blocks_used)
  end
  if stats.n_preemptions == 0 then complain("%s: nothing was preempted: too much KV memory for this test", name) end
  return stats
end
local stats = expect_rest("device", engine)
expect_rest("reference", reference)
print(("soak on %s: %d requests, %d outputs, %d tokens in %.0f s; %d steps, %d preemptions, %d prefix hits; %d near-ties, "
  .. "%d of %d sampled outputs drifted; %d rows of log-probabilities; %d wrong"):format(engine:info().isa, n_requests,
  n_outputs, counts.tokens, llm.now() - began, stats.n_steps, stats.n_preemptions, stats.n_prefix_hits, counts.greedy_ties,
  counts.drifts, counts.sampled, counts.rows, wrong))
engine:close()
reference:close()
os.exit(wrong == 0 and 0 or 1)
