-- Temperature that falls from `start` to `floor` over the first `over` tokens of the output: bold beginnings, sober ends.

local llm = require "llm"
local policy = llm.policy("cool_down", { start = 1.2, floor = 0.3, over = 200 })
policy.ranges = { start = { 0.01, 100 }, floor = { 0.01, 100 }, over = { 1, 1e6 } }
policy.help = "temperature that falls with the length of the output"

function policy.graph(g, logits, p)
  local t = g.max(p.floor, p.start - (p.start - p.floor) * g.n_output() / p.over)
  return g.sample(logits / t)
end

return policy
