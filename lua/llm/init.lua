-- require "llm": the library of the inference engine. docs/scripting.md is its guide, lua/meta/llm.d.lua its types.
--
-- Functions here raise on failure, so that a script of five lines needs no checks: wrap one in pcall to go on, or in
-- llm.try to end the script with the message alone.

local core = require "llm.core"
local engines = require "llm.engine"
local program = require "llm.program"
local reload = require "llm.reload"
local script = require "llm.script"
local tasks = require "llm.task"
local tokenizers = require "llm.tokenizer"
local workers = require "llm.workers"

local M = {
  json = require "llm.json",
  table = require "llm.table",
  exit = require "llm.exit",
  options = require("llm.options").options,
  server = require("llm.server").new,
  fetch = require("llm.fetch").fetch,
  http = require "llm.http",
  metrics = require("llm.metrics").handler,
  state = reload.state,
  task = tasks,
  upstreams = require("llm.upstreams").new,
  spawn = program.spawn,
  parallel = program.parallel,
  program = require("llm.servable").new,
  tool = require("llm.tools").tool,
}
require "llm.sequence" -- engine:sequence
require "llm.guidance" -- seq:guided

-- Opens a model: llm.engine{ model = PATH, … }. Also takes what llm.options returned. In a script that is loaded anew:
-- the engine that is open.
function M.engine(options)
  local engine, message = script.engine(options, engines.open)
  if not engine then error(message, 2) end
  return engine
end

-- Opens a tokenizer without a model's weights.
function M.tokenizer(path)
  if type(path) ~= "string" then error("llm.tokenizer needs a path; it got a " .. type(path), 2) end
  local tokenizer, message = tokenizers.open(path)
  if not tokenizer then error(message, 2) end
  return tokenizer
end

-- f(...), or the end of the script with f's message on stderr and exit code 1.
function M.try(f, ...)
  local results = { pcall(f, ...) }
  if results[1] then return unpack(results, 2, table.maxn(results)) end
  local failure = results[2]
  if type(failure) == "table" and failure.exit_code then error(failure, 0) end
  M.exit(1, tostring(failure))
end

-- Makes a policy, in a file of its own: it runs beside the engine and shares nothing with the program.
function M.policy()
  error("a policy is made in a file of its own: write it to NAME.lua and load it with engine:load_policy(\"NAME.lua\"), "
    .. "or give its text: engine:load_policy(\"name\", text)", 2)
end

-- Makes a scheduler, in a file of its own, as a policy.
function M.scheduler()
  error("a scheduler is made in a file of its own: load it with engine:load_scheduler(\"NAME.lua\"), or give its text: "
    .. "engine:load_scheduler(\"name\", text)", 2)
end

-- The number of this worker (1 without --workers), and how many there are once the server runs.
function M.worker() return workers.me() end

-- Such as "0.1.0".
function M.version() return core.version end

-- Seconds of a clock that only goes forward; the times in metrics are of this clock.
function M.now() return core.now() end

-- Waits. In a task of the event loop (a request's handler) the others run meanwhile. Ctrl-C ends the script.
function M.sleep(seconds)
  if tasks.running() then return tasks.sleep(seconds) end
  core.sleep(seconds)
end

-- A progress bar on stderr; see llm/progress.lua.
function M.progress(label, total, enabled) return require("llm.progress").new(label, total, enabled) end

-- Bytes a second this machine reads from memory with so many threads (nil: all), measured now, in half a second.
-- peak_memory starts again after it, so that it does not count the buffer: measure before opening a model.
function M.bandwidth(threads)
  local rate, message = core.bandwidth(threads)
  if not rate then error(message, 2) end
  return rate
end

-- Most bytes this process ever had resident, nil if the system does not say.
function M.peak_memory() return core.peak_memory() end

-- Is this a terminal? name: "stdin", "stdout" (default), "stderr".
function M.isatty(name)
  local fd = ({ stdin = 0, stdout = 1, stderr = 2 })[name or "stdout"]
  if not fd then error("llm.isatty knows 'stdin', 'stdout' and 'stderr'", 2) end
  return core.isatty(fd)
end

return M
