-- Tasks: coroutines on the event loop. A task that waits (for time, for the engine, for a socket) lets the others
-- run; the loop wakes it when what it waits for has happened. One loop a Lua state.
--
-- A task that is canceled (its client has left, its deadline has passed) finds out where it waits: the wait raises
-- a cancellation. Whatever it has opened with tasks.own is closed when it ends, however it ends.

local core = require "llm.core"
local net = require "llm.net"

local M = {}

-- A task may run so many seconds between two waits: past the first it is logged, past the second it is stopped.
M.SOFT, M.HARD = 0.1, 5

local tasks = {}   -- coroutine -> its task
local the_loop     -- opened by the first use
local n_tasks = 0
local default_account = core.account("handler", "task", M.SOFT, M.HARD)
local program_account = core.account("load", "program") -- what tasks.run runs: the program itself, without limits

-- What a wait raises in a canceled task. reason: "left", "timeout", "closed", "deadline" or the caller's own.
local Canceled = {}
Canceled.__index = Canceled
function Canceled:__tostring() return "canceled: " .. self.reason end
M.Canceled = Canceled

function M.is_canceled(failure) return getmetatable(failure) == Canceled end

-- The event loop of this state.
function M.loop()
  if not the_loop then
    local message
    the_loop, message = net.open()
    if not the_loop then error(message, 2) end
  end
  return the_loop
end

-- The task that runs now; nil in the main program.
function M.running()
  local co = coroutine.running()
  return co and tasks[co]
end

-- What the running task does from now on is this account's (of core.account).
function M.account(account)
  local task = M.running()
  if not task then return end
  task.account = account
  core.switch_account(account)
end

-- How many there are.
function M.count() return n_tasks end

local function finish(task, ok, ...)
  tasks[task.co] = nil
  n_tasks = n_tasks - 1
  task.done = true
  local owned = task.owned
  if owned then
    task.owned = nil
    for resource, close in pairs(owned) do pcall(close, resource) end
  end
  local failure = not ok and (...) or nil
  if type(failure) == "string" then (task.account or default_account):error() end -- objects are answers, not mistakes
  if task.on_end then return task.on_end(task, ok, ...) end
  if not ok and not M.is_canceled(failure) then
    -- Nobody asked how it ends; silence would hide a mistake. An exit object ends the program as it does anywhere.
    error(type(failure) == "string" and debug.traceback(task.co, failure) or failure, 0)
  end
end

local function after_resume(task, ok, ...)
  if task.left then return finish(task, true) end
  if not ok or coroutine.status(task.co) == "dead" then return finish(task, ok, ...) end -- one that was killed has not
end

local function unguarded(task, ...)
  task.guard(false)
  return after_resume(task, ...)
end

-- A task with a guard runs between guard(true) and guard(false).
local function resume(task, ...)
  local account = task.account or default_account
  if not task.guard then return after_resume(task, core.resume(account, task.co, ...)) end
  task.guard(true)
  return unguarded(task, core.resume(account, task.co, ...))
end

-- Starts f(...) as a task; it runs until its first wait before this returns. on_end(task, ok, …) gets its results or
-- its error, and whether it was stopped for running too long; without it an error ends the loop. fields: a table to
-- become the task, for its owner's own use; account: of core.account, whose limits it has.
function M.spawn(f, on_end, fields, ...)
  local task = fields or {}
  local co = coroutine.create(f)
  task.co, task.on_end = co, on_end
  tasks[co] = task
  n_tasks = n_tasks + 1
  resume(task, ...)
  return task
end

-- Ends the running task where it stands, as if it had returned nothing. Does not return.
function M.leave()
  local task = M.running()
  if not task then error("only a task can leave", 2) end
  task.left = true
  coroutine.yield()
end

local function waited(task, ...)
  local reason = task.canceled
  if reason then error(setmetatable({ reason = reason }, Canceled), 0) end
  return ...
end

-- Waits until somebody calls M.wake(task, …); returns what wake was given. Only in a task.
function M.wait()
  local task = tasks[coroutine.running() or false]
  if not task then error("only a task of the event loop can wait here", 2) end
  if task.canceled then waited(task) end
  task.waiting = true
  return waited(task, coroutine.yield())
end

-- Wakes a waiting task; nothing happens if it does not wait. Must not be called by the task itself.
function M.wake(task, ...)
  if not task.waiting then return end
  task.waiting = false
  resume(task, ...)
end

-- Makes the task's present and later waits raise a cancellation.
function M.cancel(task, reason)
  if task.done or task.canceled then return end
  task.canceled = reason or "canceled"
  M.wake(task)
end

-- resource, to be closed with close(resource) when the running task ends; nothing in the main program.
function M.own(resource, close)
  local task = M.running()
  if task then
    task.owned = task.owned or {}
    task.owned[resource] = close
  end
  return resource
