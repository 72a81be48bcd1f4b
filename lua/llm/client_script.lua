-- Scripts that come with a request: the host's side. A script runs in a sandbox (lua/sandbox.h) under limits and asks
-- for what it wants done; `calls` are the answers. All client scripts of this Lua state together get a share of its
-- thread, so that the streams of others do not feel a hundred of them that loop.

local core = require "llm.core"
local escape = require "llm.openai.escape"
local http = require "llm.http"
local json = require "llm.json"
local tasks = require "llm.task"
local tools = require "llm.tools"

local M = {}

local SLICE = 0.0005      -- seconds a script runs before others get their turn
local BURST = 0.01        -- seconds all scripts together may run at once …
local SHARE = 0.05        -- … and of each second after that
local MAX_RUNNING = 16    -- at once; each may have its memory full
local MAX_CALLS = 1000    -- of the host, by one script
local OUTPUT, DATA = 2 ^ 16, 2 ^ 18 -- bytes it may print; bytes that pass in or out at once

M.MEMORY, M.SECONDS, M.TIMEOUT = 16 * 2 ^ 20, 0.05, 60 -- of one script: bytes, seconds it runs, seconds in all

local account = core.account("client", "script")
local n_running = 0

-- ---- the share -----------------------------------------------------------------------------------------------

local level, level_at = BURST, core.now()

-- Books what a script has run, and waits if all of them have run too much.
local function spend(seconds, slice_over)
  local now = core.now()
  level = math.min(BURST, level + (now - level_at) * SHARE) - seconds
  level_at = now
  if level < 0 then
    tasks.sleep(-level / SHARE)
  elseif slice_over then
    tasks.sleep(0)
  end
end

-- ---- one script ----------------------------------------------------------------------------------------------

local function refuse(message) http.error(400, message, { param = "script" }) end

-- A script's value as JSON: a table is a list if its keys are 1 … n. Not llm.json's encoder, which takes {n = 1e9} for a
-- list of as many nulls.
local function append(parts, value)
  local kind = type(value)
  if kind == "number" then
    parts[#parts + 1] = value == value and math.abs(value) < math.huge and ("%.14g"):format(value) or "null"
  elseif kind == "string" then
    parts[#parts + 1] = escape.string(json.utf8(value))
  elseif kind ~= "table" or value == json.null then
    parts[#parts + 1] = kind == "boolean" and tostring(value) or "null"
  else
    local n, separator = 0, ""
    for _ in pairs(value) do n = n + 1 end
    local list = n > 0 and n == #value
    parts[#parts + 1] = list and "[" or "{"
    for i, inner in (list and ipairs or pairs)(value) do
      parts[#parts + 1] = separator
      if not list then parts[#parts + 1] = escape.string(json.utf8(tostring(i))) .. ":" end
      append(parts, inner)
      separator = ","
    end
    parts[#parts + 1] = list and "]" or "}"
  end
end

function M.encode(value)
  local parts = {}
  append(parts, value)
  return table.concat(parts)
end

local general = {}

function general.json_encode(_, value) return M.encode(value) end

function general.json_decode(_, text)
  local value, message = json.decode(text)
  if value == nil and message then error(message, 0) end
  return value
end

function general.tool(_, name, ...)
  local f = tools.list[name]
  if not f then error(("there is no tool '%s'"):format(tostring(name)), 0) end
  return f(...)
end

-- What of a failure the script may see: what is meant for clients, and what its tools say.
local function message_of(failure)
  if http.is_error(failure) then return failure.message end
  return (tostring(failure):gsub("^[^:%s]+%.lua:%d+: ", ""))
end

local function answer(context, calls, name, ...)
  context.n_calls = context.n_calls + 1
  if context.n_calls > MAX_CALLS then error(("the script has called the server %d times"):format(MAX_CALLS), 0) end
  local f = calls[name] or general[name]
  if not f then error(("there is no '%s' here"):format(tostring(name)), 0) end
  return f(context, ...)
end

local function settle(box, ok, ...)
  if ok then return box:run(true, ...) end
  local failure = ...
  if tasks.is_canceled(failure) or type(failure) == "table" and failure.exit_code then error(failure, 0) end
  return box:run(false, message_of(failure))
end

-- Runs until the script ends; `...` is the last event. Each turn: what it has used is booked, then it goes on.
local function drive(context, box, calls, event, ...)
  local _, _, used = box:usage()
  spend(used - context.used, event == "slice")
  context.used = used
  if event == "slice" then return drive(context, box, calls, box:run()) end
  if event == "call" then return drive(context, box, calls, settle(box, pcall(answer, context, calls, ...))) end
  if event == "done" then return ... end
  refuse((...))
end

-- How many run now.
function M.running() return n_running end

local function close(box, timer)
  timer:close()
  box:close()
  n_running = n_running - 1
end

-- Runs a script in the running task. given: {request = what it sees of its request}. calls: name -> function(context,
-- …), whose results or error the script gets. options: memory, seconds, timeout. Returns the script's results and
-- {output, seconds, bytes}. Raises a 400 that says what went wrong, a 503 if too many run.
function M.run(source, given, calls, options)
  if n_running >= MAX_RUNNING then
    http.error(503, ("%d client scripts run already; try again later"):format(n_running),
      { headers = { ["Retry-After"] = "1" } })
  end
  local box, message = core.sandbox(account, { memory = options.memory or M.MEMORY, slice = SLICE, output = OUTPUT,
                                               seconds = options.seconds or M.SECONDS, data = DATA })
  if not box then http.error(500, message) end
  n_running = n_running + 1
  local task, timeout = tasks.running(), options.timeout or M.TIMEOUT
  local timer = tasks.loop():after(timeout, function()
    tasks.cancel(task, ("the script has not ended within %g s"):format(timeout))
  end)
  local owned = {}
  tasks.own(owned, function() close(box, timer) end)
  local context = { n_calls = 0, used = 0 }
  given.tools = tools.names()
  local results = { drive(context, box, calls, box:run(source, given)) }
  local seconds, bytes = box:usage()
  local used = { output = box:output(), seconds = seconds, bytes = bytes }
  close(box, timer)
  tasks.disown(owned)
  return results, used
end

return M
