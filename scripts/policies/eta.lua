-- Eta sampling (Hewitt et al. 2022, arXiv:2210.15191): epsilon sampling whose threshold falls with the entropy, to
-- min(epsilon, sqrt(epsilon) e^-H).

local llm = require "llm"
local policy = llm.policy("eta", { epsilon = 3e-4 })
policy.ranges = { epsilon = { 0, 1 } }
policy.help = "drops unlikely tokens, fewer where the distribution is flat"

function policy.graph(g, logits, p)
  local eta = g.min(p.epsilon, g.sqrt(p.epsilon) * g.exp(-g.entropy(logits)))
  return g.mask(logits, g.lor(g.ge(g.softmax(logits), eta), g.ge(logits, g.max(logits))))
end

return policy
