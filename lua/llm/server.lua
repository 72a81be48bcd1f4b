-- llm.server: an HTTP server whose handlers are tasks. A handler gets the request and the response, may wait for the
-- engine, for time or for other servers, and writes when it likes; one event loop runs them all.
--
--   local server = llm.server{ port = 8000 }
--   server:get("/hello/:name", function(req, res) res:json{ hello = req.params.name } end)
--   server:run()
--
-- A server has two parts: the transport (listeners, connections), and a registration (routes, layers, self-tests) that
-- says what is served. `active` points to the registration that new requests go to; loading the script anew makes
-- another one and moves the pointer (reload.lua). The object that llm.server first returns is both parts.

local auth = require "llm.auth"
local core = require "llm.core"
local http = require "llm.http"
local net = require "llm.net"
local probe = require "llm.probe"
local running = require "llm.running"
local router = require "llm.router"
local script = require "llm.script"
local tasks = require "llm.task"
local workers = require "llm.workers"

local Server = {}

-- What a registration has not itself (port, listening, draining …) is its transport's.
function Server.__index(server, name)
  local method = Server[name]
  if method ~= nil then return method end
  local main = rawget(server, "main")
  if main and main ~= server then return main[name] end
end

local M = { Server = Server }

local DEFAULT_PORT = 8000

-- ---- one request ---------------------------------------------------------------------------------------------

local id_prefix = ("%08x%s"):format(math.floor(os.time() % 2 ^ 32), -- each worker counts by itself
  workers.is_second() and ("-%x"):format((workers.me())) or "")
local n_ids = 0

-- The client's X-Request-Id if it is harmless, else one of ours.
local function request_id(exchange)
  local given = exchange:header "x-request-id"
  if given and #given <= 128 and given:find "^[%w%-_.:]+$" then return given end
  n_ids = n_ids + 1
  return ("%s-%06x"):format(id_prefix, n_ids)
end

local function route_request(server, req, res)
  local route, params = server.routes:find(req.method, req.path)
  if route then
    req.params, req.route = params, route.path
    local task = tasks.running()
    if task and task.req == req then -- a self-test's has the load's limits
      route.account = route.account or core.account("handler", req.method .. " " .. route.path, tasks.SOFT, tasks.HARD)
      tasks.account(route.account)
    end
    return route.handler(req, res)
  end
  if route == nil then http.error(404, ("there is nothing at %s"):format(req.path)) end
  res:header("Allow", table.concat(params, ", "))
  if req.method == "OPTIONS" then return res:status(204):finish() end
  http.error(405, ("%s does not take %s; it takes %s"):format(req.path, req.method, table.concat(params, ", ")))
end

-- The middleware around the routes, outermost first.
local function compose(server)
  local inner = function(req, res) return route_request(server, req, res) end
  for i = #server.middleware, 1, -1 do
    local layer, next_layer = server.middleware[i], inner
    inner = function(req, res) return layer(req, res, next_layer) end
  end
  return inner
end

local function send_result(res, result)
  if res.ended then return end
  if result ~= nil and not res.started then
    if type(result) == "string" then return res:send(result) end
    return res:json(result)
  end
  res:finish()
end

local function answer_failure(server, req, res, failure)
  if http.is_error(failure) and not res.started then
    return res:error(failure.status, failure.message, failure.details)
  end
  if tasks.is_canceled(failure) then
    if not res.started and failure.reason ~= "left" then
      return res:error(504, ("the request was given up: %s"):format(failure.reason))
    end
  elseif not http.is_error(failure) then
    server.on_error(failure, req)
    if not res.started then
      return res:error(500, ("the handler failed; the server's log says why (request %s)"):format(req.id))
    end
  end
  res.ended = true
  res.exchange:cut() -- a response that has begun can only be cut off
end

-- The task has ended: whatever it left undone is done here. A client that left meanwhile needs no answer.
local function finish_request(task, ok, result)
  local server, req, res = task.server, task.req, task.res
  if not ok and type(result) == "table" and result.exit_code then error(result, 0) end
  if not ok and task.co and type(result) == "string" then result = debug.traceback(task.co, result) end
  local fine, failure = true, nil
  if ok then fine, failure = pcall(send_result, res, result) end
  if not ok then failure, fine = result, false end
  if not fine and not pcall(answer_failure, server, req, res, failure) then res.exchange:abort() end
