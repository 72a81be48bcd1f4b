-- Classifier-free guidance (Sanchez et al. 2023): a token is drawn from negative + scale * (text - negative), the
-- logits of one continuation after two prompts. That is the paper's formula in log-probabilities up to a constant,
-- which drawing does not see.
--
-- The two are two requests of one token each under this policy, with the same `pair`. The negative one leaves its row
-- here and gets token 0, the mark; the text's draws from both rows, or, if it came first, gets the mark too. With `met`
-- it is an error that it came first. seq:guided(negative, params) does all of that.

local llm = require "llm"
local ffi = require "ffi"

local policy = llm.policy("guidance", { pair = "", negative = false, scale = 1.5, met = false })
policy.ranges = { scale = { -100, 100 } }
policy.help = "draws from what a text makes likelier than another one; of seq:guided"

local MARK = 0
local KEEP = 60 -- seconds: what nobody has come for was of a pair that was given up
local left = {} -- pair -> { row (of the negative one; nil: the text came first), since }
local spare, MOST_SPARE = {}, 32 -- memory of rows that have been used

-- Memory for n logits: all rows of an engine are as long as its vocabulary, only those of the self-test are not.
local function memory(n)
  local copy = table.remove(spare)
  if copy and ffi.sizeof(copy) == n * ffi.sizeof "float" then return copy end
  return ffi.new("float[?]", n)
end

local function copy_of(row)
  local n = #row
  local copy = memory(n)
  for id = 0, n - 1 do copy[id] = row[id] end
  return copy
end

-- Leaves this, and forgets what was left too long ago.
local function leave(pair, one)
  local now = llm.now()
  for name, other in pairs(left) do
    if now - other.since > KEEP then left[name] = nil end
  end
  one.since = now
  left[pair] = one
end

local function mark(row)
  row:fill(-math.huge)
  row[MARK] = 0
end

-- What a text makes impossible stays so.
local function combine(row, negative, scale)
  for id = 0, #row - 1 do
    local a, b = row[id], negative[id]
    row[id] = a == -math.huge and a or b == -math.huge and a or b + scale * (a - b)
  end
end

function policy.init(req)
  if req.params.pair == "" then error("guidance needs a pair of requests: use seq:guided(negative, params)", 0) end
end

function policy.logits(row, req)
  local params = req.params
  local other = left[params.pair]
  left[params.pair] = nil
  if params.negative then
    if not other then leave(params.pair, { row = copy_of(row) }) end
    mark(row)
  elseif other and other.row then
    combine(row, other.row, params.scale)
    if #spare < MOST_SPARE then spare[#spare + 1] = other.row end
  elseif params.met then
    error("the rows of a guided text have not met: was this policy loaded again between them?", 0)
  else
    leave(params.pair, {})
    mark(row)
  end
end

function policy.test(t)
  local inf = math.huge
  local TEXT, NEGATIVE = { 1, 2, -inf, 0 }, { 2, 1, 0, -inf }
  local function run(negative) return t:run { args = { pair = "a", negative = negative, scale = 3 } } end
  local function is_marked(row)
    return row[0] == 0 and row[1] == -inf and row[2] == -inf and row[3] == -inf
  end
  assert(is_marked(run(true):logits(NEGATIVE)))
  local row = run(false):logits(TEXT)
  assert(row[0] == 2 + 3 * (1 - 2) and row[1] == 1 + 3 * (2 - 1) and row[2] == -inf and row[3] == 0)
  assert(is_marked(run(false):logits(TEXT)) and is_marked(run(true):logits(NEGATIVE)))
  assert(next(left) == nil)
end

return policy
