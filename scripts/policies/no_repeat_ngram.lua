-- No n tokens in a row that the text (prompt and output) has had already, as no_repeat_ngram_size of transformers.

local llm = require "llm"

local policy = llm.policy("no_repeat_ngram", { n = 3, prompt = true })
policy.ranges = { n = { 1, 64 } }
policy.help = "no n tokens in a row twice"

-- What has followed each n - 1 tokens is kept in a table, to which a token adds one entry.
function policy.init(req)
  req.state.next = {}  -- the n - 1 tokens, as text -> list of those that followed
  req.state.tokens = {}
  if req.params.prompt then
    for i = 1, #req.prompt do req.state.tokens[i] = req.prompt[i] end
  end
  req.state.given = #req.state.tokens
  req.state.known = req.params.n - 1 -- n-grams that end here or before are in the table
end

local function key(tokens, first, last) return table.concat(tokens, " ", first, last) end

function policy.logits(row, req)
  local state, n = req.state, req.params.n
  local tokens, given = state.tokens, state.given
  for i = #tokens - given + 1, #req.output do tokens[given + i] = req.output[i] end
  while state.known < #tokens do
    state.known = state.known + 1
    local before = key(tokens, state.known - n + 1, state.known - 1)
    local list = state.next[before] or {}
    list[#list + 1] = tokens[state.known]
    state.next[before] = list
  end
  local banned = #tokens >= n - 1 and state.next[key(tokens, #tokens - n + 2, #tokens)]
  if banned then row:ban(banned) end
end

function policy.test(t)
  local run = t:run{ prompt = { 1, 2, 3, 1, 2 }, args = { n = 3 } }
  assert(run:logits{ 0, 0, 0, 0, 0 }[3] == -math.huge)
  run:push(4) -- 1 2 3 1 2 4
  run:push(2)
  local row = run:logits{ 0, 0, 0, 0, 0 } -- after 4 2: nothing yet
  for id = 0, 4 do assert(row[id] == 0) end
  run:push(3)
  assert(run:logits{ 0, 0, 0, 0, 0 }[1] == -math.huge) -- 2 3 was followed by 1
end

return policy
