-- POST /v1/completions

local escape = require "llm.openai.escape"
local http = require "llm.http"
local logprobs = require "llm.openai.logprobs"
local prompts_of = require("llm.openai.prompts").read
local runs = require "llm.openai.run"
local script = require "llm.openai.script"
local service_module = require "llm.openai.service"
local split = require "llm.openai.split"
local sse = require "llm.openai.sse"
local truncation = require "llm.openai.truncation"
local usage = require "llm.openai.usage"

local M = {}

local function or_null(text) return text and escape.string(text) or "null" end

local function stop_reason(value)
  return type(value) == "number" and ("%d"):format(value) or or_null(value)
end

-- The request as this endpoint sees it.
local function read(service, req, given)
  local own, sampling = given.own, given.sampling
  local job = { service = service, own = own, sampling = sampling, request = given.request,
                prompts = prompts_of(own.prompt, sampling.n or 1), k = sampling.logprobs,
                id = service:request_id("cmpl-", req, given), created = os.time(),
                model = service:model_name(given), as_ids = own.return_tokens_as_token_ids
                  or own.return_tokens_as_token_ids == nil and service.options.return_tokens_as_token_ids }
  if own.stream and sampling.prompt_logprobs then
    http.error(400, "prompt_logprobs cannot be had with stream", { param = "prompt_logprobs" })
  end
  if own.stream_options and not own.stream then
    http.error(400, "stream_options is for stream: true", { param = "stream_options" })
  end
  -- echo with no output is how evaluation harnesses score a text; the engine makes one token that nobody sees.
  if sampling.max_tokens == 0 then
    if not own.echo then
      http.error(400, "max_tokens is 0; it must be at least 1, or echo must be true", { param = "max_tokens" })
    end
    job.scores_only = true
    sampling.max_tokens, sampling.min_tokens = 1, nil
  end
  if own.echo and job.k then
    job.prompt_logprobs_asked = sampling.prompt_logprobs
    sampling.prompt_logprobs = math.max(sampling.prompt_logprobs or 0, job.k)
    if job.k == -1 or job.prompt_logprobs_asked == -1 then sampling.prompt_logprobs = -1 end
  else
    job.prompt_logprobs_asked = sampling.prompt_logprobs
  end
  truncation.apply(service, own, sampling, given.request)
  return job
end

local function text_of(job)
  local tokenizer = job.service.engine:tokenizer()
  return function(id) return tokenizer:token_text(id) end
end

-- The prompt as echo shows it.
local function echo_text(job, i)
  if not job.own.echo then return "" end
  local prompt = job.prompts[i]
  if type(prompt) == "string" and not job.request.truncate_prompt_tokens then return prompt end
  return job.service.engine:detokenize(job.run:info(i).prompt_token_ids)
end

local function head(job)
  return ('"id":%s,"object":"text_completion","created":%d,"model":%s,'):format(escape.string(job.id), job.created,
    escape.string(job.model))
end

-- ---- whole ---------------------------------------------------------------------------------------------------

