-- POST /tokenize and /detokenize

local http = require "llm.http"
local json = require "llm.json"
local messages = require "llm.openai.messages"
local service_module = require "llm.openai.service"
local template = require "llm.template"
local types = require "llm.openai.types"

local M = {}

local function field(body, name, kind)
  local raw = body.map[name]
  if raw == nil or raw == template.none then return nil end
  local value = types[kind].read(raw)
  if value == nil then http.error(400, ("%s must be %s"):format(name, types[kind].what), { param = name }) end
  return value
end

local function read(service, req)
  local body = service_module.body(req)
  if types.kind_of(body) ~= "dict" then http.error(400, "the body must be a JSON object") end
  service:check_model(field(body, "model", "string"))
  if not service.engine:tokenizer() then http.error(501, "the model has no tokenizer") end
  return body
end

-- The text to tokenize, and whether the tokenizer adds its special tokens by default.
local function text_of(service, body)
  local prompt, list = field(body, "prompt", "string"), field(body, "messages", "list")
  if (prompt == nil) == (list == nil) then http.error(400, "give either prompt or messages", { param = "prompt" }) end
  if prompt then return prompt, true end
  local own = { messages = list, tools = field(body, "tools", "list"),
                chat_template = field(body, "chat_template", "string"),
                chat_template_kwargs = field(body, "chat_template_kwargs", "object"),
                add_generation_prompt = field(body, "add_generation_prompt", "boolean"),
                continue_final_message = field(body, "continue_final_message", "boolean") }
  return messages.render(service, own), false
end

-- {prompt | messages, add_special_tokens, return_token_strs} -> {count, max_model_len, tokens, token_strs}
function M.tokenize(engine, options)
  local service = service_module.of(engine, options)
  return function(req, res)
    local body = read(service, req)
    local text, add = text_of(service, body)
    local given = field(body, "add_special_tokens", "boolean")
    if given ~= nil then add = given end
    local ids = engine:tokenize(text, { add_special_tokens = add })
    local strings = json.null
    if field(body, "return_token_strs", "boolean") then
      strings = json.array()
      local tokenizer = engine:tokenizer()
      for i, id in ipairs(ids) do strings[i] = json.utf8(tokenizer:token_text(id)) end
    end
    res:json(json.object({ count = #ids, max_model_len = service.info.max_model_len, tokens = json.array(ids),
                           token_strs = strings }, { "count", "max_model_len", "tokens", "token_strs" }))
  end
end

-- {tokens} -> {prompt}
function M.detokenize(engine, options)
  local service = service_module.of(engine, options)
  return function(req, res)
    local body = read(service, req)
    local ids = field(body, "tokens", "integers")
    if not ids then http.error(400, "tokens is missing", { param = "tokens" }) end
    local ok, text = pcall(engine.detokenize, engine, ids, { skip_special_tokens = false })
    if not ok then http.error(400, (tostring(text):gsub("^[^:]+:%d+: ", "")), { param = "tokens" }) end
    res:json { prompt = json.utf8(text) }
  end
end

return M
