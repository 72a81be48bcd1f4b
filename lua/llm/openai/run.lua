-- A run: the engine's requests for the prompts of one HTTP request, and their deltas as one sequence.

local http = require "llm.http"
local metrics = require "llm.metrics"
local service_module = require "llm.openai.service"
local tasks = require "llm.task"

local Run = {}
Run.__index = Run

local M = { Run = Run }

local function note(run, stream)
  local info = stream:info()
  run.infos[stream] = info
  return info
end

-- Refuses as the engine did: its messages begin with the parameter they are about.
local function refuse(service, message, code, params)
  if code == "EFULL" then service:busy(message) end
  if code == "EFAILED" or code == "ENOMEM" then http.error(500, message) end
  local name = message:match "^([%w_]+)"
  http.error(400, message, { param = params[name] ~= nil and name or nil })
end

-- Starts prompts (texts or lists of ids) with sampling parameters. request: properties of the engine's request.
-- whole: one delta a choice, when it has finished. Raises an HTTP error if the engine does not take them all.
function M.start(service, prompts, sampling, request, whole)
  local run = setmetatable({ service = service, streams = {}, infos = {}, live = {}, n_live = 0, turn = 0,
                             n = sampling.n or 1, sampling = sampling, n_output = 0 }, Run)
  local options = { whole = whole }
  for name, value in pairs(request) do options[name] = value end
  run.waiting = service:enter(prompts)
  tasks.own(run, Run.close)
  for i = 1, #prompts do
    local stream, message, code = service.engine:try_stream(prompts[i], sampling, options)
    if not stream then
      run:close()
      refuse(service, message, code, sampling)
    end
    run.streams[i] = stream
    run.live[stream.request] = i
    run.n_live = run.n_live + 1
  end
  return run
end

-- Cancels what still runs. Harmless twice; done by itself when the handler ends.
function Run:close()
  if self.closed then return end
  self.closed = true
  if self.waiting then self.service:leave(self.waiting) end
  for i, stream in ipairs(self.streams) do
    -- The task's end may have closed the stream before it closes the run.
    if self.live[stream.request] == i and not stream.failed then metrics.aborted(self.service.engine) end
    stream:close()
  end
  tasks.disown(self)
end

-- Books what one delta of prompt i means for the queue and the metrics.
local function account(run, i, delta)
  local engine = run.service.engine
  if run.waiting then
    run.service:leave(run.waiting)
    run.waiting = nil
  end
  run.n_output = run.n_output + #delta.token_ids
  if delta.finish_reason then metrics.finished_choice(engine, delta.finish_reason) end
end

local function ended(run, i, stream)
  run.live[stream.request] = nil
  run.n_live = run.n_live - 1
  metrics.finished_request(run.service.engine, note(run, stream), run.sampling, stream.n_tokens or 0)
end

-- A policy's failure is its request's: the message is the client's to see, the traceback goes to the log.
local function poll_one(stream)
  local ok, delta = pcall(stream.poll, stream)
  if ok then return delta end
  local failure = stream.failure
  if failure and failure.refusal then
    local again = failure.refusal == 429 or failure.refusal == 503
    http.error(failure.refusal, failure.message, { headers = again and { ["Retry-After"] = "1" } or nil })
  end
  if failure and failure.code == "ECANCELED" then http.error(504, failure.message) end
  if not failure or not failure.details then error(delta, 0) end
  io.stderr:write(("llmlua: %s\n"):format(failure.details))
  http.error(failure.code == "EINVAL" and 400 or 500, failure.message, { param = "policy" })
end

-- One delta that is there already, from the streams in turn.
local function poll(run)
  local streams = run.streams
  for step = 1, #streams do
    local i = (run.turn + step - 1) % #streams + 1
    local stream = streams[i]
    local delta = poll_one(stream)
    if delta then
      run.turn = i
      stream.n_tokens = (stream.n_tokens or 0) + #delta.token_ids
      account(run, i, delta)
      if stream.done then ended(run, i, stream) end
      return delta, i
    end
  end
end

-- The next delta and the number of its prompt (from 1); nil at the end. Raises what the engine says of a failure.
function Run:next()
  while true do
    local delta, i = poll(self)
    if delta then return delta, i end
    if self.n_live == 0 then
      self:close()
      return nil
    end
    if #self.streams == 1 then
      tasks.await_event(self.service.engine, self.streams[1].request)
    else
      tasks.await_events(self.service.engine, self.live)
    end
  end
end

-- What is known of prompt i: prompt_token_ids, num_cached_tokens, prompt_logprobs (at its end).
function Run:info(i)
  local stream = self.streams[i]
  return self.infos[stream] or note(self, stream)
end

-- The rows of prompt i, complete once its first delta has come.
function Run:prompt_logprobs(i)
  local stream = self.streams[i]
  if stream.done then return self:info(i).prompt_logprobs end
  return stream.request:info().prompt_logprobs
end

-- The whole result: for each prompt a list of choices {text, token_ids, logprobs, finish_reason, stop_reason}.
function Run:collect()
  local results = {}
  for i = 1, #self.streams do results[i] = {} end
  for delta, i in self.next, self do
    local choice = results[i][delta.index + 1]
    if not choice then
      choice = { text = "", token_ids = {} }
      results[i][delta.index + 1] = choice
    end
    choice.text = choice.text .. delta.text
    for _, id in ipairs(delta.token_ids) do choice.token_ids[#choice.token_ids + 1] = id end
    if delta.logprobs then
      choice.logprobs = choice.logprobs or {}
      for _, row in ipairs(delta.logprobs) do choice.logprobs[#choice.logprobs + 1] = row end
    end
    choice.finish_reason, choice.stop_reason = delta.finish_reason, delta.stop_reason
  end
  return results
end

function Run:n_prompt_tokens()
  local n = 0
  for i = 1, #self.streams do n = n + #self:info(i).prompt_token_ids end
  return n
end

function Run:n_cached_tokens()
  local n = 0
  for i = 1, #self.streams do n = n + (self:info(i).num_cached_tokens or 0) end
  return n
end

return M
