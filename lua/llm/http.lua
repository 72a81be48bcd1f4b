-- What a handler works with: the request, the response, and errors that become a response.

local json = require "llm.json"
local net = require "llm.net"
local tasks = require "llm.task"

local M = {}

-- ---- errors --------------------------------------------------------------------------------------------------

local HttpError = {}
HttpError.__index = HttpError
function HttpError:__tostring() return ("HTTP %d: %s"):format(self.status, self.message) end
M.HttpError = HttpError

function M.is_error(failure) return getmetatable(failure) == HttpError end

local error_types = {
  [400] = "BadRequestError", [401] = "AuthenticationError", [403] = "PermissionDeniedError", [404] = "NotFoundError",
  [405] = "MethodNotAllowedError", [408] = "RequestTimeoutError", [409] = "ConflictError",
  [413] = "RequestTooLargeError", [415] = "UnsupportedMediaTypeError", [422] = "UnprocessableEntityError",
  [429] = "RateLimitError", [500] = "InternalServerError", [501] = "NotImplementedError",
  [503] = "ServiceUnavailableError", [504] = "TimeoutError",
}

-- The body that every error has: {"error":{message, type, param, code}}. details: type, param.
function M.error_body(status, message, details)
  local kind = details and details.type or error_types[status] or status < 500 and "BadRequestError"
    or "InternalServerError"
  local param = details and details.param
  return (json.encode(json.object({
    error = json.object({ message = json.utf8(message), type = kind, param = param or json.null, code = status },
      { "message", "type", "param", "code" }),
  })))
end

-- Raises an error that answers the request: llm.http.error(404, "no such model", { param = "model" }). details: type,
-- param, headers.
function M.error(status, message, details)
  error(setmetatable({ status = status, message = message, details = details }, HttpError), 0)
end

-- ---- requests ------------------------------------------------------------------------------------------------

-- Fields: method, path (decoded), query (not decoded), body, params (of the route), id, tls, ctx (a table for
-- middleware to leave things in).
local Request = {}
Request.__index = Request
M.Request = Request

-- The value of a header, nil if there is none. Any case.
function Request:header(name)
  local headers = self.all_headers
  if headers then return headers[name:lower()] end
  return self.exchange:header(name:lower())
end

-- All headers, names in lower case.
function Request:headers()
  self.all_headers = self.all_headers or self.exchange:headers()
  return self.all_headers
end

-- The decoded query: {name = value, …}.
function Request:args()
  self.decoded_args = self.decoded_args or net.query(self.query)
  return self.decoded_args
end

-- The body as JSON. Raises a 400 if it is none; JSON's null is llm.json.null within tables.
function Request:json()
  if self.decoded_json == nil then
    local value, message = json.decode(self.body, { null = json.null })
    if value == nil then M.error(400, message) end
    self.decoded_json = value
  end
  return self.decoded_json
end

-- "address:port" of the client, or "unix".
function Request:peer()
  self.peer_name = self.peer_name or self.exchange:peer()
  return self.peer_name
end

function M.request(exchange)
  local method, path, query, _, tls = exchange:head()
  return setmetatable({ exchange = exchange, method = method, path = path, query = query, tls = tls,
                        body = exchange:body(), params = {}, ctx = {} }, Request)
end

-- ---- responses -----------------------------------------------------------------------------------------------

local Response = {}
Response.__index = Response
M.Response = Response

function M.response(exchange)
  return setmetatable({ exchange = exchange, code = 200, fields = {}, started = false, ended = false }, Response)
end

local function check_not_started(res, what)
  if res.started then error(what .. " after the response has begun", 3) end
end

-- Sets the status. Returns the response, as the other setters do.
function Response:status(code)
  check_not_started(self, "status")
  self.code = code
  return self
end

