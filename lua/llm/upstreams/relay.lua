-- Passes a request on to a server and its answer back. Nothing is sent to the client before the first token is there, so
-- that until then another server can be asked.

local fetch = require "llm.fetch"
local http = require "llm.http"

local M = {}

-- Of one connection, not of the message (RFC 9110, 7.6.1); and what both ends make themselves.
local OWN = {}
for _, name in ipairs { "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer",
                        "transfer-encoding", "upgrade", "host", "content-length", "accept-encoding", "expect", "date",
                        "server", "x-request-id" } do
  OWN[name] = true
end

-- Answers of a server that cannot now: another one may.
local RETRY = { [429] = true, [502] = true, [503] = true, [504] = true }

local MOST_HELD = 16384 -- bytes of events without a token that are held back

local function headers_for(req, upstream)
  local headers = {}
  for name, value in pairs(req:headers()) do
    if not OWN[name:lower()] then headers[name] = value end
  end
  if upstream.api_key then
    headers.authorization = "Bearer " .. upstream.api_key
    headers["x-api-key"] = nil
  end
  headers["x-request-id"] = req.id
  return headers
end

local function url_for(req, upstream)
  local path = req.path:gsub("[^%w/%-._~!$&'()*+,;=:@]", function(c) return ("%%%02X"):format(c:byte()) end)
  return upstream.url .. path .. (req.query and req.query ~= "" and "?" .. req.query or "")
end

-- Does a beginning of server-sent events have a token, or say that there will be none?
local function has_token(text)
  return text:find '"content"%s*:%s*"[^"]' or text:find '"text"%s*:%s*"[^"]' or text:find '"delta"%s*:%s*"[^"]'
    or text:find '"tool_calls"%s*:%s*%[%s*{' or text:find '"reasoning[%w_]*"%s*:%s*"[^"]' or text:find '"error"%s*:'
    or text:find "data: %[DONE%]"
end

local function is_stream(reply)
  return tostring(reply.headers["content-type"]):find("text/event-stream", 1, true) ~= nil
end

-- The beginning of the body, up to the first token of a stream, and whether that was all; or nil and a message.
local function read_beginning(reply)
  if not is_stream(reply) then
    local body, message = reply:text()
    return body, body and true or message
  end
  local held = ""
  while true do
    local piece, message = reply:read()
    if message then return nil, message end
    held = held .. (piece or "")
    if not piece then return held, true end
    if #held >= MOST_HELD or has_token(held) then return held, false end
  end
end

local function copy_head(res, reply, upstream)
  res:status(reply.status)
  for name, value in pairs(reply.headers) do
    if not OWN[name:lower()] then res:header(name, value) end
  end
  res:header("x-llmlua-upstream", upstream.name)
end

-- The rest of a stream, as fast as the client reads, in whole events. What breaks off now cannot be had from another
-- server: the client is told so in the stream.
local function pass_on(req, res, reply, upstream, held)
  while true do
    local events = held:match "^.*\n\r?\n"
    if events then
      res:write(events)
      held = held:sub(#events + 1)
    end
    local piece, message = reply:read()
    if message then
      message = ("the server %s broke off: %s"):format(upstream.name, message)
      req.ctx.failure = message
      res.exchange:write("data: ", http.error_body(502, message), "\n\ndata: [DONE]\n\n")
      return nil, message
    end
    if not piece then
      if held ~= "" then res:write(held) end
      return true
    end
    held = held .. piece
  end
end

-- Asks an upstream, and answers the client unless it could not (and may_retry: another one is there to be asked). In a
-- task. options: connect_timeout, idle_timeout. Returns "done"; "busy" and the status, or "failed" and a message, if
-- nothing has been sent; "broken" and a message if it has.
function M.relay(req, res, upstream, options, may_retry)
  local reply, message = fetch.fetch(url_for(req, upstream), {
    method = req.method, headers = headers_for(req, upstream), body = req.body ~= "" and req.body or nil, stream = true,
    connect_timeout = options.connect_timeout, idle_timeout = options.idle_timeout, unix = upstream.unix,
    tls = upstream.tls })
  if not reply then return "failed", message end
  if RETRY[reply.status] and may_retry then
    reply:close()
    return "busy", reply.status
  end
  local beginning, ended = read_beginning(reply)
  if not beginning then
    reply:close()
    return "failed", ended
  end
  copy_head(res, reply, upstream)
  if ended then
    res:send(beginning, reply.headers["content-type"])
    reply:close()
    return "done"
  end
  res:start()
  local whole
  whole, message = pass_on(req, res, reply, upstream, beginning)
  reply:close()
  res:finish()
  return whole and "done" or "broken", message
end

-- An upstream's address without a slash or /v1 at its end, and its name: the address without what is secret. Or nil and
-- a message.
function M.address(url)
  if type(url) ~= "string" or not url:find "^https?://[^/]" then
    return nil, ("an upstream is an engine, or a URL such as http://127.0.0.1:8001; this is %s"):format(tostring(url))
  end
  url = url:gsub("/+$", ""):gsub("/v1$", "")
  return url, (url:gsub("^https?://", ""):gsub("^[^/@]*@", ""))
end

return M
