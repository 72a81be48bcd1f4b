-- What programs cost beside the model's work. Prints a table.
--   build/llmlua tests/bench_programs.lua --model null --load-format null   forks of a long text, into 32: the time
--   build/llmlua tests/bench_programs.lua --model MODEL                     the same with real pages
--   build/llmlua tests/bench_programs.lua --model MODEL --mode idle  memory of programs that wait
local llm = require "llm"

local opts = llm.options(arg, {
  summary = "What forks and idle programs cost.",
  { name = "mode", type = "string", initial = "fork", choices = { "fork", "idle" }, help = "what to measure" },
  { name = "tokens", type = "integer", initial = 2000, min = 2, help = "of the text that is forked" },
  { name = "forks", type = "integer", initial = 32, min = 1, help = "of it" },
  { name = "rounds", type = "integer", initial = 50, min = 1, help = "medians of so many" },
  { name = "programs", type = "integer", initial = 10000, min = 1, help = "that wait" },
})
local engine = llm.engine(opts)

local function text_of(n)
  local ids, vocabulary = {}, engine:info().vocab_size
  for i = 1, n do ids[i] = i * 7919 % vocabulary end
  return ids
end

local function median(list)
  table.sort(list)
  return list[math.floor((#list + 1) / 2)]
end

-- The calls themselves, and what the engine has done when a request after them is through. That request computes one
-- token, on a sequence of its own, so that it can be timed alone.
local function fork()
  local seq = engine:sequence(text_of(opts.tokens)):compute()
  local probe = engine:sequence(text_of(40)):compute()
  local used, after = engine:stats().n_blocks_used, nil
  local calls, through, alone = {}, {}, {}
  for round = 1, opts.rounds do
    local start = llm.now()
    probe:next{ logprobs = 0 }
    alone[round] = llm.now() - start
    start = llm.now()
    local forks = seq:fork(opts.forks)
    calls[round] = llm.now() - start
    probe:next{ logprobs = 0 }
    through[round] = llm.now() - start
    after = engine:stats().n_blocks_used
    for _, one in ipairs(forks) do one:close() end
  end
  print(llm.table.columns({ "fork of " .. opts.tokens .. " tokens into " .. opts.forks, "" }, {
    { "the calls, ms", ("%.3f"):format(1e3 * median(calls)) },
    { "what a step is delayed, ms", ("%.3f"):format(1e3 * (median(through) - median(alone) - median(calls))) },
    { "pages of the text", tostring(used) },
    { "pages with its forks", tostring(after) },
  }))
end

local function resident_kib()
  collectgarbage()
  collectgarbage()
  local file = assert(io.open "/proc/self/status")
  local text = file:read "*a"
  file:close()
  return tonumber(text:match "VmRSS:%s*(%d+)")
end

local function measure(what, start)
  local before = resident_kib()
  local programs = {}
  for i = 1, opts.programs do programs[i] = llm.spawn(start) end
  local kib = resident_kib() - before
  for _, program in ipairs(programs) do program:cancel() end
  return { what, ("%.1f"):format(kib / 1024), ("%.0f"):format(kib * 1024 / opts.programs) }
end

local function idle()
  local seq = engine:sequence(text_of(100)):compute()
  llm.task.run(function()
    print(llm.table.columns({ opts.programs .. " programs that", "MiB", "bytes each" }, {
      measure("wait for one another", function() llm.task.wait() end),
      measure("sleep", function() llm.sleep(3600) end),
      measure("hold a fork of 100 tokens and wait", function()
        local branch = seq:fork()
        llm.task.wait()
        branch:close()
      end),
    }))
  end)
end

if opts.mode == "fork" then fork() else idle() end
engine:close()
