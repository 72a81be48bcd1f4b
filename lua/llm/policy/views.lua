-- What a policy's hooks look at: rows of logits, candidates, tokens. Memory is the engine's; these are cdata that the
-- compiler sees through, each access checked. A view is empty outside of the hook it was made for.

local ffi = require "ffi"

-- The structs of core/llmlua.h and lua/policy_host.h.
ffi.cdef [[
struct llm_policy_args;
struct llm_policy_run {
  const int32_t *prompt, *output;
  int32_t n_prompt, n_output, index, place;
  uint64_t seed;
  const struct llm_policy_args *args;
  void *own;
  int32_t changed_from, changed_end;
};
struct llm_candidate { const int32_t token; const float prob, logprob; };
struct policy_row { float *data; int32_t n, from, to; };
struct policy_best { const struct llm_candidate *list; int32_t n; };
struct policy_sequence { const struct llm_policy_run *run; uint32_t n_draws; int32_t drawn_at; };
struct policy_prompt { const struct policy_sequence *sequence; };
struct policy_output { const struct policy_sequence *sequence; };
]]

local M = { sizes = {} }
for _, name in ipairs { "llm_policy_run", "llm_candidate", "policy_row", "policy_best", "policy_sequence" } do
  M.sizes[name] = ffi.sizeof("struct " .. name)
end

-- ---- candidates ----------------------------------------------------------------------------------------------

local texts = setmetatable({}, { __mode = "v" })
M.token_text = nil -- set where there is a tokenizer: id -> text

local function text_of(token)
  local text = texts[token]
  if not text then
    if not M.token_text then error("the model has no tokenizer, so tokens have no text", 3) end
    text = M.token_text(token)
    texts[token] = text
  end
  return text
end
M.text_of = text_of

-- A candidate is a value: a copy that a script may keep.
local Candidate = {}
function Candidate.__index(candidate, name)
  if name == "text" then return text_of(candidate.token) end
  error(("a candidate has token, prob, logprob and text; it has no '%s'"):format(tostring(name)), 2)
end
function Candidate.__tostring(candidate)
  return ("candidate(%d, %.4f)"):format(candidate.token, candidate.prob)
end
local candidate_type = ffi.metatype("struct llm_candidate", Candidate)

local Best = { methods = {} }

local function check_best(best)
  if best.n < 0 then error("the candidates are gone: they may be used only within the hook that got them", 3) end
end

function Best.__len(best)
  check_best(best)
  return best.n
end

function Best.__index(best, i)
  if type(i) ~= "number" then return Best.methods[i] end
  check_best(best)
  if i >= 1 and i <= best.n then return candidate_type(best.list[i - 1]) end
  return nil
end

-- The place of a token among them, nil if it is not there.
function Best.methods.find(best, token)
  check_best(best)
  for i = 0, best.n - 1 do
    if best.list[i].token == token then return i + 1 end
  end
end

-- for i, candidate in c:each() do … end
function Best.methods.each(best)
  local i = 0
  return function()
    i = i + 1
    local candidate = best[i]
    if candidate ~= nil then return i, candidate end
  end
end

-- A draw: u in [0, 1) picks among the first n (all) by their probabilities.
function Best.methods.draw(best, u, n)
  check_best(best)
  n = math.min(n or best.n, best.n)
  local total = 0
  for i = 0, n - 1 do total = total + best.list[i].prob end
  local left = u * total
  for i = 0, n - 1 do
    left = left - best.list[i].prob
    if left < 0 then return best.list[i].token end
  end
  return best.list[n - 1].token
end

ffi.metatype("struct policy_best", Best)

-- ---- rows ----------------------------------------------------------------------------------------------------

-- A GPU gets back what lies between row.from and row.to: who writes to data widens them.
local Row = { methods = {} }

local function no_token(row, id)
  if row.n < 0 then error("the row is gone: it may be used only within the hook that got it", 3) end
  error(("the row has no token %s; its tokens are 0 to %d"):format(tostring(id), row.n - 1), 3)
