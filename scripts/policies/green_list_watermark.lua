-- The watermark of Kirchenbauer et al. (2023, arXiv:2301.10226): the token before divides the vocabulary into green and
-- red by a keyed hash, and green tokens get delta more. llm.watermark.green_list counts them.

local llm = require "llm"
local policy = llm.policy("green_list_watermark", { key = 42, gamma = 0.25, delta = 2 })
policy.ranges = { gamma = { 0, 1 }, delta = { -100, 100 } }
policy.help = "a watermark that favours a keyed part of the vocabulary"

function policy.graph(g, logits, p)
  return logits + g.where(g.lt(g.token_hash(p.key, g.last()), p.gamma), p.delta, 0)
end

return policy
