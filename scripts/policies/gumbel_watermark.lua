-- The watermark of Aaronson (2022): the random numbers of each draw come from a key and the last three tokens, so whoever
-- has the key finds the text improbably lucky (llm.watermark.gumbel), and who has not sees an unbiased sample. It samples
-- by itself: with the request's temperature, top_k, top_p and min_p, but not its seed.

local llm = require "llm"
local policy = llm.policy("gumbel_watermark", { key = 42 })
policy.help = "a watermark in the random numbers"

function policy.graph(g, logits, p)
  local x = logits / g.max(g.request.temperature, 1e-5)
  x = g.top_p(g.top_k(g.min_p(x, g.request.min_p), g.request.top_k), g.request.top_p)
  local u = g.token_hash(p.key, g.last(1), g.last(2), g.last(3))
  return g.argmax(x - g.log(-g.log(u)))
end

return policy
