-- What the endpoints over one engine share: its names, its defaults, its chat template, its queue.
--
-- A service is made once for an engine and a set of options, and lives as long as its handlers: after a reload of the
-- script there is another, over the same engine and the same queue.

local core = require "llm.core"
local http = require "llm.http"
local metrics = require "llm.metrics"
local params = require "llm.openai.params"
local read_file = require("llm.file").read
local template = require "llm.template"

local Service = {}
Service.__index = Service

local M = { Service = Service }

-- Seconds. The openai client waits as long as Retry-After says, if that is at most a minute.
local LEAST_RETRY, MOST_RETRY = 1, 60
local WINDOW = 60 -- what the queue's rate is told from

local function names_of(engine, options)
  local names = options.served_model_name
  if type(names) == "string" then names = { names } end
  names = names and #names > 0 and names or { engine.model }
  local known = { [engine.model] = true }
  for _, name in ipairs(names) do known[name] = true end
  if not options.served_model_name then
    known[engine.model:match "([^/]+)/*$"] = true -- the file's name is what people type
  end
  return names, known
end

local function read_template(path)
  if path:find "{[{%%#]" then return path end -- as in vLLM, the template itself will do
  local source, message = read_file(path)
  if not source then error("cannot read the chat template: " .. message, 0) end
  return source
end

local function find_template(engine, options)
  if options.chat_template then return read_template(options.chat_template) end
  local tokenizer = engine:tokenizer()
  return tokenizer and tokenizer:info().chat_template
end

-- The texts of bos_token and eos_token, as chat templates know them.
local function special_texts(engine)
  local tokenizer, texts = engine:tokenizer(), {}
  if not tokenizer then return texts end
  local info = tokenizer:info()
  for _, name in ipairs { "bos", "eos" } do
    if info[name] then texts[name .. "_token"] = tokenizer:decode({ info[name] }, { skip_special_tokens = false }) end
  end
  return texts
end

local function new(engine, options, front)
  local names, known = names_of(engine, options)
  local source = find_template(engine, options)
  if source then
    local ok, message = template.compile(source)
    if not ok then error("the chat template does not compile: " .. message, 0) end
  end
  metrics.watch(engine, names[1])
  return setmetatable({
    engine = engine, options = options, names = names, known = known, template = source,
    special = special_texts(engine), info = engine:info(), created = os.time(), front = front,
    defaults = options.generation_config == "vllm" and {} or engine:default_params(),
  }, Service)
end

-- What all services of an engine have in common.
local function front_of(engine)
  local front = rawget(engine, "openai")
  if not front then
    front = { services = setmetatable({}, { __mode = "v" }), queued_tokens = 0, looks = {} }
    rawset(engine, "openai", front)
  end
  return front
end

-- The service of an engine under these options (those of llm.openai.options; nil: none given).
function M.of(engine, options)
  local front, key = front_of(engine), options or "none"
  local service = front.services[key]
  if not service then
    service = new(engine, options or {}, front)
    front.services[key] = service
  end
  return service
end

-- ---- requests ------------------------------------------------------------------------------------------------

-- Decodes a body. Raises a 400.
function M.body(req)
  local kind = req:header "content-type"
  if kind and not kind:lower():find("json", 1, true) then
    http.error(415, "the body must be JSON: send the header Content-Type: application/json")
  end
  local text = req.body
  if require("llm.json").utf8(text) ~= text then http.error(400, "the body is not valid UTF-8") end
  local body, message = template.from_json(text)
  if body == nil then http.error(400, message) end
  return body
end

-- Refuses a model that is not served. name nil: the first.
function Service:check_model(name)
  if name == nil or self.known[name] then return end
  http.error(404, ("the model '%s' does not exist; this server has %s"):format(name, table.concat(self.names, ", ")),
    { param = "model" })
end

