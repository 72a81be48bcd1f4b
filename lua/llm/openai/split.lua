-- A delta of several tokens as one delta for each. Tokens come together when the engine is ahead of its reader; a
-- stream has a chunk for each all the same, so that clients may count them.

local M = {}

local function one_of(delta, i, begin)
  local n = #delta.token_ids
  local last = i == n
  return { index = delta.index, text = delta.text:sub(begin, delta.text_ends[i]), token_ids = { delta.token_ids[i] },
           logprobs = delta.logprobs and { delta.logprobs[i] }, finish_reason = last and delta.finish_reason or nil,
           stop_reason = last and delta.stop_reason or nil }
end

-- f(one, …) for each token's delta in turn; delta itself if it has but one.
function M.each(delta, f, ...)
  if not delta.text_ends then return f(delta, ...) end
  local begin = 1
  for i = 1, #delta.token_ids do
    f(one_of(delta, i, begin), ...)
    begin = delta.text_ends[i] + 1
  end
end

return M
