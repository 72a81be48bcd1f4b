-- Generates text from prompts, all in one batch.
--   llmlua generate.lua --model models/model.gguf --temperature 0 --max-tokens 64 --prompt "The capital of France is"

local llm = require "llm"

local opts = llm.options(arg, {
  summary = "Generates text. Prompts run as one batch and are answered in their order.\n"
    .. "Sampling options that are not given are the model's own (generation_config.json).",
  sampling = true,
  { name = "prompt", type = "string", collect = "prompts", help = "a prompt" },
  { name = "prompt_ids", type = "integers", collect = "prompts", help = "a prompt as token ids" },
  { name = "file", type = "path", collect = "prompts", help = "a prompt from a file; -: standard input" },
  { name = "lines", type = "boolean", initial = false, help = "each line of a file is a prompt" },
  { name = "stream", type = "boolean", initial = false, help = "print text as it comes" },
  { name = "json", type = "boolean", initial = false, help = "print one object a line for each prompt" },
  { name = "add_special_tokens", type = "boolean", initial = true, help = "add what the tokenizer adds, such as BOS" },
})

-- The text of a file without the newline that ends it.
local function read_file(path)
  if path == "-" then return (io.read("*a"):gsub("\r?\n$", "")) end
  local file, message = io.open(path, "rb")
  if not file then llm.exit(1, "cannot read prompts: " .. message) end
  local text = file:read("*a")
  file:close()
  if not text then llm.exit(1, "cannot read prompts: " .. path .. " is not a file") end
  return (text:gsub("\r?\n$", ""))
end

local function prompts_of(given)
  if not given then
    if llm.isatty("stdin") then llm.exit(2, "no prompt: give --prompt, --prompt-ids or --file, or pipe one in") end
    given = { { name = "file", value = "-" } }
  end
  local prompts = {}
  for _, source in ipairs(given) do
    local value = source.name == "file" and read_file(source.value) or source.value
    if source.name == "file" and opts.lines then
      for line in (value .. "\n"):gmatch("(.-)\r?\n") do prompts[#prompts + 1] = line end
    else
      prompts[#prompts + 1] = value
    end
  end
  return prompts
end

-- ---- JSON ----------------------------------------------------------------------------------------------------

local null, array, object = llm.json.null, llm.json.array, llm.json.object
local logprob_order = { "logprob", "rank", "decoded_token" }
local sequence_order = { "index", "text", "token_ids", "finish_reason", "stop_reason", "logprobs",
                         "cumulative_logprob" }
local metrics_order = { "arrival_time", "scheduled_time", "first_token_time", "finished_time", "queue_time",
                        "time_to_first_token", "e2e_latency", "num_preemptions" }
local output_order = { "prompt", "prompt_token_ids", "prompt_logprobs", "outputs", "metrics", "num_cached_tokens" }

local function or_null(value)
  if value == nil then return null end
  return value
end

-- A list of maps from token id to {logprob, rank, decoded_token}; null for a token without (a prompt's first).
local function logprobs_json(rows)
  if not rows then return null end
  local list = array()
  for i, row in ipairs(rows) do
    list[i] = null
    if row then
      local map = {}
      for id, entry in pairs(row) do
        map[tostring(id)] = object({ logprob = entry.logprob, rank = entry.rank,
                                     decoded_token = or_null(entry.decoded_token) }, logprob_order)
      end
      list[i] = object(map)
    end
  end
  return list
end

local function sequence_json(sequence)
  return object({
    index = sequence.index, text = sequence.text, token_ids = array(sequence.token_ids),
    finish_reason = or_null(sequence.finish_reason), stop_reason = or_null(sequence.stop_reason),
    logprobs = logprobs_json(sequence.logprobs), cumulative_logprob = or_null(sequence.cumulative_logprob),
  }, sequence_order)
end

local function output_json(output)
  local sequences = array()
  for i, sequence in ipairs(output.outputs) do sequences[i] = sequence_json(sequence) end
  return llm.json.encode(object({
    prompt = output.prompt and llm.json.utf8(output.prompt) or null,
    prompt_token_ids = array(output.prompt_token_ids), prompt_logprobs = logprobs_json(output.prompt_logprobs),
    outputs = sequences, metrics = object(output.metrics, metrics_order), num_cached_tokens = output.num_cached_tokens,
  }, output_order))
end

local function delta_json(delta, i)
  return llm.json.encode(object({
    prompt_index = i - 1, index = delta.index, text = delta.text, token_ids = array(delta.token_ids),
    finish_reason = or_null(delta.finish_reason), stop_reason = or_null(delta.stop_reason),
    logprobs = logprobs_json(delta.logprobs),
  }, { "prompt_index", unpack(sequence_order) }))
end

-- ---- running -------------------------------------------------------------------------------------------------

local function title(prompt)
  return type(prompt) == "string" and prompt or "[" .. table.concat(prompt, ",") .. "]"
end

-- All requests run together; what later ones say is kept until the earlier ones are done.
local function stream_all(engine, prompts, params, options)
  local streams = {}
  for i, prompt in ipairs(prompts) do
    streams[i] = llm.try(engine.stream, engine, prompt, params, options)
  end
  for i, stream in ipairs(streams) do
    if #prompts > 1 and not opts.json then io.write("> ", title(prompts[i]), "\n") end
    for delta in stream do
      if opts.json then io.write(delta_json(delta, i), "\n") else io.write(delta.text) end
      io.flush()
    end
    if not opts.json then io.write(#prompts > 1 and "\n\n" or "\n") end
  end
end

local function print_text(outputs, prompts)
  for i, output in ipairs(outputs) do
    if #outputs > 1 then io.write("> ", title(prompts[i]), "\n") end
    for _, sequence in ipairs(output.outputs) do
      if #output.outputs > 1 then io.write("[", sequence.index, "] ") end
      io.write(sequence.text, "\n")
    end
    if #outputs > 1 then io.write("\n") end
  end
end

local prompts = prompts_of(opts.prompts)
if opts.stream and not opts.json and (opts.sampling.n or 1) > 1 then
  llm.exit(2, "--stream prints one sequence; with --n give --json too, or leave --stream out")
end

local engine = llm.try(llm.engine, opts)
local params = engine:default_params()
for name, value in pairs(opts.sampling) do params[name] = value end
local options = { add_special_tokens = opts.add_special_tokens }

if opts.stream then
  stream_all(engine, prompts, params, options)
else
  local outputs = llm.try(engine.generate, engine, prompts, params, options)
  if opts.json then
    for _, output in ipairs(outputs) do io.write(output_json(output), "\n") end
  else
    print_text(outputs, prompts)
  end
end
engine:close()
