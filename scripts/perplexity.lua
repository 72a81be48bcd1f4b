-- How well a model predicts a text, by llama.cpp's protocol: the text in consecutive windows of --ctx tokens, the
-- first token of each replaced by BOS if the model wants one, the second half of each scored.
--   llmlua perplexity.lua text.txt --model models/model.gguf --ctx 512

local llm = require "llm"

local opts = llm.options(arg, {
  summary = "Measures the perplexity of a model on a text.",
  positional = { { name = "file", type = "path", required = true, help = "the text" } },
  { name = "ctx", type = "count", initial = 512, min = 4, help = "tokens in a window" },
  { name = "chunks", type = "integer", min = 1, help = "only the first windows", default = "all" },
  { name = "json", type = "boolean", initial = false, help = "print one object" },
})

local GROUP = 8 -- windows in flight: enough to fill the batch, few enough to keep their rows of figures in memory

local function read_text(path)
  local file, message = io.open(path, "rb")
  local text = file and file:read("*a")
  if not text then llm.exit(1, "cannot read the text: " .. (message or path .. " is not a file")) end
  file:close()
  return text
end

local function window(ids, w, bos)
  local list = {}
  for k = 1, opts.ctx do list[k] = ids[(w - 1) * opts.ctx + k] end
  if bos then list[1] = bos end
  return list
end

-- Sums of -log p and its square over the scored tokens: with positions from 0, those after ctx / 2, as the logits at
-- ctx / 2 are the first that count.
local function add_scores(score, output)
  for k = math.floor(opts.ctx / 2) + 2, opts.ctx do
    local nll = -output.prompt_logprobs[k][output.prompt_token_ids[k]].logprob
    score.sum, score.squares, score.count = score.sum + nll, score.squares + nll * nll, score.count + 1
  end
end

local text = read_text(opts.file)
opts.max_model_len = opts.max_model_len or opts.ctx + 1 -- a request makes one token at least
local engine = llm.try(llm.engine, opts)
local tokenizer = engine:tokenizer() or llm.exit(1, "the model has no tokenizer; give --tokenizer")
local ids, bos = tokenizer:encode(text, { parse_special = false }), tokenizer:bos()
local n_windows = math.min(math.floor(#ids / opts.ctx), opts.chunks or math.huge)
if n_windows < 1 then
  llm.exit(1, ("the text has %d tokens; a window of %d needs more text or a smaller --ctx"):format(#ids, opts.ctx))
end

local start = llm.now()
local score = { sum = 0, squares = 0, count = 0 }
local bar = llm.progress("Perplexity", n_windows)
local params = { temperature = 0, max_tokens = 1, prompt_logprobs = 0, detokenize = false }
for first = 1, n_windows, GROUP do
  local group = {}
  for w = first, math.min(first + GROUP - 1, n_windows) do group[#group + 1] = window(ids, w, bos) end
  local outputs = llm.try(engine.generate, engine, group, params, { progress = false })
  for _, output in ipairs(outputs) do add_scores(score, output) end
  bar:update(first + #group - 1, ("%.4f"):format(math.exp(score.sum / score.count)))
end
bar:finish()

local seconds = llm.now() - start
local mean = score.sum / score.count
local perplexity = math.exp(mean)
local variance = math.max(score.squares / score.count - mean * mean, 0)
local deviation = math.sqrt(variance / math.max(score.count - 1, 1)) * perplexity
if opts.json then
  print(llm.json.encode(llm.json.object({
    perplexity = perplexity, stderr = deviation, model = opts.model, file = opts.file, ctx = opts.ctx,
    n_windows = n_windows, n_tokens = n_windows * opts.ctx, n_scored = score.count, seconds = seconds,
    tok_s = n_windows * opts.ctx / seconds,
  }, { "perplexity", "stderr", "model", "file", "ctx", "n_windows", "n_tokens", "n_scored", "seconds", "tok_s" })))
else
  print(("perplexity %.4f +/- %.5f  (%d windows of %d tokens, %.0f tok/s)"):format(perplexity, deviation, n_windows,
    opts.ctx, n_windows * opts.ctx / seconds))
end
engine:close()
