-- The log-probabilities that a model gives, for check_models.py to compare. Each request is a JSON object a line on
-- standard input: {"ids": [...], "all": true or false}; the answer a line of numbers for each position (the next
-- token's log-probabilities in order of ids) or for the last position alone.
local llm = require "llm"
local opts = llm.options(arg, { { name = "greedy", type = "integer", initial = 0, help = "tokens to generate instead" } })
opts.max_logprobs = -1
opts.skip_tokenizer_init = true
local engine = llm.engine(opts)

local function print_row(row, n)
  local values = {}
  for id = 0, n - 1 do values[id + 1] = ("%.6g"):format(row[id].logprob) end
  print(table.concat(values, " "))
end

for line in io.lines() do
  local request = llm.json.decode(line)
  local params = { temperature = 0, max_tokens = math.max(opts.greedy, 1), ignore_eos = true, detokenize = false }
  if opts.greedy == 0 then
    params.logprobs = -1
    if request.all then params.prompt_logprobs = -1 end
  end
  local output = engine:generate({ request.ids }, params, { progress = false })[1]
  if opts.greedy > 0 then
    print(table.concat(output.outputs[1].token_ids, " "))
  else
    local n = engine:info().vocab_size
    for i = 2, request.all and #request.ids or 0 do print_row(output.prompt_logprobs[i], n) end
    print_row(output.outputs[1].logprobs[1], n)
  end
end
engine:close()
