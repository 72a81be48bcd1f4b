-- Keeps the tokens that are at least min_p times as likely as the likeliest (Nguyen et al. 2024, arXiv:2407.01082).

local llm = require "llm"
local policy = llm.policy("min_p", { min_p = 0.05 })
policy.ranges = { min_p = { 0, 1 } }
policy.help = "min-p before temperature"

function policy.graph(g, logits, p) return g.min_p(logits, p.min_p) end

return policy
