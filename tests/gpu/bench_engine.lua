-- The engine on a GPU, a figure a row: decode steps at several batch sizes and depths, prefill, offline throughput.
-- Prompts are random token ids; prefixes are not shared between repetitions unless the row says so.
local llm = require "llm"
local opts = llm.options(arg, {
  { name = "config", type = "path", help = "directory with a config.json" },
  { name = "quick", type = "boolean", initial = false, help = "the rows that say most" },
  { name = "rows", type = "string", many = true, help = "decode, ask, score (a part of ask), policy, prefill, offline", default = "all" },
  { name = "batch", type = "integer", many = true, help = "decode rows of these batch sizes at 1024 alone" },
  { name = "length", type = "integer", many = true, help = "prefill rows of these lengths alone" },
  { name = "json_file", type = "path", help = "add an object a line to this file" },
})
opts.model, opts.load_format, opts.skip_tokenizer_init = opts.config, "dummy", true
opts.max_model_len = opts.max_model_len or 33000
opts.max_logprobs = opts.max_logprobs or 100
math.randomseed(1)
local began = llm.now()
local engine = llm.engine(opts)
local info = engine:info()

local function random_ids(n)
  local ids = {}
  for i = 1, n do ids[i] = math.random(0, info.vocab_size - 1) end
  return ids
end

local function params_of(n, more)
  local params = { temperature = 0, max_tokens = n, ignore_eos = true, detokenize = false }
  for k, v in pairs(more or {}) do params[k] = v end
  return params
end

-- more: parameters besides; or, a list, all parameters of each prompt.
local function generate(prompts, n, more)
  local params = more and more[1] and more or params_of(n, more)
  local start = llm.now()
  local outputs = engine:generate(prompts, params, { progress = false })
  return outputs, llm.now() - start
end

local json = opts.json_file and assert(io.open(opts.json_file, "a"))

local function report(name, value, unit, ...)
  print(("%-34s %9.2f %s  %s"):format(name, value, unit, table.concat({ ... }, "  ")))
  io.flush()
  if json then json:write(llm.json.encode{ name = name, value = value, unit = unit }, "\n") end
end

local function wanted(row)
  if not opts.rows then return true end
  for _, r in ipairs(opts.rows) do if r == row then return true end end
  return false
end

generate({ random_ids(8) }, 2)
report("start to first tokens", llm.now() - began, "s", info.isa)

-- Microseconds a step in which the host works and does not wait for the device, while all sequences decode.
local function host_time(prompts, more)
  local streams, n_tokens = {}, 0
  for i, ids in ipairs(prompts) do streams[i] = engine:stream(ids, more and more[1] and more[i] or params_of(120, more)) end
  for i = #streams, 1, -1 do streams[i]:next() end
  local before = engine:stats()
  while n_tokens < 40 do n_tokens = n_tokens + #streams[1]:next().token_ids end
  local after = engine:stats()
  for _, stream in ipairs(streams) do stream:close() end
  return (after.busy_seconds - before.busy_seconds - (after.wait_seconds - before.wait_seconds))
    / (after.n_steps - before.n_steps) * 1e6
end

-- Prompts that are read already: the prefix cache has them.
local function prepare(batch, depth)
  local prompts = {}
  for i = 1, batch do prompts[i] = random_ids(depth) end
  generate(prompts, 2)
  return prompts
end

-- Milliseconds a decode step: the time between two tokens of the sequence that began last, so that all decode. (Others
-- began some steps earlier and end as many earlier: until the first of them ends there are fewer than n - 1 steps.)
local function step_time(prompts, more)
  local n, last = 64, nil
  for _, o in ipairs((generate(prompts, n, more))) do
    if not last or o.metrics.first_token_time > last.first_token_time then last = o.metrics end
  end
  return (last.finished_time - last.first_token_time) / (n - 1) * 1e3
end

local function decode(batch, depth, more, label)
  local prompts = prepare(batch, depth)
  local best = math.min(step_time(prompts, more), step_time(prompts, more))
  local bytes = info.weight_bytes + batch * (depth + 32) * info.kv_bytes_per_token
  report(("decode b%d at %d%s"):format(batch, depth, label or ""), best, "ms",
    ("%.0f tok/s"):format(batch / best * 1e3), ("%.2f TB/s"):format(bytes / best / 1e9),
    ("host %.0f us a step"):format(host_time(prompts, more)))
end

