-- For scripts/dev/bench_react.py: a ReAct loop with a given number of tool calls, whatever the model says, so that the
-- same work can be done over HTTP.

local llm = require "llm"

local function react(engine, args)
  local seq = engine:sequence(args.prompt)
  local parts = {}
  for call = 1, args.calls do
    local text = seq:generate{ temperature = 0, max_tokens = args.max_tokens, min_tokens = args.max_tokens }.text
    local observation = ("\nObservation: %d\nThought:"):format(7 * call + #text)
    seq:feed(observation)
    parts[#parts + 1] = text .. observation
  end
  parts[#parts + 1] = seq:generate{ temperature = 0, max_tokens = args.max_tokens, min_tokens = args.max_tokens }.text
  return table.concat(parts)
end

return llm.program({
  summary = "A ReAct loop with so many tool calls.",
  { name = "prompt", type = "string", initial = "Question: 1 + 1?\nThought:" },
  { name = "calls", type = "integer", initial = 8 },
  { name = "max_tokens", type = "integer", initial = 16 },
}, react)