local function concat(a, b)
  local all = {}
  for _, v in ipairs(a) do all[#all + 1] = v end
  for _, v in ipairs(b) do all[#all + 1] = v end
  return all
end

local function whole_logprobs(job, info, choice)
  if not job.k then return "null" end
  local ids, rows = choice.token_ids, choice.logprobs or {}
  if job.own.echo then
    ids, rows = concat(info.prompt_token_ids, ids), concat(info.prompt_logprobs, rows)
  end
  return (logprobs.completion(ids, rows, job.k, 0, text_of(job), job.as_ids))
end

local function choice_json(job, i, j, choice)
  local info = job.run:info(i)
  if job.scores_only then choice = { text = "", token_ids = {}, finish_reason = "length" } end
  local ids = ""
  if job.own.return_token_ids then
    ids = (',"token_ids":%s,"prompt_token_ids":%s'):format(escape.ids(choice.token_ids),
      escape.ids(info.prompt_token_ids))
  end
  return ('{"index":%d,"text":%s,"logprobs":%s,"finish_reason":%s,"stop_reason":%s,"prompt_logprobs":%s%s}'):format(
    (i - 1) * job.run.n + j - 1, escape.string(echo_text(job, i) .. choice.text), whole_logprobs(job, info, choice),
    or_null(choice.finish_reason), stop_reason(choice.stop_reason),
    job.prompt_logprobs_asked and logprobs.prompt(info.prompt_logprobs) or "null", ids)
end

local function answer_whole(res, job)
  local results, choices = job.run:collect(), {}
  for i, list in ipairs(results) do
    for j, choice in ipairs(list) do choices[#choices + 1] = choice_json(job, i, j, choice) end
  end
  if job.scores_only then job.run.n_output = 0 end
  res:send(("{%s\"choices\":[%s],\"usage\":%s}"):format(head(job), table.concat(choices, ","), usage.of(job.run)),
    "application/json")
end

-- ---- streamed ------------------------------------------------------------------------------------------------

-- What is remembered of a choice while it streams.
local function new_choice(job, index)
  return { head = ('data: {%s"choices":[{"index":%d,"text":"'):format(head(job), index), offset = 0, n = 0,
           plain = not (job.k or job.own.return_token_ids or job.usage_each or job.scores_only) }
end

local PLAIN = '","logprobs":null,"finish_reason":null,"stop_reason":null}]'
local PLAIN_END = PLAIN .. "}\n\n"

-- The rest of a chunk that has more than text.
local function tail(job, i, choice, delta, rows_json)
  local ids = ""
  if job.own.return_token_ids then
    ids = ',"token_ids":' .. escape.ids(delta.token_ids)
    if not choice.begun then
      ids = ids .. ',"prompt_token_ids":' .. escape.ids(job.run:info(i).prompt_token_ids)
    end
  end
  return ('","logprobs":%s,"finish_reason":%s,"stop_reason":%s%s}]'):format(rows_json or "null",
    or_null(delta.finish_reason), stop_reason(delta.stop_reason), ids)
end

local function delta_logprobs(job, i, choice, delta)
  if not job.k then return nil end
  local ids, rows = delta.token_ids, delta.logprobs or {}
  if job.own.echo and not choice.begun then
    ids, rows = concat(job.run:info(i).prompt_token_ids, ids), concat(job.run:prompt_logprobs(i), rows)
  end
  local text
  text, choice.offset = logprobs.completion(ids, rows, job.k, choice.offset, text_of(job), job.as_ids)
  return text
end

-- The chunk of one token.
local function write_one(delta, res, job, i, choice)
  local text = delta.text
  if job.scores_only then text, delta.token_ids, delta.logprobs = "", {}, nil end
  choice.n = choice.n + #delta.token_ids
  local rich = delta.finish_reason or job.k or job.own.return_token_ids
  if not choice.begun then text = echo_text(job, i) .. text end
  if text == "" and not rich then return end
  local rest = rich and tail(job, i, choice, delta, delta_logprobs(job, i, choice, delta)) or PLAIN
  choice.begun = true
  if job.usage_each then
    rest = rest .. ',"usage":' .. usage.json(#job.run:info(i).prompt_token_ids, choice.n,
      job.run:info(i).num_cached_tokens or 0, job.service.options.enable_prompt_tokens_details)
  end
  res:write(choice.head, escape.escape(text), rest, "}\n\n")
end

local function write_delta(res, job, i, choice, delta)
  if not choice.plain or not choice.begun or delta.finish_reason then
    return split.each(delta, write_one, res, job, i, choice)
  end
  choice.n = choice.n + #delta.token_ids
  res:tokens(choice.head, delta.text, delta.text_ends, PLAIN_END)
end

local function emit(res, job)
  res:sse()
  local choices, run = {}, job.run
  for delta, i in run.next, run do
    local index = (i - 1) * run.n + delta.index
    local choice = choices[index]
    if not choice then
      choice = new_choice(job, index)
      choices[index] = choice
    end
    write_delta(res, job, i, choice, delta)
  end
  if job.scores_only then run.n_output = 0 end
  if job.usage_last then res:write("data: {", head(job), '"choices":[],"usage":', usage.of(run), "}\n\n") end
end

-- The handler. options: those of llm.openai.options.
function M.handler(engine, options)
  local service = service_module.of(engine, options)
  return function(req, res)
    local given = service:read("completions", req, res)
    if given.own.script then return script.answer(service, "completions", req, res, given) end
    local job = read(service, req, given)
    local own = job.own
    job.usage_last, job.usage_each = usage.wanted(service, own.stream_options)
    job.run = runs.start(service, job.prompts, job.sampling, job.request, not own.stream)
    if own.stream then
      sse.stream(req, res, emit, job)
    else
      answer_whole(res, job)
    end
  end
end

return M
