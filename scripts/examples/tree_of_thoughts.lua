-- Tree of thoughts (Yao and others, 2023), breadth first: each state proposes several next thoughts, the model says how
-- promising each is, and the best few go on. A state is a sequence; proposing is a fork, judging a score, and nothing is
-- computed twice.
--   llmlua examples/tree_of_thoughts.lua --model models/model.gguf --problem "Plan a picnic for a rainy day."

local llm = require "llm"

local function propose(state, n, seed, max_tokens)
  return llm.parallel(state.seq:fork(n), function(branch, i)
    local out = branch:generate{ temperature = 0.9, seed = seed + i, max_tokens = max_tokens, stop = "\n" }
    branch:feed "\n"
    return { seq = branch, thoughts = state.thoughts .. out.text .. "\n" }
  end)
end

-- How much likelier the model finds "good" than "bad" after this state.
local function judge(state)
  local judged = state.seq:fork():feed "(Is this plan going well? It is going"
  local value = judged:score(" well").total - judged:score(" badly").total
  judged:close()
  return value
end

local function tree_of_thoughts(engine, args, emit)
  local start = engine:sequence(engine:chat_prompt {
    { role = "user", content = args.problem .. " Write one short step a line." } }, { add_special_tokens = false })
  local states, n_judged = { { seq = start, thoughts = "" } }, 0
  for depth = 1, args.depth do
    local all = {}
    local groups = llm.parallel(states, function(state, i)
      return propose(state, args.branches, 100 * depth + 10 * i, args.max_tokens)
    end)
    for _, group in ipairs(groups) do
      for _, state in ipairs(group) do all[#all + 1] = state end
    end
    for i, value in ipairs(llm.parallel(all, judge)) do all[i].value = value end
    table.sort(all, function(a, b) return a.value > b.value end)
    n_judged = n_judged + #all
    for i = args.keep + 1, #all do
      all[i].seq:close()
      all[i] = nil
    end
    states = all
  end
  emit(states[1].thoughts)
  return { value = states[1].value, judged = n_judged }
end

return llm.program({
  summary = "Searches a tree of thoughts, breadth first.",
  { name = "problem", type = "string", initial = "Plan a picnic for a rainy day.", help = "what to think about" },
  { name = "depth", type = "integer", initial = 3, min = 1, max = 16, help = "thoughts in a row" },
  { name = "branches", type = "integer", initial = 3, min = 1, max = 16, help = "proposals for each state" },
  { name = "keep", type = "integer", initial = 2, min = 1, max = 16, help = "states that go on" },
  { name = "max_tokens", type = "integer", initial = 24, min = 1, help = "of a thought" },
}, tree_of_thoughts)
