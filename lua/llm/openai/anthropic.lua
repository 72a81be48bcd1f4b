-- POST /v1/messages and /v1/messages/count_tokens: Anthropic's API, its text subset.

local escape = require "llm.openai.escape"
local http = require "llm.http"
local json = require "llm.json"
local messages = require "llm.openai.messages"
local runs = require "llm.openai.run"
local service_module = require "llm.openai.service"
local split = require "llm.openai.split"
local sse = require "llm.openai.sse"
local types = require "llm.openai.types"
local value = require "llm.jinja.value"

local M = {}

local function refuse(message, param) http.error(400, message, { param = param }) end

-- ---- the conversation ----------------------------------------------------------------------------------------

local function system_message(system)
  if type(system) ~= "string" and types.kind_of(system) ~= "list" then
    refuse("system must be a string or a list of text blocks", "system")
  end
  return messages.message("system", system)
end

-- The messages with the system's before them.
local function conversation(own)
  if own.messages == nil then refuse("messages is missing", "messages") end
  local list = {}
  if own.system then list[1] = system_message(own.system) end
  for i = 1, own.messages.n do
    local message = own.messages[i]
    local role = types.kind_of(message) == "dict" and message.map.role
    if role ~= "user" and role ~= "assistant" then
      refuse(("messages[%d].role must be user or assistant"):format(i - 1), "messages")
    end
    list[#list + 1] = message
  end
  return value.list(list, #list)
end

local function check_features(own)
  if own.tools and own.tools.n > 0 then refuse("tools are not available at /v1/messages", "tools") end
  local thinking = types.kind_of(own.thinking) == "dict" and own.thinking.map.type
  if own.thinking and thinking ~= "disabled" then
    refuse('thinking can only be {"type": "disabled"}: reasoning is not told apart from text', "thinking")
  end
end

local function read(service, req, res)
  local given = service:read("messages", req, res)
  local own = given.own
  check_features(own)
  return given, messages.render(service, { messages = conversation(own) })
end

-- ---- objects -------------------------------------------------------------------------------------------------

local message_order = { "id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage" }

local function stop_of(choice)
  if choice.finish_reason == "length" then return "max_tokens", json.null end
  if type(choice.stop_reason) == "string" then return "stop_sequence", choice.stop_reason end
  return "end_turn", json.null
end

local function usage(job)
  return json.object({ input_tokens = job.run:n_prompt_tokens(), output_tokens = job.run.n_output },
    { "input_tokens", "output_tokens" })
end

local function block(text) return json.object({ type = "text", text = text }, { "type", "text" }) end

-- The message object. choice: what has been generated, nil when it begins.
local function message(job, choice)
  local reason, sequence = json.null, json.null
  if choice then reason, sequence = stop_of(choice) end
  return json.object({ id = job.id, type = "message", role = "assistant", model = job.model,
                       content = json.array { choice and block(choice.text) }, stop_reason = reason,
                       stop_sequence = sequence, usage = usage(job) }, message_order)
end

-- ---- streamed ------------------------------------------------------------------------------------------------

local function event(kind, fields, order)
  fields.type = kind
  return ("event: %s\ndata: %s\n\n"):format(kind, json.encode(json.object(fields, { "type", unpack(order or {}) })))
end

local function send(res, ...) res:write(event(...)) end

local function emit(res, job)
  local last
  res:sse()
  send(res, "message_start", { message = message(job) }, { "message" })
  send(res, "content_block_start", { index = 0, content_block = block "" }, { "index", "content_block" })
  local function write_one(delta)
    if delta.text == "" then return end
    res:write('event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"',
      escape.escape(delta.text), '"}}\n\n')
  end
  for delta in job.run.next, job.run do
    split.each(delta, write_one)
    last = delta
  end
  local reason, sequence = stop_of(last)
  send(res, "content_block_stop", { index = 0 }, { "index" })
  send(res, "message_delta", { delta = json.object({ stop_reason = reason, stop_sequence = sequence },
    { "stop_reason", "stop_sequence" }), usage = usage(job) }, { "delta", "usage" })
  send(res, "message_stop", {})
end

local function last_words(_, text)
  local failure = json.object({ type = "api_error", message = json.utf8(text) }, { "type", "message" })
  return event("error", { error = failure }, { "error" })
end

-- ---- handlers ------------------------------------------------------------------------------------------------

-- The handler of /v1/messages. options: those of llm.openai.options.
function M.handler(engine, options)
  local service = service_module.of(engine, options)
  return function(req, res)
    local given, prompt = read(service, req, res)
    if not given.sampling.max_tokens then refuse("max_tokens is missing", "max_tokens") end
    local job = { id = service:request_id("msg_", req, given), model = service:model_name(given) }
    job.run = runs.start(service, { prompt }, given.sampling, { add_special_tokens = false }, not given.own.stream)
    if given.own.stream then return sse.run(req, res, last_words, emit, job) end
    res:json(message(job, job.run:collect()[1][1]))
  end
end

-- The handler of /v1/messages/count_tokens.
function M.count(engine, options)
  local service = service_module.of(engine, options)
  return function(req, res)
    local _, prompt = read(service, req, res)
    res:json { input_tokens = #service.engine:tokenize(prompt, { add_special_tokens = false }) }
  end
end

return M
