-- What an orchestrator asks: is the process alive, may it get requests, what is it, how much does it do.

local core = require "llm.core"
local http = require "llm.http"
local json = require "llm.json"
local workers = require "llm.workers"

local M = {}

-- GET /health, /ping: the process answers. Not whether it should get traffic.
function M.live() return function(_, res) res:send "" end end

-- GET /ready: the model is loaded and nobody has asked the server to stop.
function M.ready(engine, server)
  return function(_, res)
    if server.draining then http.error(503, "the server is shutting down") end
    if not engine.handle:is_open() then http.error(503, "the engine is closed") end
    res:json { status = "ready" }
  end
end

-- GET /version
function M.version() return function(_, res) res:json { version = core.version } end end

-- Requests that are being answered, by all workers.
local function server_load(server)
  local n = server:stats().n_exchanges
  for _, other in pairs(workers.call_others "load" or {}) do n = n + other end
  return n
end

-- GET /load: requests that are being answered, and what the engine has to do.
function M.load(engine, server)
  workers.handle("load", function() return server:stats().n_exchanges end)
  return function(_, res)
    local stats = engine:stats()
    res:json(json.object({ server_load = math.max(server_load(server) - 1, 0), running = stats.n_running,
                           waiting = stats.n_waiting, kv_blocks = stats.n_blocks,
                           kv_blocks_used = stats.n_blocks_used },
      { "server_load", "running", "waiting", "kv_blocks", "kv_blocks_used" }))
  end
end

return M
