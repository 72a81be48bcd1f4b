-- Nothing but these tokens, those that these texts are made of, and, unless `ends` is false, the end of the sequence.
--   { policy = "allow_list", policy_args = { texts = { " yes", " no" } } }

local llm = require "llm"

local policy = llm.policy("allow_list", { tokens = {}, texts = {}, ends = true })
policy.help = "no other tokens than these"

function policy.init(req)
  local ids, tokenizer = {}, nil
  for i, id in ipairs(req.params.tokens) do ids[i] = id end
  if #req.params.texts > 0 or req.params.ends then tokenizer = llm.tokenizer() end
  for _, text in ipairs(req.params.texts) do
    for _, id in ipairs(tokenizer:encode(text, { add_special_tokens = false })) do ids[#ids + 1] = id end
  end
  if #ids == 0 then error("allow_list needs tokens or texts", 0) end
  ids[#ids + 1] = req.params.ends and tokenizer:info().eos or nil
  req.graph.tokens = ids
end

function policy.graph(g, logits, p) return g.mask(logits, g.set(p.tokens)) end

return policy
