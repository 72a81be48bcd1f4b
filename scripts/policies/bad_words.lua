-- Never writes these words. A word is banned where its last token would complete it, with and without a space before.
--   { policy = "bad_words", policy_args = { words = { "foo", "bar baz" } } }

local llm = require "llm"

local policy = llm.policy("bad_words", { words = {} })

local function ends_with(output, ids, n)
  if #output < n then return false end
  for i = 1, n do
    if output[#output - n + i] ~= ids[i] then return false end
  end
  return true
end

function policy.init(req)
  local list, tokenizer = {}, llm.tokenizer()
  for _, word in ipairs(req.params.words) do
    for _, form in ipairs { word, " " .. word } do
      local ids = tokenizer:encode(form, { add_special_tokens = false })
      if #ids > 0 then list[#list + 1] = ids end
    end
  end
  req.state.words = list
end

function policy.logits(row, req)
  for _, ids in ipairs(req.state.words) do
    if ends_with(req.output, ids, #ids - 1) then row[ids[#ids]] = -math.huge end
  end
end

return policy