end

function Row.__len(row)
  if row.n < 0 then no_token(row) end
  return row.n
end

function Row.__index(row, id)
  if type(id) ~= "number" then return Row.methods[id] end
  if not (id >= 0 and id < row.n) then no_token(row, id) end
  return row.data[id]
end

function Row.__newindex(row, id, logit)
  if type(id) ~= "number" or not (id >= 0 and id < row.n) then no_token(row, id) end
  row.data[id] = logit
  if id < row.from then row.from = id end
  if id >= row.to then row.to = id + 1 end
end

-- Bans the tokens of a list.
function Row.methods.ban(row, ids)
  for i = 1, #ids do row[ids[i]] = -math.huge end
end

-- Bans all tokens but those of a list.
function Row.methods.keep(row, ids)
  local kept = {}
  for i = 1, #ids do kept[i] = row[ids[i]] end
  row:fill(-math.huge)
  for i = 1, #ids do row[ids[i]] = kept[i] end
end

-- Gives all tokens this logit.
function Row.methods.fill(row, logit)
  if row.n < 0 then no_token(row) end
  local data = row.data
  for id = 0, row.n - 1 do data[id] = logit end
  row.from, row.to = 0, row.n
end

-- The token with the largest logit, and that.
function Row.methods.argmax(row)
  if row.n < 0 then no_token(row) end
  local data, best, token = row.data, -math.huge, 0
  for id = 0, row.n - 1 do
    if data[id] > best then best, token = data[id], id end
  end
  return token, best
end

ffi.metatype("struct policy_row", Row)

-- ---- tokens --------------------------------------------------------------------------------------------------

-- Lists from 1, of the prompt and of the output so far. #list, list[i], list[-1] (the last).
local function list_type(name, ids, count)
  local List = {}
  function List.__len(list) return list.sequence.run[count] end
  function List.__index(list, i)
    local run = list.sequence.run
    if type(i) ~= "number" then error("a list of tokens is indexed by numbers", 2) end
    if i < 0 then i = run[count] + 1 + i end
    if i >= 1 and i <= run[count] then return run[ids][i - 1] end
    return nil
  end
  function List.__newindex() error("the tokens of a sequence cannot be changed", 2) end
  return ffi.metatype(name, List)
end
local prompt_type = list_type("struct policy_prompt", "prompt", "n_prompt")
local output_type = list_type("struct policy_output", "output", "n_output")

-- ---- requests ------------------------------------------------------------------------------------------------

local Request = {}
local methods = {}

function Request.__index(req, name)
  if name == "position" then
    local run = req.sequence.run
    return run.n_prompt + run.n_output
  end
  return methods[name]
end

local over = ffi.new "struct llm_policy_run" -- what a sequence has when it has ended: nothing

local function fallback_draw() error("random numbers need the engine", 3) end
M.draw = fallback_draw -- (sequence) -> number in [0, 1)

-- A number in [0, 1), or as math.random a whole number in [1, m] or [m, n]: a function of the seed, the sequence's
-- index, the position, and how many were drawn at this position before.
function methods.random(req, m, n)
  local u = M.draw(req.sequence)
  if not m then return u end
  if not n then m, n = 1, m end
  return m + math.floor(u * (n - m + 1))
end

-- run: address of a struct llm_policy_run that stays until close().
function M.request(run, params)
  local sequence = ffi.new "struct policy_sequence"
  sequence.run = ffi.cast("const struct llm_policy_run *", run)
  sequence.drawn_at = -1
  return setmetatable({ sequence = sequence, state = {}, graph = {}, params = params, prompt = prompt_type(sequence),
                        output = output_type(sequence), index = sequence.run.index,
                        seed = tonumber(sequence.run.seed) }, Request)
end

function M.close(req) req.sequence.run = over end

return M