local function check_header(name, value)
  if type(name) ~= "string" or not name:find "^[%w!#$%%&'*+%-.^_`|~]+$" then
    error(("%q is no name of a header"):format(tostring(name)), 3)
  end
  for _, one in ipairs(type(value) == "table" and value or { value }) do
    if tostring(one):find "[%z\1-\8\10-\31\127]" then
      error(("the value of the header %s has control characters"):format(name), 3)
    end
  end
end

-- Sets a header; value nil removes it, a list repeats it.
function Response:header(name, value)
  check_not_started(self, "header")
  check_header(name, value)
  for existing in pairs(self.fields) do
    if existing:lower() == name:lower() then self.fields[existing] = nil end
  end
  self.fields[name] = value
  return self
end

-- Is there a header of this name?
function Response:has_header(name)
  for existing in pairs(self.fields) do
    if existing:lower() == name:lower() then return true end
  end
  return false
end

-- The client has left: the running task ends here.
local function left(res)
  res.ended = true
  local task = tasks.running()
  if task then tasks.cancel(task, task.canceled or "left") end
  error(setmetatable({ reason = "left" }, tasks.Canceled), 0)
end

-- Sends the status and headers now; length: bytes of the body, nil: chunks.
function Response:start(length)
  check_not_started(self, "start")
  local fields = self.fields
  if not self:has_header "Content-Type" then fields["Content-Type"] = "text/plain; charset=utf-8" end
  local begun = self.exchange:start(self.code, fields, length)
  self.started = true
  if not begun then left(self) end
  return self
end

local function wait_until_writable(res)
  res.blocked = tasks.running()
  if res.blocked then tasks.wait() end
  res.blocked = nil
end

-- Sends a piece of the body. When the client is slow the task waits here until it has caught up; when it has left,
-- the task ends here.
function Response:write(...)
  if not self.started then self:start() end
  local more = self.exchange:write(...)
  if more == nil then left(self) end
  if not more then wait_until_writable(self) end
  return self
end

-- Sends the text of one or several tokens, a chunk of its own for each that has text: before, the token's text as it
-- stands inside a JSON string, after. ends: where in the text each token's ends (nil: it is one token's).
function Response:tokens(before, text, ends, after)
  if not self.started then self:start() end
  local more = self.exchange:pieces(before, text, ends, after)
  if more == nil then left(self) end
  if not more then wait_until_writable(self) end
  return self
end

-- Sends one server-sent event. data: text without line ends of its own, such as JSON.
function Response:event(data)
  if not self.started then self:sse() end
  return self:write("data: ", data, "\n\n")
end

-- Begins a stream of server-sent events.
function Response:sse()
  if not self:has_header "Content-Type" then self.fields["Content-Type"] = "text/event-stream; charset=utf-8" end
  if not self:has_header "Cache-Control" then self.fields["Cache-Control"] = "no-cache" end
  return self:start()
end

-- Sends a whole body and ends the response.
function Response:send(body, content_type)
  check_not_started(self, "send")
  if not self:has_header "Content-Type" then
    self.fields["Content-Type"] = content_type or "text/plain; charset=utf-8"
  end
  local sent = self.exchange:reply(self.code, self.fields, body)
  self.started, self.ended = true, true
  if not sent then left(self) end
end

-- Sends a value as JSON and ends the response.
function Response:json(value)
  local text, message = json.encode(value)
  if not text then error(message, 2) end
  self:send(text, "application/json")
end

-- Sends an error in the one shape that errors have, and ends the response.
function Response:error(status, message, details)
  self.code = status
  for name, value in pairs(details and details.headers or {}) do self:header(name, value) end
  self:header("Content-Type", "application/json")
  self:send(M.error_body(status, message, details))
end

-- Ends the response. Nothing written: no content.
function Response:finish()
  if self.ended then return end
  self.ended = true
  if self.started then return self.exchange:finish() end
  self.started = true
  self.exchange:reply(self.code == 200 and 204 or self.code, self.fields, "")
end

return M
