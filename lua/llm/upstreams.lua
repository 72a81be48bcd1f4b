-- llm.upstreams: several servers, or engines of this process, behind one handler.
--
--   local pool = llm.upstreams{ "http://10.0.0.1:8000", { url = "https://api.example.com", api_key = "…" } }
--   server:post("/v1/chat/completions", pool:handler())
--
-- Each request goes to one of those that are up: to the one that has seen the longest beginning of its prompt, unless
-- that has much more to do than another; else to the one with the least to do. A server that cannot be reached, that says
-- it is overloaded, or that breaks off before the first token is left for another one; after the first token the client
-- is told. Servers that fail are asked again with growing pauses.

local core = require "llm.core"
local engines = require "llm.engine"
local http = require "llm.http"
local metrics = require "llm.metrics"
local prefixes = require "llm.upstreams.prefixes"
local relay = require "llm.upstreams.relay"
local fetch = require "llm.fetch"
local json = require "llm.json"
local tasks = require "llm.task"

local Pool = {}
Pool.__index = Pool

local M = { Pool = Pool }

local DEFAULTS = { balance = "prefix", attempts = 3, interval = 1, check_timeout = 2, connect_timeout = 2,
                   idle_timeout = 600, health_path = "/health", slack = 4 }
local BALANCES = { prefix = true, least_load = true, round_robin = true }
local FIRST_PAUSE, LAST_PAUSE = 0.5, 30 -- seconds before one that has failed is asked again; doubled each time

local pools = setmetatable({}, { __mode = "k" })

-- ---- upstreams -----------------------------------------------------------------------------------------------

local function check_balance(name)
  if not BALANCES[name] then
    error(("balance must be 'prefix', 'least_load' or 'round_robin'; it is '%s'"):format(tostring(name)), 4)
  end
end

local function is_engine(value) return getmetatable(value) == engines.Engine end

local function new_upstream(given, number)
  local fields = is_engine(given) and { engine = given } or type(given) == "string" and { url = given } or given
  if type(fields) ~= "table" then error(("upstream %d is a %s"):format(number, type(given)), 4) end
  local upstream = { engine = fields.engine, api_key = fields.api_key, unix = fields.unix, tls = fields.tls,
                     weight = fields.weight or 1, number = number, in_flight = 0, others = 0, failures = 0,
                     n_requests = 0, n_failures = 0, n_seen = 0 }
  if upstream.engine then
    upstream.name = fields.name or "engine" .. number
  else
    local url, name = relay.address(fields.url)
    if not url then error(name, 4) end
    upstream.url, upstream.name = url, fields.name or name
  end
  if not (type(upstream.weight) == "number" and upstream.weight > 0) then
    error(("the weight of %s must be greater than 0"):format(upstream.name), 4)
  end
  return upstream
end

-- What it has to do, for a weight of 1: our requests, and those that others sent it as of the last look.
local function load_of(upstream)
  if upstream.engine then
    local stats = upstream.engine:stats()
    return (stats.n_running + stats.n_waiting) / upstream.weight
  end
  return (upstream.in_flight + upstream.others) / upstream.weight
end

local function mark_up(upstream)
  if upstream.failures > 0 then io.stderr:write(("llmlua: upstream %s is up again\n"):format(upstream.name)) end
  upstream.failures, upstream.down_until = 0, nil
end

-- Pauses are not the same for all, so that many routers do not come back at once.
local function mark_down(upstream, why)
  local now = core.now()
  if upstream.down_until and now < upstream.down_until then return end -- one of several requests that failed together
  if upstream.failures == 0 then
    io.stderr:write(("llmlua: upstream %s is down: %s\n"):format(upstream.name, tostring(why)))
  end
  local pause = math.min(FIRST_PAUSE * 2 ^ upstream.failures, LAST_PAUSE)
  upstream.failures = upstream.failures + 1
  upstream.down_until = now + pause * (0.75 + 0.5 * math.random())
end

-- ---- looking after them --------------------------------------------------------------------------------------

-- What others have sent it, if it is a server that says so.
local function look_at_load(options, upstream)
  if upstream.says_no_load then return end
  local ours = upstream.in_flight
  local reply = fetch.fetch(upstream.url .. "/load", { timeout = options.check_timeout, max_body = 65536,
                            unix = upstream.unix, tls = upstream.tls,
                            headers = upstream.api_key and { authorization = "Bearer " .. upstream.api_key } or nil })
  local said = reply and reply.status == 200 and json.decode(reply.body)
  local running = type(said) == "table" and tonumber(said.running)
  if running then
    upstream.others = math.max(running + (tonumber(said.waiting) or 0) - ours, 0)
  elseif reply then
    upstream.says_no_load, upstream.others = true, 0
  end
