-- The names of vLLM's engine arguments and sampling parameters as far as llmlua has them: one table each, from
-- which scripts' options, --help and the checks of llm.engine and engine:generate are made.

local suggest = require "llm.suggest"
local values = require "llm.values"

local M = {}

-- default: what --help says; the value itself is the engine's affair. only: the values that llmlua has today
-- (an option of vLLM's that is accepted so that its command lines work). alias: other names.
M.engine = {
  { name = "model", type = "path", help = "GGUF file, Hugging Face directory, or id on the hub" },
  { name = "tokenizer", type = "path", help = "take the tokenizer from here", default = "the model's own" },
  { name = "revision", type = "string", help = "branch, tag or commit of a model on the hub", default = "main" },
  { name = "tokenizer_revision", type = "string", help = "the same for the tokenizer", default = "main" },
  { name = "download_dir", type = "path", help = "where models from the hub are kept",
    default = "the Hugging Face cache" },
  { name = "hf_token", type = "string", help = "for models that are not open to all", default = "$HF_TOKEN" },
  { name = "skip_tokenizer_init", type = "boolean", help = "token ids in, token ids out" },
  { name = "load_format", type = "string", choices = { "auto", "gguf", "safetensors", "dummy", "null" },
    help = "dummy: random weights, config.json is enough; null: no model", default = "auto" },
  { name = "null_step_ms", type = "number", min = 0, max = 60000,
    help = "load_format null: what a step takes, in milliseconds", default = "0" },
  { name = "dtype", type = "string", choices = { "auto", "float32", "float16", "bfloat16" },
    help = "type of weights that are not quantized", default = "auto" },
  { name = "kv_cache_dtype", type = "string", choices = { "auto", "float32", "float16", "bfloat16" },
    help = "type of keys and values", default = "auto" },
  { name = "seed", type = "integer", help = "of requests that bring none", default = "0" },
  { name = "max_model_len", type = "count", help = "most tokens of a prompt and its output",
    default = "the model's own" },
  { name = "max_num_seqs", type = "integer", help = "most sequences in a step", default = "256" },
  { name = "max_num_batched_tokens", type = "count", help = "token budget of a step", default = "512; GPU: 8192" },
  { name = "block_size", type = "integer", help = "tokens in a KV page", default = "16; GPU: 64" },
  { name = "kv_cache_memory", type = "bytes", alias = { "kv_cache_memory_bytes" },
    help = "memory for keys and values" },
  { name = "enable_prefix_caching", type = "boolean", help = "share KV pages of equal prefixes", default = "on" },
  { name = "enable_chunked_prefill", type = "boolean", help = "cut long prompts into chunks", default = "on" },
  { name = "scheduling_policy", type = "string", choices = { "fcfs", "priority" }, help = "who runs first",
    default = "fcfs" },
  { name = "max_num_queued_reqs", type = "integer", help = "refuse requests beyond it", default = "no bound" },
  { name = "max_logprobs", type = "integer", help = "most logprobs a request may ask for; -1: all", default = "20" },
  { name = "step_time_target", type = "number", min = 0, max = 10000,
    help = "ms of a step that reads prompts while others decode; 0: no target", default = "GPU: 50" },
  { name = "device", type = "string", help = "cpu, cuda, cuda:1 …", default = "auto: a GPU if there is one" },
  { name = "gpu_memory_utilization", type = "number", min = 0.01, max = 1,
    help = "share of the GPU's memory that may be used", default = "0.9" },
  { name = "threads", type = "integer", help = "processor threads", default = "all there are" },
  { name = "cpu_isa", type = "string", choices = { "ref", "avx2", "avx512" }, help = "instruction set",
    default = "the best here" },
  { name = "tensor_parallel_size", type = "integer", alias = { "tensor_parallel", "tp" }, only = { 1 },
    help = "devices a layer is split over" },
  { name = "pipeline_parallel_size", type = "integer", alias = { "pp" }, only = { 1 },
    help = "devices the layers are spread over" },
  { name = "quantization", type = "string", only = { "auto" },
    help = "of the weights; as the files have it" },
}

-- request: not a sampling parameter of the core but a property of the request (vLLM has it here).
M.sampling = {
  { name = "n", type = "integer", help = "sequences sampled from one prompt", default = "1" },
  { name = "temperature", type = "number", help = "0: always the likeliest token", default = "1" },
  { name = "top_p", type = "number", help = "smallest set of tokens with this probability", default = "1" },
  { name = "top_k", type = "integer", help = "the k likeliest tokens; 0 or -1: all", default = "0" },
  { name = "min_p", type = "number", help = "drop tokens below this share of the likeliest's", default = "0" },
  { name = "presence_penalty", type = "number", help = "taken off tokens the output has", default = "0" },
  { name = "frequency_penalty", type = "number", help = "taken off for each time the output has it", default = "0" },
  { name = "repetition_penalty", type = "number", help = "divides what prompt or output have", default = "1" },
  { name = "seed", type = "integer", help = "of the request", default = "the engine's" },
  { name = "max_tokens", type = "count", help = "most tokens to generate; -1: up to max_model_len", default = "16" },
  { name = "min_tokens", type = "integer", help = "no end before so many", default = "0" },
  { name = "stop", type = "strings", many = true, help = "end where this text comes up" },
  { name = "stop_token_ids", type = "integers", help = "end at these tokens" },
  { name = "ignore_eos", type = "boolean", help = "go on after the end-of-sequence token" },
  { name = "include_stop_str_in_output", type = "boolean", help = "keep the stop string in the text" },
  { name = "skip_special_tokens", type = "boolean", help = "leave control tokens out of the text", default = "on" },
  { name = "detokenize", type = "boolean", help = "make text of the tokens", default = "on" },
  { name = "logprobs", type = "integer", min = -1, help = "log probabilities of the n likeliest tokens; -1: all" },
  { name = "prompt_logprobs", type = "integer", min = -1, help = "the same for the prompt's tokens" },
  { name = "logit_bias", type = "bias", help = "added to the tokens' logits" },
  { name = "allowed_token_ids", type = "integers", help = "no other token is sampled" },
  { name = "bad_words", type = "strings", many = true, help = "never generate this" },
  { name = "policy", type = "policy", request = true, help = "the policy that samples, or several" },
  { name = "policy_args", type = "object", request = true, help = "arguments of the policy, as JSON" },
  { name = "truncate_prompt_tokens", type = "integer", request = true, help = "keep the last k tokens of the prompt" },
}

local function canonical(name) return (name:gsub("-", "_")) end
M.canonical = canonical

-- name or alias -> entry
function M.index(entries)
  local index = {}
  for _, entry in ipairs(entries) do
    index[entry.name] = entry
    for _, alias in ipairs(entry.alias or {}) do index[alias] = entry end
  end
  return index
end

local function names(entries)
  local list = {}
  for i, entry in ipairs(entries) do list[i] = entry.name end
  return list
end

-- Refuses what llmlua does not have yet. true, or nil and a message.
function M.check_only(entry, value, label)
  if not entry.only then return true end
  for _, allowed in ipairs(entry.only) do
    if value == allowed then return true end
  end
  local allowed = tostring(entry.only[1])
  if entry.name == "quantization" then
    return nil, ("%s '%s' is not supported: weights run as their files have them (GGUF's quantized types, float32, "
      .. "float16, bfloat16); leave the option out"):format(label, tostring(value))
  end
  return nil, ("%s is %s; only %s is supported today: one process computes on the processors of one host, "
    .. "with as many threads as 'threads' says"):format(label, tostring(value), allowed)
end

-- A copy of `given` with canonical names and checked values, or nil and a message. what: "engine option".
function M.check(entries, given, what)
  local index, checked = M.index(entries), {}
  for key, value in pairs(given) do
    local entry = type(key) == "string" and index[canonical(key)]
    if not entry then
      return nil, ("unknown %s '%s'%s"):format(what, tostring(key),
        type(key) == "string" and suggest.hint(canonical(key), names(entries)) or "")
    end
    local ok, message = values.check(entry, value, entry.name)
    if ok == nil then return nil, message end
    value = ok
    ok, message = M.check_only(entry, value, entry.name)
    if not ok then return nil, message end
    checked[entry.name] = value
  end
  return checked
end

return M
