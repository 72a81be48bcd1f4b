-- Measures an engine: how fast it reads prompts, how fast it writes, what waiting users see. Beside every rate stands
-- the memory traffic it implies and its share of what this machine can read, measured in the same run.
--   llmlua bench.lua --model models/model.gguf --mode decode --depth 0,4096 --json

local llm = require "llm"

local opts = llm.options(arg, {
  summary = "Measures speed. Prompts are random token ids; end-of-sequence is ignored; figures are medians of --reps\n"
    .. "after one warm-up. GB/s: weights and keys and values that the steps must read.",
  { name = "mode", type = "string", many = true, choices = { "prefill", "decode", "batch", "serve-sim" },
    help = "what to measure", default = "prefill and decode" },
  { name = "config", type = "path", help = "directory with a config.json: random weights of that shape" },
  { name = "n_prompt", type = "integers", default = "512", help = "tokens in a prompt; serve-sim takes the first" },
  { name = "n_gen", type = "integer", initial = 128, min = 2, help = "tokens to generate" },
  { name = "depth", type = "integers", default = "0", help = "tokens in the context before decode and batch begin" },
  { name = "batch", type = "integers", default = "8,32", help = "sequences at once, for batch" },
  { name = "reps", type = "integer", initial = 5, min = 1, help = "repetitions" },
  { name = "requests", type = "integer", initial = 32, min = 1, help = "requests of serve-sim" },
  { name = "rate", type = "number", initial = 2, min = 0, help = "requests a second of serve-sim; 0: all at once" },
  { name = "json", type = "boolean", initial = false, help = "print one object a line" },
})
if opts.config and not opts.model then
  opts.model, opts.load_format = opts.config, opts.load_format or "dummy"
end
if not opts.model then llm.exit(2, "--model is missing (or --load-format dummy --config DIR)") end
local n_prompt = opts.n_prompt or { 512 }
math.randomseed(opts.seed or 0)

local bandwidth = llm.try(llm.bandwidth, opts.threads) / 1e9
local load_start = llm.now()
local engine = llm.try(llm.engine, opts)
local load_seconds = llm.now() - load_start
local info = engine:info()
if info.backend ~= "cpu" then bandwidth = nil end -- that of the host's memory, where no weights are

-- ---- tools ---------------------------------------------------------------------------------------------------

local function random_ids(n)
  local ids = {}
  for i = 1, n do ids[i] = math.random(0, info.vocab_size - 1) end
  return ids
end

local function greedy(n)
  return { temperature = 0, max_tokens = n, ignore_eos = true, detokenize = false }
end

