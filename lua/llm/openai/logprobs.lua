-- Log probabilities in the shapes that clients know. A row of the engine is a map from token id to
-- {logprob, rank, decoded_token}, with the token itself and the likeliest ones; false where there is none.
--
-- These make JSON text: a streamed chunk has little else in it.

local escape = require "llm.openai.escape"
local json = require "llm.json"

local M = {}

local FLOOR = -9999.0 -- what vLLM says in place of minus infinity

local function floored(x) return x > FLOOR and x or FLOOR end

local function number(x) return escape.number(floored(x)) end

local function by_rank(a, b)
  if a.rank ~= b.rank then return a.rank < b.rank end
  return a.id < b.id
end

-- The k likeliest of a row, in order; with `also`, that token too.
local function likeliest(row, k, also)
  local list = {}
  for id, entry in pairs(row) do
    if k < 0 or entry.rank <= k or id == also then
      list[#list + 1] = { id = id, rank = entry.rank, logprob = entry.logprob, text = entry.decoded_token }
    end
  end
  table.sort(list, by_rank)
  return list
end

-- as_ids: "token_id:N" in place of the text.
local function name(id, text, as_ids) return as_ids and "token_id:" .. id or text or "" end

local function utf8(text) return json.utf8(text) end

-- ---- chat ----------------------------------------------------------------------------------------------------

local function chat_entry(id, text, logprob, as_ids)
  local shown = utf8(name(id, text, as_ids))
  return ('{"token":%s,"logprob":%s,"bytes":[%s]'):format(escape.string(shown), number(logprob),
    table.concat({ shown:byte(1, -1) }, ","))
end

-- {"content":[…]} of some tokens. k: how many alternatives.
function M.chat(token_ids, rows, k, as_ids)
  local items = {}
  for i, id in ipairs(token_ids) do
    local row = rows[i]
    local own = row and row[id]
    if own then
      local tops = {}
      for j, entry in ipairs(k ~= 0 and likeliest(row, k) or {}) do
        tops[j] = chat_entry(entry.id, entry.text, entry.logprob, as_ids) .. "}"
      end
      items[#items + 1] = chat_entry(id, own.decoded_token, own.logprob, as_ids) .. ',"top_logprobs":['
        .. table.concat(tops, ",") .. "]}"
    end
  end
  return '{"content":[' .. table.concat(items, ",") .. "]}"
end

-- ---- completions ---------------------------------------------------------------------------------------------

local function characters(text) return select(2, text:gsub("[^\128-\191]", "")) end

local function top_json(row, id, k, as_ids)
  local tops, seen = {}, {}
  for _, entry in ipairs(likeliest(row, k, id)) do
    local key = utf8(name(entry.id, entry.text, as_ids))
    if not seen[key] then
      seen[key] = true
      tops[#tops + 1] = escape.string(key) .. ":" .. number(entry.logprob)
    end
  end
  return "{" .. table.concat(tops, ",") .. "}"
end

-- {tokens, token_logprobs, top_logprobs, text_offset} of some tokens. offset: characters before them. text_of(id): the
-- text of a token that has no row. Returns the JSON and the offset after.
function M.completion(token_ids, rows, k, offset, text_of, as_ids)
  local tokens, values, tops, offsets = {}, {}, {}, {}
  for i, id in ipairs(token_ids) do
    local row = rows[i]
    local own = row and row[id]
    local shown = utf8(name(id, own and own.decoded_token or not own and text_of(id), as_ids))
    tokens[i] = escape.string(shown)
    values[i] = own and number(own.logprob) or "null"
    tops[i] = own and k ~= 0 and top_json(row, id, k, as_ids) or "null"
    if own and k == 0 then tops[i] = top_json(row, id, 0, as_ids) end
    offsets[i] = offset
    offset = offset + characters(shown)
  end
  return ('{"tokens":[%s],"token_logprobs":[%s],"top_logprobs":[%s],"text_offset":[%s]}'):format(
    table.concat(tokens, ","), table.concat(values, ","), table.concat(tops, ","), table.concat(offsets, ",")), offset
end

-- ---- prompts -------------------------------------------------------------------------------------------------

-- vLLM's prompt_logprobs: a list of null or {"id": {"logprob", "rank", "decoded_token"}}.
function M.prompt(rows, k)
  if not rows then return "null" end
  local list = {}
  for i, row in ipairs(rows) do
    local items = {}
    if row then
      for j, entry in ipairs(likeliest(row, -1)) do
        items[j] = ('"%d":{"logprob":%s,"rank":%d,"decoded_token":%s}'):format(entry.id, number(entry.logprob),
          entry.rank, escape.string(utf8(entry.text or "")))
      end
    end
    list[i] = row and "{" .. table.concat(items, ",") .. "}" or "null"
  end
  return "[" .. table.concat(list, ",") .. "]"
end

return M
