-- A/B of two ways to sample: both write from the same prompt with the same seeds, and are compared by what the model
-- thinks of the texts, by how varied they are, and by length. A way is sampling parameters as JSON, a policy among them.
--   llmlua examples/ab_policies.lua --model models/model.gguf --a '{"policy": "typical"}' --b '{"policy": "min_p"}'

local llm = require "llm"

local function parameters(text, name)
  local params, message = llm.json.decode(text)
  if type(params) ~= "table" then error(("%s must be JSON of sampling parameters: %s"):format(name, message or text), 0) end
  return params
end

-- The share of different pairs of tokens among all pairs.
local function distinct_pairs(outs)
  local seen, n, n_different = {}, 0, 0
  for _, out in ipairs(outs) do
    for i = 2, #out.token_ids do
      local pair = out.token_ids[i - 1] .. " " .. out.token_ids[i]
      n = n + 1
      if not seen[pair] then n_different, seen[pair] = n_different + 1, true end
    end
  end
  return n > 0 and n_different / n or 0
end

local function measure(outs)
  local logprob, tokens = 0, 0
  for _, out in ipairs(outs) do logprob, tokens = logprob + out.cumulative_logprob, tokens + #out.token_ids end
  return { mean_logprob = logprob / tokens, distinct_pairs = distinct_pairs(outs), mean_tokens = tokens / #outs }
end

local function ab_policies(engine, args, emit)
  local prompt, runs = engine:sequence(args.prompt), {}
  for _, name in ipairs { "a", "b" } do
    local params = parameters(args[name], name)
    params.logprobs, params.max_tokens = 0, params.max_tokens or args.max_tokens
    for seed = 1, args.samples do
      runs[#runs + 1] = { name = name, seed = seed, params = params, seq = prompt:fork() }
    end
  end
  local outs = { a = {}, b = {} }
  for i, out in ipairs(llm.parallel(runs, function(run)
    local params = { seed = run.seed }
    for name, value in pairs(run.params) do params[name] = value end
    return run.seq:generate(params)
  end)) do
    table.insert(outs[runs[i].name], out)
  end
  local result = { a = measure(outs.a), b = measure(outs.b), samples = { a = outs.a[1].text, b = outs.b[1].text } }
  for _, name in ipairs { "a", "b" } do
    emit(("%s: logprob %.3f a token, %.0f%% different pairs, %.1f tokens\n"):format(name, result[name].mean_logprob,
      100 * result[name].distinct_pairs, result[name].mean_tokens))
  end
  return result
end

return llm.program({
  summary = "Compares two ways to sample on the same prompt.",
  { name = "prompt", type = "string", initial = "Once upon a time", help = "what to continue" },
  { name = "a", type = "string", initial = '{"policy": "typical"}', help = "sampling parameters as JSON" },
  { name = "b", type = "string", initial = '{"policy": "min_p", "temperature": 1.2}', help = "the same" },
  { name = "samples", type = "integer", initial = 4, min = 1, max = 64, help = "texts of each" },
  { name = "max_tokens", type = "integer", initial = 32, min = 1, help = "of a text" },
}, ab_policies)
