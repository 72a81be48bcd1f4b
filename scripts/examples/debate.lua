-- A debate: two speakers, each with a sequence of its own that hears what the other said, and a judge who weighs the two
-- sides by likelihood. Both prepare their next speech at once.
--   llmlua examples/debate.lua --model models/model.gguf --motion "Cats are better than dogs" --rounds 2

local llm = require "llm"

local function speaker(engine, motion, side)
  return { side = side, seq = engine:sequence(engine:chat_prompt {
    { role = "system", content = ("You are in a debate. You speak %s the motion: %s. Be brief."):format(side, motion) },
    { role = "user", content = "Your opening, please." } }, { add_special_tokens = false }) }
end

local function speak(one, max_tokens)
  return one.seq:generate{ temperature = 0.7, seed = 1, max_tokens = max_tokens }.text
end

-- The end of a turn and the beginning of the next, as the model's template has them between two messages.
local function turn_text(engine, heard)
  local whole = engine:chat_prompt {
    { role = "user", content = "a" }, { role = "assistant", content = "<said>" },
    { role = "user", content = "Your opponent says: " .. heard .. " Answer, please." } }
  return whole:match "<said>(.*)$"
end

local function debate(engine, args, emit)
  local speakers = { speaker(engine, args.motion, "for"), speaker(engine, args.motion, "against") }
  local record = {}
  for round = 1, args.rounds do
    local speeches = llm.parallel(speakers, function(one) return speak(one, args.max_tokens) end)
    for i, text in ipairs(speeches) do
      record[#record + 1] = { side = speakers[i].side, text = text }
      emit(("%s: %s\n"):format(speakers[i].side, text))
    end
    if round < args.rounds then
      for i, one in ipairs(speakers) do one.seq:feed(turn_text(engine, speeches[3 - i])) end
    end
  end
  local lines = {}
  for _, speech in ipairs(record) do lines[#lines + 1] = speech.side .. ": " .. speech.text end
  local judge = engine:sequence("A debate about the motion: " .. args.motion .. "\n" .. table.concat(lines, "\n")
    .. "\nThe more convincing side was the one that spoke")
  local verdict = { ["for"] = judge:score(" for").total, against = judge:score(" against").total }
  local winner = verdict["for"] > verdict.against and "for" or "against"
  emit("winner: " .. winner)
  return { winner = winner, verdict = verdict, speeches = record }
end

return llm.program({
  summary = "Lets two speakers debate a motion, and judges.",
  { name = "motion", type = "string", initial = "Cats are better than dogs", help = "what the debate is about" },
  { name = "rounds", type = "integer", initial = 2, min = 1, max = 16, help = "speeches of each side" },
  { name = "max_tokens", type = "integer", initial = 32, min = 1, help = "of a speech" },
}, debate)