end

local function look(options, upstream)
  local reply, message = fetch.fetch(upstream.url .. options.health_path, { timeout = options.check_timeout,
                                     max_body = 65536, unix = upstream.unix, tls = upstream.tls })
  if reply and reply.status < 500 then
    mark_up(upstream)
    look_at_load(options, upstream)
  else
    mark_down(upstream, message or ("%s answers %d"):format(options.health_path, reply.status))
  end
end

-- Runs until the pool is closed, or nobody has it any more.
local function look_after(weak, number)
  while true do
    local pool = weak.pool
    if not pool or pool.closed then return end
    local upstream, options = pool.list[number], pool.options
    pool = nil -- luacheck: ignore (it may be collected while this task waits)
    look(options, upstream)
    local pause = upstream.down_until and upstream.down_until - core.now() or options.interval
    upstream = nil -- luacheck: ignore
    tasks.sleep(math.max(pause, 0.05))
  end
end

local function start(pool)
  if pool.started or not (pool.options.interval > 0) then return end
  pool.started = true
  local weak = setmetatable({ pool = pool }, { __mode = "v" })
  for number, upstream in ipairs(pool.list) do
    if upstream.url then tasks.spawn(look_after, function() end, nil, weak, number) end
  end
end

-- Ends the checks; requests under way go on.
function Pool:close() self.closed = true end

-- ---- choosing ------------------------------------------------------------------------------------------------

