-- Classifier-free guidance: continues a prompt by what it makes likelier than a negative prompt does. The larger the
-- scale, the closer to the prompt; without a negative one, the prompt's last token alone is it.
--   llmlua examples/guidance.lua --model models/model.gguf --prompt "A poem about the sea:" --scale 2

local llm = require "llm"

local function guidance(engine, args, emit)
  local seq = engine:sequence(args.prompt)
  local negative = engine:sequence(args.negative ~= "" and args.negative or seq:tokens(#seq))
  local ids = {}
  local params = { scale = args.scale, temperature = args.temperature, seed = args.seed, max_tokens = args.max_tokens }
  for token, text in seq:guided(negative, params) do
    ids[#ids + 1] = token
    emit(text)
  end
  return { text = engine:detokenize(ids), token_ids = ids }
end

return llm.program({
  summary = "Continues a prompt, guided away from another.",
  { name = "prompt", type = "string", initial = "A poem about the sea:\n", help = "what to continue" },
  { name = "negative", type = "string", initial = "", help = "what not to continue" },
  { name = "scale", type = "number", initial = 1.5, min = -100, max = 100, help = "of the guidance; 1 is none" },
  { name = "temperature", type = "number", initial = 0, min = 0, help = "of sampling" },
  { name = "max_tokens", type = "integer", initial = 32, min = 1, help = "of the continuation" },
  { name = "seed", type = "integer", initial = 0, help = "of sampling" },
}, guidance)
