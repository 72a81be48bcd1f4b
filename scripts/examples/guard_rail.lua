-- A guard rail that rewinds: text is shown a sentence at a time, after it was looked at. A sentence that breaks a rule
-- is forgotten, as if it had never been written, and written anew with other luck; the client never sees it.
--   llmlua examples/guard_rail.lua --model models/model.gguf --prompt "The sea is" --forbid people --forbid place

local llm = require "llm"

-- The rule that a text breaks, if any: plain words, in any case.
local function broken_rule(text, forbidden)
  local lower = text:lower()
  for _, word in ipairs(forbidden) do
    if lower:find(word:lower(), 1, true) then return word end
  end
end

-- One sentence. Writing ends as soon as a rule is broken.
local function sentence(seq, params, forbidden)
  local text, reason = "", nil
  local stream = seq:stream(params)
  for delta in stream do
    text, reason = text .. delta.text, delta.finish_reason
    if broken_rule(text, forbidden) then break end
  end
  stream:close()
  return text, reason
end

local function guard_rail(engine, args, emit)
  local seq = engine:sequence(args.prompt)
  local rewound, left = {}, args.max_tokens
  while left > 0 do
    local mark, written = #seq, false
    for attempt = 1, args.attempts do
      local text, reason = sentence(seq, { temperature = 0.7, seed = args.seed + attempt, max_tokens = left,
        stop = { ". ", ".\n", "\n\n" }, include_stop_str_in_output = true }, args.forbid)
      local rule = broken_rule(text, args.forbid)
      if not rule then
        emit(text)
        left = reason == "stop" and text ~= "" and left - (#seq - mark) or 0
        written = true
        break
      end
      rewound[#rewound + 1] = { rule = rule, text = text }
      seq:rewind_to(mark)
    end
    if not written then break end
  end
  return { rewound = rewound }
end

return llm.program({
  summary = "Writes sentences, and rewinds over those that break a rule.",
  { name = "prompt", type = "string", initial = "The sea is", help = "what to continue" },
  { name = "forbid", type = "strings", many = true, initial = { "people", "place" }, help = "must not come up" },
  { name = "max_tokens", type = "integer", initial = 48, min = 1, help = "of the text" },
  { name = "attempts", type = "integer", initial = 6, min = 1, max = 64, help = "at a sentence" },
  { name = "seed", type = "integer", initial = 0, help = "of the first attempt" },
}, guard_rail)
