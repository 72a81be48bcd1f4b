-- Self-consistency (Wang and others, 2022): samples several chains of thought and takes the answer that most of them
-- come to.
--   llmlua examples/self_consistency.lua --model models/model.gguf --question "What is 17 + 25?" --n 8

local llm = require "llm"

local function last_number(text)
  local found
  for number in text:gmatch "%-?%d[%d,]*%.?%d*" do found = number end
  return found and (found:gsub(",", ""):gsub("%.$", ""))
end

local function self_consistency(engine, args, emit)
  local prompt = engine:sequence(engine:chat_prompt {
    { role = "user", content = args.question .. " Think step by step, and end with the answer as a number." },
  }, { add_special_tokens = false })
  local votes, chains = {}, llm.parallel(prompt:fork(args.n), function(branch, i)
    local out = branch:generate{ temperature = args.temperature, seed = i, max_tokens = args.max_tokens }
    return { text = out.text, answer = last_number(out.text) }
  end)
  local best
  for _, chain in ipairs(chains) do
    if chain.answer then
      votes[chain.answer] = (votes[chain.answer] or 0) + 1
      if not best or votes[chain.answer] > votes[best] then best = chain.answer end
    end
  end
  emit(best or "no answer")
  return { answer = best, votes = llm.json.object(votes), chains = chains }
end

return llm.program({
  summary = "Samples chains of thought and takes the answer that most of them come to.",
  { name = "question", type = "string", initial = "What is 17 + 25?", help = "whose answer is a number" },
  { name = "n", type = "integer", initial = 5, min = 1, max = 64, help = "chains" },
  { name = "temperature", type = "number", initial = 0.7, help = "of sampling" },
  { name = "max_tokens", type = "integer", initial = 64, min = 1, help = "of a chain" },
}, self_consistency)
