-- The engine as scripts see it: batches of prompts, streams, and what the engine knows about itself.
--
-- One client of the core serves all requests of this Lua state. Events come out of it in any order; pump() puts each
-- into the inbox of its request, so streams and batches can run side by side, in coroutines too.

local core = require "llm.core"
local hub = require "llm.hub"
local policies = require "llm.policy"
local progress = require "llm.progress"
local requests = require "llm.request"
local options_module = require "llm.options"
local schema = require "llm.schema"
local suggest = require "llm.suggest"
local tasks = require "llm.task"
local template = require "llm.template"
local tokenizers = require "llm.tokenizer"

local WAIT_MS = 50 -- between looks at Ctrl-C and the progress bar

local Engine, Stream = {}, {}
Engine.__index, Stream.__index = Engine, Stream

local M = { Engine = Engine, Stream = Stream }

local function handle_of(engine)
  if not engine.handle:is_open() then error("the engine is closed", 3) end
  return engine.handle
end

-- ---- opening -------------------------------------------------------------------------------------------------

local function mib(bytes) return ("%.0f MiB"):format(bytes / 2 ^ 20) end

-- The options with paths in place of names on the hub, for the core; or nil and a message.
local function with_paths(checked)
  local found, message = {}, nil
  for name, value in pairs(checked) do found[name] = value end
  found.revision, found.tokenizer_revision, found.download_dir, found.hf_token = nil, nil, nil, nil
  if checked.load_format ~= "null" then -- there the model is but a name
    found.model, message = hub.resolve(checked.model, checked)
    if not found.model then return nil, message end
  end
  if checked.tokenizer then
    found.tokenizer, message = hub.resolve(checked.tokenizer, { tokenizer_only = true, hf_token = checked.hf_token,
      revision = checked.tokenizer_revision, download_dir = checked.download_dir })
    if not found.tokenizer then return nil, message end
  end
  return found
end

-- The core's handle of a model under these options, loaded while a bar shows how far; or nil and a message.
local function load_model(checked)
  local found, message = with_paths(checked)
  if not found then return nil, message end
  local bar, handle
  handle, message = core.open(found, function(done, total)
    bar = bar or progress.new("Loading", total)
    bar:update(done, function() return mib(done) .. " of " .. mib(total) end)
  end)
  if bar and handle then bar:finish() end
  return handle, message
end

-- options: those of schema.engine, dashes or underscores, sizes as numbers or "2GiB"; or what llm.options returned.
-- open_handle(options): gives the core's handle in place of loading. Returns the engine, or nil and a message.
function M.open(options, open_handle)
  if type(options) ~= "table" then return nil, "llm.engine needs a table of options, such as { model = PATH }" end
  local checked, message = schema.check(schema.engine, options_module.engine_part(options) or options, "engine option")
  if not checked then return nil, message end
  if checked.load_format == "null" then checked.model = checked.model or "null" end
  if not checked.model then
    return nil, "the option 'model' is missing: a GGUF file, a Hugging Face directory, or an id on the hub"
  end
  local handle
  handle, message = (open_handle or load_model)(open_handle and options or checked)
  if not handle then return nil, message end
  local inboxes = setmetatable({}, { __mode = "k" }) -- request -> its events
  return setmetatable({ handle = handle, model = checked.model, inboxes = inboxes }, Engine)
end

function Engine:__tostring()
  return ("llm.Engine(%s%s)"):format(self.model, self.handle:is_open() and "" or ", closed")
end

-- Cancels what runs and frees the model. Harmless twice.
function Engine:close()
  if self.detach then self.detach() end
  policies.detach(self)
  self.handle:close()
end

-- ---- what it knows -------------------------------------------------------------------------------------------

-- Of the model and the set-up: architecture, vocab_size, max_model_len, weight_bytes, threads, isa …
function Engine:info() return handle_of(self):info() end

-- Counters: n_running, n_waiting, n_blocks_used, n_steps, n_output_tokens, n_preemptions …
function Engine:stats() return handle_of(self):stats() end

function Engine:reset_prefix_cache() handle_of(self):reset_prefix_cache() end

-- The sampling parameters that the model's authors recommend (generation_config.json), a new table.
function Engine:default_params()
  local info, params = handle_of(self):info(), {}
  for _, name in ipairs { "temperature", "top_p", "top_k", "min_p", "repetition_penalty" } do
    params[name] = info["default_" .. name]
  end
  return params
end

