-- POST /v1/responses: the text subset. Nothing is kept: a client sends the whole conversation each time.

local escape = require "llm.openai.escape"
local http = require "llm.http"
local json = require "llm.json"
local messages = require "llm.openai.messages"
local runs = require "llm.openai.run"
local service_module = require "llm.openai.service"
local split = require "llm.openai.split"
local sse = require "llm.openai.sse"
local template = require "llm.template"
local types = require "llm.openai.types"
local value = require "llm.jinja.value"

local M = {}

local function refuse(message, param) http.error(400, message, { param = param }) end

-- ---- the conversation ----------------------------------------------------------------------------------------

local function item_message(item, where)
  if types.kind_of(item) ~= "dict" then refuse(where .. " must be an object", "input") end
  local kind = item.map.type
  if kind ~= nil and kind ~= "message" then
    refuse(("%s is of type '%s'; this server takes messages"):format(where, tostring(kind)), "input")
  end
  return item
end

local function messages_of(own)
  local list = {}
  if own.instructions then list[1] = messages.message("system", own.instructions) end
  if type(own.input) == "string" then
    list[#list + 1] = messages.message("user", own.input)
  elseif types.kind_of(own.input) == "list" then
    for i = 1, own.input.n do list[#list + 1] = item_message(own.input[i], ("input[%d]"):format(i - 1)) end
  else
    refuse("input must be a string or a list of messages", "input")
  end
  -- type, id and status of items are the API's affair, not the template's.
  for i, message in ipairs(list) do
    local plain = value.dict()
    value.dict_set(plain, "role", message.map.role == "developer" and "system" or message.map.role or "user")
    value.dict_set(plain, "content", message.map.content or template.none)
    list[i] = plain
  end
  return value.list(list, #list)
end

local function check_text(own)
  local format = types.kind_of(own.text) == "dict" and own.text.map.format
  if types.kind_of(format) == "dict" and format.map.type ~= "text" then
    refuse("text.format must be {\"type\": \"text\"}: structured output is not available in this server", "text")
  end
  if own.tools and own.tools.n > 0 then refuse("tools are not available at /v1/responses", "tools") end
end

local function read(service, req, res)
  local given = service:read("responses", req, res)
  local own, sampling = given.own, given.sampling
  check_text(own)
  sampling.max_tokens = sampling.max_tokens or -1
  local prompt = messages.render(service, { messages = messages_of(own) })
  return { service = service, own = own, sampling = sampling, request = { add_special_tokens = false },
           prompt = prompt, id = service:request_id("resp_", req, given),
           item_id = service:request_id("msg_", req, given), created = os.time(), model = service:model_name(given) }
end

-- ---- objects -------------------------------------------------------------------------------------------------

local part_order = { "type", "text", "annotations", "logprobs" }
local item_order = { "id", "type", "status", "role", "content" }

local function part(text)
  return json.object({ type = "output_text", text = text, annotations = json.array(), logprobs = json.array() },
    part_order)
end

local function item(job, status, text)
  return json.object({ id = job.item_id, type = "message", status = status, role = "assistant",
                       content = json.array { text and part(text) } }, item_order)
end

local function usage(run)
  local input, output = run:n_prompt_tokens(), run.n_output
  return json.object({
    input_tokens = input, input_tokens_details = json.object { cached_tokens = run:n_cached_tokens() },
    output_tokens = output, output_tokens_details = json.object { reasoning_tokens = 0 },
    total_tokens = input + output,
  }, { "input_tokens", "input_tokens_details", "output_tokens", "output_tokens_details", "total_tokens" })
end

local response_order = { "id", "object", "created_at", "status", "error", "incomplete_details", "instructions",
  "max_output_tokens", "model", "output", "parallel_tool_calls", "previous_response_id", "store", "temperature",
  "text", "tool_choice", "tools", "top_p", "truncation", "usage", "metadata" }

local function or_null(v)
  if v == nil then return json.null end
  return v
end

local function number_or(v, default) return v == nil and default or v end

-- The response object. choice: what has been generated, nil while it runs.
local function response(job, choice)
  local cut = choice and choice.finish_reason == "length"
  local most = job.own.max_output_tokens or job.sampling.max_tokens
  return json.object({
    id = job.id, object = "response", created_at = job.created,
    status = not choice and "in_progress" or cut and "incomplete" or "completed", error = json.null,
    incomplete_details = cut and json.object { reason = "max_output_tokens" } or json.null,
    instructions = or_null(job.own.instructions), max_output_tokens = most > 0 and most or json.null,
    model = job.model, output = json.array { choice and item(job, cut and "incomplete" or "completed", choice.text) },
    parallel_tool_calls = false, previous_response_id = json.null, store = false,
    temperature = number_or(job.sampling.temperature, 1), top_p = number_or(job.sampling.top_p, 1),
    text = json.object { format = json.object { type = "text" } }, tool_choice = "none", tools = json.array(),
    truncation = "disabled", usage = choice and usage(job.run) or json.null, metadata = json.object {},
  }, response_order)
end

-- ---- streamed ------------------------------------------------------------------------------------------------

-- One event; fields in the order of `order` after type and sequence_number.
local function event(job, kind, fields, order)
  fields.type, fields.sequence_number = kind, job.sequence
  job.sequence = job.sequence + 1
  local text = json.encode(json.object(fields, { "type", "sequence_number", unpack(order) }))
  return ("event: %s\ndata: %s\n\n"):format(kind, text)
end

local function send(res, ...) res:write(event(...)) end

local place = { "item_id", "output_index", "content_index" }

local function placed(job, fields)
  fields.item_id, fields.output_index, fields.content_index = job.item_id, 0, 0
  return fields
end

local function begin(res, job)
  send(res, job, "response.created", { response = response(job) }, { "response" })
  send(res, job, "response.in_progress", { response = response(job) }, { "response" })
  send(res, job, "response.output_item.added", { output_index = 0, item = item(job, "in_progress") },
    { "output_index", "item" })
  send(res, job, "response.content_part.added", placed(job, { part = part "" }), place)
end

local function finish(res, job, choice)
  local status = choice.finish_reason == "length" and "incomplete" or "completed"
  send(res, job, "response.output_text.done", placed(job, { text = choice.text, logprobs = json.array() }), place)
  send(res, job, "response.content_part.done", placed(job, { part = part(choice.text) }), place)
  send(res, job, "response.output_item.done", { output_index = 0, item = item(job, status, choice.text) },
    { "output_index", "item" })
  send(res, job, "response." .. status, { response = response(job, choice) }, { "response" })
end

local function emit(res, job)
  res:sse()
  begin(res, job)
  local choice, parts = {}, {}
  local after = (',"item_id":%s,"output_index":0,"content_index":0,"delta":"'):format(escape.string(job.item_id))
  local function write_one(delta)
    if delta.text == "" then return end
    parts[#parts + 1] = delta.text
    res:write('event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":',
      ("%d"):format(job.sequence), after, escape.escape(delta.text), '","logprobs":[]}\n\n')
    job.sequence = job.sequence + 1
  end
  for delta in job.run.next, job.run do
    split.each(delta, write_one)
    choice.finish_reason = delta.finish_reason
  end
  choice.text = table.concat(parts)
  finish(res, job, choice)
end

local function last_words(_, message, job)
  return event(job, "error", { code = "server_error", message = json.utf8(message), param = json.null },
    { "code", "message", "param" })
end

-- The handler. options: those of llm.openai.options.
function M.handler(engine, options)
  local service = service_module.of(engine, options)
  return function(req, res)
    local job = read(service, req, res)
    job.sequence = 0
    job.run = runs.start(service, { job.prompt }, job.sampling, job.request, not job.own.stream)
    if job.own.stream then return sse.run(req, res, last_words, emit, job) end
    res:json(response(job, job.run:collect()[1][1]))
  end
end

return M
