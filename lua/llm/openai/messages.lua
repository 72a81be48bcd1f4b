-- A conversation to the text of a prompt, through the model's chat template.

local http = require "llm.http"
local template = require "llm.template"
local types = require "llm.openai.types"
local value = require "llm.jinja.value"

local M = {}

local none, kind_of = template.none, types.kind_of

local function refuse(message, param) http.error(400, message, { param = param or "messages" }) end

-- Does the template take a message's content as a list of parts? As vLLM decides it: if it loops over it.
local function takes_parts(source)
  return source:find "in%s+[%w_]+%.content[^%w_]" ~= nil or source:find "in%s+[%w_]+%[['\"]content['\"]%]" ~= nil
    or source:find "in%s+content%s*%-?%%}" ~= nil
end

local text_types = { text = "text", input_text = "text", output_text = "text", refusal = "refusal" }

-- The text of one content part.
local function part_text(part, where)
  if type(part) == "string" then return part end
  if kind_of(part) ~= "dict" then refuse(where .. " must be an object") end
  local kind = part.map.type
  local field = text_types[kind]
  if not field then
    refuse(("%s is of type '%s'; this model takes text only"):format(where, tostring(kind)))
  end
  local text = part.map[field]
  if type(text) ~= "string" then refuse(("%s needs the string '%s'"):format(where, field)) end
  return text
end

local function text_part(text)
  local part = value.dict()
  value.dict_set(part, "type", "text")
  value.dict_set(part, "text", text)
  return part
end

local function content_of(content, where, as_parts)
  if content == nil or content == none then return "" end
  if type(content) == "string" then return content end
  if kind_of(content) ~= "list" then refuse(where .. " must be a string or a list of parts") end
  local texts = {}
  for i = 1, content.n do texts[i] = part_text(content[i], ("%s[%d]"):format(where, i - 1)) end
  if not as_parts then return table.concat(texts, "\n") end
  for i, text in ipairs(texts) do texts[i] = text_part(text) end
  return value.list(texts, content.n)
end

-- The arguments of a call are JSON in the API and an object in templates.
local function with_arguments(call, where)
  local fn = kind_of(call) == "dict" and call.map["function"]
  if kind_of(fn) ~= "dict" then refuse(where .. " must be an object with a function") end
  local arguments = fn.map.arguments
  if type(arguments) ~= "string" then return call end
  local parsed = arguments:find "%S" and template.from_json(arguments) or arguments:find "%S" == nil and value.dict()
  if kind_of(parsed) ~= "dict" then refuse(where .. ".function.arguments is not a JSON object") end
  local copy, inner = value.dict(), value.dict()
  for _, key in ipairs(fn.keys) do value.dict_set(inner, key, key == "arguments" and parsed or fn.map[key]) end
  for _, key in ipairs(call.keys) do value.dict_set(copy, key, key == "function" and inner or call.map[key]) end
  return copy
end

local function calls_of(calls, where)
  if kind_of(calls) ~= "list" then return calls end
  local list = {}
  for i = 1, calls.n do list[i] = with_arguments(calls[i], ("%s[%d]"):format(where, i - 1)) end
  return value.list(list, calls.n)
end

local function message_of(message, where, as_parts)
  if kind_of(message) ~= "dict" then refuse(where .. " must be an object") end
  local role = message.map.role
  if type(role) ~= "string" then refuse(where .. ".role must be a string") end
  local out = value.dict()
  value.dict_set(out, "role", role)
  value.dict_set(out, "content", content_of(message.map.content, where .. ".content", as_parts))
  for _, key in ipairs(message.keys) do
    local v = message.map[key]
    if key == "tool_calls" then v = calls_of(v, where .. ".tool_calls") end
    if key ~= "role" and key ~= "content" and v ~= none then value.dict_set(out, key, v) end
  end
  return out
end

-- The messages as templates want them. Raises a 400.
function M.normalize(messages, source)
  if messages == nil then refuse "messages is missing" end
  if messages.n == 0 then refuse "messages is empty" end
  local as_parts, list = takes_parts(source), {}
  for i = 1, messages.n do list[i] = message_of(messages[i], ("messages[%d]"):format(i - 1), as_parts) end
  return value.list(list, messages.n)
end

-- A message made here: role and text.
function M.message(role, text)
  local out = value.dict()
  value.dict_set(out, "role", role)
  value.dict_set(out, "content", text)
  return out
end

local function variables(service, own, messages)
  local context = { bos_token = "", eos_token = "" }
  for name, text in pairs(service.special) do context[name] = text end
  if own.reasoning_effort then context.reasoning_effort = own.reasoning_effort end
  local extra = own.chat_template_kwargs
  for _, name in ipairs(extra and extra.keys or {}) do context[name] = extra.map[name] end
  context.messages, context.documents = messages, own.documents
  context.tools = own.tools and own.tools.n > 0 and own.tool_choice ~= "none" and own.tools or nil
  context.add_generation_prompt = own.add_generation_prompt ~= false and not own.continue_final_message
  context.continue_final_message = own.continue_final_message or nil
  return context
end

local function source_of(service, own)
  if own.chat_template then
    if not service.options.trust_request_chat_template then
      refuse("a chat_template in the request is not trusted here; the server must be started with "
        .. "--trust-request-chat-template", "chat_template")
    end
    return own.chat_template
  end
  if not service.template then
    refuse("the model has no chat template; start the server with --chat-template, or use /v1/completions")
  end
  return service.template
end

-- The prompt of a chat request. own: its parameters.
function M.render(service, own)
  if own.continue_final_message and own.add_generation_prompt then
    refuse("continue_final_message and add_generation_prompt exclude each other", "continue_final_message")
  end
  local source = source_of(service, own)
  local text, message = template.render(source, variables(service, own, M.normalize(own.messages, source)))
  if not text then refuse("the chat template refuses these messages: " .. message) end
  return text
end

return M
