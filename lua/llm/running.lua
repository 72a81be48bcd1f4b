-- A server while it runs: its loop, signals, workers, and its end.

local reload = require "llm.reload"
local script = require "llm.script"
local tasks = require "llm.task"
local workers = require "llm.workers"

local M = {}

local host = package.preload["llm.host_core"] and require "llm.host_core" -- in a program that is not ours

-- The loop ends when this worker has nothing left to answer and, in worker 1, all others have ended.
local function end_if_done(run)
  if run.drained and run.n_others == 0 then run.loop:stop() end
end

local function drain(run)
  run.server:drain(run.server.active.options.shutdown_timeout, function()
    run.drained = true
    end_if_done(run)
  end)
end

-- From now on the server says that it is not ready; after shutdown_delay it takes no more connections.
local function shut_down(run)
  local server = run.server
  if server.draining then return end
  server.main.draining = true
  local delay = server.active.options.shutdown_delay or 0
  if delay <= 0 then return drain(run) end
  run.delay = run.loop:after(delay, function() drain(run) end)
end

-- The first SIGINT or SIGTERM shuts down, the second one ends at once.
local function on_signal(run)
  if run.server.draining then return run.loop:stop() end
  shut_down(run)
  workers.tell_others "shut_down"
end

local function on_worker_end(run, i, message)
  run.n_others = run.n_others - 1
  if run.server.draining and message == "" then return end_if_done(run) end
  run.failure = ("worker %d: %s"):format(i, message ~= "" and message or "its script has ended")
  run.loop:stop()
end

local function start_workers(run, n)
  local server = run.server
  if server.options.unix then
    return nil, "workers share a TCP port, and a Unix socket can have one listener only: leave out one of the two"
  end
  if host then return nil, "a server in a C program has one worker: others would lack what the program gives its state" end
  local ok, message = workers.start(n, reload.program_arg, script.opened_engines(), server.port)
  if not ok then return nil, message end
  run.n_others = n - 1
  return true
end

local function join_workers(run)
  workers.handle("shut_down", function() shut_down(run) end)
  workers.attach(function() run.loop:stop() end, function(i, message) on_worker_end(run, i, message) end)
end

-- Who may end or reload this server: signals, or the program that it is a part of, whose signals are its own affair.
local function watch_for_end(run, manager)
  local function stop() on_signal(run) end
  if host then
    run.watches[1] = run.loop:watch(host.fd(), function()
      host.clear()
      stop()
    end)
    if not run.server.options.signals then return end
  end
  for _, name in ipairs { "INT", "TERM" } do run.watches[#run.watches + 1] = run.loop:signal(name, stop) end
  run.watches[#run.watches + 1] = run.loop:signal("HUP", function() manager:trigger() end)
end

local function begin(run)
  local server, me = run.server, workers.me()
  local n = server.options.workers or 1
  if me == 1 and n > 1 then
    local ok, message = start_workers(run, n)
    if not ok then return nil, message end
  end
  local manager = reload.adopt(server, { watch = me == 1 and server.options.watch })
  if me == 1 then
    watch_for_end(run, manager)
  end
  if n > 1 then join_workers(run) end
  workers.ready()
  return manager
end

-- Runs a server that listens. ready(): called when all workers serve. Returns true at its end; or nil and a message if it could not begin. Raises what ended it.
function M.run(server, ready)
  local run = { server = server, loop = tasks.loop(), n_others = 0, watches = {} }
  local manager, message = begin(run)
  if not manager then return nil, message end
  if ready and workers.me() == 1 then ready() end
  local fine, failure = pcall(run.loop.run, run.loop)
  for _, watch in ipairs(run.watches) do watch:close() end
  if run.delay then run.delay:close() end
  workers.detach()
  if workers.me() == 1 then workers.finish() end
  manager:close()
  server:close()
  if not fine then error(failure, 0) end
  if run.failure then error(run.failure, 0) end
  return true
end

return M
