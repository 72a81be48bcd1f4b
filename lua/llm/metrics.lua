-- llm.metrics: what Prometheus scrapes, under vLLM's names, types, labels and buckets, so that its dashboards and
-- Kubernetes' inference gateways work unchanged.
--
-- Gauges and token counters are the engine's own, read when somebody asks. What only the front end sees (latencies,
-- parameters, ends) is booked here as it happens, in plain numbers: no tables are made on the way.

local exposition = require "llm.prometheus"

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
    ttft = histogram(TTFT), itl = histogram(PER_TOKEN), per_token = histogram(PER_TOKEN), e2e = histogram(LATENCY),
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

-- Seconds between two deltas of a choice.
function M.inter_token(engine, seconds)
  books[engine].itl:observe(seconds)
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

-- {name, type, help, function(book, stats) -> value}; of counters the name without _total.
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
  { "prompt_tokens", "counter", "Number of prefill tokens processed.", function(_, s) return s.n_prompt_tokens end },
  { "prompt_tokens_cached", "counter", "Number of prompt tokens found in the prefix cache.",
    function(book) return book.cached end },
  { "generation_tokens", "counter", "Number of generation tokens processed.",
    function(_, s) return s.n_output_tokens end },
}

local engine_histograms = {
  { "time_to_first_token_seconds", "Histogram of time to first token in seconds.", "ttft" },
  { "inter_token_latency_seconds", "Histogram of inter-token latency in seconds.", "itl" },
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
  { "request_prefill_kv_computed_tokens", "Histogram of new KV tokens computed during prefill.", "computed" },
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

local function engine_text(out)
  local stats = {}
  each_book(function(book) stats[book] = book.engine:stats() end)
  for _, entry in ipairs(engine_values) do
    out:family("vllm:" .. entry[1], entry[2], entry[3])
    each_book(function(book) out:sample(book.labels, entry[4](book, stats[book])) end)
  end
  out:family("vllm:num_requests_waiting_by_reason", "gauge", "Number of waiting requests by reason.")
  each_book(function(book)
    out:sample(with(book.labels, "reason", "capacity"), stats[book].n_waiting)
    out:sample(with(book.labels, "reason", "deferred"), 0)
  end)
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
  out:family("vllm:cache_config_info", "gauge", "Information of the LLMEngine CacheConfig")
  each_book(function(book)
    local info = book.engine:info()
    out:sample({ { "engine", book.labels[2][2] }, { "block_size", info.block_size },
                 { "num_gpu_blocks", info.n_blocks },
                 { "kv_cache_size_tokens", info.n_blocks * info.block_size } }, 1)
  end)
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

-- All of it, in Prometheus' text format.
function M.text()
  local out = exposition.new()
  engine_text(out)
  http_text(out)
  exposition.process(out)
  return out:text()
end

-- The handler of GET /metrics.
function M.handler(_, res)
  res:send(M.text(), "text/plain; version=0.0.4; charset=utf-8")
end

return M
