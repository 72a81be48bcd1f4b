-- Dynamic temperature (kalomaze 2023): between low and high with the entropy of the distribution, so that sure tokens stay
-- sure and open choices open up. The request's own temperature (1) comes on top.

local llm = require "llm"
local policy = llm.policy("dynamic_temperature", { low = 0.3, high = 1.5, exponent = 1 })
policy.ranges = { low = { 0.01, 100 }, high = { 0.01, 100 }, exponent = { 0.01, 100 } }
policy.help = "temperature by entropy"

function policy.graph(g, logits, p)
  local share = g.entropy(logits) / g.log(g.max(g.vocab(), 2)) -- of the largest entropy there can be
  return logits / (p.low + (p.high - p.low) * share ^ p.exponent)
end

return policy
