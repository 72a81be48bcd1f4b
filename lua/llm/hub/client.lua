-- Requests to a hub: redirects, the token, what its refusals mean.

local cache = require "llm.hub.cache"
local fetch = require("llm.fetch").fetch
local json = require "llm.json"
local read_file = require("llm.file").read
local tasks = require "llm.task"

local Client = {}
Client.__index = Client

local M = {}

local DEFAULT_ENDPOINT = "https://huggingface.co"
local MAX_REDIRECTS, MAX_JSON = 8, 64 * 2 ^ 20
local TRIES, LONGEST_DELAY = 5, 10 -- seconds

local function first_line(path)
  local text = read_file(path)
  return text and text:match "^%s*(%S+)"
end

-- options: hf_token, retry_delay (seconds before the second try; it doubles).
function M.new(options)
  local endpoint = (cache.env "HF_ENDPOINT" or DEFAULT_ENDPOINT):gsub("/+$", "")
  local token = options.hf_token or cache.env "HF_TOKEN" or cache.env "HUGGING_FACE_HUB_TOKEN"
    or first_line(cache.env "HF_TOKEN_PATH" or cache.home() .. "/token")
  return setmetatable({ endpoint = endpoint, token = token, delay = options.retry_delay or 0.5 }, Client)
end

-- ---- URLs ----------------------------------------------------------------------------------------------------

local function escape(text, keep)
  return (text:gsub("[^%w%-._~" .. keep .. "]", function(c) return ("%%%02X"):format(c:byte()) end))
end

-- "https://host:port" of a URL, in lower case.
local function origin(url)
  local found = url:match "^%a+://[^/?#]+"
  return found and found:lower()
end

local function absolute(url, location)
  if location:find "^%a[%w+.-]*:" then return location end
  if location:find "^//" then return url:match "^%a+:" .. location end
  if location:find "^/" then return origin(url) .. location end
  return url:gsub("[?#].*$", ""):gsub("[^/]*$", "") .. location
end

-- ---- requests ------------------------------------------------------------------------------------------------

local redirects = { [301] = true, [302] = true, [303] = true, [307] = true, [308] = true }

-- Follows redirects. The token goes to the hub alone, not to the host that a file is stored at.
function Client:get(url, options)
  for _ = 1, MAX_REDIRECTS do
    local headers = { ["User-Agent"] = "llmlua", Accept = "*/*" }
    for name, value in pairs(options.headers or {}) do headers[name] = value end
    if self.token and origin(url) == origin(self.endpoint) then headers.Authorization = "Bearer " .. self.token end
    local reply, message = fetch(url, { headers = headers, stream = options.stream, max_body = options.max_body })
    if not reply then return nil, message, "network" end
    local location = redirects[reply.status] and reply.headers.location
    if not location then return reply end
    if options.stream then reply:close() end
    local target = absolute(url, location)
    if url:find "^https:" and not target:find "^https:" then
      return nil, ("%s redirects to %s, which is not encrypted"):format(url, target), "refused"
    end
    url = target
  end
  return nil, ("%s: redirected more than %d times"):format(url, MAX_REDIRECTS), "refused"
end

-- May the same request do better later?
function M.is_passing(status) return status == 408 or status == 429 or status >= 500 end

-- Seconds to wait before try number n + 1.
function Client:pause(n, reply)
  local asked = reply and tonumber(reply.headers["retry-after"])
  tasks.sleep(math.min(asked or self.delay * 2 ^ (n - 1), LONGEST_DELAY))
end

