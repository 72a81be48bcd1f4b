-- POST /v1/chat/completions

local escape = require "llm.openai.escape"
local http = require "llm.http"
local logprobs = require "llm.openai.logprobs"
local messages = require "llm.openai.messages"
local runs = require "llm.openai.run"
local script = require "llm.openai.script"
local service_module = require "llm.openai.service"
local split = require "llm.openai.split"
local sse = require "llm.openai.sse"
local truncation = require "llm.openai.truncation"
local types = require "llm.openai.types"
local usage = require "llm.openai.usage"

local M = {}

local function refuse(message, param) http.error(400, message, { param = param }) end

-- tool_choice: what would need structured output is refused, auto leaves calls in the text.
local function check_tools(own)
  local choice = own.tool_choice
  if choice == nil or choice == "none" or choice == "auto" then return end
  if choice == "required" or types.kind_of(choice) == "dict" then
    refuse("tool_choice can be none or auto: forcing a call needs structured output, which this server has not",
      "tool_choice")
  end
  refuse("tool_choice must be none, auto, required or an object", "tool_choice")
end

local function check_logprobs(own, sampling)
  if own.top_logprobs and own.top_logprobs ~= 0 and not own.logprobs then
    refuse("top_logprobs needs logprobs: true", "top_logprobs")
  end
  if own.logprobs then sampling.logprobs = own.top_logprobs or 0 end
end

-- With echo, the text of a last message of the assistant's comes before the answer.
local function echo_of(own)
  local last = own.echo and own.messages[own.messages.n]
  if not last or last.map.role ~= "assistant" then return "" end
  return type(last.map.content) == "string" and last.map.content or ""
end

local function read(service, req, given)
  local own, sampling = given.own, given.sampling
  check_tools(own)
  check_logprobs(own, sampling)
  if own.stream and sampling.prompt_logprobs then
    refuse("prompt_logprobs cannot be had with stream", "prompt_logprobs")
  end
  if own.stream_options and not own.stream then refuse("stream_options is for stream: true", "stream_options") end
  if sampling.max_tokens == 0 then refuse("max_tokens is 0; it must be at least 1", "max_tokens") end
  sampling.max_tokens = own.max_completion_tokens or sampling.max_tokens or -1
  if given.request.add_special_tokens == nil then given.request.add_special_tokens = false end
  truncation.apply(service, own, sampling, given.request)
  local as_ids = own.return_tokens_as_token_ids
  if as_ids == nil then as_ids = service.options.return_tokens_as_token_ids end
  return { service = service, own = own, sampling = sampling, request = given.request,
           prompt = messages.render(service, own), k = sampling.logprobs, as_ids = as_ids, echo = echo_of(own),
           id = service:request_id("chatcmpl-", req, given), created = os.time(), model = service:model_name(given) }
end

local function head(job, object)
  return ('"id":%s,"object":"%s","created":%d,"model":%s,'):format(escape.string(job.id), object, job.created,
    escape.string(job.model))
end

local function or_null(text) return text and escape.string(text) or "null" end

local function stop_reason(v) return type(v) == "number" and ("%d"):format(v) or or_null(v) end

local function logprobs_json(job, ids, rows)
  return job.k and logprobs.chat(ids, rows or {}, job.k, job.as_ids) or "null"
end

-- ---- whole ---------------------------------------------------------------------------------------------------

local function choice_json(job, index, choice)
  local ids = job.own.return_token_ids and ',"token_ids":' .. escape.ids(choice.token_ids) or ""
  return ('{"index":%d,"message":{"role":"assistant","content":%s},"logprobs":%s,"finish_reason":%s,'
    .. '"stop_reason":%s%s}'):format(index, escape.string(job.echo .. choice.text),
      logprobs_json(job, choice.token_ids, choice.logprobs), or_null(choice.finish_reason), stop_reason(choice.stop_reason), ids)
end

