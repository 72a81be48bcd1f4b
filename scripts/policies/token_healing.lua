-- The output begins with `prefix`, however the model cuts it into tokens. With it a script mends the seam between a
-- prompt and its continuation: a prompt that ends within a word ends in tokens that the model would not have chosen.
--
--   local ids = engine:tokenize(prompt)                    -- "… http:" ends in ":", but the model has a token "://"
--   local last = engine:tokenizer():token_text(table.remove(ids))
--   local out = engine:generate(ids, { policy = "token_healing", policy_args = { prefix = last } })[1].outputs[1].text
--   print(prompt .. out:sub(#last + 1))

local llm = require "llm"

local policy = llm.policy("token_healing", { prefix = "" })
policy.help = "the output begins with this text"

-- First byte, and first two bytes -> list of {token, text}: what may begin so is looked at, not the vocabulary.
local by_head = {}

local function file_under(head, entry)
  local list = by_head[head] or {}
  list[#list + 1] = entry
  by_head[head] = list
end

for id = 0, llm.vocab_size - 1 do
  local text = llm.token_text(id)
  if #text > 0 then file_under(text:sub(1, 1), { id, text }) end
  if #text > 1 then file_under(text:sub(1, 2), { id, text }) end
end

local function begins(text, with) return text:sub(1, #with) == with end

function policy.init(req)
  req.state.left = req.params.prefix
  req.state.seen = 0
end

function policy.logits(row, req)
  local state = req.state
  for i = state.seen + 1, #req.output do state.left = state.left:sub(#llm.token_text(req.output[i]) + 1) end
  state.seen = #req.output
  local left = state.left
  if left == "" then return end
  local allowed = {}
  for _, entry in ipairs(by_head[left:sub(1, 2)] or {}) do
    if begins(entry[2], left) or begins(left, entry[2]) then allowed[#allowed + 1] = entry[1] end
  end
  for _, entry in ipairs(#left > 1 and by_head[left:sub(1, 1)] or {}) do
    if #entry[2] == 1 then allowed[#allowed + 1] = entry[1] end
  end
  if #allowed == 0 then error(("no token of the model begins %q"):format(left), 0) end
  row:keep(allowed)
end

return policy
