-- Which upstream has seen which beginnings of prompts: it is likely to have their KV pages still.
--
-- A prompt is cut into chunks. A node stands for a chunk after all those before it, and knows who has seen it; its key is
-- the number of the node before and the chunk's text, so that nothing is hashed here but by Lua, and nothing collides.
-- Nodes are kept in two generations: what is looked up moves to the young one; when that is full, the old one is
-- forgotten.

local M = {}
M.__index = M

local CHUNK = 256 -- bytes: about four pages of 16 tokens
local MOST = 256 * CHUNK -- of a prompt that are looked at
local LIMIT = 16384 -- nodes of a generation

function M.new(limit) return setmetatable({ limit = limit or LIMIT, n = 0, last = 0, young = {}, old = {} }, M) end

local function keep(prefixes, key, node)
  prefixes.young[key] = node
  prefixes.n = prefixes.n + 1
  if prefixes.n < prefixes.limit then return end
  prefixes.old, prefixes.young, prefixes.n = prefixes.young, {}, 0
end

local function find(prefixes, key)
  local node = prefixes.young[key]
  if node then return node end
  node = prefixes.old[key]
  if node then keep(prefixes, key, node) end
  return node
end

-- The full chunks of a text, one a call.
local function chunks(text)
  local at = 1
  return function()
    if at + CHUNK - 1 > math.min(#text, MOST) then return nil end
    at = at + CHUNK
    return text:sub(at - CHUNK, at - 1)
  end
end

-- {upstream = bytes of the text's beginning that it has seen}.
function M:seen(text)
  local bytes, depth, number = {}, 0, 0
  for chunk in chunks(text) do
    local node = find(self, number .. ":" .. chunk)
    if not node then break end
    for upstream in pairs(node.upstreams) do
      if (bytes[upstream] or 0) == depth then bytes[upstream] = depth + CHUNK end
    end
    depth, number = depth + CHUNK, node.number
  end
  return bytes
end

-- An upstream is about to see a text.
function M:note(text, upstream)
  local number = 0
  for chunk in chunks(text) do
    local key = number .. ":" .. chunk
    local node = find(self, key)
    if not node then
      self.last = self.last + 1
      node = { number = self.last, upstreams = setmetatable({}, { __mode = "k" }) }
      keep(self, key, node)
    end
    node.upstreams[upstream] = true
    number = node.number
  end
end

-- ---- the text of a request -----------------------------------------------------------------------------------

local function add_content(parts, content)
  if type(content) == "string" then
    parts[#parts + 1] = content
  elseif type(content) == "table" then
    for _, part in ipairs(content) do
      add_content(parts, type(part) == "table" and (part.text or part.content) or part)
    end
  elseif type(content) == "number" then
    parts[#parts + 1] = content .. ","
  end
end

local function add_messages(parts, messages)
  for _, message in ipairs(messages) do
    if type(message) == "table" then
      parts[#parts + 1] = "\n" .. tostring(message.role) .. ":"
      add_content(parts, message.content)
    else
      add_content(parts, message)
    end
  end
end

-- What the prompt of a decoded body begins with, near enough: equal prompts have equal texts. Those of different models
-- and salts share nothing. nil: it has no prompt.
function M.text_of(body)
  if type(body) ~= "table" then return nil end
  local parts = { tostring(body.model), "\n", tostring(body.cache_salt), "\n" }
  add_content(parts, body.system or body.instructions)
  local prompt = body.prompt or body.messages or body.input
  if type(prompt) == "table" then
    add_messages(parts, prompt)
  elseif type(prompt) == "string" then
    parts[#parts + 1] = prompt
  else
    return nil
  end
  return table.concat(parts)
end

return M
