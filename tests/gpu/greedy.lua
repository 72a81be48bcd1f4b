-- A model's greedy text on a device against the CPU's, step for step: the same tokens but for near-ties. The two round
-- in their own ways (the CPU's activations have 8 bits where weights are quantized), so a third engine, the device with
-- float32 throughout, says how far apart two tokens really are; with --dtype float32 it must be the scalar reference's
-- equal on the first prompt, which is all that is quick enough. Each step is looked at twice: computed as part of a
-- prompt, by the kernels for many rows, and decoded, by those for few. Ends with one line; exit code 1: a token differs
-- where there is no tie, or the margins are noisier than the device's type explains.
local llm = require "llm"
local opts = llm.options(arg, { { name = "steps", type = "integer", initial = 64, help = "tokens a prompt" } })
opts.device = opts.device or "cuda"
opts.max_model_len = opts.max_model_len or 512
opts.kv_cache_memory = opts.kv_cache_memory or "256MiB"
local N = opts.steps
-- Margins between two logits are off by 0.16 (standard deviation) on SmolLM2 by the CPU's rounding, 0.9 at most. A device
-- must be more exact than that, and so must its ties.
local CPU_NEAR = 1
local NEAR, MOST_NOISE = 0.5, 0.16
if opts.dtype == "float32" then NEAR, MOST_NOISE = 2e-3, 1e-3 end

local function chat(text)
  return "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    .. "<|im_start|>user\n" .. text .. "<|im_end|>\n<|im_start|>assistant\n"
end
local prompts = {
  "The capital of France is", "Once upon a time, in a small village by the sea,", "Water boils at",
  "The first three laws of motion state that", "def fibonacci(n):\n    ", "#include <stdio.h>\n\nint main(void)\n{\n",
  "1, 1, 2, 3, 5, 8, 13,", "The quick brown fox", "In 1969, the United States", "A good cup of coffee starts with",
  "Les trois couleurs du drapeau français sont", "SELECT name, COUNT(*) FROM users", chat "What is gravity?",
  chat "Write a haiku about autumn.", chat "List five fruits that are red.",
  chat "Explain how a bicycle stays upright, in two sentences.",
  chat "Translate 'good morning' to Spanish, German and Italian.", chat "What is 17 + 25?",
  chat "Give me a recipe for pancakes.", chat "Who wrote Romeo and Juliet, and when?",
}

local function engine_on(device, dtype, isa)
  local o = {}
  for k, v in pairs(opts) do o[k] = v end
  o.steps = nil
  o.device, o.dtype, o.cpu_isa = device, dtype, isa
  return llm.engine(o)
end

local function generate(e, ids, params)
  params.temperature, params.ignore_eos, params.detokenize = 0, true, false
  return e:generate(ids, params, { progress = false })
end

-- Of each prompt its ids and, after them, N ids of the CPU's.
local cpu = engine_on("cpu")
local texts, lengths = {}, {}
for i, output in ipairs(cpu:generate(prompts, { temperature = 0, ignore_eos = true, max_tokens = N }, { progress = false })) do
  local ids = {}
  for _, id in ipairs(output.prompt_token_ids) do ids[#ids + 1] = id end
  lengths[i] = #ids
  for _, id in ipairs(output.outputs[1].token_ids) do ids[#ids + 1] = id end
  texts[i] = ids
end
cpu:close()

-- What an engine makes of the texts: for each and each step the log-probabilities of the best tokens, by id, and the
-- best of all.
local function judge(e)
  local rows = {}
  for i, output in ipairs(generate(e, texts, { max_tokens = 1, prompt_logprobs = 20 })) do
    rows[i] = {}
    for step = 1, N do
      local best, of = nil, {}
      for id, entry in pairs(output.prompt_logprobs[lengths[i] + step]) do
        of[id] = entry.logprob
        if not best or entry.logprob > of[best] then best = id end
      end
      rows[i][step] = { best = best, of = of }
    end
  end
  return rows
end

local exact = engine_on(opts.device, "float32")
local truth = judge(exact)
exact:close()

local wrong, counts = 0, { same = 0, ties = 0 }
if opts.dtype == "float32" then
  local ids, worst = { unpack(texts[1], 1, lengths[1] + 10) }, 0
  local function rows_of(e)
    local rows = generate(e, { ids }, { max_tokens = 1, prompt_logprobs = 20 })[1].prompt_logprobs
    e:close()
    return rows
  end
  local want, got = rows_of(engine_on("cpu", "float32", "ref")), rows_of(engine_on(opts.device, "float32"))
  for i = 2, #ids do
    for id, entry in pairs(want[i]) do
      worst = math.max(worst, got[i][id] and math.abs(got[i][id].logprob - entry.logprob) or 0)
    end
  end
  print(("beside the scalar reference: %d positions, log-probabilities within %.1e"):format(#ids - 1, worst))
  if worst > 1e-2 then wrong = wrong + 1 end
end
-- A token that the device has at a step where the CPU has another one, or not.
local function look(what, i, step, got)
  local want, row = texts[i][lengths[i] + step], truth[i][step]
  local function worse(id) return row.of[id] and row.of[row.best] - row.of[id] or math.huge end
  if got == want then
    counts.same = counts.same + 1
  elseif worse(got) < NEAR and worse(want) < CPU_NEAR then
    counts.ties = counts.ties + 1
  else
    wrong = wrong + 1
    print(("%s: prompt %d, step %d: token %d, not %d; likelier than they are by %g and %g is %d"):format(what, i, step,
      got, want, worse(got), worse(want), row.best))
  end
end

-- The noise is that of the margins between the device's best token and those that come near it.
local device = engine_on(opts.device, opts.dtype)
local squares, n = 0, 0
for i, rows in ipairs(judge(device)) do
  for step, row in ipairs(rows) do
    look("as a prompt", i, step, row.best)
    local exactly = truth[i][step].of
    for id, logprob in pairs(row.of) do
      if id ~= row.best and exactly[id] and exactly[row.best] and exactly[id] > exactly[row.best] - 3 then
        local off = (row.of[row.best] - logprob) - (exactly[row.best] - exactly[id])
        squares, n = squares + off * off, n + 1
      end
    end
  end
end
local noise = math.sqrt(squares / n)

-- Decoded, a stretch at a time: where the device has taken another token, it goes on after the CPU's.
local at = {}
for i = 1, #texts do at[i] = 1 end
local rounds = 0
repeat
  local asked, which = {}, {}
  for i, ids in ipairs(texts) do
    if at[i] <= N then
      asked[#asked + 1] = { unpack(ids, 1, lengths[i] + at[i] - 1) }
      which[#which + 1] = i
    end
  end
  local outputs = #asked > 0 and generate(device, asked, { max_tokens = N }) or {}
  for k, output in ipairs(outputs) do
    local i = which[k]
    for _, id in ipairs(output.outputs[1].token_ids) do
      if at[i] > N then break end
      local same = id == texts[i][lengths[i] + at[i]]
      look("decoded", i, at[i], id)
      at[i] = at[i] + 1
      if not same then break end
    end
  end
  rounds = rounds + 1
until #asked == 0

local info = device:info()
device:close()
if noise > MOST_NOISE then wrong = wrong + 1 end
print(("greedy on %s: %d prompts of %d steps, as prompts and decoded in %d rounds: %d tokens as the CPU's, %d near-ties, "
  .. "%d wrong; margins are off by %.4f (standard deviation)"):format(info.isa, #texts, N, rounds - 1, counts.same,
  counts.ties, wrong, noise))
os.exit(wrong == 0 and 0 or 1)
