-- The "prompt" of /v1/completions: text, ids, or a list of either.

local http = require "llm.http"
local types = require "llm.openai.types"

local M = {}

local MOST = 16384 -- prompts times n

local function refuse(message) http.error(400, message, { param = "prompt" }) end

-- where: what the message calls the list.
local function ids_of(list, where)
  local ids = types.list_of(list, types.read_integer)
  if not ids then
    refuse(where .. " is no list of token ids: prompt must be a string, a list of strings, a list of token ids, or a "
      .. "list of such lists")
  end
  if #ids == 0 then refuse(where .. " is an empty list of token ids") end
  return ids
end

local function one(v, i)
  if type(v) == "string" then return v end
  return ids_of(v, ("prompt[%d]"):format(i - 1))
end

-- A list is of one kind: a slip of the client's is better refused than completed.
local function check_kinds(list)
  for i = 2, list.n do
    if (type(list[i]) == "string") ~= (type(list[1]) == "string") then
      refuse(("prompt[%d] is %s and prompt[0] is %s: all prompts of a list are of one kind"):format(i - 1,
        type(list[i]) == "string" and "a string" or "not a string",
        type(list[1]) == "string" and "a string" or "not a string"))
    end
  end
end

-- A list of texts and lists of ids. Raises a 400.
function M.read(v, n)
  if v == nil then refuse "prompt is missing" end
  if type(v) == "string" then return { v } end
  if types.kind_of(v) ~= "list" then ids_of(v, "prompt") end
  if v.n == 0 then refuse "prompt is an empty list" end
  if v.n * n > MOST and type(v[1]) ~= "number" then
    refuse(("there are %d prompts with n = %d; the product may be at most %d"):format(v.n, n, MOST))
  end
  check_kinds(v)
  if type(v[1]) == "number" then return { ids_of(v, "prompt") } end
  local prompts = {}
  for i = 1, v.n do prompts[i] = one(v[i], i) end
  return prompts
end

return M
