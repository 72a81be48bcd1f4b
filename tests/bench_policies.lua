-- Microseconds a token of the policies of scripts/policies that are graphs, on a row like a language model's and a
-- history of 512 tokens: llmlua tests/bench_policies.lua [vocabulary, 49152]
local graph = require "llm.graph"

local n = tonumber(arg[1]) or 49152
local names = { "min_p", "top_a", "epsilon", "eta", "typical", "xtc", "dynamic_temperature", "quadratic_smoothing", "dry",
                "mirostat_v2", "cool_down", "gumbel_watermark", "green_list_watermark" }

math.randomseed(1)
local logits, prompt, output = {}, {}, {}
for i = 1, n do logits[i] = math.random() * 6 - 3 + (math.random() < 0.01 and math.random() * 12 or 0) end
for i = 1, 256 do prompt[i], output[i] = math.random(0, 200), math.random(0, 200) end

local call = { logits = logits, prompt = prompt, output = output }
print(("%-24s us a token, vocabulary of %d"):format("", n))
for _, name in ipairs(names) do
  local policy = graph.load("scripts/policies/" .. name .. ".lua")
  local sequence = graph.sequence(policy.graph, policy.defaults, n, policy.ranges)
  local best = math.huge
  for _ = 1, 9 do best = math.min(best, assert(sequence:time(call, 20))) end
  print(("%-24s %7.1f"):format(name, best * 1e6))
end
