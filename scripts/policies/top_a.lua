-- Top-a: keeps the tokens at least as likely as a times the square of the likeliest's probability.

local llm = require "llm"
local policy = llm.policy("top_a", { a = 0.2 })
policy.ranges = { a = { 0, 1 } }
policy.help = "a threshold that rises with the square of the largest probability"

function policy.graph(g, logits, p)
  local w = g.weights(logits) -- probabilities are w / sum w, the largest w is 1
  return g.mask(logits, g.ge(w, p.a / g.sum(w)))
end

return policy