-- Those that may be asked: that are up and were not asked yet; if none is up, the one that has been down longest.
local function candidates(pool, tried)
  local now, list, next_up = core.now(), {}, nil
  for _, upstream in ipairs(pool.list) do
    if not tried[upstream] then
      if not upstream.down_until or now >= upstream.down_until then
        list[#list + 1] = upstream
      elseif not next_up or upstream.down_until < next_up.down_until then
        next_up = upstream
      end
    end
  end
  if #list == 0 then list[1] = next_up end
  return list
end

-- The one with the least to do; in turn among equals.
local function least_loaded(pool, list)
  pool.turn = pool.turn + 1
  local best, least
  for i = 1, #list do
    local upstream = list[(pool.turn + i) % #list + 1]
    local load = load_of(upstream)
    if not best or load < least then best, least = upstream, load end
  end
  return best, least
end

-- Returns an upstream, nil if there is none left; and the bytes of the prompt that it has seen.
local function choose(pool, text, tried)
  local list = candidates(pool, tried)
  if #list <= 1 then return list[1], 0 end
  if pool.options.balance == "round_robin" then
    pool.turn = pool.turn + 1
    return list[pool.turn % #list + 1], 0
  end
  local best, least = least_loaded(pool, list)
  if pool.options.balance == "least_load" or not text then return best, 0 end
  local seen, most = pool.prefixes:seen(text), 0
  for _, upstream in ipairs(list) do
    local bytes, load = seen[upstream] or 0, load_of(upstream)
    local fits = load <= least + pool.options.slack or load <= 1.5 * least
    if fits and bytes > most then best, most = upstream, bytes end
  end
  return best, most
end

-- Who would get a request with this prompt now: a name and the bytes of its beginning that are known there.
function Pool:route(text)
  local upstream, bytes = choose(self, text, {})
  return upstream and upstream.name, bytes
end

-- ---- requests ------------------------------------------------------------------------------------------------

-- One engine of this process. It cannot break off; it can be full.
local function serve_here(handler, req, res, may_retry)
  local ok, failure = pcall(handler, req, res)
  if ok then return "done" end
  if http.is_error(failure) and failure.status == 503 and may_retry and not res.started then return "busy", 503 end
  error(failure, 0)
end

local function ask(pool, upstream, handlers, req, res, may_retry)
  upstream.in_flight, upstream.n_requests = upstream.in_flight + 1, upstream.n_requests + 1
  local ok, outcome, detail
  if upstream.engine then
    ok, outcome, detail = pcall(serve_here, handlers[upstream], req, res, may_retry)
  else
    ok, outcome, detail = pcall(relay.relay, req, res, upstream, pool.options, may_retry)
  end
  upstream.in_flight = upstream.in_flight - 1
  if not ok then error(outcome, 0) end
  if outcome == "failed" or outcome == "broken" then
    upstream.n_failures = upstream.n_failures + 1
    mark_down(upstream, detail)
  elseif outcome == "done" and upstream.failures > 0 then
    mark_up(upstream)
  end
  return outcome, detail
end

local function text_of(req)
  local body = req.body ~= "" and json.decode(req.body)
  return body and prefixes.text_of(body)
end

local function serve(pool, handlers, req, res)
  start(pool)
  local text = pool.options.balance == "prefix" and text_of(req) or nil
  local tried, reasons = {}, {}
  local most = math.min(pool.options.attempts, #pool.list)
  for attempt = 1, most do
    local upstream, seen = choose(pool, text, tried)
    tried[upstream] = true
    if text then pool.prefixes:note(text, upstream) end
    if seen > 0 then upstream.n_seen = upstream.n_seen + 1 end
    local outcome, detail = ask(pool, upstream, handlers, req, res, attempt < most)
    if outcome == "done" or outcome == "broken" then return end
    pool.n_retries = pool.n_retries + (attempt < most and 1 or 0)
    reasons[#reasons + 1] = ("%s: %s"):format(upstream.name, tostring(detail))
  end
  http.error(502, "no server could answer: " .. table.concat(reasons, "; "), { headers = { ["Retry-After"] = "1" } })
end

-- The handler of a route. make(engine, options): for engines of this process, makes theirs, as openai.chat does.
function Pool:handler(make, options)
  local handlers = {}
  for _, upstream in ipairs(self.list) do
    if upstream.engine then
      if not make then error("a pool with engines needs the maker of their handler, such as openai.chat", 2) end
      handlers[upstream] = make(upstream.engine, options)
    end
  end
  return function(req, res) return serve(self, handlers, req, res) end
end

-- The handler of GET /ready: some upstream is up.
function Pool:ready(server)
  return function(_, res)
    if server and server.draining then http.error(503, "the server is shutting down") end
    start(self)
    for _, upstream in ipairs(self:stats()) do
      if upstream.up then return res:json { status = "ready" } end
    end
    http.error(503, "no upstream is up")
  end
end

-- A list of {name, up, load, in_flight, requests, failures, known}: known: requests whose prompt's beginning it had seen.
function Pool:stats()
  local list = {}
  for i, upstream in ipairs(self.list) do
    list[i] = { name = upstream.name, up = upstream.failures == 0,
                load = load_of(upstream), in_flight = upstream.in_flight, requests = upstream.n_requests,
                failures = upstream.n_failures, known = upstream.n_seen }
  end
  return list
end

local families = {
  { "up", "gauge", "1 if requests are sent to this upstream.", function(s) return s.up and 1 or 0 end },
  { "requests_in_flight", "gauge", "Requests that this upstream is answering.", function(s) return s.in_flight end },
  { "requests", "counter", "Requests sent to this upstream.", function(s) return s.requests end },
  { "failures", "counter", "Requests that this upstream failed to answer.", function(s) return s.failures end },
  { "prefix_requests", "counter", "Requests whose prompt's beginning this upstream had seen.",
    function(s) return s.known end },
}

metrics.extend(function(out)
  if not next(pools) then return end
  for _, family in ipairs(families) do
    out:family("llmlua:upstream_" .. family[1], family[2], family[3])
    for pool in pairs(pools) do
      for _, upstream in ipairs(pool:stats()) do out:sample({ { "upstream", upstream.name } }, family[4](upstream)) end
    end
  end
end)

-- options: a list of upstreams (an engine, a URL, or a table of engine or url with name, api_key, weight, unix, tls), and
-- balance ("prefix", "least_load", "round_robin"), attempts (servers a request is sent to at most, 3), interval (seconds
-- between two looks at a server; 0: none), health_path ("/health"), check_timeout, connect_timeout, idle_timeout
-- (seconds), slack (requests that the server with the known prompt may have more than another).
function M.new(options)
  if type(options) ~= "table" or #options == 0 then error("llm.upstreams needs a list of engines and URLs", 2) end
  local pool = setmetatable({ list = {}, options = {}, turn = 0, n_retries = 0, prefixes = prefixes.new() }, Pool)
  for name, default in pairs(DEFAULTS) do
    pool.options[name] = default
    if options[name] ~= nil then pool.options[name] = options[name] end
  end
  for name in pairs(options) do
    if type(name) ~= "number" and DEFAULTS[name] == nil then
      error(("llm.upstreams has no option '%s'"):format(tostring(name)), 2)
    end
  end
  check_balance(pool.options.balance)
  for i, given in ipairs(options) do pool.list[i] = new_upstream(given, i) end
  pools[pool] = true
  return pool
end

return M
