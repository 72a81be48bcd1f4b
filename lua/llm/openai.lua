-- llm.openai: the OpenAI API as handlers for llm.server, one for each endpoint.
--
--   local openai = require "llm.openai"
--   local opts = llm.options(arg, openai.options)
--   local engine, server = llm.engine(opts), llm.server(openai.server_options(opts))
--   openai.protect(server, opts)                                    -- log, CORS, API keys, deadlines
--   server:post("/v1/chat/completions", openai.chat(engine, opts))
--
-- Handlers take the engine and, if they are to differ from the defaults, the options of llm.openai.options.

local access_log = require "llm.access_log"
local anthropic = require "llm.openai.anthropic"
local auth = require "llm.auth"
local cors = require "llm.cors"
local health = require "llm.openai.health"
local page = require "llm.page"
local policies = require "llm.policy"
local tasks = require "llm.task"
local tokens = require "llm.openai.tokens"
local workers = require "llm.workers"

local M = {
  options = require "llm.openai.options",
  completions = require("llm.openai.completions").handler,
  chat = require("llm.openai.chat").handler,
  responses = require("llm.openai.responses").handler,
  messages = anthropic.handler,
  count_tokens = anthropic.count,
  models = require("llm.openai.models").handler,
  tokenize = tokens.tokenize,
  detokenize = tokens.detokenize,
  live = health.live,
  ready = health.ready,
  version = health.version,
  load = health.load,
  page = page.mount,
}

local function must(ok, result)
  if ok then return end
  local _, at = (result.traceback or ""):find("\nstack traceback:", 1, true)
  error(result.message .. (at and result.traceback:sub(at - 16) or ""), 0)
end

-- Loads the policies of --policy and --policy-dir, those that have changed since the last time, and goes on loading
-- them when their files change; sets --default-policy. Raises what is wrong with one. Engines are shared by workers, so
-- the first does it for all; each knows the default.
function M.policies(engine, opts)
  local limits = { deadline = opts.policy_timeout, memory = opts.policy_memory }
  policies.set_limits(engine, limits)
  if not workers.is_second() then
    for _, source in ipairs(opts.policy or {}) do
      if source:find "[/.]" then
        must(policies.reload_file(engine, source))
      elseif not engine.handle:has_policy(source) then
        must(policies.load_named(engine, source))
      end
    end
    if opts.scheduler then must(policies.reload_file(engine, opts.scheduler)) end
    for _, directory in ipairs(opts.policy_dir or {}) do must(policies.add_directory(engine, directory)) end
    if opts.policy or opts.policy_dir or opts.scheduler then policies.watch(engine) end
  else
    for _, directory in ipairs(opts.policy_dir or {}) do policies.know_directory(engine, directory) end
  end
  local ok, message = policies.set_default(engine, opts.default_policy, opts.default_policy_args)
  if not ok then error("--default-policy: " .. message, 0) end
end

-- What llm.server takes of these options.
function M.server_options(opts)
  return { host = opts.host, port = opts.port, unix = opts.uds, ssl_certfile = opts.ssl_certfile,
           ssl_keyfile = opts.ssl_keyfile, workers = opts.workers, shutdown_delay = opts.shutdown_delay,
           shutdown_timeout = opts.shutdown_timeout, max_body = opts.max_body,
           api_key = opts.api_key, api_key_file = opts.api_key_file, allow_attach = opts.allow_attach }
end

local function keys_of(opts)
  local keys, tenants = {}, {}
  for _, key in ipairs(opts.api_key or {}) do
    if key == "" then error("an API key is empty", 0) end
    keys[#keys + 1] = key
  end
  if opts.api_key_file then
    local more, names = auth.read_keys(opts.api_key_file)
    if not more then error(names, 0) end
    for _, key in ipairs(more) do keys[#keys + 1] = key end
    tenants = names
  end
  return keys, tenants
end

-- A list of origins; vLLM's command lines give it as JSON.
local function origins_of(given)
  local origins = {}
  for _, text in ipairs(given or { "*" }) do
    local inside = text:match "^%s*%[(.*)%]%s*$"
    if inside then
      for origin in inside:gmatch '"(.-)"' do origins[#origins + 1] = origin end
    else
      origins[#origins + 1] = text
    end
  end
  return origins
end

local function request_id_layer(req, res, next_layer)
  res:header("X-Request-Id", req.id)
  return next_layer(req, res)
end

-- Gives a request up after some seconds: its wait for the engine raises, and what it holds is freed.
function M.deadline(seconds)
  return function(req, res, next_layer)
    local task = tasks.running()
    local timer = tasks.loop():after(seconds, function()
      tasks.cancel(task, ("it took longer than %g s (--request-timeout)"):format(seconds))
    end)
    tasks.own(timer, timer.close)
    return next_layer(req, res)
  end
end

-- What needs no key: liveness, and the page, which asks for one itself.
local function open_paths()
  local open = { ["/health"] = true, ["/ping"] = true }
  for path in pairs(page.open) do open[path] = true end
  return open
end

-- The layers that a public server has, in their order: access log, request ids, CORS, API keys, deadline.
function M.protect(server, opts)
  access_log.attach(server, { log = not opts.disable_access_log and io.stderr or nil,
                              skip = { ["/admin/state"] = true } }) -- an open page asks each second
  if opts.enable_request_id_headers ~= false then server:use(request_id_layer) end
  server:use(cors.layer { origins = origins_of(opts.allowed_origins) })
  local keys, tenants = keys_of(opts)
  if #keys > 0 then server:use(auth.layer { keys = keys, tenants = tenants, open = open_paths() }) end
  if opts.request_timeout and opts.request_timeout > 0 then server:use(M.deadline(opts.request_timeout)) end
end

return M
