-- llm.metrics: what Prometheus scrapes, under vLLM's names, types, labels and buckets, so that its dashboards and
-- Kubernetes' inference gateways work unchanged.
--
-- Gauges, token counters and what happens in steps (between tokens, to pages) are the engine's own, read when somebody
-- asks. What only the front end sees (latencies, parameters, ends) is booked here as it happens, in plain numbers: no
-- tables are made on the way.

local core = require "llm.core"
local exposition = require "llm.prometheus"
local workers = require "llm.workers"

local M = {}

local TTFT = { .001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560 }
local PER_TOKEN = { .01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80 }
local LATENCY = { .3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680 }
local CHOICES = { 1, 2, 5, 10, 20 }
local HTTP = { .01, .025, .05, .1, .25, .5, .75, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 7.5, 10, 30, 60 }

-- 1, 2, 5, 10, … up to max.
local function steps(max)
  local list, scale = {}, 1
  while true do
    for _, m in ipairs { 1, 2, 5 } do
      if m * scale > max then return list end
      list[#list + 1] = m * scale
    end
    scale = scale * 10
  end
end

-- ---- one engine ----------------------------------------------------------------------------------------------

local REASONS = { "stop", "length", "abort", "error" }
local books = {} -- engine -> its book, in `watched` order
local watched = {}

local function new_book(engine, model_name)
  local most = steps(engine:info().max_model_len)
  local histogram = exposition.histogram
  local book = { engine = engine, success = {},
    labels = { { "model_name", model_name }, { "engine", tostring(#watched) } },
    ttft = histogram(TTFT), per_token = histogram(PER_TOKEN), e2e = histogram(LATENCY),
    queue = histogram(LATENCY), inference = histogram(LATENCY), prefill = histogram(LATENCY),
    decode = histogram(LATENCY), prompt = histogram(most), generation = histogram(most),
    max_generation = histogram(most), n = histogram(CHOICES), max_tokens = histogram(most),
    preemptions = histogram { 0, 1, 2, 5, 10, 20 }, computed = histogram(most), cached = 0 }
  for _, reason in ipairs(REASONS) do book.success[reason] = 0 end
  return book
end

-- Begins to count what an engine does, under this name. Once an engine is enough.
function M.watch(engine, model_name)
  if books[engine] then return end
  books[engine] = new_book(engine, model_name)
  watched[#watched + 1] = engine
end

-- Forgets an engine (that is being closed).
function M.forget(engine)
  books[engine] = nil
  for i = #watched, 1, -1 do
    if watched[i] == engine then table.remove(watched, i) end
  end
end

-- A choice has ended for this reason.
function M.finished_choice(engine, reason)
  local success = books[engine].success
  success[reason] = (success[reason] or 0) + 1
end

-- The client gave a request up.
function M.aborted(engine) M.finished_choice(engine, "abort") end

local function between(histogram, from, to)
  if from and to then histogram:observe(math.max(to - from, 0)) end
end

-- A request is complete. info: stream:info(); sampling: its parameters; n_tokens: all its output.
function M.finished_request(engine, info, sampling, n_tokens)
  local book, times = books[engine], info.metrics
  local arrived, scheduled = times.arrival_time, times.scheduled_time
  local first, done = times.first_token_time, times.finished_time
  between(book.ttft, arrived, first)
  between(book.e2e, arrived, done)
  between(book.queue, arrived, scheduled)
  between(book.inference, scheduled, done)
  between(book.prefill, scheduled, first)
  between(book.decode, first, done)
  local n = sampling.n or 1
  if n == 1 and first and done and n_tokens > 1 then book.per_token:observe((done - first) / (n_tokens - 1)) end
  local n_prompt, n_cached = #info.prompt_token_ids, info.num_cached_tokens or 0
  book.prompt:observe(n_prompt)
  book.generation:observe(n_tokens)
  book.max_generation:observe(n_tokens / n)
  book.computed:observe(n_prompt - n_cached)
  book.cached = book.cached + n_cached
  book.preemptions:observe(times.num_preemptions or 0)
  book.n:observe(n)
  if sampling.max_tokens and sampling.max_tokens > 0 then book.max_tokens:observe(sampling.max_tokens) end
end

-- ---- HTTP ----------------------------------------------------------------------------------------------------

local requests, durations = {}, {}

-- A request has been answered. handler: the route's path, "none" if there was none.
function M.http_request(handler, method, status, seconds)
  local class = ("%dxx"):format(math.floor(status / 100))
  local key = handler .. "\0" .. method .. "\0" .. class
  local entry = requests[key]
  if not entry then
    entry = { labels = { { "handler", handler }, { "method", method }, { "status", class } }, n = 0 }
    requests[key] = entry
  end
  entry.n = entry.n + 1
  key = handler .. "\0" .. method
  entry = durations[key]
  if not entry then
    entry = { labels = { { "handler", handler }, { "method", method } }, histogram = exposition.histogram(HTTP) }
    durations[key] = entry
  end
  entry.histogram:observe(seconds)
end

-- ---- the text ------------------------------------------------------------------------------------------------

local function none() return 0 end

-- Of a counter that adds what the engine counts to what each worker does, the engine's part: the first worker says it.
local function once(n) return workers.is_second() and 0 or n end

-- {name, type, help, function(book, stats) -> value}; of counters the name without _total. own: counted here, by each
-- worker for itself.
local engine_values = {
  { "num_requests_running", "gauge", "Number of requests in model execution batches.",
    function(_, s) return s.n_running end },
  { "num_requests_waiting", "gauge", "Number of requests waiting to be processed.",
    function(_, s) return s.n_waiting end },
  { "kv_cache_usage_perc", "gauge", "KV-cache usage. 1 means 100 percent usage.",
    function(_, s) return s.n_blocks > 0 and s.n_blocks_used / s.n_blocks or 0 end },
  { "prefix_cache_queries", "counter", "Prefix cache queries, in terms of number of queried tokens.",
    function(_, s) return s.n_prefix_queries end },
  { "prefix_cache_hits", "counter", "Prefix cache hits, in terms of number of cached tokens.",
    function(_, s) return s.n_prefix_hits end },
  { "num_preemptions", "counter", "Cumulative number of preemption from the engine.",
    function(_, s) return s.n_preemptions end },
  { "prompt_tokens", "counter", "Number of prefill tokens processed.",
    function(book, s) return once(s.n_prompt_tokens) + book.cached end, own = true },
  { "prompt_tokens_cached", "counter", "Number of cached prompt tokens (local + external).",
    function(book) return book.cached end, own = true },
  { "generation_tokens", "counter", "Number of generation tokens processed.",
    function(_, s) return s.n_output_tokens end },
  -- of vLLM's parts that this engine has not
  { "external_prefix_cache_queries", "counter", "External prefix cache queries from KV connector cross-instance cache "
    .. "sharing, in terms of number of queried tokens.", none },
  { "external_prefix_cache_hits", "counter", "External prefix cache hits from KV connector cross-instance cache "
    .. "sharing, in terms of number of cached tokens.", none },
  { "mm_cache_queries", "counter", "Multi-modal cache queries, in terms of number of queried items.", none },
  { "mm_cache_hits", "counter", "Multi-modal cache hits, in terms of number of cached items.", none },
}

-- {name, type, help, label, {value of the label, function(book, stats) -> value}…}
local labelled_values = {
  { "num_requests_waiting_by_reason", "gauge", "Number of waiting requests by reason. Reason labels: 'capacity' = waiting "
    .. "for scheduling capacity; 'deferred' = deferred by transient constraints (LoRA budget, KV transfer, blocked "
    .. "status). Sum of all reasons equals vllm:num_requests_waiting.", "reason",
    { "capacity", function(_, s) return s.n_waiting end }, { "deferred", none } },
  { "engine_sleep_state", "gauge", "Engine sleep state; awake = 0 means engine is sleeping; awake = 1 means engine is "
    .. "awake; weights_offloaded = 1 means sleep level 1; discard_all = 1 means sleep level 2.", "sleep_state",
    { "awake", function() return 1 end }, { "weights_offloaded", none }, { "discard_all", none } },
  { "prompt_tokens_by_source", "counter", "Number of prompt tokens by source.", "source", own = true,
    { "local_compute", function(_, s) return once(s.n_prompt_tokens) end },
    { "local_cache_hit", function(book) return book.cached end }, { "external_kv_transfer", none } },
}

local engine_histograms = {
  { "time_to_first_token_seconds", "Histogram of time to first token in seconds.", "ttft" },
  { "request_time_per_output_token_seconds", "Histogram of time_per_output_token_seconds per request.", "per_token" },
  { "e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.", "e2e" },
  { "request_queue_time_seconds", "Histogram of time spent in WAITING phase for request.", "queue" },
  { "request_inference_time_seconds", "Histogram of time spent in RUNNING phase for request.", "inference" },
  { "request_prefill_time_seconds", "Histogram of time spent in PREFILL phase for request.", "prefill" },
  { "request_decode_time_seconds", "Histogram of time spent in DECODE phase for request.", "decode" },
  { "request_prompt_tokens", "Number of prefill tokens processed.", "prompt" },
  { "request_generation_tokens", "Number of generation tokens processed.", "generation" },
  { "request_max_num_generation_tokens", "Histogram of maximum number of requested generation tokens.",
    "max_generation" },
  { "request_params_n", "Histogram of the n request parameter.", "n" },
  { "request_params_max_tokens", "Histogram of the max_tokens request parameter.", "max_tokens" },
  { "request_num_preemptions", "Histogram of the number of preemptions of a request.", "preemptions" },
  { "request_prefill_kv_computed_tokens", "Histogram of new KV tokens computed during prefill (excluding cached "
    .. "tokens).", "computed" },
}

-- {name, help, name of the engine's distribution}
local distributions = {
  { "inter_token_latency_seconds", "Histogram of inter-token latency in seconds.", "token_gap" },
  { "iteration_tokens_total", "Histogram of number of tokens per engine_step.", "step_tokens" },
  { "kv_block_lifetime_seconds", "Histogram of KV cache block lifetime from allocation to eviction.", "page_lifetime" },
  { "kv_block_idle_before_evict_seconds", "Histogram of idle time before KV cache block eviction.", "page_idle" },
  { "kv_block_reuse_gap_seconds", "Histogram of time gaps between consecutive KV cache block accesses.",
    "page_reuse" },
}

local function each_book(f)
  for _, engine in ipairs(watched) do
    if engine.handle:is_open() then f(books[engine]) end
  end
end

local function with(labels, name, value)
  local list = { { name, value } }
  for _, label in ipairs(labels) do list[#list + 1] = label end
  return list
end

-- Gauges whose labels are what they say.
local function info_text(out)
  out:family("vllm:lora_requests_info", "gauge", "Running stats on lora requests.", true)
  each_book(function(book)
    local labels = with(book.labels, "max_lora", 0)
    labels[#labels + 1], labels[#labels + 2] = { "running_lora_adapters", "" }, { "waiting_lora_adapters", "" }
    out:sample(labels, os.time())
  end)
  out:family("vllm:cache_config_info", "gauge", "Information of the LLMEngine CacheConfig", true)
  each_book(function(book)
    local info = book.engine:info()
    out:sample({ { "engine", book.labels[2][2] }, { "block_size", info.block_size },
                 { "num_gpu_blocks", info.n_blocks },
                 { "kv_cache_size_tokens", info.n_blocks * info.block_size } }, 1)
  end)
end

local function engine_text(out)
  local stats = {}
  each_book(function(book) stats[book] = book.engine:stats() end)
  for _, entry in ipairs(engine_values) do
    out:family("vllm:" .. entry[1], entry[2], entry[3], not entry.own)
    each_book(function(book) out:sample(book.labels, entry[4](book, stats[book])) end)
  end
  for _, entry in ipairs(labelled_values) do
    out:family("vllm:" .. entry[1], entry[2], entry[3], not entry.own)
    each_book(function(book)
      for i = 5, #entry do
        out:sample(with(book.labels, entry[4], entry[i][1]), entry[i][2](book, stats[book]))
      end
    end)
  end
  out:family("vllm:request_success", "counter", "Count of successfully processed requests.")
  each_book(function(book)
    for _, reason in ipairs(REASONS) do
      out:sample(with(book.labels, "finished_reason", reason), book.success[reason])
    end
  end)
  for _, entry in ipairs(engine_histograms) do
    out:family("vllm:" .. entry[1], "histogram", entry[2])
    each_book(function(book) out:histogram(book.labels, book[entry[3]]) end)
  end
  for _, entry in ipairs(distributions) do
    out:family("vllm:" .. entry[1], "histogram", entry[2], true)
    each_book(function(book) out:histogram(book.labels, book.engine.handle:histogram(entry[3])) end)
  end
  out:family("llmlua:kv_blocks_pinned", "gauge", "KV blocks that pinned prefixes keep.", true)
  each_book(function(book) out:sample(book.labels, stats[book].n_blocks_pinned) end)
  info_text(out)
end

local function sorted(map)
  local keys, list = {}, {}
  for key in pairs(map) do keys[#keys + 1] = key end
  table.sort(keys)
  for i, key in ipairs(keys) do list[i] = map[key] end
  return list
end

local function http_text(out)
  out:family("http_requests", "counter", "Total number of requests by method, status and handler.")
  for _, entry in ipairs(sorted(requests)) do out:sample(entry.labels, entry.n) end
  out:family("http_request_duration_seconds", "histogram", "Duration of requests by handler, in seconds.")
  for _, entry in ipairs(sorted(durations)) do out:histogram(entry.labels, entry.histogram) end
end

-- Per script: {name, help, field of core.accounts()}.
local script_counters = {
  { "calls", "Times that Lua code was entered, by script.", "calls" },
  { "seconds", "Seconds that Lua code has run, by script.", "seconds" },
  { "overruns", "Calls that ran past their soft limit, by script.", "overruns" },
  { "kills", "Calls that were stopped at their hard limit, by script.", "kills" },
  { "errors", "Calls that failed, by script.", "errors" },
  { "bytes", "Most bytes that the states of clients' scripts had, added up.", "bytes" },
}

local function script_text(out)
  local accounts = core.accounts()
  table.sort(accounts, function(a, b) return a.kind .. a.name < b.kind .. b.name end)
  for _, entry in ipairs(script_counters) do
    out:family("llmlua:script_" .. entry[1], "counter", entry[2])
    for _, account in ipairs(accounts) do
      out:sample({ { "kind", account.kind }, { "script", account.name } }, account[entry[3]])
    end
  end
end

local extensions = {}

-- Adds f(out), which adds families of its own to what is scraped (llm/prometheus.lua).
function M.extend(f) extensions[#extensions + 1] = f end

local function collect()
  local out = exposition.new()
  if #watched > 0 then engine_text(out) end
  http_text(out)
  script_text(out)
  for _, extend in ipairs(extensions) do extend(out) end
  exposition.process(out)
  return out
end

workers.handle("metrics", function() return collect().families end)

-- All of it, of all workers, in Prometheus' text format; with several, only in a task.
function M.text()
  local out = collect()
  local others, message = workers.call_others "metrics"
  if not others then error(message, 0) end
  for _, families in pairs(others) do out:add_families(families) end
  return out:text()
end

-- The handler of GET /metrics.
function M.handler(_, res)
  res:send(M.text(), "text/plain; version=0.0.4; charset=utf-8")
end

return M
