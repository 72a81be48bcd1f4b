-- The parameters of the generating endpoints: one table from which requests are checked, sorted into what the engine
-- takes and what the endpoint does itself, and documented (docs/serving.md).
--
-- An entry: name, type, the endpoints that take it ("completions", "chat", "responses", "messages"; absent:
-- completions and chat), into: "sampling" (a sampling parameter of the engine, of the same name or `as`), "request" (a property of the
-- engine's request) or nothing (for the endpoint itself); min, max; choices; only: the one value that is supported,
-- with why; ignored: taken and without effect.

local http = require "llm.http"
local template = require "llm.template"
local types = require "llm.openai.types"

local M = {}

local structured = "structured output is not available in this server"

M.entries = {
  { name = "model", type = "string", on = "completions chat responses", help = "one of /v1/models; absent: the first" },
  { name = "prompt", type = "any", on = "completions", help = "text, a list of texts, ids, or a list of lists of ids" },
  { name = "messages", type = "list", on = "chat", help = "the conversation" },
  { name = "max_tokens", type = "integer", into = "sampling", min = 0,
    help = "most tokens to generate (completions: 16; chat: what the context has room for)" },
  { name = "max_completion_tokens", type = "integer", on = "chat", min = 1, help = "the same; wins over max_tokens" },
  { name = "temperature", type = "number", on = "completions chat responses", into = "sampling", min = 0 },
  { name = "top_p", type = "number", on = "completions chat responses", into = "sampling", min = 0, max = 1 },
  { name = "n", type = "integer", into = "sampling", min = 1, max = 16384, help = "choices for each prompt" },
  { name = "stop", type = "strings", into = "sampling", help = "text, or a list" },
  { name = "stream", type = "boolean", on = "completions chat responses", help = "server-sent events" },
  { name = "stream_options", type = "stream_options", help = "include_usage, continuous_usage_stats" },
  { name = "seed", type = "integer", into = "sampling" },
  { name = "frequency_penalty", type = "number", into = "sampling", min = -2, max = 2 },
  { name = "presence_penalty", type = "number", into = "sampling", min = -2, max = 2 },
  { name = "logit_bias", type = "bias", into = "sampling", help = "token id to -100 … 100" },
  { name = "logprobs", type = "integer", on = "completions", into = "sampling", min = -1,
    help = "alternatives for each token; -1: all" },
  { name = "logprobs", type = "boolean", on = "chat", help = "log probabilities of the tokens" },
  { name = "top_logprobs", type = "integer", on = "chat", min = -1, help = "alternatives for each token" },
  { name = "echo", type = "boolean", help = "begin with the prompt; chat: with the last message, if the assistant's" },
  { name = "suffix", type = "string", on = "completions", only = "",
    why = "this server completes at the end of a text; it cannot fill in before a suffix" },
  { name = "user", type = "string", on = "completions chat responses", ignored = true },
  { name = "response_format", type = "response_format", help = "only {\"type\": \"text\"}" },
  { name = "tools", type = "list", on = "chat", help = "rendered by the chat template" },
  { name = "tool_choice", type = "any", on = "chat", help = "none or auto; calls stay in the text" },
  { name = "parallel_tool_calls", type = "boolean", on = "chat responses", ignored = true },
  { name = "reasoning_effort", type = "string", on = "chat", help = "a variable of the chat template" },
  { name = "include_reasoning", type = "boolean", on = "chat", ignored = true },
  { name = "store", type = "boolean", on = "chat responses", ignored = true },
  { name = "metadata", type = "any", on = "chat responses", ignored = true },
  { name = "service_tier", type = "string", on = "chat responses", ignored = true },

  { name = "policy", type = "policy", on = "completions chat responses", into = "sampling",
    help = "the policy that samples: a name, or a list of names and of {\"name\": …, \"args\": {…}}" },
  { name = "policy_args", type = "plain_object", on = "completions chat responses", into = "sampling",
    help = "the policy's arguments" },

  -- vLLM's
  { name = "best_of", type = "integer", only = 1, on = "completions", why = "it is gone from the API; use n" },
  { name = "use_beam_search", type = "boolean", only = false, why = "there is no beam search in this server" },
  { name = "length_penalty", type = "number", only = 1, why = "there is no beam search in this server" },
  { name = "top_k", type = "integer", into = "sampling", min = -1, help = "0 or -1: all" },
  { name = "min_p", type = "number", into = "sampling", min = 0, max = 1 },
  { name = "repetition_penalty", type = "number", into = "sampling", min = 0 },
  { name = "stop_token_ids", type = "integers", into = "sampling" },
  { name = "include_stop_str_in_output", type = "boolean", into = "sampling" },
  { name = "ignore_eos", type = "boolean", into = "sampling" },
  { name = "min_tokens", type = "integer", into = "sampling", min = 0 },
  { name = "skip_special_tokens", type = "boolean", into = "sampling" },
  { name = "spaces_between_special_tokens", type = "boolean", only = true, why = "tokens are put together as the "
    .. "model's tokenizer does it" },
  { name = "prompt_logprobs", type = "integer", into = "sampling", min = -1, help = "not with stream" },
  { name = "allowed_token_ids", type = "integers", into = "sampling" },
  { name = "bad_words", type = "strings", into = "sampling" },
  { name = "truncate_prompt_tokens", type = "integer", min = -1,
    help = "keep the last k tokens of the prompt; -1: as many as fit" },
  { name = "truncation_side", type = "string", only = "left", why = "prompts are truncated at their beginning" },
  { name = "add_special_tokens", type = "boolean", into = "request",
    help = "what the tokenizer adds, such as BOS (completions: true; chat: false, as the template writes it)" },
  { name = "priority", type = "integer", into = "request",
    help = "lower runs sooner, under --scheduling-policy priority" },
  { name = "cache_salt", type = "string", into = "request", help = "prefixes are shared only among equal salts" },
  { name = "tenant", type = "string", into = "request", help = "whom it is for; a key's own name goes before it" },
  { name = "timeout", type = "number", into = "request", min = 0, help = "seconds after which it is given up" },
  { name = "request_id", type = "string", help = "becomes the end of the response's id" },
  { name = "return_token_ids", type = "boolean", help = "ids beside the text" },
  { name = "return_tokens_as_token_ids", type = "boolean", help = "\"token_id:N\" in logprobs" },
  { name = "add_generation_prompt", type = "boolean", on = "chat", help = "begin an assistant's turn (true)" },
  { name = "continue_final_message", type = "boolean", on = "chat", help = "go on with the last message" },
  { name = "chat_template", type = "string", on = "chat", help = "if --trust-request-chat-template" },
  { name = "chat_template_kwargs", type = "object", on = "chat", help = "variables of the chat template" },
  { name = "documents", type = "list", on = "chat", help = "for the chat template" },
  { name = "script", type = "string", help = "a Lua program in place of one generation, if --allow-client-scripts" },
  { name = "script_args", type = "object", help = "for the script: request.args" },
  { name = "session_id", type = "string", ignored = true },
  { name = "stream_interval", type = "integer", ignored = true },
  { name = "logprob_token_ids", type = "integers", only = {}, why = "log probabilities come of the likeliest tokens" },
  { name = "structured_outputs", type = "object", only = {}, why = structured },
  { name = "guided_json", type = "any", only = {}, why = structured },
  { name = "guided_regex", type = "any", only = {}, why = structured },
  { name = "guided_choice", type = "any", only = {}, why = structured },
  { name = "guided_grammar", type = "any", only = {}, why = structured },
  { name = "prompt_embeds", type = "any", on = "completions", only = {}, why = "prompts are text or token ids" },
  { name = "thinking_token_budget", type = "integer", only = {}, why = "reasoning is not told apart from text" },
  { name = "repetition_detection", type = "object", only = {}, why = "there is none; use repetition_penalty" },

  -- of /v1/responses
  { name = "input", type = "any", on = "responses", help = "text, or a list of messages" },
  { name = "instructions", type = "string", on = "responses", help = "the system message" },
  { name = "max_output_tokens", type = "integer", on = "responses", into = "sampling", as = "max_tokens", min = 1 },
  { name = "previous_response_id", type = "string", on = "responses", only = {},
    why = "this server keeps no responses; send the whole conversation" },
  { name = "background", type = "boolean", on = "responses", only = false, why = "answers are not kept" },
  { name = "tools", type = "list", on = "responses", help = "only the empty list" },
  { name = "tool_choice", type = "any", on = "responses", ignored = true },
  { name = "text", type = "any", on = "responses", help = "only the format text" },
  { name = "reasoning", type = "any", on = "responses", ignored = true },
  { name = "include", type = "any", on = "responses", ignored = true },
  { name = "truncation", type = "string", on = "responses", only = "disabled", why = "shorten the conversation" },

  -- of /v1/messages
  { name = "model", type = "string", on = "messages" },
  { name = "messages", type = "list", on = "messages" },
  { name = "system", type = "any", on = "messages", help = "the system message: text, or text blocks" },
  { name = "max_tokens", type = "integer", on = "messages", into = "sampling", min = 1 },
  { name = "temperature", type = "number", on = "messages", into = "sampling", min = 0 },
  { name = "top_p", type = "number", on = "messages", into = "sampling", min = 0, max = 1 },
  { name = "top_k", type = "integer", on = "messages", into = "sampling", min = 0 },
  { name = "stop_sequences", type = "strings", on = "messages", into = "sampling", as = "stop" },
  { name = "stream", type = "boolean", on = "messages" },
  { name = "tools", type = "list", on = "messages" },
  { name = "tool_choice", type = "any", on = "messages", ignored = true },
  { name = "thinking", type = "any", on = "messages", help = "only {\"type\": \"disabled\"}" },
  { name = "metadata", type = "any", on = "messages", ignored = true },
  { name = "service_tier", type = "string", on = "messages", ignored = true },
  { name = "cache_control", type = "any", on = "messages", ignored = true },
}

-- endpoint -> name -> entry
local index = { completions = {}, chat = {}, responses = {}, messages = {} }
for _, entry in ipairs(M.entries) do
  for endpoint in (entry.on or "completions chat"):gmatch "%a+" do index[endpoint][entry.name] = entry end
end
M.index = index

local function refuse(name, message) http.error(400, message, { param = name }) end

local function check_range(entry, value)
  if entry.min and value < entry.min then
    refuse(entry.name, ("%s is %.14g; it must be at least %.14g"):format(entry.name, value, entry.min))
  elseif entry.max and value > entry.max then
    refuse(entry.name, ("%s is %.14g; it must be at most %.14g"):format(entry.name, value, entry.max))
  end
end

local function check_only(entry, value)
  if entry.only == nil or value == entry.only then return end
  refuse(entry.name, ("%s is not supported: %s"):format(entry.name, entry.why))
end

local function take(entry, raw, out)
  local kind = types[entry.type]
  local value = kind.read(raw)
  if value == nil then refuse(entry.name, ("%s must be %s"):format(entry.name, kind.what)) end
  check_only(entry, value)
  if type(value) == "number" then check_range(entry, value) end
  if entry.ignored then return end
  local target = entry.into == "sampling" and out.sampling or entry.into == "request" and out.request or out.own
  target[entry.as or entry.name] = value
end

-- Reads the parameters of a decoded body (template.from_json's). Returns { sampling, request, own, unknown }:
-- tables by name, and a sorted list of names that the endpoint does not know. Raises a 400.
function M.read(endpoint, body)
  if type(body) ~= "table" or body.kind ~= "dict" then http.error(400, "the body must be a JSON object") end
  local out, known = { sampling = {}, request = {}, own = {}, unknown = {} }, index[endpoint]
  for name, raw in pairs(body.map) do
    local entry = known[name]
    if not entry then
      out.unknown[#out.unknown + 1] = tostring(name)
    elseif raw ~= template.none then
      take(entry, raw, out)
    end
  end
  table.sort(out.unknown)
  return out
end

return M
