-- Sequences: a text whose keys and values the engine keeps, as a value. It can be fed, generated on, forked, rewound
-- and scored, and costs what is new only.
--
--   local seq = engine:sequence("The capital of France is")
--   local branch = seq:fork()
--   print(seq:generate{ temperature = 0 }.text, branch:score(" Paris").total)
--
-- A sequence is a userdata of the core; what Lua knows of it besides is in `about`. What was fed is computed when
-- something needs it, together with that.

local core = require "llm.core"
local engines = require "llm.engine"
local requests = require "llm.request"
local tasks = require "llm.task"

local raw = core.sequence
local Sequence = raw.methods
local Run = {} -- a request on a sequence, as a stream
Run.__index = Run
local M = { Sequence = Sequence, Run = Run }

-- sequence -> { engine, fields (of its requests), known (tokens that requests have covered: all but the last of them
-- are computed), busy (a method waits for its answer), waiters }
local about = setmetatable({}, { __mode = "k" })

raw.metatable.__tostring = function(seq)
  return raw.is_open(seq) and ("llm.Sequence(%d tokens)"):format(#seq) or "llm.Sequence(closed)"
end

local function checked(level, value, message)
  if not value then error(message, level + 1) end
  return value
end

-- ---- whose it is ---------------------------------------------------------------------------------------------

local function close_all(set)
  for seq in pairs(set) do raw.close(seq) end
end

-- A sequence goes with the program that made it: the outermost task, as branches hand theirs to one another. The set
-- is weak, so that what a program has dropped can be collected before its end.
local function adopt(seq, engine, fields, known)
  about[seq] = { engine = engine, fields = fields, known = known }
  local task = tasks.running()
  if not task then return seq end
  local root = task.root or task
  if root.keeps_sequences then return seq end
  if not root.sequences then
    root.sequences = setmetatable({}, { __mode = "k" })
    root.owned = root.owned or {}
    root.owned[root.sequences] = close_all
  end
  root.sequences[seq] = true
  return seq
end

-- Branches may use one sequence: a method waits until another task's has done with it. (A stream is not waited for:
-- who reads it may be waiting for the one who would.)
local function ready(seq)
  local state = about[seq]
  while state.busy and tasks.running() do
    state.waiters = state.waiters or {}
    table.insert(state.waiters, tasks.running())
    tasks.wait()
  end
end

local function done(state)
  local waiters = state.waiters
  state.busy, state.waiters = nil, nil
  for _, task in ipairs(waiters or {}) do tasks.wake(task) end
end

-- ---- requests on it ------------------------------------------------------------------------------------------

-- The text that an output has shown of a token which the stop string begins in: the core keeps whole tokens only.
local function restore_rest(run, seq)
  local shown = table.concat(run.texts)
  local kept = run.engine:detokenize(raw.tokens(seq, run.before + 1),
    { skip_special_tokens = run.params.skip_special_tokens ~= false })
  if #kept < #shown then seq:feed(shown:sub(#kept + 1)) end
end

