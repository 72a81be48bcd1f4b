-- The "prompt" of /v1/completions: text, ids, or a list of either.

local http = require "llm.http"
local types = require "llm.openai.types"

local M = {}

local MOST = 16384 -- prompts times n

local function refuse(message) http.error(400, message, { param = "prompt" }) end

local function ids_of(list)
  local ids = types.list_of(list, types.read_integer)
  if not ids then refuse "prompt must be a string, a list of strings, a list of token ids, or a list of such lists" end
  if #ids == 0 then refuse "the prompt is an empty list of token ids" end
  return ids
end

local function one(v)
  if type(v) == "string" then return v end
  return ids_of(v)
end

-- A list of texts and lists of ids. Raises a 400.
function M.read(v, n)
  if v == nil then refuse "prompt is missing" end
  if type(v) == "string" then return { v } end
  if types.kind_of(v) ~= "list" then ids_of(v) end
  if v.n == 0 then refuse "prompt is an empty list" end
  if v.n * n > MOST and type(v[1]) ~= "number" then
    refuse(("there are %d prompts with n = %d; the product may be at most %d"):format(v.n, n, MOST))
  end
  if type(v[1]) == "number" then return { ids_of(v) } end
  local prompts = {}
  for i = 1, v.n do prompts[i] = one(v[i]) end
  return prompts
end

return M
