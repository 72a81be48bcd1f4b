-- Text to token ids and back.

local core = require "llm.core"
local hub = require "llm.hub"

local Tokenizer = {}
Tokenizer.__index = Tokenizer
Tokenizer.__tostring = function(self) return "llm.Tokenizer(" .. self.path .. ")" end

local M = { Tokenizer = Tokenizer }

-- A tokenizer of its own: path is a GGUF file, a model directory, a tokenizer.json, a tokenizer.model, or an id on the
-- hub.
function M.open(path)
  local found, message = hub.resolve(path, { tokenizer_only = true })
  if not found then return nil, message end
  local handle
  handle, message = core.tokenizer(found)
  if not handle then return nil, message end
  return setmetatable({ handle = handle, path = path }, Tokenizer)
end

-- The tokenizer of an open engine, nil if it has none.
function M.of(engine_handle, path)
  local handle = engine_handle:tokenizer()
  return handle and setmetatable({ handle = handle, path = path }, Tokenizer)
end

local function flag(options, name, default)
  local value = options and options[name]
  if value == nil then return default end
  return value
end

-- text -> list of ids. options: add_special_tokens (true): what the model's tokenizer adds by itself, such as BOS;
-- parse_special (true): text that spells a control token becomes it.
function Tokenizer:encode(text, options)
  if type(text) ~= "string" then error("encode needs a string; it got a " .. type(text), 2) end
  local ids, message = self.handle:encode(text, flag(options, "add_special_tokens", true),
    flag(options, "parse_special", true))
  if not ids then error(message, 2) end
  return ids
end

-- list of ids -> text. options: skip_special_tokens (true).
function Tokenizer:decode(ids, options)
  local text, message = self.handle:decode(ids, flag(options, "skip_special_tokens", true))
  if not text then error(message, 2) end
  return text
end

-- The text of one token as it reads inside a text, a leading space and all.
function Tokenizer:token_text(id)
  local text, message = self.handle:token_text(id)
  if not text then error(message, 2) end
  return text
end

-- vocab_size; bos, eos (ids) and chat_template (Jinja), nil where the model has none.
function Tokenizer:info() return self.handle:info() end

-- The token that the tokenizer puts first by itself, nil if it puts none.
function Tokenizer:bos()
  return self:encode("", { add_special_tokens = true })[1]
end

-- Frees it. An engine's tokenizer goes with the engine.
function Tokenizer:close() self.handle:close() end

return M