local function answer_whole(res, job)
  local choices = {}
  for j, choice in ipairs(job.run:collect()[1]) do choices[j] = choice_json(job, j - 1, choice) end
  local info, more = job.run:info(1), ""
  if job.sampling.prompt_logprobs then more = ',"prompt_logprobs":' .. logprobs.prompt(info.prompt_logprobs) end
  if job.own.return_token_ids then more = more .. ',"prompt_token_ids":' .. escape.ids(info.prompt_token_ids) end
  res:send(("{%s\"choices\":[%s],\"usage\":%s%s}"):format(head(job, "chat.completion"), table.concat(choices, ","),
    usage.of(job.run), more), "application/json")
end

-- ---- streamed ------------------------------------------------------------------------------------------------

local PLAIN = '"},"logprobs":null,"finish_reason":null}]'
local PLAIN_END = PLAIN .. "}\n\n"

local function usage_json(job, choice)
  local info = job.run:info(1)
  return ',"usage":' .. usage.json(#info.prompt_token_ids, choice.n, info.num_cached_tokens or 0,
    job.service.options.enable_prompt_tokens_details)
end

-- The first chunk of a choice: its role, and with echo the text it goes on from.
local function begin(res, job, index)
  local choice = { n = 0, head = ('data: {%s"choices":[{"index":%d,"delta":{'):format(job.head, index),
                   plain = not (job.k or job.own.return_token_ids or job.usage_each) }
  choice.content = choice.head .. '"content":"'
  local ids = ""
  if job.own.return_token_ids then
    ids = ',"prompt_token_ids":' .. escape.ids(job.run:info(1).prompt_token_ids)
  end
  res:write(choice.head, '"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]',
    ids, job.usage_each and usage_json(job, choice) or "", "}\n\n")
  if job.echo ~= "" then res:write(choice.content, escape.escape(job.echo), PLAIN, "}\n\n") end
  return choice
end

-- The chunk of a token's text, and at a choice's end one with its reason.
local function write_one(delta, res, job, choice)
  choice.n = choice.n + #delta.token_ids
  local rich = job.k or job.own.return_token_ids
  local each = job.usage_each and usage_json(job, choice) or ""
  if delta.text ~= "" or rich and #delta.token_ids > 0 then
    local rest = PLAIN
    if rich then
      rest = ('"},"logprobs":%s,"finish_reason":null%s}]'):format(logprobs_json(job, delta.token_ids, delta.logprobs),
        job.own.return_token_ids and ',"token_ids":' .. escape.ids(delta.token_ids) or "")
    end
    res:write(choice.content, escape.escape(delta.text), rest, each, "}\n\n")
  end
  if delta.finish_reason then
    res:write(choice.head, ('},"logprobs":null,"finish_reason":%s,"stop_reason":%s}]'):format(
      or_null(delta.finish_reason), stop_reason(delta.stop_reason)), each, "}\n\n")
  end
end

local function write_delta(res, job, choice, delta)
  if not choice.plain or delta.finish_reason then return split.each(delta, write_one, res, job, choice) end
  choice.n = choice.n + #delta.token_ids
  res:tokens(choice.content, delta.text, delta.text_ends, PLAIN_END)
end

local function emit(res, job)
  local choices, run = {}, job.run
  job.head = head(job, "chat.completion.chunk")
  res:sse()
  for delta in run.next, run do
    local choice = choices[delta.index]
    if not choice then
      choice = begin(res, job, delta.index)
      choices[delta.index] = choice
    end
    write_delta(res, job, choice, delta)
  end
  if job.usage_last then res:write("data: {", job.head, '"choices":[],"usage":', usage.of(run), "}\n\n") end
end

-- The handler. options: those of llm.openai.options.
function M.handler(engine, options)
  local service = service_module.of(engine, options)
  return function(req, res)
    local given = service:read("chat", req, res)
    if given.own.script then return script.answer(service, "chat", req, res, given) end
    local job = read(service, req, given)
    job.usage_last, job.usage_each = usage.wanted(service, job.own.stream_options)
    job.run = runs.start(service, { job.prompt }, job.sampling, job.request, not job.own.stream)
    if job.own.stream then
      sse.stream(req, res, emit, job)
    else
      answer_whole(res, job)
    end
  end
end

return M
