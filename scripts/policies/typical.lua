-- Locally typical sampling (Meister et al. 2022, arXiv:2202.00666): keeps the tokens whose surprise is nearest to the
-- entropy, as many as have the mass p.

local llm = require "llm"
local policy = llm.policy("typical", { p = 0.95 })
policy.ranges = { p = { 0, 1 } }
policy.help = "locally typical sampling"

function policy.graph(g, logits, p)
  local typicality = -g.abs(-g.log_softmax(logits) - g.entropy(logits))
  return g.mask(logits, g.ge(typicality, g.quantile(typicality, g.weights(logits), p.p)))
end

return policy
