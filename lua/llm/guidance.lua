-- Classifier-free guidance: a text is continued by what its prompt makes likelier than another prompt does (Sanchez et
-- al., "Stay on topic with Classifier-Free Guidance", 2023).
--
--   for token, text in seq:guided(negative, { scale = 1.5, max_tokens = 40 }) do io.write(text) end
--
-- Each token is two requests of one token, which the engine computes in one step beside everybody else's. The policy
-- scripts/policies/guidance.lua, which sees both rows, combines them.

local program = require "llm.program"
local sequences = require "llm.sequence"
local suggest = require "llm.suggest"

local NAMES = { "scale", "max_tokens", "ignore_eos", "temperature", "top_k", "top_p", "min_p", "seed" }
local known = {}
for _, name in ipairs(NAMES) do known[name] = true end

local n_pairs = 0
local own = tostring(NAMES):match "0x(%x+)" or "" -- of this Lua state: several may use one engine

local function check(params)
  for name in pairs(params) do
    if not known[name] then
      error(("guided takes no parameter '%s'%s; it takes %s"):format(tostring(name), suggest.hint(tostring(name), NAMES),
        table.concat(NAMES, ", ")), 3)
    end
  end
end

local MARK = 0 -- the token that the policy gives to whom it cannot give a guided one

local function with_policy(sampling, args)
  local params = { policy = { name = "guidance", args = args } }
  for name, value in pairs(sampling) do params[name] = value end
  return params
end

-- What sampling picks from both rows, as of seq:next. It is always the text's request that draws: a draw hangs on the
-- seed and on the place in the text, and so a seed gives the same tokens whatever else runs.
local function draw(seq, negative, sampling, scale)
  n_pairs = n_pairs + 1
  local pair = ("%s-%d"):format(own, n_pairs)
  local of_negative = with_policy(sampling, { pair = pair, negative = true })
  local of_text = with_policy(sampling, { pair = pair, scale = scale })
  local picked = program.parallel {
    function() return negative:next(of_negative) end,
    function() return seq:next(of_text) end,
  }
  if picked[2].token ~= MARK then return picked[2] end
  -- It came first, or has drawn what happens to be the mark: one after the other then.
  local args = of_text.policy.args
  of_negative.policy.args.pair, args.pair, args.met = pair .. "-met", pair .. "-met", true
  negative:next(of_negative)
  return seq:next(of_text)
end

-- Continues this sequence and the negative one by the same tokens, drawn from negative + scale * (this - negative), in
-- log-probabilities. An iterator of token and text; a text that ends ends it. params: scale (1.5; 1 is this sequence's
-- own distribution, 0 the other's), max_tokens (16), ignore_eos, and of sampling temperature (0), top_k, top_p, min_p,
-- seed.
function sequences.Sequence:guided(negative, params)
  params = params or {}
  check(params)
  if negative == self then error("a sequence cannot be guided by itself: fork it", 2) end
  local n, most = 0, params.max_tokens or 16
  local sampling = { logprobs = 0 }
  for _, name in ipairs { "temperature", "top_k", "top_p", "min_p", "seed", "ignore_eos" } do sampling[name] = params[name] end
  return function()
    if n >= most then return nil end
    n = n + 1
    local one = draw(self, negative, sampling, params.scale or 1.5)
    if one.stops and not params.ignore_eos then return nil end
    self:feed(one.token)
    negative:feed(one.token)
    return one.token, one.text
  end
end