-- What to do about a status that is no success. Returns nil, the message and a code: "network" (another try may
-- help), "refused" (it will not).
function Client:refusal(reply, repo, revision)
  local status, code, page = reply.status, reply.headers["x-error-code"], self.endpoint .. "/" .. repo
  if M.is_passing(status) then
    return nil, ("the hub at %s answers with status %d"):format(self.endpoint, status), "network"
  end
  local message
  if code == "RevisionNotFound" then
    message = ("%s has no revision '%s'; see its branches and tags at %s/tree/main"):format(repo, revision, page)
  elseif code == "EntryNotFound" then
    message = ("%s has not the file any more at revision '%s'"):format(repo, revision)
  elseif code == "GatedRepo" or status == 403 then
    message = ("%s is not open to %s: accept its licence at %s, then set HF_TOKEN (or --hf-token) to a token of that "
      .. "account with the right to read it")
      :format(repo, self.token and "the account of this token" or "everybody", page)
  elseif status == 401 and self.token and code ~= "RepoNotFound" then
    message = ("the hub at %s does not take the token: is HF_TOKEN (or --hf-token) right?"):format(self.endpoint)
  elseif status == 401 or status == 404 then
    message = ("there is no model %s at %s, or it is private: check the name; if it is right, accept its licence "
      .. "at %s if it has one, and set HF_TOKEN (or --hf-token)"):format(repo, self.endpoint, page)
  else
    message = ("the hub at %s answers with status %d for %s"):format(self.endpoint, status, repo)
  end
  return nil, message, "refused"
end

local function get_json(client, url, repo, revision)
  local reply, message, code
  for try = 1, TRIES do
    reply, message, code = client:get(url, { max_body = MAX_JSON })
    if reply and not M.is_passing(reply.status) then break end
    -- Nobody there at the first try: most likely there is no network.
    if not reply and (code ~= "network" or message:find("cannot connect", 1, true)) then break end
    if try < TRIES then client:pause(try, reply) end
  end
  if not reply then return nil, message, code end
  if reply.status ~= 200 then return client:refusal(reply, repo, revision) end
  local value
  value, message = json.decode(reply.body)
  if type(value) ~= "table" then
    return nil, ("%s: the answer is not the hub's: %s"):format(url, message or "no object"), "refused"
  end
  return value, reply
end

-- The commit that a revision stands for.
function Client:commit(repo, revision)
  local url = ("%s/api/models/%s/revision/%s"):format(self.endpoint, escape(repo, "/"), escape(revision, ""))
  local info, message, code = get_json(self, url, repo, revision)
  if not info then return nil, message, code end
  if type(info.sha) ~= "string" or not cache.is_commit(info.sha) then
    return nil, ("%s: the answer is not the hub's: it names no commit"):format(url), "refused"
  end
  return info.sha:lower()
end

-- A file of the listing. What comes from the net becomes names of files here: nothing may lead out of the cache.
local function entry_of(item)
  local lfs = type(item.lfs) == "table" and item.lfs or nil
  local sum, size = lfs and lfs.oid or item.oid, lfs and lfs.size or item.size
  if type(item.path) ~= "string" or type(sum) ~= "string" or type(size) ~= "number" then return nil end
  if sum:find "[^%x]" or #sum ~= (lfs and 64 or 40) then return nil end
  if item.path:find "[%z\\]" or ("/" .. item.path .. "/"):find "/%.?%.?/" then return nil end
  return { path = item.path, size = size, sum = sum:lower(), lfs = lfs ~= nil }
end

local function next_page(headers)
  return (headers.link or ""):match '<([^>]+)>%s*;%s*rel="next"'
end

-- The files at a commit: path -> {path, size, sum, lfs}.
function Client:tree(repo, commit)
  local url = ("%s/api/models/%s/tree/%s?recursive=true"):format(self.endpoint, escape(repo, "/"), commit)
  local entries = {}
  while url do
    local items, reply, code = get_json(self, url, repo, commit)
    if not items then return nil, reply, code end
    for _, item in ipairs(items) do
      local entry = type(item) == "table" and item.type == "file" and entry_of(item)
      if entry then entries[entry.path] = entry end
    end
    local following = next_page(reply.headers)
    url = following and absolute(url, following)
  end
  return entries
end

function Client:file_url(repo, commit, path)
  return ("%s/%s/resolve/%s/%s"):format(self.endpoint, escape(repo, "/"), commit, escape(path, "/"))
end

return M
