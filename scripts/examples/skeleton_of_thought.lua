-- Skeleton of thought (Ning and others, 2024): the model lists the points of an answer, then all points are written out
-- at once, each by a fork of the text that has the list. The answer is there in the time of its longest point.
--   llmlua examples/skeleton_of_thought.lua --model models/model.gguf --question "How do I learn to swim?"

local llm = require "llm"

local function points_of(text, most)
  local points = {}
  for line in ("1." .. text .. "\n"):gmatch "%d+%.%s*([^\n]-)%s*\n" do
    if line ~= "" and #points < most then points[#points + 1] = line end
  end
  return points
end

local function skeleton_of_thought(engine, args, emit)
  local seq = engine:sequence(engine:chat_prompt {
    { role = "user", content = ("%s List the %d most important points."):format(args.question, args.points) } },
    { add_special_tokens = false })
  seq:feed "1."
  local outline = seq:generate{ temperature = 0, max_tokens = 16 * args.points,
                                stop = { ("\n%d."):format(args.points + 1), "\n\n" } }.text
  local points = points_of(outline, args.points)
  local parts = llm.parallel(seq:fork(#points), function(branch, i)
    branch:feed(("\n\nHere is more about point %d. %s"):format(i, points[i]))
    return branch:generate{ temperature = 0, min_tokens = 8, max_tokens = args.max_tokens, stop = "\n\n" }.text
  end)
  for i, point in ipairs(points) do emit(("%d. %s:%s\n"):format(i, point, parts[i])) end
  return { points = points, parts = parts }
end

return llm.program({
  summary = "Lists the points of an answer, then writes all of them at once.",
  { name = "question", type = "string", initial = "How do I learn to swim?", help = "what to answer" },
  { name = "points", type = "integer", initial = 3, min = 1, max = 12, help = "of the answer" },
  { name = "max_tokens", type = "integer", initial = 40, min = 1, help = "of a point" },
}, skeleton_of_thought)
