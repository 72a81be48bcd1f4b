-- Best of n: samples n continuations of one prompt, computed once, and keeps the one that the model itself finds the
-- likeliest per token.
--   llmlua examples/best_of_n.lua --model models/model.gguf --prompt "The sea is" --n 8

local llm = require "llm"

local function best_of_n(engine, args, emit)
  local prompt = engine:sequence(args.prompt)
  local candidates = llm.parallel(prompt:fork(args.n), function(branch, i)
    local out = branch:generate{ temperature = args.temperature, seed = args.seed + i, max_tokens = args.max_tokens,
                                 logprobs = 0 }
    branch:close()
    return { text = out.text, mean_logprob = out.cumulative_logprob / #out.token_ids }
  end)
  table.sort(candidates, function(a, b) return a.mean_logprob > b.mean_logprob end)
  emit(candidates[1].text)
  return { candidates = candidates }
end

return llm.program({
  summary = "Samples n continuations and keeps the likeliest.",
  { name = "prompt", type = "string", initial = "The sea is", help = "what to continue" },
  { name = "n", type = "integer", initial = 4, min = 1, max = 64, help = "continuations" },
  { name = "temperature", type = "number", initial = 0.8, help = "of sampling" },
  { name = "max_tokens", type = "integer", initial = 32, min = 1, help = "of a continuation" },
  { name = "seed", type = "integer", initial = 0, help = "of the first" },
}, best_of_n)
