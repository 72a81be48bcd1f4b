-- Text to token ids and back.

local core = require "llm.core"

local Tokenizer = {}
Tokenizer.__index = Tokenizer
Tokenizer.__tostring = function(self) return "llm.Tokenizer(" .. self.path .. ")" end

local M = { Tokenizer = Tokenizer }

-- A tokenizer of its own: path is a GGUF file, a model directory, a tokenizer.json, a tokenizer.model, or an id on the
-- hub.
function M.open(path)
  local found, message = require("llm.hub").resolve(path, { tokenizer_only = true })
  if not found then return nil, message end
  local handle
  handle, message = core.tokenizer(found)
  if not handle then return nil, message end
  return setmetatable({ handle = handle, path = path }, Tokenizer)
end

-- One whose handle (of llm.core) somebody else looks after.
function M.over(handle, path) return setmetatable({ handle = handle, path = path }, Tokenizer) end

-- The tokenizer of an open engine, nil if it has none.
function M.of(engine_handle, path)
  local handle = engine_handle:tokenizer()
  return handle and M.over(handle, path)
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

-- Ids of a text that goes on where another one ended: nothing is added before it. SentencePiece puts a space before
-- what it takes for the beginning of a text, so it is shown a line before it, which is then taken away.
function Tokenizer:continue(text)
  local function encode(what) return self:encode(what, { add_special_tokens = false }) end
  local sign = encode "a"
  if sign[1] == nil or self:token_text(sign[1]):sub(1, 1) ~= " " then return encode(text) end
  local line, both = encode "\n", encode("\n" .. text)
  for i, id in ipairs(line) do
    if both[i] ~= id then return encode(text) end
  end
  local ids = {}
  for i = #line + 1, #both do ids[#ids + 1] = both[i] end
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

-- The bytes of one token, which may be part of a UTF-8 character; nil for control tokens and ids out of range.
function Tokenizer:token_bytes(id) return self.handle:token_bytes(id) end

-- The ids that end a turn.
function Tokenizer:end_tokens() return self.handle:end_tokens() end

-- vocab_size; bos, eos (ids) and chat_template (Jinja), nil where the model has none.
function Tokenizer:info() return self.handle:info() end

-- The token that the tokenizer puts first by itself, nil if it puts none.
function Tokenizer:bos()
  return self:encode("", { add_special_tokens = true })[1]
end

-- Frees it. An engine's tokenizer goes with the engine.
function Tokenizer:close() self.handle:close() end

return M
