-- Mirostat 2 (Basu et al. 2021, arXiv:2007.14966): keeps the surprise of the text near tau bits a token. Tokens more
-- surprising than mu are dropped; mu follows what was drawn.

local llm = require "llm"
local policy = llm.policy("mirostat_v2", { tau = 5, eta = 0.1 })
policy.ranges = { tau = { 0, 100 }, eta = { 0, 1 } }
policy.help = "keeps the surprise near tau bits a token"

local BIT = math.log(2)

function policy.graph(g, logits, p)
  local s = g.state{ drift = 0 } -- of mu, from 2 tau
  local x = logits / g.max(g.request.temperature, 1e-5)
  local surprise = -g.log_softmax(x) / BIT
  local kept = g.mask(x, g.lor(g.le(surprise, 2 * p.tau + s.drift), g.ge(x, g.max(x))))
  local token = g.sample(kept)
  local observed = -g.gather(g.log_softmax(kept), token) / BIT
  s.drift = s.drift - p.eta * (observed - p.tau)
  return token
end

return policy