-- The model's tokenizer, nil if it has none.
function Engine:tokenizer() return tokenizers.of(handle_of(self), self.model) end

local function tokenizer_or_fail(engine)
  local tokenizer = engine:tokenizer()
  if not tokenizer then
    error("the model has no tokenizer; give the option 'tokenizer', or work with token ids", 3)
  end
  return tokenizer
end

-- See Tokenizer:encode and Tokenizer:decode.
function Engine:tokenize(text, options)
  handle_of(self)
  return tokenizer_or_fail(self):encode(text, options)
end

function Engine:detokenize(ids, options)
  handle_of(self)
  return tokenizer_or_fail(self):decode(ids, options)
end

-- The prompt that the model's chat template makes of these messages ({role, content} …), up to where the answer begins.
-- It has all control tokens: pass it on with add_special_tokens = false. variables: what else the template knows.
function Engine:chat_prompt(messages, variables)
  handle_of(self)
  local tokenizer = tokenizer_or_fail(self)
  local info = tokenizer:info()
  if not info.chat_template then error("the model has no chat template", 2) end
  local context = { messages = template.from_lua(messages), add_generation_prompt = true }
  for _, name in ipairs { "bos", "eos" } do
    if info[name] then context[name .. "_token"] = tokenizer:decode({ info[name] }, { skip_special_tokens = false }) end
  end
  for name, value in pairs(variables or {}) do context[name] = template.from_lua(value) end
  local text, message = template.render(info.chat_template, context)
  if not text then error("the chat template refuses these messages: " .. message, 2) end
  return text
end

-- ---- policies ------------------------------------------------------------------------------------------------

local function raise_failure(failure)
  local _, at = (failure.traceback or ""):find("\nstack traceback:", 1, true)
  error(at and failure.message .. failure.traceback:sub(at - 16) or failure.message, 4)
end

-- name, generation, whether it is a scheduler; at the level of who called the method.
local function load_script(engine, source, text, options)
  if type(source) ~= "string" then error("load_policy needs a path or a name; it got a " .. type(source), 3) end
  if type(text) == "table" then text, options = nil, text end
  local name, result, schedules
  if text then
    name, result, schedules = policies.load_text(engine, "=" .. source, text, options)
  elseif source:find "[/.]" then
    name, result, schedules = policies.load_file(engine, source, options)
  else
    name, result, schedules = policies.load_named(engine, source, options)
  end
  if not name then raise_failure(result) end
  return name, result, schedules
end

-- Loads a policy: the path of a file; or the name of one that comes with the program or lies in a directory that was
-- added; or a name and its Lua text. From then on requests may ask for it by name; those under way keep the generation
-- they began with. options: deadline (seconds a call of a hook may take, 0.1), load_seconds (1), memory (bytes of its
-- Lua state, 256 MiB). Returns its name and generation. Raises if it does not load: then what was there before goes on.
-- In a task of the event loop the others run meanwhile.
function Engine:load_policy(source, text, options)
  handle_of(self)
  local name, generation = load_script(self, source, text, options)
  return name, generation
end

-- Makes the generation before serve again. Returns its number.
function Engine:rollback_policy(name)
  local generation, message = handle_of(self):policy_rollback(name)
  if not generation then error(message, 2) end
  return generation
end

-- Requests cannot ask for it any more.
function Engine:remove_policy(name)
  local ok, message = handle_of(self):policy_remove(name)
  if not ok then error(message, 2) end
end

local function prefix_of(engine, prompt)
  if type(prompt) == "string" then return tokenizer_or_fail(engine):encode(prompt) end
  if type(prompt) == "table" then return prompt end
  error("a prefix is text or a list of token ids; it is a " .. type(prompt), 3)
end

-- Keeps a beginning of prompts (text or ids) in the prefix cache, computing it first. options: seconds (nil: until it is
-- unpinned), cache_salt. Returns a number for unpin and the tokens that are kept: whole blocks. nil and a message if
-- there is no room: all pins together hold a quarter of the blocks.
function Engine:pin(prompt, options)
  local ids, salt = prefix_of(self, prompt), options and options.cache_salt
  self:generate(ids, { max_tokens = 1 }, { cache_salt = salt, progress = false })
  return handle_of(self):prefix_pin(ids, salt, options and options.seconds or 0)
end

-- Lets a pin go; nil and a message if there is none of this number (any more).
function Engine:unpin(id) return handle_of(self):prefix_unpin(id) end

