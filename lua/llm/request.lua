-- Prompts and parameters as users write them, made into what llm.core submits.

local schema = require "llm.schema"
local values = require "llm.values"

local M = {}

-- What a request has besides sampling parameters.
local request_options = {
  { name = "add_special_tokens", type = "boolean" },
  { name = "truncate_prompt_tokens", type = "integer" },
  { name = "priority", type = "integer" },
  { name = "cache_salt", type = "string" },
  { name = "tenant", type = "string" },
  { name = "timeout", type = "number" },
}
M.request_options = request_options

local function is_ids(prompt) return type(prompt) == "table" and type(prompt[1]) == "number" end

-- One prompt: text, ids, or vLLM's {prompt = text} and {prompt_token_ids = ids}. Returns text or ids, or nil and
-- a message.
function M.prompt(prompt)
  if type(prompt) == "string" then return prompt end
  if type(prompt) == "table" then
    if prompt.prompt_token_ids then return prompt.prompt_token_ids end
    if prompt.prompt then return prompt.prompt end
    if #prompt == 0 or is_ids(prompt) then return prompt end
  end
  return nil, ("a prompt must be a string or a list of token ids; it is a %s"):format(type(prompt))
end

-- A list of prompts from one or several.
function M.prompts(given)
  if type(given) ~= "table" or is_ids(given) or given.prompt or given.prompt_token_ids then given = { given } end
  local list = {}
  for i = 1, #given do
    local prompt, message = M.prompt(given[i])
    if not prompt then return nil, message end
    list[i] = prompt
  end
  return list
end

-- Checked sampling parameters and the request options among them. params nil: the model's defaults.
function M.params(params, defaults)
  if params == nil then return defaults end
  if type(params) ~= "table" then
    return nil, ("sampling parameters must be a table; it is a %s"):format(type(params))
  end
  return schema.check(schema.sampling, params, "sampling parameter")
end

-- One set of parameters for each of n prompts, from one for all or a list of n.
function M.params_for(params, n, defaults)
  local list = {}
  if type(params) == "table" and #params > 0 then
    if #params ~= n then
      return nil, ("there are %d sets of sampling parameters for %d prompts; give one, or one for each")
        :format(#params, n)
    end
    for i = 1, n do
      local checked, message = M.params(params[i], defaults)
      if not checked then return nil, message end
      list[i] = checked
    end
    return list
  end
  local checked, message = M.params(params, defaults)
  if not checked then return nil, message end
  for i = 1, n do list[i] = checked end
  return list
end

-- The fields of a request: from options and from params (truncate_prompt_tokens is a sampling parameter in vLLM).
function M.fields(options, params, stream)
  local fields = { stream = stream, truncate_prompt_tokens = params.truncate_prompt_tokens }
  for _, entry in ipairs(request_options) do
    local value = options and options[entry.name]
    if value ~= nil then
      local ok, message = values.check(entry, value, entry.name)
      if ok == nil then return nil, message end
      fields[entry.name] = ok
    end
  end
  return fields
end

return M
