-- Exclude top choices (p-e-w 2024): with some probability, of the tokens that are at least as likely as a threshold only
-- the least likely stays, so that the text leaves the beaten track where there are good alternatives.

local llm = require "llm"
local policy = llm.policy("xtc", { threshold = 0.1, probability = 0.5 })
policy.ranges = { threshold = { 0, 1 }, probability = { 0, 1 } }
policy.help = "excludes the top choices where there are several"

function policy.graph(g, logits, p)
  local prob = g.softmax(logits)
  local top = g.ge(prob, p.threshold)
  local least = g.min(g.where(top, prob, math.huge))
  local excluded = g.land(top, g.gt(prob, least), g.lt(g.random(), p.probability))
  return g.where(excluded, -math.huge, logits)
end

return policy
