-- Workers: the threads of a server (--workers), each with an event loop and a Lua state, in which the program's script
-- runs again. They share engines and a port, and no Lua values. What has to be done in all of them (a reload, a drain)
-- or known of all (metrics) goes by calls: a name and plain data there, plain data back.
--
-- The program's own state is worker 1. It gets the signals, watches the files, and leads what changes all.

local crew = require "llm.crew"
local json = require "llm.json"
local tasks = require "llm.task"

local M = {}

local CALL_SECONDS = 30 -- until a worker that does not answer is given up

local handlers = {} -- name -> function(argument) -> answer; runs as a task
local calls = {}    -- number of a call -> the task that waits for it
local n_calls = 0
local watch

-- The number of this worker, from 1, and how many there are.
function M.me() return crew.me() end

-- Does somebody else hold what this state works with?
function M.is_second() return (crew.me()) > 1 end

-- Says what a call of this name does here.
function M.handle(name, f) handlers[name] = f end

local function encode(message) return assert(json.encode(message)) end

-- ---- what comes ----------------------------------------------------------------------------------------------

local function answer(from, message)
  tasks.spawn(function() return handlers[message.name](message.argument) end, function(_, ok, result)
    local reply = { answers = message.call, ok = ok, result = ok and result or not ok and tostring(result) or nil }
    crew.post(from, encode(reply))
  end)
end

local function take(from, text, ended)
  if from == 0 then return M.on_end(ended, text) end
  if text == "stop" then return M.on_stop() end
  local message = json.decode(text)
  if message.call then return answer(from, message) end
  local task = calls[message.answers]
  calls[message.answers] = nil
  if task then tasks.wake(task, message.ok, message.result) end
end

local function take_all()
  while true do
    local from, text, ended = crew.take()
    if not from then return end
    take(from, text, ended)
  end
end

-- ---- calls ---------------------------------------------------------------------------------------------------

-- In a task: true and what the other worker's handler returned, or false and a message.
function M.call(to, name, argument)
  local me, number = tasks.running(), n_calls + 1
  n_calls = number
  calls[number] = me
  crew.post(to, encode { call = number, name = name, argument = argument })
  local timer = tasks.loop():after(CALL_SECONDS, function()
    calls[number] = nil
    tasks.wake(me, false, ("worker %d has not answered within %d s"):format(to, CALL_SECONDS))
  end)
  local waited, ok, result = pcall(tasks.wait)
  calls[number] = nil
  timer:close()
  if not waited then error(ok, 0) end
  return ok, result
end

-- In a task: calls all others at once; waits for all. Returns a map from worker to its answer; or nil, a message, and
-- the number of the worker that failed.
function M.call_others(name, argument)
  local me, n = crew.me()
  local parent, left, answers, failure, failed = tasks.running(), n - 1, {}, nil, nil
  for i = 1, n do
    if i ~= me then
      tasks.spawn(function() return M.call(i, name, argument) end, function(_, ran, ok, result)
        left = left - 1
        if ran and ok then answers[i] = result or true else failure, failed = tostring(ran and result or ok), i end
        if left == 0 then tasks.wake(parent) end
      end)
    end
  end
  while left > 0 do tasks.wait() end
  if failure then return nil, failure, failed end
  return answers
end

-- The same, without waiting for answers, from anywhere.
function M.tell_others(name, argument)
  local me, n = crew.me()
  for i = 1, n do
    if i ~= me then crew.post(i, encode { call = 0, name = name, argument = argument }) end
  end
end

-- ---- life ----------------------------------------------------------------------------------------------------

-- Begins to listen to the other workers. on_stop(): this worker is to end at once. on_end(i, message), in worker 1:
-- worker i has ended; message: why, empty if it was asked to.
function M.attach(on_stop, on_end)
  M.on_stop, M.on_end = on_stop, on_end
  local message
  watch, message = tasks.loop():watch(crew.fd(), take_all)
  if not watch then error(message, 0) end
end

function M.detach()
  if watch then watch:close() end
  watch = nil
end

-- Worker 1 starts the others, which run the script of `arg`. engines: a list of {key, handle}. Returns when all serve;
-- or nil and a message: worker, file and line of what went wrong.
function M.start(n, arg, engines, port)
  local ok, message = crew.start(n, arg, engines, port)
  return ok, message
end

-- Tells the others to stop, waits for their ends.
M.finish = crew.finish
M.ready = crew.ready
M.port = crew.port
M.engine = crew.engine

return M