-- Reads and checks the parameters of a request; names it does not know go into a header, or are refused when the
-- server is strict.
function Service:read(endpoint, req, res)
  local body = M.body(req)
  local given = params.read(endpoint, body)
  if #given.unknown > 0 then
    local list = {}
    for i, name in ipairs(given.unknown) do
      list[i] = ("unknown field '%s'"):format(name:gsub("[^%w_.%- ]", "?"):sub(1, 64))
    end
    if self.options.strict then
      http.error(400, table.concat(list, ", "), { param = given.unknown[1] })
    end
    if #list > 8 then list = { unpack(list, 1, 8) } end
    res:header("x-llmlua-warning", table.concat(list, ", "))
  end
  self:check_model(given.own.model)
  given.request.tenant = req.ctx.tenant or req:header "x-tenant" or given.request.tenant
  for name, value in pairs(self.defaults) do
    if given.sampling[name] == nil then given.sampling[name] = value end
  end
  return given
end

-- The name a response gives the model.
function Service:model_name(given) return given.own.model or self.names[1] end

function Service:request_id(prefix, req, given)
  local id = given.own.request_id
  if id and (#id > 128 or id:find "[^%w%-_.:]") then
    http.error(400, "request_id must be at most 128 letters, digits and - _ . :", { param = "request_id" })
  end
  return prefix .. (id or req.id)
end

-- ---- the queue -----------------------------------------------------------------------------------------------

-- Looks at the engine once a second at most, and keeps the looks of the window.
local function look(front, engine)
  local looks, now = front.looks, core.now()
  if #looks > 0 and now - looks[#looks].time < 1 then return end
  local stats = engine:stats()
  looks[#looks + 1] = { time = now, n_finished = stats.n_finished, busy_seconds = stats.busy_seconds }
  while #looks > 1 and now - looks[1].time > WINDOW do table.remove(looks, 1) end
end

-- Seconds in which the queue is worked off at the rate at which requests ended since a look, while the engine was busy.
-- The one that runs counts too: without it an engine that has ended none would have no rate.
local function time_of_queue(stats, since)
  local rate = (stats.n_finished - since.n_finished + 1) / math.max(stats.busy_seconds - since.busy_seconds, 1e-3)
  return math.min(math.max(math.ceil(stats.n_waiting / rate), LEAST_RETRY), MOST_RETRY)
end
M.time_of_queue = time_of_queue

-- Refuses a request because others wait.
function Service:busy(message)
  look(self.front, self.engine)
  local seconds = time_of_queue(self.engine:stats(), self.front.looks[1])
  http.error(503, message, { headers = { ["Retry-After"] = ("%d"):format(seconds) } })
end

-- Prompt tokens of a text, before anybody has counted them: four bytes a token is what English has.
local function estimate(prompt) return type(prompt) == "string" and math.ceil(#prompt / 4) or #prompt end

-- Refuses prompts that would wait behind too many others, before they are tokenized. Returns their estimated tokens,
-- which the caller gives back with leave() when their first token has come.
function Service:enter(prompts)
  local options, tokens = self.options, 0
  look(self.front, self.engine)
  for i = 1, #prompts do tokens = tokens + estimate(prompts[i]) end
  local most = options.max_num_queued_tokens
  if most and self.front.queued_tokens > 0 and self.front.queued_tokens + tokens > most then
    self:busy(("about %d prompt tokens wait already, and this request has about %d (max_num_queued_tokens is %d); "
      .. "try again later"):format(self.front.queued_tokens, tokens, most))
  end
  local requests = options.max_num_queued_reqs
  if requests and requests > 0 then
    local waiting = self.engine:stats().n_waiting
    if waiting >= requests then
      self:busy(("%d requests wait already (max_num_queued_reqs); try again later"):format(waiting))
    end
  end
  self.front.queued_tokens = self.front.queued_tokens + tokens
  return tokens
end

function Service:leave(tokens) self.front.queued_tokens = self.front.queued_tokens - tokens end

return M