local function note(run, delta)
  if not delta then return nil end
  if run.texts then run.texts[#run.texts + 1] = delta.text end
  if run.stream.done then
    run.done = true
    about[run.seq].known = #run.seq
    if type(delta.stop_reason) == "string" and not run.discard then restore_rest(run, run.seq) end
  end
  return delta
end

-- The next delta, waiting for it; nil at the end.
function Run:next() return note(self, self.stream:next()) end
Run.__call = Run.next

-- The next delta if it is already there.
function Run:poll() return note(self, self.stream:poll()) end

-- num_cached_tokens, metrics; prompt_logprobs if they were asked for.
function Run:info() return self.stream:info() end

-- Ends it where it is: what was delivered stays in the sequence.
function Run:close()
  if self.done then return end
  self.done = true
  self.stream:close()
  local state = about[self.seq]
  if raw.is_open(self.seq) and state.known > #self.seq then state.known = #self.seq end
end

-- A request on seq, with ids to follow it. fields: whole, discard, prompt_logprobs_start. Errors as of try_stream.
local function start(seq, ids, params, fields)
  ready(seq)
  local state = about[seq]
  local set, message = requests.params(params, state.engine:default_params())
  if not set then return nil, message end
  local all
  all, message = requests.fields(state.fields, set, not fields.whole)
  if not all then return nil, message end
  all.sequence, all.discard, all.prompt_logprobs_start = seq, fields.discard, fields.prompt_logprobs_start
  local before = #seq + #ids
  local stream, code
  stream, message, code = engines.start(state.engine, ids, set, all)
  if not stream then return nil, message, code end
  return setmetatable({ seq = seq, engine = state.engine, stream = stream, params = set, before = before,
                        discard = fields.discard, texts = set.stop and {} }, Run)
end

-- The same to its end. Returns its only delta, and what is known of the request.
local function complete(level, seq, ids, params, fields)
  fields.whole = true
  local run = checked(level + 1, start(seq, ids, params, fields))
  local state = about[seq]
  state.busy = true
  local ok, delta = pcall(run.next, run)
  if not ok then run:close() end
  done(state)
  if not ok then error(delta, 0) end
  return delta, run:info()
end

local function with(params, more)
  local all = {}
  for name, value in pairs(params or {}) do all[name] = value end
  for name, value in pairs(more) do all[name] = value end
  return all
end

-- ---- the text ------------------------------------------------------------------------------------------------

-- Text that follows the sequence, or ids, or one id, as ids.
local function ids_of(seq, what, level)
  if type(what) == "number" then return { what } end
  if type(what) == "table" then return what end
  if type(what) ~= "string" then
    error(("a sequence is fed text, token ids or one id; it got a %s"):format(type(what)), level + 1)
  end
  local engine = about[seq].engine
  local tokenizer = engine:tokenizer()
  if not tokenizer then error("the model has no tokenizer: give token ids", level + 1) end
  if #seq > 0 then return tokenizer:continue(what) end
  return tokenizer:encode(what, { add_special_tokens = about[seq].fields.add_special_tokens })
end

-- Adds text or tokens at the end. Nothing is computed yet. Returns the sequence.
function Sequence:feed(what)
  ready(self)
  checked(2, raw.append(self, ids_of(self, what, 2)))
  return self
end

-- Computes what was fed, and returns when that is done. Returns the sequence.
function Sequence:compute()
  ready(self)
  if #self - about[self].known > 0 and #self > 1 then
    complete(2, self, {}, { max_tokens = 0 }, {})
  end
  return self
end

-- Forgets the last n tokens. Returns the sequence.
function Sequence:rewind(n)
  ready(self)
  return self:rewind_to(math.max(#self - n, 0))
end

-- Forgets all but the first n tokens. Returns the sequence.
function Sequence:rewind_to(n)
  ready(self)
  checked(2, raw.rewind(self, n))
  local state = about[self]
  state.known = math.min(state.known, n)
  return self
end

-- Another one with the same text, or a list of n. Pages are shared, nothing is copied; what was fed and not computed
-- yet is computed first, so that it is computed once.
function Sequence:fork(n)
  ready(self)
  local state = about[self]
  if #self - state.known > 1 then self:compute() end
  if not n then return adopt(checked(2, raw.fork(self)), state.engine, state.fields, state.known) end
  local list = {}
  for i = 1, n do list[i] = adopt(checked(2, raw.fork(self)), state.engine, state.fields, state.known) end
  return list
end

-- Its text. options: skip_special_tokens (true).
function Sequence:text(options) return about[self].engine:detokenize(raw.tokens(self), options) end

-- Its token ids, from the token with this number (1) on.
function Sequence:tokens(from) return raw.tokens(self, from) end

-- Frees its pages, and cancels what runs on it. Harmless twice. A program's are closed when it ends.
function Sequence:close() raw.close(self) end

-- ---- what the model says -------------------------------------------------------------------------------------

-- Generates, and extends the sequence by what the text shows: without a stop string or token. params: sampling
-- parameters (nil: the model's defaults). Returns text, token_ids, finish_reason, stop_reason, and if asked for
-- logprobs and cumulative_logprob.
function Sequence:generate(params)
  local out = complete(2, self, {}, params, {})
  out.cumulative_logprob = engines.cumulative(out)
  return out
end

-- The same as it comes: an iterator of deltas, as of engine:stream. Until it has ended or is closed the sequence can
-- do nothing else.
function Sequence:stream(params) return checked(2, start(self, {}, params, {})) end

-- What may come next: a list of candidates {token, text, logprob, prob}, likeliest first, and in its fields token, text
-- and logprob the one that sampling picks, in stops whether that ends a text. params: logprobs (how many; 10) and sampling parameters (temperature 0).
-- The sequence stays as it is: feed it the token you choose.
function Sequence:next(params)
  local set = with({ temperature = 0, logprobs = 10 }, params or {})
  set.max_tokens = 1
  local out = complete(2, self, {}, set, { discard = true })
  local token, list = out.token_ids[1], { stops = out.finish_reason == "stop" }
  for id, entry in pairs(out.logprobs[1]) do
    local candidate = { token = id, text = entry.decoded_token, logprob = entry.logprob, prob = math.exp(entry.logprob),
                        rank = entry.rank }
    if entry.rank <= set.logprobs or set.logprobs < 0 then list[#list + 1] = candidate end
    if id == token then list.token, list.text, list.logprob = id, candidate.text, candidate.logprob end
  end
  table.sort(list, function(a, b) return a.rank < b.rank end)
  return list
end

-- How likely the model finds this continuation: token_ids, logprobs (a map from id to {logprob, rank, decoded_token}
-- for each; k: with so many alternatives), total and mean of their log-probabilities. The sequence stays as it is.
function Sequence:score(what, k)
  ready(self)
  local ids = ids_of(self, what, 2)
  local _, info = complete(2, self, ids, { max_tokens = 0, prompt_logprobs = k or 0 },
    { discard = true, prompt_logprobs_start = #self })
  local result = { token_ids = ids, logprobs = info.prompt_logprobs or {}, total = 0 }
  for i, row in ipairs(result.logprobs) do
    if row then result.total = result.total + row[ids[i]].logprob end
  end
  result.mean = #ids > 0 and result.total / #ids or 0
  return result
end

-- The same for the text of the sequence itself; the first token's is false, as nothing predicts it.
function Sequence:logprobs(k)
  local _, info = complete(2, self, {}, { max_tokens = 0, prompt_logprobs = k or 0 },
    { discard = true, prompt_logprobs_start = 0 })
  return info.prompt_logprobs
end

local function likeliest(row)
  for id, entry in pairs(row) do
    if entry.rank == 1 then return id end
  end
end

-- Takes a guess at how the text goes on, in one step: the sequence is extended by as many of these ids as the model
-- would have chosen itself at temperature 0, and by the token that it chooses after them. Returns how many were right,
-- that token (nil: the text ends there).
function Sequence:verify(ids)
  ready(self)
  local before = #self
  local out, info = complete(2, self, ids, { temperature = 0, max_tokens = 1, prompt_logprobs = 1 },
    { prompt_logprobs_start = before })
  for i, id in ipairs(ids) do
    local row = info.prompt_logprobs[i]
    local best = row and likeliest(row)
    if best and best ~= id then
      self:rewind_to(before + i - 1)
      if best == about[self].engine:tokenizer():info().eos then return i - 1, nil end
      self:feed(best)
      return i - 1, best
    end
  end
  return #ids, out.finish_reason ~= "stop" and out.token_ids[1] or nil
end

-- ---- opening -------------------------------------------------------------------------------------------------

local option_names = { priority = true, cache_salt = true, add_special_tokens = true }

-- A sequence of this prompt: text, token ids, or nil for an empty one. options: add_special_tokens (true: what the
-- tokenizer adds to a text by itself, such as BOS), priority and cache_salt (of all requests on it).
function engines.Engine:sequence(prompt, options)
  if not self.handle:is_open() then error("the engine is closed", 2) end
  for name in pairs(options or {}) do
    if not option_names[name] then error(("a sequence has no option '%s'"):format(tostring(name)), 2) end
  end
  local fields = { priority = options and options.priority, cache_salt = options and options.cache_salt,
                   add_special_tokens = options and options.add_special_tokens }
  local seq = adopt(checked(2, raw.open(self.handle)), self, fields, 0)
  if prompt ~= nil then
    local one = checked(2, requests.prompt(prompt))
    checked(2, raw.append(seq, ids_of(seq, one, 2)))
  end
  return seq
end

return M
