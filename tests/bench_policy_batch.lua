-- Throughput of a batch whose tokens are chosen by the built-in sampler, and by the same sampling as a policy's graph, in
-- turns; both must give the same tokens. On one thread, by processor time, so that other programs disturb little.
-- llmlua tests/bench_policy_batch.lua MODEL [batch, 32] [rounds, 7]
local llm = require "llm"

local model, batch, rounds = arg[1], tonumber(arg[2]) or 32, tonumber(arg[3]) or 7
local engine = llm.engine{ model = model, threads = 1 }
engine:load_policy("as_built_in", [[
local policy = require "llm".policy("as_built_in")
function policy.graph(g, logits) return g.default(logits) end
return policy
]])

local prompts, texts = {}, {}
for i = 1, batch do prompts[i] = "Number " .. i .. ": once upon a time" end

local function run(policy)
  local params = { temperature = 0.8, top_p = 0.95, top_k = 50, max_tokens = 24, ignore_eos = true, seed = 1, policy = policy }
  local begin = os.clock()
  local outputs = engine:generate(prompts, params, { progress = false })
  local seconds, words = os.clock() - begin, {}
  for i, out in ipairs(outputs) do words[i] = table.concat(out.outputs[1].token_ids, " ") end
  texts[policy or "built in"] = table.concat(words, "\n")
  return batch * 24 / seconds
end

local function median(list)
  table.sort(list)
  return list[math.ceil(#list / 2)]
end

run() run("as_built_in")
local built_in, graph, ratio = {}, {}, {}
for i = 1, rounds do
  built_in[i], graph[i] = run(), run("as_built_in")
  ratio[i] = graph[i] / built_in[i]
end
assert(texts["built in"] == texts.as_built_in, "the two draw different tokens")
print(("batch %d: built in %.0f tokens a second of processor time, graph %.0f, ratio %.3f (%.3f to %.3f)"):format(batch, median(built_in),
  median(graph), median(ratio), ratio[1], ratio[#ratio]))