-- The q-quantile of a list of numbers (nearest rank above; the lower of two middles counts half).
local function quantile(list, q)
  if #list == 0 then return 0 end
  local sorted = { unpack(list) }
  table.sort(sorted)
  local at = 1 + (#sorted - 1) * q
  local low = math.floor(at)
  local high = math.min(low + 1, #sorted)
  return sorted[low] + (sorted[high] - sorted[low]) * (at - low)
end

local function generate(prompts, params)
  return llm.try(engine.generate, engine, prompts, params, { progress = false })
end

-- Runs f once to warm up and --reps times; f returns tok/s and GB/s. Returns the figures of a result.
local function repeated(f)
  local rates, traffic = {}, {}
  f()
  for i = 1, opts.reps do rates[i], traffic[i] = f() end
  local gb_s = quantile(traffic, 0.5)
  return { tok_s = quantile(rates, 0.5), tok_s_reps = llm.json.array(rates), gb_s = gb_s,
           bandwidth_gb_s = bandwidth, bandwidth_share = bandwidth and gb_s / bandwidth }
end

-- ---- what is measured ----------------------------------------------------------------------------------------

-- mode -> function(report): measures, and calls report(result) for each result.
local measure = {}

-- A fresh prompt each time, so that the prefix cache has nothing.
function measure.prefill(report)
  for _, n in ipairs(n_prompt) do
    local result = repeated(function()
      local steps = engine:stats().n_steps
      local metrics = generate({ random_ids(n) }, greedy(1))[1].metrics
      steps = engine:stats().n_steps - steps
      local bytes = steps * info.weight_bytes + n * info.kv_bytes_per_token
      return n / metrics.e2e_latency, bytes / metrics.e2e_latency / 1e9
    end)
    result.n_prompt, result.batch = n, 1
    report(result)
  end
end

-- Tokens a second while all sequences decode: the pace of the one that began last. Others begin some steps earlier,
-- beside prompts, in steps that take longer; that they end as many steps earlier is in its favour by 1 % at most.
local function decode_rate(outputs)
  local last = outputs[1].metrics
  for _, output in ipairs(outputs) do
    if output.metrics.first_token_time > last.first_token_time then last = output.metrics end
  end
  return #outputs * (opts.n_gen - 1) / (last.finished_time - last.first_token_time)
end

-- The prompts are in the prefix cache after the warm-up (memory permitting), so all sequences begin together.
local function measure_decode(batch, depth)
  local prompts = {}
  for i = 1, batch do prompts[i] = random_ids(math.max(depth, 1)) end
  local context = math.max(depth, 1) + opts.n_gen / 2
  local result = repeated(function()
    local rate = decode_rate(generate(prompts, greedy(opts.n_gen)))
    return rate, (info.weight_bytes + batch * context * info.kv_bytes_per_token) * rate / batch / 1e9
  end)
  result.n_gen, result.depth, result.batch = opts.n_gen, depth, batch
  return result
end

function measure.decode(report)
  for _, depth in ipairs(opts.depth or { 0 }) do report(measure_decode(1, depth)) end
end

function measure.batch(report)
  for _, depth in ipairs(opts.depth or { 0 }) do
    for _, batch in ipairs(opts.batch or { 8, 32 }) do report(measure_decode(batch, depth)) end
  end
end

-- ---- serve-sim: requests come as a Poisson process, with random lengths --------------------------------------

local function plan_arrivals()
  local arrivals, t = {}, 0
  for i = 1, opts.requests do
    arrivals[i] = { at = t, prompt = random_ids(math.random(math.ceil(n_prompt[1] / 2), n_prompt[1])),
                    n_gen = math.random(math.ceil(opts.n_gen / 2), opts.n_gen) }
    if opts.rate > 0 then t = t - math.log(1 - math.random()) / opts.rate end
  end
  return arrivals
end

-- Takes all deltas that are there; notes the gaps between them.
local function drain(live, gaps)
  for i = #live, 1, -1 do
    local item = live[i]
    local delta = llm.try(item.stream.poll, item.stream)
    while delta do
      local now = llm.now()
      if item.last then gaps[#gaps + 1] = (now - item.last) / math.max(#delta.token_ids, 1) end
      item.last = now
      delta = llm.try(item.stream.poll, item.stream)
    end
    if item.stream.done then table.remove(live, i) end
  end
end

local function simulate(arrivals)
  local live, all, gaps, next_one, start = {}, {}, {}, 1, llm.now()
  while next_one <= #arrivals or #live > 0 do
    local due = arrivals[next_one]
    local wait = due and start + due.at - llm.now() or 0.05
    if due and wait <= 0 then
      local item = { stream = llm.try(engine.stream, engine, due.prompt, greedy(due.n_gen)) }
      live[#live + 1], all[#all + 1], next_one = item, item, next_one + 1
    else
      engine:wait(math.min(wait, 0.05))
      drain(live, gaps)
    end
  end
  return all, gaps, llm.now() - start
end

measure["serve-sim"] = function(report)
  generate({ random_ids(n_prompt[1]) }, greedy(2)) -- warm-up
  local arrivals, before = plan_arrivals(), engine:stats()
  local all, gaps, seconds = simulate(arrivals)
  local after, waits, n_in, n_out, context = engine:stats(), {}, 0, 0, 0
  for i, item in ipairs(all) do
    local n_prompt, n_gen = #arrivals[i].prompt, arrivals[i].n_gen
    waits[i] = item.stream:info().metrics.time_to_first_token
    n_in, n_out = n_in + n_prompt, n_out + n_gen
    context = context + n_gen * (n_prompt + n_gen / 2)
  end
  local steps = after.n_steps - before.n_steps
  local gb_s = (steps * info.weight_bytes + context * info.kv_bytes_per_token) / seconds / 1e9
  report {
    requests = opts.requests, rate = opts.rate, n_prompt = n_prompt[1], n_gen = opts.n_gen, seconds = seconds,
    requests_s = opts.requests / seconds, tok_s = n_out / seconds, prompt_tok_s = n_in / seconds, gb_s = gb_s,
    bandwidth_gb_s = bandwidth, bandwidth_share = bandwidth and gb_s / bandwidth,
    ttft_ms_p50 = 1e3 * quantile(waits, 0.5), ttft_ms_p99 = 1e3 * quantile(waits, 0.99),
    itl_ms_p50 = 1e3 * quantile(gaps, 0.5), itl_ms_p99 = 1e3 * quantile(gaps, 0.99),
    preemptions = after.n_preemptions - before.n_preemptions, n_blocks_peak = after.n_blocks_peak,
    kv_waste_peak = after.kv_waste_peak,
  }
end

-- ---- report --------------------------------------------------------------------------------------------------

local field_order = { "mode", "model", "architecture", "backend", "isa", "threads", "n_prompt", "n_gen", "depth",
                      "batch", "reps", "requests", "rate", "tok_s", "gb_s", "bandwidth_gb_s", "bandwidth_share" }

local function print_json(mode, result)
  result.mode, result.model, result.architecture = mode, opts.model, info.architecture
  result.backend, result.isa, result.threads, result.reps = info.backend, info.isa, info.threads, opts.reps
  result.weight_bytes, result.kv_bytes_per_token = info.weight_bytes, info.kv_bytes_per_token
  result.load_seconds, result.peak_memory_bytes = load_seconds, llm.peak_memory()
  print(llm.json.encode(llm.json.object(result, field_order)))
end

local function test_name(mode, r)
  if mode == "prefill" then return ("prefill %d"):format(r.n_prompt) end
  if mode == "serve-sim" then return ("serve-sim %d requests"):format(r.requests) end
  return ("%s %d%s%s"):format(mode, r.n_gen, r.batch > 1 and " x " .. r.batch or "",
    r.depth > 0 and " @ " .. r.depth or "")
end

local function details(r)
  if r.ttft_ms_p50 then
    return ("TTFT p50 %.0f ms, p99 %.0f ms; ITL p50 %.1f ms, p99 %.1f ms"):format(r.ttft_ms_p50, r.ttft_ms_p99,
      r.itl_ms_p50, r.itl_ms_p99)
  end
  return ("%.1f to %.1f"):format(quantile(r.tok_s_reps, 0), quantile(r.tok_s_reps, 1))
end

-- A row as soon as it is measured: the whole table may take minutes.
local function print_row(...)
  print((("%-28s  %8s  %6s  %9s  %s"):format(...):gsub("%s+$", "")))
  io.flush()
end

if not opts.json then
  print(("%s  %s, %d threads;%s loaded in %.2f s\n"):format(opts.model, info.isa or info.backend, info.threads,
    bandwidth and (" memory reads at %.1f GB/s;"):format(bandwidth) or "", load_seconds))
  print_row("test", "tok/s", "GB/s", bandwidth and "of memory" or "", "")
end
for _, mode in ipairs(opts.mode or { "prefill", "decode" }) do
  measure[mode](function(result)
    if opts.json then
      print_json(mode, result)
      io.flush()
    else
      print_row(test_name(mode, result), ("%.1f"):format(result.tok_s), ("%.1f"):format(result.gb_s),
        bandwidth and ("%.0f%%"):format(100 * result.bandwidth_share) or "", details(result))
    end
  end)
end
engine:close()
