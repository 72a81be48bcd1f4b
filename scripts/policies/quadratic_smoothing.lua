-- Quadratic smoothing (kalomaze 2024): logits fall off with the square of their distance from the largest, and with the
-- cube as far as curve is above 1. factor 0: no change.

local llm = require "llm"
local policy = llm.policy("quadratic_smoothing", { factor = 0.2, curve = 1 })
policy.ranges = { factor = { 0, 100 }, curve = { 1, 3 } }
policy.help = "logits that fall off with the square of their distance from the best"

function policy.graph(g, logits, p)
  local best = g.max(logits)
  local d = logits - best
  local square, cube = p.factor * (3 - p.curve) / 2, p.factor * (p.curve - 1) / 2
  local smoothed = best - square * d * d + cube * d * d * d
  return g.where(g.land(g.gt(d, -math.huge), g.gt(p.factor, 0)), smoothed, logits)
end

return policy
