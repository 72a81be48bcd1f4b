-- DRY (p-e-w 2024): a token that would make the end of the text repeat what came before is the less likely the longer the
-- repetition: by multiplier * base ^ (length - allowed). Repetitions do not reach across `breakers` (token ids; without
-- them those of line ends, colons, quotation marks and asterisks).

local llm = require "llm"

local function default_breakers()
  local ok, tokenizer = pcall(llm.tokenizer)
  local ids = {}
  for _, text in ipairs(ok and tokenizer and { "\n", ":", "\"", "*" } or {}) do
    local encoded = tokenizer:encode(text, { add_special_tokens = false })
    if #encoded == 1 then ids[#ids + 1] = encoded[1] end
  end
  return ids
end

local policy = llm.policy("dry", { multiplier = 0.8, base = 1.75, allowed = 2, window = 1024,
                                   breakers = default_breakers() })
policy.ranges = { multiplier = { 0, 100 }, base = { 1, 10 }, allowed = { 1, 100 }, window = { 0, 1e6 } }
policy.help = "penalizes repetitions by their length"

function policy.graph(g, logits, p)
  local length = g.repeats{ max = 50, window = p.window, breakers = p.breakers }
  return logits - g.where(g.ge(length, p.allowed), p.multiplier * p.base ^ (length - p.allowed), 0)
end

return policy
