-- "script" in a request: the client's own Lua program in place of one generation (--allow-client-scripts). It sees
-- request, engine, tools, emit and json; what it emits, and a string that it returns, is the text of the answer.

local client_script = require "llm.client_script"
local escape = require "llm.openai.escape"
local http = require "llm.http"
local json = require "llm.json"
local messages = require "llm.openai.messages"
local runs = require "llm.openai.run"
local sse = require "llm.openai.sse"
local template = require "llm.template"
local types = require "llm.openai.types"
local usage = require "llm.openai.usage"

local M = {}

local MAX_STREAMS, MAX_PROMPTS = 8, 64

-- ---- what the script may ask for -------------------------------------------------------------------------------

local calls = {}

-- The request's sampling parameters with the script's own over them, within what is left of its tokens.
local function sampling_of(context, params, n_prompts)
  local sampling = {}
  for name, value in pairs(context.job.sampling) do sampling[name] = value end
  if params ~= nil and type(params) ~= "table" then error("the parameters must be a table", 0) end
  for name, value in pairs(params or {}) do sampling[name] = value end
  local n = type(sampling.n) == "number" and sampling.n or 1
  if context.tokens_left then
    local each = math.floor(context.tokens_left / math.max(n * n_prompts, 1))
    if each < 1 then error("the request's max_tokens are used up", 0) end
    local wanted = sampling.max_tokens
    if type(wanted) ~= "number" or wanted < 1 or wanted > each then sampling.max_tokens = each end
  end
  return sampling
end

local function prompts_of(prompts)
  if type(prompts) == "string" or type(prompts) == "table" and type(prompts[1]) == "number" then prompts = { prompts } end
  if type(prompts) ~= "table" or #prompts == 0 or #prompts > MAX_PROMPTS then
    error(("the prompt must be a text, a list of token ids, or a list of at most %d of these"):format(MAX_PROMPTS), 0)
  end
  for _, prompt in ipairs(prompts) do
    if type(prompt) ~= "string" and type(prompt) ~= "table" then error("a prompt is a text or a list of ids", 0) end
  end
  return prompts
end

