-- How a stream of server-sent events ends: well, or with an event that says what failed midway.

local http = require "llm.http"
local tasks = require "llm.task"

local M = {}

local DONE = "data: [DONE]\n\n"

-- Status and message of what has been raised.
local function describe(failure)
  if http.is_error(failure) then return failure.status, failure.message end
  if tasks.is_canceled(failure) then return 504, ("the request was given up: %s"):format(failure.reason) end
  return 500, (tostring(failure):gsub("^[^:%s]+:%d+: ", "")) -- where in our code is no concern of the client's
end

-- Runs emit(res, ...), which writes the events, and ends the stream. What fails midway becomes the last event, whose text
-- is last_words(status, message, ...). A client that has left is not written to.
function M.run(req, res, last_words, emit, ...)
  res:header("X-Accel-Buffering", "no") -- proxies: pass chunks on as they come
  local ok, failure = pcall(emit, res, ...)
  if not ok then
    local gone = tasks.is_canceled(failure) and (failure.reason == "left" or failure.reason == "closed")
    if gone or not res.started or res.ended or not res.exchange:is_open() then error(failure, 0) end
    local status, message = describe(failure)
    req.ctx.failure = message
    res.exchange:write(last_words(status, message, ...)) -- not res:write: a task that was canceled cannot wait
  end
  res:finish()
end

-- OpenAI's form of it: an error is a data line, and the stream ends with [DONE] either way.
function M.stream(req, res, emit, ...)
  local function last_words(status, message) return "data: " .. http.error_body(status, message) .. "\n\n" .. DONE end
  local function emit_all(_, ...)
    emit(res, ...)
    res:write(DONE)
  end
  M.run(req, res, last_words, emit_all, ...)
end

return M
