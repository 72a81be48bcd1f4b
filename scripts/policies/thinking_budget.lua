-- A reasoning model thinks for at most `budget` tokens: then `finish` is written for it, token by token, and it goes on to
-- its answer. Thinking begins with `open`, in the prompt (as templates of some models have it) or in the output.

local llm = require "llm"

local policy = llm.policy("thinking_budget", { budget = 512, open = "<think>", close = "</think>",
                                               finish = "\n</think>\n\n" })
policy.ranges = { budget = { 0, 1e9 } }
policy.help = "an end to thinking"
policy.max_candidates = 1 -- it never looks at them

local function ids_of(text) return llm.tokenizer():encode(text, { add_special_tokens = false }) end

-- Do the first `last` of these tokens end with ids?
local function ends_with(tokens, last, ids)
  if last < #ids then return false end
  for i = 1, #ids do
    if tokens[last - #ids + i] ~= ids[i] then return false end
  end
  return #ids > 0
end

function policy.init(req)
  local state, params = req.state, req.params
  state.open, state.close, state.finish = ids_of(params.open), ids_of(params.close), ids_of(params.finish)
  state.thinking, state.used, state.seen, state.forced = false, 0, 0, 0
  for i = #req.prompt, 1, -1 do
    if ends_with(req.prompt, i, state.close) then break end
    if ends_with(req.prompt, i, state.open) then
      state.thinking = true
      break
    end
  end
end

-- Takes note of the tokens that are new.
local function follow(state, output)
  for i = state.seen + 1, #output do
    if ends_with(output, i, state.close) then
      state.thinking = false
    elseif ends_with(output, i, state.open) then
      state.thinking, state.used = true, 0
    elseif state.thinking then
      state.used = state.used + 1
    end
  end
  state.seen = #output
end

function policy.candidates(_, req)
  local state = req.state
  if state.forced == 0 then
    follow(state, req.output)
    if not state.thinking or state.used < req.params.budget then return nil end
  end
  state.forced = state.forced + 1
  local token = state.finish[state.forced]
  if token then return token end
  state.forced, state.thinking = 0, false -- the answer begins
  follow(state, req.output)
  state.thinking = false
end

return policy