end

-- resource has been closed by other means.
function M.disown(resource)
  local task = M.running()
  if task and task.owned then task.owned[resource] = nil end
end

-- Waits so many seconds, letting others run.
function M.sleep(seconds)
  local task = M.running()
  local timer = M.loop():after(seconds, function() M.wake(task) end)
  local ok, failure = pcall(M.wait)
  if not ok then
    timer:close()
    error(failure, 0)
  end
end

-- Runs f(...) as a task and the loop until it has ended; returns its results, raises its error. In a task: calls f.
function M.run(f, ...)
  if M.running() then return f(...) end
  local results, in_loop
  local task = M.spawn(f, function(_, ...)
    results = { n = select("#", ...), ... }
    if in_loop then M.loop():stop() end
  end, { account = program_account }, ...)
  if not results then
    in_loop = true
    local ok, failure = pcall(M.loop().run, M.loop())
    in_loop = false
    if not results then M.cancel(task, "stopped") end
    if not ok then error(failure, 0) end
  end
  if not results[1] then error(results[2], 0) end
  return unpack(results, 2, results.n)
end

-- ---- what nobody cancels -------------------------------------------------------------------------------------

-- Starts f(...) as a task that goes on whoever is canceled, and for which any number of others may wait (M.join).
function M.job(f, ...)
  local job = { waiting = {} }
  M.spawn(f, function(_, ...)
    job.results = { n = select("#", ...), ... }
    if not next(job.waiting) and job.lost then return job.lost(...) end
    for task in pairs(job.waiting) do M.wake(task) end
  end, { lasting = true }, ...)
  return job
end

-- In a task: waits for the end of a job; returns its results, raises its error. lost(ok, …) gets the results, or false and
-- the error, if all who waited were canceled.
function M.join(job, lost)
  local me = M.running()
  while not job.results do
    job.waiting[me] = true
    local ok, failure = pcall(M.wait)
    job.waiting[me] = nil
    if not ok then
      job.lost = lost
      error(failure, 0)
    end
  end
  if not job.results[1] then error(job.results[2], 0) end
  return unpack(job.results, 2, job.results.n)
end

-- f(...) as a job, for which the running task waits. In the main program, or in a job: f(...).
function M.apart(lost, f, ...)
  local me = M.running()
  if not me or me.lasting then return f(...) end
  return M.join(M.job(f, ...), lost)
end

-- ---- the engine ----------------------------------------------------------------------------------------------

-- Puts the events of an engine's client that wait into the inboxes of their requests. Returns whether there were any,
-- and the tasks that wait for these requests (nil: none).
local function take(engine)
  local handle, inboxes, waiting = engine.handle, engine.inboxes, engine.waiting
  local found, ready = false, nil
  while true do
    local request, event = handle:next()
    if not request then return found, ready end
    found = true
    local inbox = inboxes[request]
    if inbox then inbox[#inbox + 1] = event end
    local task = waiting and waiting[request]
    if task then
      waiting[request] = nil
      ready = ready or {}
      ready[#ready + 1] = task
    end
  end
end

local function wake_all(ready)
  for i = 1, #ready do M.wake(ready[i]) end
end

-- The same for who blocks in place of waiting; the tasks are woken when the loop turns. Returns whether there were any.
function M.take_events(engine)
  local found, ready = take(engine)
  if ready then M.loop():after(0, function() wake_all(ready) end) end
  return found
end

local function deliver(engine)
  local _, ready = take(engine)
  if ready then wake_all(ready) end
end

local function attach(engine)
  local watch, message = M.loop():watch(engine.handle, function() deliver(engine) end)
  if not watch then error(message, 0) end
  engine.waiting = {}
  engine.detach = function()
    watch:close()
    engine.detach, engine.waiting = nil, nil
  end
end

-- Waits, in a task, until there is an event for this request of the engine. Runs once a token: no closures, no tables.
function M.await_event(engine, request)
  local task = tasks[coroutine.running()]
  if task.canceled then waited(task) end
  if not engine.detach then attach(engine) end
  local waiting = engine.waiting
  waiting[request] = task
  task.waiting = true
  coroutine.yield()
  if task.canceled then
    waiting[request] = nil
    waited(task)
  end
end

-- The same for any of several requests, the keys of a map.
function M.await_events(engine, requests)
  local task = tasks[coroutine.running()]
  if task.canceled then waited(task) end
  if not engine.detach then attach(engine) end
  local waiting = engine.waiting
  for request in pairs(requests) do waiting[request] = task end
  task.waiting = true
  coroutine.yield()
  if waiting == engine.waiting then
    for request in pairs(requests) do waiting[request] = nil end
  end
  if task.canceled then waited(task) end
end

return M
