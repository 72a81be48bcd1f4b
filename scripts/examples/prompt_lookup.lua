-- Speculative decoding without a second model (prompt look-up, Saxena 2023): where the last few tokens have come before,
-- what followed them then is a guess at what follows now. The model checks a guess of many tokens in one step; the text
-- is the one that greedy decoding gives, in fewer steps where texts repeat themselves (summaries, code, quotations).
--   llmlua examples/prompt_lookup.lua --model models/model.gguf --prompt "…"

local llm = require "llm"

-- The tokens that followed the last earlier place where the last n tokens stand; nil if there is none.
local function look_up(ids, n, most)
  for start = #ids - n, 1, -1 do
    local same = true
    for k = 0, n - 1 do
      if ids[start + k] ~= ids[#ids - n + 1 + k] then
        same = false
        break
      end
    end
    if same then
      local guess = {}
      for i = start + n, math.min(start + n + most - 1, #ids) do guess[#guess + 1] = ids[i] end
      return guess
    end
  end
end

local function prompt_lookup(engine, args, emit)
  local seq = engine:sequence(args.prompt)
  local ids, start = seq:tokens(), #seq
  local steps, accepted, shown = 0, 0, 0
  while #ids - start < args.max_tokens do
    local guess = look_up(ids, args.ngram, args.draft) or {}
    local n, token = seq:verify(guess)
    steps, accepted = steps + 1, accepted + n
    for _, id in ipairs(seq:tokens(#ids + 1)) do ids[#ids + 1] = id end
    local text = engine:detokenize(seq:tokens(start + 1))
    emit(text:sub(shown + 1))
    shown = #text
    if not token then break end
  end
  return { tokens = #ids - start, steps = steps, accepted = accepted }
end

return llm.program({
  summary = "Decodes greedily with guesses taken from the text itself.",
  { name = "prompt", type = "string", help = "what to continue",
    initial = "The wheels on the bus go round and round, round and round, round and round. The wheels on the bus go" },
  { name = "max_tokens", type = "integer", initial = 48, min = 1, help = "of the continuation" },
  { name = "ngram", type = "integer", initial = 2, min = 1, max = 8, help = "tokens that must have come before" },
  { name = "draft", type = "integer", initial = 8, min = 1, max = 32, help = "most tokens of a guess" },
}, prompt_lookup)