-- Forgets what is cached of prompts with this beginning; nil and a message if nothing is. options: cache_salt.
function Engine:evict(prompt, options)
  return handle_of(self):prefix_evict(prefix_of(self, prompt), options and options.cache_salt)
end

-- Loads the engine's scheduler: the path of a file, or a name for messages and its Lua text. Requests that come from now
-- on go by it; one is there at a time. Raises if it does not load: then the one before goes on.
function Engine:load_scheduler(source, text, options)
  handle_of(self)
  local name, generation, schedules = load_script(self, source, text, options)
  if not schedules then error(("%s makes a policy, not a scheduler"):format(source), 2) end
  return name, generation
end

-- Requests are scheduled without a script again.
function Engine:remove_scheduler() handle_of(self):scheduler_remove() end

-- What is loaded: a list of {name, generation, active, n_users, n_requests, n_calls, n_failures, seconds, on_host}.
function Engine:policies() return handle_of(self):policies() end

-- The policy of requests that name none; nil: none. A function is called for each of them, with {prompt, params, tenant,
-- priority, cache_salt}, and returns policy and args.
function Engine:default_policy(policy, args)
  handle_of(self)
  local ok, message = policies.set_default(self, policy, args)
  if not ok then error(message, 2) end
end

-- ---- events --------------------------------------------------------------------------------------------------

-- Takes all events that wait; if there are none, waits up to timeout_ms for the first. Returns whether there were
-- any, or nil and a message when the engine has failed.
local function pump(engine, timeout_ms)
  local handle = engine.handle
  for round = 1, 2 do
    local found = tasks.take_events(engine)
    if found or round == 2 then return found end
    local ready, message = handle:wait(timeout_ms)
    if ready == nil then return nil, message end
    if not ready then return false end
  end
end

-- Waits up to `seconds` (default 0.05) for something to happen to any request, for scripts that poll several
-- streams. Returns whether something did.
function Engine:wait(seconds)
  handle_of(self)
  local found, message = pump(self, math.floor((seconds or WAIT_MS / 1000) * 1000 + 0.5))
  if found == nil then error(message, 2) end
  return found
end

-- Waits for events of any of the requests (the keys of a map). In a task of the event loop the others run meanwhile;
-- else this blocks, for a while. Results as of pump.
local function await(engine, requests)
  if not tasks.running() then return pump(engine, WAIT_MS) end
  if next(requests) then
    tasks.await_events(engine, requests)
  else
    tasks.sleep(WAIT_MS / 1000)
  end
  return true
end

local function submit(engine, prompt, params, fields)
  local chain, wrong = policies.chain(engine, prompt, params, fields)
  if wrong then return nil, wrong, "EINVAL" end
  fields.policies = chain
  local request, message, code = engine.handle:submit(prompt, params, fields)
  if request then engine.inboxes[request] = {} end
  return request, message, code
end

-- ---- batches -------------------------------------------------------------------------------------------------

