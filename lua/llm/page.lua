-- llm.page: the page at /, for people. It chats through /v1/chat/completions and shows what the engine does.
--
--   local page = require "llm.page"
--   page.mount(server, engine, opts) -- after openai.protect

local core = require "llm.core"
local edit = require "llm.edit"
local embedded = require "llm.embedded"
local etag = require "llm.etag"
local json = require "llm.json"
local tasks = require "llm.task"

local M = {}

-- Nothing but what this server sends: a text of the model can bring no script, no image and no frame with it.
local POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
  .. "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

local files = {
  ["/"] = { name = "index.html", content_type = "text/html; charset=utf-8" },
  ["/page.css"] = { name = "page.css", content_type = "text/css; charset=utf-8" },
  ["/page.js"] = { name = "page.js", content_type = "text/javascript; charset=utf-8" },
}

-- The paths that need no key, a set: the page has to be there to ask for one.
M.open = {}
for path in pairs(files) do M.open[path] = true end

-- Does If-None-Match name the tag?
local function is_known(req, tag)
  local given = req:header "if-none-match"
  return given ~= nil and (given == "*" or given:find(tag, 1, true) ~= nil)
end

local function file_handler(file)
  local text = embedded("lua/llm/page/" .. file.name)
  local tag = etag(text)
  return function(req, res)
    res:header("ETag", tag):header("Cache-Control", "no-cache"):header("Content-Security-Policy", POLICY)
    res:header("X-Content-Type-Options", "nosniff"):header("Referrer-Policy", "no-referrer")
    if is_known(req, tag) then return res:status(304):finish() end
    res:send(text, file.content_type)
  end
end

local MOST_PAGES = 65536 -- that the map shows
local LOOK = 0.01        -- seconds that the engine has to draw it; in the midst of a step it shows the one before

-- The map of the KV pages in runs: {what, how many, what, how many …}. what: 0 free, 1 kept for prefixes, 2 in use by
-- several, else by the request of that number. null: there are too many.
local function kv_map(engine)
  if engine:info().n_blocks > MOST_PAGES then return json.null end
  engine.handle:page_map()
  tasks.sleep(LOOK)
  local map, runs = engine.handle:page_map(), json.array()
  local at = 1
  while at <= #map do
    local what, first = map:byte(at), at
    repeat at = at + 1 until map:byte(at) ~= what
    runs[#runs + 1], runs[#runs + 2] = what, at - first
  end
  return runs
end

local order = { "time", "version", "model", "scripts" }

-- GET /admin/state: the model, what the engine does now and has done since it was opened, its KV pages. `time` is in seconds, of a
-- clock for differences. `scripts`: may generations be listed and loaded over HTTP? `generation`: the one that serves.
local function state_handler(server, engine, opts)
  local info = engine:info()
  local names = opts.served_model_name
  local model = type(names) == "table" and names[1] or names or engine.model
  local has_keys = opts.api_key_file ~= nil or opts.api_key ~= nil and #opts.api_key > 0
  return function(_, res)
    local map, stats = kv_map(engine), engine:stats()
    local manager = server.main.manager
    res:header("Cache-Control", "no-store")
    res:json(json.object({
      time = core.now(), version = core.version, model = model, architecture = info.architecture,
      backend = info.backend, isa = info.isa, threads = info.threads, weight_bytes = info.weight_bytes,
      max_model_len = info.max_model_len, page_tokens = info.block_size, running = stats.n_running,
      waiting = stats.n_waiting, kv_pages = stats.n_blocks, kv_pages_used = stats.n_blocks_used,
      kv_pages_peak = stats.n_blocks_peak, kv_map = map, steps = stats.n_steps, busy_seconds = stats.busy_seconds,
      prompt_tokens = stats.n_prompt_tokens, output_tokens = stats.n_output_tokens,
      preemptions = stats.n_preemptions, prefix_queries = stats.n_prefix_queries, prefix_hits = stats.n_prefix_hits,
      scripts = has_keys and manager ~= nil, generation = manager and manager.active.id or json.null,
    }, order))
  end
end

-- Adds the page and what it asks for to a server. opts: those of llm.openai.options.
function M.mount(server, engine, opts)
  for path, file in pairs(files) do server:get(path, file_handler(file)) end
  server:get("/admin/state", state_handler(server, engine, opts or {}))
  edit.mount(server)
end

return M
