-- A line for each request that has been answered, and the HTTP metrics.
--   2026-01-31 12:00:00 127.0.0.1:4711 "POST /v1/completions" 200 1532 B 0.184 s 6973fd10-00002a

local metrics = require "llm.metrics"
local now = require("llm.core").now

local M = {}

-- What does not belong into a line of a log.
local function printable(text)
  return (text:gsub('[%c\127-\255"\\]', function(c) return ("\\x%02x"):format(c:byte()) end))
end

local outcomes = { left = " (client left)", timeout = " (client stalled)", closed = " (cut off)" }

local function line(req, why, status, body_bytes, seconds)
  return ('%s %s "%s %s" %d %d B %.3f s %s%s%s\n'):format(os.date "%Y-%m-%d %H:%M:%S", req.ctx.peer or "-", req.method,
    printable(req.path), status, body_bytes, seconds, req.id, outcomes[why] or "",
    req.ctx.failure and ": " .. printable(req.ctx.failure) or "")
end

-- Adds both to a server. options: log: a file to write lines to, nil: none; skip: set of paths without a line.
function M.attach(server, options)
  local log, skip = options.log, options.skip or {}
  server.on_started = function(req)
    req.ctx.began = now()
    req.ctx.peer = log and req:peer()
  end
  server.on_finished = function(req, why, status, body_bytes)
    local seconds = now() - (req.ctx.began or now())
    if why == "left" and status == 0 then status = 499 end -- nginx's number for it
    metrics.http_request(req.route or "none", req.method, status, seconds)
    if log and not skip[req.path] then log:write(line(req, why, status, body_bytes, seconds)) end
  end
end

return M
