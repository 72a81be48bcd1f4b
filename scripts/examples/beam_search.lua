-- Beam search: keeps the `width` likeliest continuations, token by token. Beams are forks, so what they have in common
-- is in memory once.
--   llmlua examples/beam_search.lua --model models/model.gguf --prompt "The capital of France is" --width 4

local llm = require "llm"

-- All ways to go on from these beams by one token, the likeliest first.
local function extensions(beams, width)
  local nexts = llm.parallel(beams, function(beam) return beam.seq:next{ logprobs = width } end)
  local all = {}
  for i, beam in ipairs(beams) do
    for _, candidate in ipairs(nexts[i]) do
      all[#all + 1] = { from = beam, token = candidate.token, logprob = beam.logprob + candidate.logprob }
    end
  end
  table.sort(all, function(a, b) return a.logprob > b.logprob end)
  return all
end

local function step(beams, width, done, eos)
  local chosen = {}
  for _, one in ipairs(extensions(beams, width)) do
    if #chosen + #done >= width then break end
    if one.token == eos then
      done[#done + 1] = { seq = one.from.seq, logprob = one.logprob }
    else
      chosen[#chosen + 1] = { seq = one.from.seq:fork():feed(one.token), logprob = one.logprob }
    end
  end
  return chosen
end

local function beam_search(engine, args, emit)
  local eos = engine:tokenizer():info().eos
  local prompt = engine:sequence(args.prompt)
  local start, beams, done = #prompt, { { seq = prompt, logprob = 0 } }, {}
  for _ = 1, args.max_tokens do
    beams = step(beams, args.width, done, eos)
    if #beams == 0 then break end
  end
  for _, beam in ipairs(beams) do done[#done + 1] = beam end
  table.sort(done, function(a, b) return a.logprob > b.logprob end)
  local list = {}
  for i, beam in ipairs(done) do
    local ids = beam.seq:tokens(start + 1)
    list[i] = { text = engine:detokenize(ids), token_ids = ids, logprob = beam.logprob }
  end
  emit(list[1].text)
  return { beams = list }
end

return llm.program({
  summary = "Finds likely continuations by beam search.",
  { name = "prompt", type = "string", initial = "The capital of France is", help = "what to continue" },
  { name = "width", type = "integer", initial = 4, min = 1, max = 64, help = "beams" },
  { name = "max_tokens", type = "integer", initial = 12, min = 1, help = "of a continuation" },
}, beam_search)
