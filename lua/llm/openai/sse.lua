-- The grammar of a stream of server-sent events: data lines, an error that comes midway, [DONE].

local http = require "llm.http"
local tasks = require "llm.task"

local M = {}

local DONE = "data: [DONE]\n\n"

-- Status and message of what has been raised.
function M.describe(failure)
  if http.is_error(failure) then return failure.status, failure.message end
  if tasks.is_canceled(failure) then return 504, ("the request was given up: %s"):format(failure.reason) end
  return 500, (tostring(failure):gsub("^[^:%s]+:%d+: ", "")) -- where in our code is no concern of the client's
end

-- Runs emit(res, …), which writes the events of a stream. What fails midway becomes an error event; the stream ends
-- with [DONE] either way. A client that has left is not written to.
function M.stream(req, res, emit, ...)
  res:header("X-Accel-Buffering", "no") -- proxies: pass chunks on as they come
  local ok, failure = pcall(emit, res, ...)
  if not ok then
    local gone = tasks.is_canceled(failure) and (failure.reason == "left" or failure.reason == "closed")
    if gone or not res.started or res.ended or not res.exchange:is_open() then error(failure, 0) end
    local status, message = M.describe(failure)
    req.ctx.failure = message
    res.exchange:write("data: ", http.error_body(status, message), "\n\n", DONE)
    return res:finish()
  end
  res:write(DONE)
  res:finish()
end

return M
