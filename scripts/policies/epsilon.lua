-- Epsilon sampling (Hewitt et al. 2022, arXiv:2210.15191): drops the tokens less likely than epsilon, but never the
-- likeliest.

local llm = require "llm"
local policy = llm.policy("epsilon", { epsilon = 3e-4 })
policy.ranges = { epsilon = { 0, 1 } }
policy.help = "drops tokens less likely than epsilon"

function policy.graph(g, logits, p)
  return g.mask(logits, g.lor(g.ge(g.softmax(logits), p.epsilon), g.ge(logits, g.max(logits))))
end

return policy