-- Sorts them.
local function median(values)
  table.sort(values)
  return values[math.floor((#values + 1) / 2)]
end

-- What `more` costs beside plain steps of the same prompts: the card slows down as it warms, so they take turns.
local function beside_plain(batch, depth, more, label)
  local prompts = prepare(batch, depth)
  local plain, times, ratios = {}, {}, {}
  step_time(prompts, more)
  for i = 1, 5 do
    plain[i], times[i] = step_time(prompts), step_time(prompts, more)
    ratios[i] = times[i] / plain[i]
  end
  report(("decode b%d at %d with %s"):format(batch, depth, label), median(times), "ms", ("plain %.2f"):format(median(plain)),
    ("%+.1f %%"):format((median(ratios) - 1) * 100), ("(%+.1f to %+.1f)"):format((ratios[1] - 1) * 100, (ratios[5] - 1) * 100),
    ("host %.0f us a step"):format(host_time(prompts, more)))
end

if wanted "decode" then
  local batches = opts.batch or opts.quick and { 1, 16, 64 } or { 1, 2, 4, 8, 16, 32, 64, 128, 256 }
  for _, batch in ipairs(batches) do decode(batch, 1024) end
  if not opts.batch then
    decode(64, 8192)
    decode(128, 1024, { temperature = 0.8, top_k = 50, top_p = 0.95 }, " top-k 50 top-p 0.95")
  end
end

-- What requests can ask of sampling, beside the plain step.
local asks = {
  { "penalties", { repetition_penalty = 1.1, frequency_penalty = 0.1, presence_penalty = 0.1 } },
  { "logprobs 5", { logprobs = 5 } },
  { "logit_bias of 20", { logit_bias = {} } },
  { "all of these", { repetition_penalty = 1.1, frequency_penalty = 0.1, logprobs = 5, logit_bias = {}, temperature = 0.8,
    top_k = 50, top_p = 0.95 } },
}
for id = 1, 20 do
  asks[3][2].logit_bias[id], asks[4][2].logit_bias[id] = 1, 1
end

-- One of a batch asks for something, the others do not.
local function one_of(batch, more)
  local list = {}
  for i = 1, batch do list[i] = params_of(64, i == batch / 2 and more or nil) end
  return list
end

-- A batch decodes 64 tokens while as many prompts of 256 tokens are read, as an evaluation sends them: what it costs all
-- that these are scored.
local function beside_scored(batch, depth)
  local prompts = prepare(batch, depth)
  local function seconds(more)
    local all, params = {}, {}
    for i = 1, batch do
      all[i], params[i] = prompts[i], params_of(64)
      all[batch + i], params[batch + i] = random_ids(256), params_of(1, more)
    end
    local _, s = generate(all, nil, params)
    return s
  end
  local plain, scored = {}, {}
  seconds{ prompt_logprobs = 1 }
  for i = 1, 3 do plain[i], scored[i] = seconds(), seconds{ prompt_logprobs = 1 } end
  report(("b%d for 64 tokens, %d prompts scored"):format(batch, batch), median(scored) * 1e3, "ms",
    ("not scored %.2f"):format(median(plain) * 1e3))
end

-- Milliseconds to the first token of a prompt that nobody has read.
local function prefill(n, more)
  return (generate({ random_ids(n) }, 1, more))[1].metrics.time_to_first_token * 1e3
end

-- In turns with prompts of which nothing is asked.
local function prefill_scored(n, k)
  local plain, scored, more = {}, {}, {}
  prefill(n, { prompt_logprobs = k })
  for i = 1, 5 do
    plain[i], scored[i] = prefill(n), prefill(n, { prompt_logprobs = k })
    more[i] = scored[i] - plain[i]
  end
  report(("prefill %d with prompt_logprobs %d"):format(n, k), median(scored), "ms", ("without %.2f"):format(median(plain)),
    ("%+.1f ms"):format(median(more)), ("(%+.1f to %+.1f)"):format(more[1], more[5]))
end

if wanted "ask" then
  for _, ask in ipairs(asks) do beside_plain(64, 1024, ask[2], ask[1]) end
end

if wanted "ask" or wanted "score" then
  beside_plain(64, 1024, one_of(64, { logprobs = 100 }), "logprobs 100 for one")
  beside_scored(64, 1024)
  for _, k in ipairs{ 0, 20 } do prefill_scored(8192, k) end
end

-- A policy that bans one token of each request, by each kind of hook; beside the plain step.
local policies = {
  graph = 'function p.graph(g, logits, q) return g.mask(logits, g.ne(g.tokens(), q.token)) end',
  candidates = 'function p.candidates(c, req) for i = 1, #c do '
    .. 'if c[i].token ~= req.params.token then return c[i].token end end end',
  logits = 'function p.logits(row, req) row[req.params.token] = -math.huge end',
}

if wanted "policy" then
  for _, kind in ipairs{ "graph", "candidates", "logits" } do
    local path = os.tmpname()
    local file = assert(io.open(path, "w"))
    local hook = policies[kind]
    file:write('local llm = require "llm"\nlocal p = llm.policy("ban_', kind, '", { token = 7 })\n', hook, "\nreturn p\n")
    file:close()
    engine:load_policy(path)
    beside_plain(64, 1024, { policy = "ban_" .. kind }, "a policy: " .. kind)
    os.remove(path)
  end
end

if wanted "prefill" then
  for _, n in ipairs(opts.length or opts.quick and { 1024, 8192 } or { 1024, 4096, 8192, 16384, 30000 }) do
    prefill(n)
    local ms = math.min(prefill(n), prefill(n), prefill(n))
    report(("prefill %d"):format(n), ms, "ms", ("%.0f tok/s"):format(n / ms * 1e3))
  end
end

local function offline(requests, n_in, n_out)
  local prompts = {}
  for i = 1, requests do prompts[i] = random_ids(n_in) end
  local _, seconds = generate(prompts, n_out)
  report(("offline %d x (%d, %d)"):format(requests, n_in, n_out), seconds, "s",
    ("%.0f tok/s in all"):format(requests * (n_in + n_out) / seconds))
end

if wanted "offline" then
  offline(256, 512, 256)
  if not opts.quick then offline(1000, 1024, 128) end
end
engine:close()