end

local function on_request(main, exchange)
  local req, res = http.request(exchange), http.response(exchange)
  req.id = request_id(exchange)
  local server = main.active
  local record = { server = server, req = req, res = res, since = core.now() }
  main.live[exchange] = record
  server.n_requests, server.n_running = server.n_requests + 1, server.n_running + 1
  if server.on_started then server.on_started(req) end
  local handle = main.admin and main.admin(req.path) or server.handle
  tasks.spawn(handle, finish_request, record, req, res)
end

local function on_writable(server, exchange)
  local record = server.live[exchange]
  local blocked = record and record.res.blocked
  if blocked then tasks.wake(blocked) end
end

local function on_done(main, exchange, why, status, body_bytes)
  local record = main.live[exchange]
  main.live[exchange] = nil
  if not record then return end
  local server = record.server
  server.n_running = server.n_running - 1
  if server.on_finished then server.on_finished(record.req, why, status, body_bytes) end
  if not record.done then tasks.cancel(record, why == "sent" and "finished" or why) end
end

-- ---- the server ----------------------------------------------------------------------------------------------

local function default_on_error(failure, req)
  io.stderr:write(("llmlua: request %s, %s %s: %s\n"):format(req.id, req.method, req.path, tostring(failure)))
end

local function keys_of(options)
  local keys = {}
  local given = options.api_key
  for _, key in ipairs(type(given) == "table" and given or { given }) do keys[#keys + 1] = key end
  if options.api_key_file then
    local more, message = auth.read_keys(options.api_key_file)
    if not more then error(message, 0) end
    for _, key in ipairs(more) do keys[#keys + 1] = key end
  end
  return keys
end

local function new_registration(main, options)
  local server = setmetatable({ options = options, routes = router.new(), middleware = {}, self_tests = {},
                                on_error = default_on_error, admin_keys = keys_of(options), n_requests = 0,
                                n_running = 0 }, Server)
  server.main = main or server
  server.handle = compose(server)
  return server
end

local addresses = { "host", "port", "unix", "ssl_certfile", "ssl_keyfile" }

-- In a script that is being loaded: the listeners are those that there are.
local function register(load, options)
  if load.registration then error("a script that is loaded while it serves can make one server only", 3) end
  for _, name in ipairs(addresses) do
    local now = load.server.options[name]
    if options[name] ~= now then
      error(("the server's %s is %s; restart to make it %s"):format(name, tostring(now), tostring(options[name])), 3)
    end
  end
  load.registration = new_registration(load.server, options)
  return load.registration
end

-- options: host, port (8000; 0: any), unix (path) and unix_mode, reuse_port, ssl_certfile, ssl_keyfile, ssl_ca_certs,
-- workers (threads that serve, 1), shutdown_delay (seconds, 0: from SIGTERM until no more connections are taken),
-- shutdown_timeout (seconds; nil: as long as it takes), api_key (one or a list) and api_key_file for the admin routes
-- (layers guard the others: llm.auth), allow_attach (true: who has a key may run Lua here: llm.attach), signals (true:
-- take them also in a C program's server), watch (false: do not reload when a file of the script changes), and of the
-- transport, in bytes and seconds: max_body, max_head,
-- max_connections, high_water, idle_timeout, head_timeout, body_timeout, write_timeout. Nothing listens before
-- listen() or run().
function M.new(options)
  if options ~= nil and type(options) ~= "table" then
    error("llm.server needs a table of options; it got a " .. type(options), 2)
  end
  if script.current then
    local registration = register(script.current, options or {}) -- no tail call: errors count levels
    return registration
  end
  local server, message = new_registration(nil, options or {}), nil
  server.active, server.live = server, {}
  server.transport, message = net.server(tasks.loop(), {
    on_request = function(exchange) on_request(server, exchange) end,
    on_writable = function(exchange) on_writable(server, exchange) end,
    on_done = function(...) on_done(server, ...) end,
    format_error = http.error_body,
  }, server.options)
  if not server.transport then error(message, 2) end
  return server
end

-- Adds a handler: handler(req, res). It may return a string (text) or a table (JSON) in place of writing.
function Server:route(method, path, handler) self.routes:add(method:upper(), path, handler) end

for _, method in ipairs { "get", "post", "put", "patch", "delete", "options" } do
  Server[method] = function(self, path, handler) self.routes:add(method:upper(), path, handler) end
end

-- Adds a layer around all routes, also around what is not found: layer(req, res, next); return next(req, res) to go on.
function Server:use(layer)
  if type(layer) ~= "function" then error("a layer is a function(req, res, next)", 2) end
  table.insert(self.middleware, layer)
  self.handle = compose(self)
end

-- Adds a self-test: f(server) raises if something is wrong. It runs before the server serves, and before a script that
-- is loaded anew takes over; there it has the same time limit as the script.
function Server:self_test(f)
  if type(f) ~= "function" then error("a self-test is a function(server)", 2) end
  table.insert(self.self_tests, f)
end

function Server:run_self_tests()
  for _, f in ipairs(self.self_tests) do f(self) end
end

-- Sends a request through layers and routes without a socket, in a task. options: query, headers, body. Returns status,
-- headers and body in a table.
function Server:probe(method, path, options)
  local exchange = probe.new(method:upper(), path, options)
  local record = { server = self, req = http.request(exchange), res = http.response(exchange) }
  record.req.id = "self-test"
  finish_request(record, pcall(self.handle, record.req, record.res))
  return exchange:result()
end

local function listen(server)
  local o = server.options
  if o.unix then return server.transport:listen_unix(o.unix, o.unix_mode) end
  local tls, message
  if o.ssl_certfile or o.ssl_keyfile then
    tls, message = net.tls { certificate = o.ssl_certfile, key = o.ssl_keyfile or o.ssl_certfile, ca = o.ssl_ca_certs }
    if not tls then return nil, message end
  end
  local shared = (o.workers or 1) > 1
  local port = workers.is_second() and workers.port() or o.port or DEFAULT_PORT
  port, message = server.transport:listen(o.host, port, shared or o.reuse_port or false, tls)
  if not port then return nil, message end
  server.port = port
  return port
end

-- Begins to listen. Returns the port (true for a Unix socket), or nil and a message.
function Server:listen()
  local main = self.main
  if main.listening then return main.listening end
  local result, message = listen(main)
  if not result then return nil, message end
  main.listening = result
  return result
end

-- "http://127.0.0.1:8000", as one would type it here.
function Server:url()
  local o = self.options
  if o.unix then return "unix:" .. o.unix end
  local host = o.host
  if not host or host == "0.0.0.0" or host == "::" then host = "127.0.0.1" end
  if host:find ":" then host = "[" .. host .. "]" end
  return ("%s://%s:%d"):format(o.ssl_certfile and "https" or "http", host, self.port or o.port or DEFAULT_PORT)
end

-- Stops accepting, lets requests under way finish for at most `seconds` (nil: no limit), then calls done().
function Server:drain(seconds, done)
  self.main.draining = true
  self.transport:drain(seconds, done or function() end)
end

function Server:close()
  self.transport:close()
end

function Server:stats() return self.transport:stats() end

-- Listens and serves until SIGINT or SIGTERM, which drain (options.shutdown_delay, shutdown_timeout); a second one stops
-- at once. With options.workers, so many threads do: each runs the script up to here, and what stands after it.
-- SIGHUP, a changed file and POST /admin/reload load the script anew: in that load run() does not return. Raises if a
-- self-test fails or it cannot listen. ready(): called when it serves, in the first worker, not in later loads.
function Server:run(ready)
  if script.current then tasks.leave() end
  tasks.run(function() self:run_self_tests() end)
  local ok, message = self:listen()
  if not ok then error(message, 2) end
  ok, message = running.run(self, ready)
  if not ok then error(message, 2) end
end

return M