local function start(context, prompts, params, whole)
  prompts = prompts_of(prompts)
  local job = context.job
  return runs.start(job.service, prompts, sampling_of(context, params, #prompts), job.request, whole), prompts
end

local function book(context, run)
  local used = context.usage
  used.prompt, used.output = used.prompt + run:n_prompt_tokens(), used.output + run.n_output
  used.cached = used.cached + run:n_cached_tokens()
  if context.tokens_left then context.tokens_left = math.max(context.tokens_left - run.n_output, 0) end
end

-- engine:generate(prompts, params): as in a server's script, with fewer fields.
function calls.generate(context, prompts, params)
  local run, list = start(context, prompts, params, true)
  local results, outputs = run:collect(), {}
  book(context, run)
  for i, prompt in ipairs(list) do
    local choices = {}
    for j, choice in ipairs(results[i]) do
      choices[j] = { index = j - 1, text = choice.text, token_ids = choice.token_ids, logprobs = choice.logprobs,
                     finish_reason = choice.finish_reason, stop_reason = choice.stop_reason }
    end
    outputs[i] = { prompt = type(prompt) == "string" and prompt or nil, outputs = choices }
  end
  return outputs
end

-- engine:chat(messages, params): the same for a conversation; one output.
function calls.chat(context, conversation, params)
  if type(conversation) ~= "table" then error("engine:chat takes a list of messages", 0) end
  local text = client_script.encode(conversation)
  local prompt = messages.render(context.job.service, { messages = template.from_json(text) })
  local request = context.job.request
  local before = request.add_special_tokens
  request.add_special_tokens = false -- the template writes them
  local ok, outputs = pcall(calls.generate, context, prompt, params)
  request.add_special_tokens = before
  if not ok then error(outputs, 0) end
  return outputs[1]
end

function calls.stream(context, prompt, params)
  local id = 1
  while context.streams[id] do id = id + 1 end
  if id > MAX_STREAMS then error(("%d streams are open already"):format(MAX_STREAMS), 0) end
  context.streams[id] = start(context, { prompt }, params, false)
  return id
end

calls["next"] = function(context, id)
  local run = context.streams[id]
  if not run then return nil end
  local delta = run:next()
  if not delta then
    book(context, run)
    context.streams[id] = nil
    return nil
  end
  return { text = delta.text, token_ids = delta.token_ids, index = delta.index, logprobs = delta.logprobs,
                 finish_reason = delta.finish_reason, stop_reason = delta.stop_reason }
end

function calls.tokenize(context, text)
  if type(text) ~= "string" then error("engine:tokenize takes a text", 0) end
  return context.job.service.engine:tokenize(text)
end

function calls.detokenize(context, list)
  if type(list) ~= "table" then error("engine:detokenize takes a list of token ids", 0) end
  return context.job.service.engine:detokenize(list)
end

function calls.info(context)
  local info = context.job.service.info
  return { model = context.job.model, max_model_len = info.max_model_len, vocab_size = info.vocab_size }
end

function calls.emit(context, text)
  context.emit(json.utf8(text))
end

-- ---- the answer ----------------------------------------------------------------------------------------------

-- A decoded value as the script gets it; JSON's null is nil.
local function plain(value)
  if type(value) ~= "table" then return value end
  if value == json.null then return nil end
  local new = {}
  for key, inner in pairs(value) do new[key] = plain(inner) end
  return new
end

local shapes = {
  completions = { prefix = "cmpl-", whole = "text_completion", chunk = "text_completion",
                  text = '"text":%s', delta = '"text":%s' },
  chat = { prefix = "chatcmpl-", whole = "chat.completion", chunk = "chat.completion.chunk",
           text = '"message":{"role":"assistant","content":%s}', delta = '"delta":{"role":"assistant","content":%s}' },
}

local function new_job(service, endpoint, req, given)
  local own = given.own
  local request = { args = plain(own.script_args and types.plain(own.script_args)), params = given.sampling }
  if endpoint == "chat" then
    given.sampling.max_tokens = own.max_completion_tokens or given.sampling.max_tokens
    if own.messages then request.messages = plain(types.plain(own.messages)) end
  else
    request.prompt = own.prompt ~= nil and plain(types.plain(own.prompt)) or nil
  end
  local shape = shapes[endpoint]
  return { service = service, own = own, sampling = given.sampling, request = given.request, sees = request,
           shape = shape, id = service:request_id(shape.prefix, req, given), created = os.time(),
           model = service:model_name(given) }
end

local function head(job, object)
  return ('{"id":%s,"object":"%s","created":%d,"model":%s,'):format(escape.string(job.id), object, job.created,
    escape.string(job.model))
end

local function usage_of(context)
  local used = context.usage
  return usage.json(used.prompt, used.output, used.cached, context.job.service.options.enable_prompt_tokens_details)
end

-- The member "script": the value it returned if that is no text, what it printed, what it used.
local function script_json(result, used)
  local value = type(result) ~= "string" and result ~= nil and client_script.encode(result) or "null"
  return ('{"result":%s,"output":%s,"run_seconds":%.6f,"peak_bytes":%d}'):format(value,
    escape.string(json.utf8(used.output)), used.seconds, used.bytes)
end

local function run(context, source)
  local options = context.job.service.options
  local bound = {}
  for name, f in pairs(calls) do
    bound[name] = function(_, ...) return f(context, ...) end
  end
  local results, used = client_script.run(source, { request = context.job.sees }, bound,
    { memory = options.client_script_memory, seconds = options.client_script_time,
      timeout = options.client_script_timeout })
  if type(results[1]) == "string" then calls.emit(context, results[1]) end
  return results[1], used
end

local function answer_whole(res, context, source)
  local parts, job = {}, context.job
  context.emit = function(text) parts[#parts + 1] = text end
  local result, used = run(context, source)
  res:send(('%s"choices":[{"index":0,%s,"logprobs":null,"finish_reason":"stop","stop_reason":null}],"usage":%s,'
    .. '"script":%s}'):format(head(job, job.shape.whole), job.shape.text:format(escape.string(table.concat(parts))),
      usage_of(context), script_json(result, used)), "application/json")
end

local function stream(res, context, source)
  local job = context.job
  local start_of_chunk = "data: " .. head(job, job.shape.chunk) .. '"choices":[{"index":0,'
  local function chunk(text, finish, more)
    res:write(start_of_chunk, job.shape.delta:format(escape.string(text)),
      ',"logprobs":null,"finish_reason":', finish, "}]", more, "}\n\n")
  end
  context.emit = function(text) chunk(text, "null", "") end
  res:sse()
  local result, used = run(context, source)
  chunk("", '"stop"', (',"usage":%s,"script":%s'):format(usage_of(context), script_json(result, used)))
end

-- Answers a request that has a script. given: of service:read.
function M.answer(service, endpoint, req, res, given)
  if not service.options.allow_client_scripts then
    http.error(400, "this server runs no scripts of clients (--allow-client-scripts)", { param = "script" })
  end
  local job = new_job(service, endpoint, req, given)
  local context = { job = job, streams = {}, usage = { prompt = 0, output = 0, cached = 0 },
                    tokens_left = job.sampling.max_tokens }
  if job.own.stream then return sse.stream(req, res, stream, context, job.own.script) end
  return answer_whole(res, context, job.own.script)
end

return M