local function append(list, more)
  for _, v in ipairs(more) do list[#list + 1] = v end
end

local function take_event(output, event)
  local sequence = output.outputs[event.index + 1]
  if not sequence then
    sequence = { index = event.index, text = "", token_ids = {} }
    output.outputs[event.index + 1] = sequence
  end
  sequence.text = sequence.text .. event.text
  append(sequence.token_ids, event.token_ids)
  if event.logprobs then
    sequence.logprobs = sequence.logprobs or {}
    append(sequence.logprobs, event.logprobs)
  end
  sequence.finish_reason, sequence.stop_reason = event.finish_reason, event.stop_reason
end

function M.cumulative(sequence)
  if not sequence.logprobs then return nil end
  local sum = 0
  for i, id in ipairs(sequence.token_ids) do
    local row = sequence.logprobs[i]
    if row and row[id] then sum = sum + row[id].logprob end
  end
  return sum
end

local function metrics_of(info)
  local start = info.arrival_time
  return {
    arrival_time = start, scheduled_time = info.scheduled_time, first_token_time = info.first_token_time,
    finished_time = info.finished_time, num_preemptions = info.num_preemptions,
    queue_time = info.scheduled_time and info.scheduled_time - start,
    time_to_first_token = info.first_token_time and info.first_token_time - start,
    e2e_latency = info.finished_time and info.finished_time - start,
  }
end

local function complete(output, request)
  local info = request:info()
  output.prompt_token_ids = info.prompt_token_ids
  output.prompt_logprobs = info.prompt_logprobs
  output.num_cached_tokens = info.num_cached_tokens
  output.metrics = metrics_of(info)
  for _, sequence in ipairs(output.outputs) do sequence.cumulative_logprob = M.cumulative(sequence) end
  request:release()
end

local function rates(engine, start, before)
  return function()
    local stats, seconds = engine.handle:stats(), math.max(core.now() - start, 1e-9)
    return ("prompt %.0f tok/s, output %.0f tok/s"):format((stats.n_prompt_tokens - before.n_prompt_tokens) / seconds,
      (stats.n_output_tokens - before.n_output_tokens) / seconds)
  end
end

-- The state of one call of generate: jobs in order, those in flight, what is done.
local function new_batch(engine, prompts, params, options)
  local fields = {}
  for i in ipairs(prompts) do
    local one, message = requests.fields(options, params[i], false)
    if not one then return nil, message end
    fields[i] = one
  end
  return { engine = engine, prompts = prompts, params = params, fields = fields, outputs = {}, live = {}, next = 1,
           n_done = 0, n_live = 0 }
end

-- Submits until all are in or the engine's queue is full.
local function fill(batch)
  while batch.next <= #batch.prompts do
    local i = batch.next
    local prompt = batch.prompts[i]
    local request, message, code = submit(batch.engine, prompt, batch.params[i], batch.fields[i])
    if not request then
      if code == "EFULL" then return true end -- run() tries again when something has happened
      return nil, #batch.prompts > 1 and ("prompt %d: %s"):format(i, message) or message
    end
    batch.outputs[i] = { prompt = type(prompt) == "string" and prompt or nil, outputs = {} }
    batch.live[request] = i
    batch.n_live, batch.next = batch.n_live + 1, i + 1
  end
  return true
end

-- Why a request failed; of a script's failure, where.
local function failure_text(event)
  local _, at = (event.error_details or ""):find("\nstack traceback:", 1, true)
  return at and event.error .. event.error_details:sub(at - 16) or event.error
end

-- Hands events in the inboxes to their outputs. true, or nil and a message when a request failed.
local function collect(batch)
  local inboxes, finished = batch.engine.inboxes, {}
  for request, i in pairs(batch.live) do
    local inbox = inboxes[request]
    if #inbox > 0 then inboxes[request] = {} end
    for _, event in ipairs(inbox) do
      if event.error then return nil, failure_text(event) end
      take_event(batch.outputs[i], event)
      if event.request_done then finished[#finished + 1] = request end
    end
  end
  for _, request in ipairs(finished) do
    complete(batch.outputs[batch.live[request]], request)
    batch.live[request] = nil
    batch.n_live, batch.n_done = batch.n_live - 1, batch.n_done + 1
  end
  return true
end

local function run(batch, bar, note)
  while batch.n_done < #batch.prompts do
    local ok, message = fill(batch)
    if not ok then return nil, message end
    ok, message = await(batch.engine, batch.live)
    if ok == nil then return nil, message end
    if ok then ok, message = collect(batch) end
    if ok == nil then return nil, message end
    bar:update(batch.n_done, note)
  end
  return batch.outputs
end

local function generate(engine, prompts, params, options)
  local list, message = requests.prompts(prompts)
  if not list then return nil, message end
  local sets
  sets, message = requests.params_for(params, #list, engine:default_params())
  if not sets then return nil, message end
  local batch
  batch, message = new_batch(engine, list, sets, options)
  if not batch then return nil, message end

  local bar = progress.new(("Generating (%d prompts)"):format(#list), #list, options and options.progress)
  local note = rates(engine, core.now(), engine.handle:stats())
  local ok, outputs, failure = pcall(run, batch, bar, note)
  if not ok or not outputs then -- Ctrl-C, a bad request, a failed engine: nothing stays behind
    for request in pairs(batch.live) do request:release() end
    bar.enabled = false
    if not ok then error(outputs, 0) end
    return nil, failure
  end
  if #list > 0 then bar:finish(#list, note) end
  return outputs
end

-- prompts: text, a list of token ids, or a list of these. params: sampling parameters, one set or one for each;
-- nil: the model's defaults (default_params); a table: vLLM's defaults for what it does not name. options: progress
-- (false: no bar), add_special_tokens, truncate_prompt_tokens, priority, cache_salt. Returns a list of outputs in
-- the order of the prompts. Raises on bad input, naming the prompt.
function Engine:generate(prompts, params, options)
  handle_of(self)
  local outputs, message = generate(self, prompts, params, options)
  if not outputs then error(message, 2) end
  return outputs
end

-- ---- streams -------------------------------------------------------------------------------------------------

-- A stream of a request that the core is given as it is; nil, a message and a code if it is refused.
function M.start(engine, prompt, params, fields)
  local request, message, code = submit(engine, prompt, params, fields)
  if not request then return nil, message, code end
  local stream = setmetatable({ engine = engine, request = request, taken = 0, brief = fields.sequence ~= nil }, Stream)
  return tasks.own(stream, Stream.close)
end

local function open_stream(engine, prompt, params, options)
  local one, message = requests.prompt(prompt)
  if not one then return nil, message end
  local set
  set, message = requests.params(params, engine:default_params())
  if not set then return nil, message end
  local fields
  fields, message = requests.fields(options, set, not (options and options.whole))
  if not fields then return nil, message end
  return M.start(engine, one, set, fields)
end

-- One prompt, answered as it comes: `for delta in engine:stream(prompt, params) do io.write(delta.text) end`.
-- delta: text, token_ids, index (of the sequence, from 0), logprobs, and with a sequence's last one finish_reason and
-- stop_reason; of several tokens, text_ends: where in text each one's ends. Arguments as for generate.
function Engine:stream(prompt, params, options)
  handle_of(self)
  local stream, message = open_stream(self, prompt, params, options)
  if not stream then error(message, 2) end
  return stream
end

-- As stream, but an expected failure is nil, a message and a code: "EINVAL" (the request is wrong), "EFULL" (too many
-- wait), "EFAILED" … options.whole: one delta a sequence, when it has finished.
function Engine:try_stream(prompt, params, options)
  handle_of(self)
  return open_stream(self, prompt, params, options)
end

local function finish_stream(stream)
  local info = stream.request:info(stream.brief)
  stream.final = { prompt_token_ids = info.prompt_token_ids, prompt_logprobs = info.prompt_logprobs,
                   num_cached_tokens = info.num_cached_tokens, metrics = metrics_of(info) }
  stream:close()
end

-- The next delta that is already there, nil if there is none. stream.done: there will be no more. Raises if the
-- request failed.
function Stream:poll()
  if self.done then return nil end
  local inbox = self.engine.inboxes[self.request]
  local event = inbox[self.taken + 1]
  if not event then return nil end
  self.taken = self.taken + 1
  if self.taken == #inbox then
    self.engine.inboxes[self.request], self.taken = {}, 0
  end
  if event.error then
    self.failed, self.failure = true, { message = event.error, code = event.error_code, details = event.error_details,
                                      refusal = event.refusal }
    self:close()
    error(failure_text(event), 2)
  end
  if event.request_done then finish_stream(self) end
  event.request_done = nil
  return event
end

-- The next delta, waiting for it; nil at the end. The stream is its own iterator.
function Stream:next()
  while not self.done do
    local delta = self:poll()
    if delta then return delta end
    if not self.done then
      if not self.engine.handle:is_open() then error("the engine is closed", 2) end
      if tasks.running() then
        tasks.await_event(self.engine, self.request)
      else
        local ok, message = pump(self.engine, WAIT_MS)
        if ok == nil then
          self:close()
          error(message, 2)
        end
      end
    end
  end
end
Stream.__call = Stream.next

-- What is known of the request: prompt_token_ids, num_cached_tokens, metrics; complete when the stream has ended.
function Stream:info()
  if self.final then return self.final end
  if self.done then return {} end
  local info = self.request:info(self.brief)
  return { prompt_token_ids = info.prompt_token_ids, num_cached_tokens = info.num_cached_tokens,
           metrics = metrics_of(info) }
end

-- Cancels the request if it still runs. A stream that nobody holds any more is closed by the collector.
function Stream:close()
  if self.done then return end
  self.done = true
  self.request:release()
  tasks.disown(self)
end

-- Engines take vLLM's names; a method that does not exist is more often a typing mistake than anything else.
setmetatable(Engine, {
  __index = function(_, name)
    local methods = {}
    for method in pairs(Engine) do methods[#methods + 1] = method end
    local hint = type(name) == "string" and suggest.nearest(name, methods)
    if hint and name ~= hint then error(("an engine has no '%s'; did you mean '%s'?"):format(name, hint), 2) end
  end,
})

return M
