-- A hub for tests: the part of its API that downloads use, and a second server that large files are stored at.

local fs = require "llm.fs"
local json = require "llm.json"
local llm = require "llm"
local tasks = require "llm.task"

local Hub = {}
Hub.__index = Hub

local M = {}

function M.sha256(text)
  local digest = fs.digest "sha256"
  digest:update(text)
  return digest:hex()
end

-- What git hash-object says.
function M.git_sum(text)
  local digest = fs.digest "sha1"
  digest:update(("blob %d\0"):format(#text))
  digest:update(text)
  return digest:hex()
end

local function is_large(path) return path:find "%.safetensors$" or path:find "%.gguf$" or path:find "%.bin$" end

-- The name of the file's blob in a cache.
function M.sum(path, text) return is_large(path) and M.sha256(text) or M.git_sum(text) end

local function open_server()
  local server = llm.server { host = "127.0.0.1", port = 0 }
  assert(server:listen())
  if tasks.running() then tasks.own(server, server.close) end
  return server
end

local function deny(res, status, code)
  if code then res:header("X-Error-Code", code) end
  res:status(status):json { error = code or "no" }
end

-- The repository, if the request may see it; else it is answered.
local function admitted(hub, req, res)
  local repo = hub.repos[req.params.org .. "/" .. req.params.name]
  if not repo then return deny(res, 401, "RepoNotFound") end
  if repo.token and req:header "authorization" ~= "Bearer " .. repo.token then return deny(res, 401, "GatedRepo") end
  if repo.closed then return deny(res, 403, "GatedRepo") end
  return repo
end

local function commit_of(repo, revision, res)
  local commit = repo.revisions[revision] or repo.commit == revision and revision
  if not commit then return deny(res, 404, "RevisionNotFound") end
  return commit
end

local function info(hub, req, res)
  local repo = admitted(hub, req, res)
  local commit = repo and commit_of(repo, req.params.revision or "main", res)
  if commit then
    res:json { id = req.params.org .. "/" .. req.params.name, sha = commit, siblings = json.array() }
  end
end

local PAGE = 3

local function tree(hub, req, res)
  local repo = admitted(hub, req, res)
  if not repo or not commit_of(repo, req.params.revision, res) then return end
  local items = {}
  for path, text in pairs(repo.files) do
    local item = { type = "file", path = path, size = #text, oid = M.git_sum(text) }
    if is_large(path) then
      item.lfs = { oid = repo.wrong_sums and ("0"):rep(64) or M.sha256(text), size = repo.claimed_size or #text,
                   pointerSize = 130 }
    end
    items[#items + 1] = item
  end
  table.sort(items, function(a, b) return a.path < b.path end)
  for _, path in ipairs(repo.extra_paths or {}) do
    table.insert(items, 1, { type = "file", path = path, size = 1, oid = M.git_sum "x" })
  end
  local first = tonumber(req:args().cursor) or 1
  if #items >= first + PAGE then
    res:header("Link", ('<%s%s?recursive=true&cursor=%d>; rel="next"'):format(hub.url, req.path, first + PAGE))
  end
  res:json(json.array { unpack(items, first, first + PAGE - 1) })
end

-- hub.on_file(n, path, range, res, text): how the n-th request for file contents is answered, if not as it should be;
-- returns true if it has been.
local function send_file(hub, req, res, path, text)
  local from = tonumber((req:header "range" or ""):match "^bytes=(%d+)%-")
  hub.n_files = hub.n_files + 1
  table.insert(hub.files_log, path .. (from and "@" .. from or ""))
  if hub.on_file and hub.on_file(hub.n_files, path, from, res, text) then return end
  res:header("Content-Type", "application/octet-stream")
  if not from then return res:send(text) end
  if from >= #text then return res:status(416):send "" end
  res:status(206):header("Content-Range", ("bytes %d-%d/%d"):format(from, #text - 1, #text))
  res:send(text:sub(from + 1))
end

local function resolve(hub, req, res)
  local repo = admitted(hub, req, res)
  local commit = repo and commit_of(repo, req.params.revision, res)
  if not commit then return end
  local path = req.params.path
  local text = repo.files[path]
  if not text then return deny(res, 404, "EntryNotFound") end
  res:header("X-Repo-Commit", commit):header("ETag", ('"%s"'):format(M.git_sum(text)))
  if not is_large(path) then return send_file(hub, req, res, path, text) end
  res:header("X-Linked-Etag", ('"%s"'):format(M.sha256(text))):header("X-Linked-Size", tostring(#text))
  res:header("Location", ("%s/store/%s/%s/%s"):format(hub.store_url, req.params.org, req.params.name, path))
  res:status(302):send ""
end

local function stored(hub, req, res)
  if req:header "authorization" then table.insert(hub.leaks, req.path) end
  local repo = hub.repos[req.params.org .. "/" .. req.params.name]
  send_file(hub, req, res, req.params.path, repo.files[req.params.path])
end

-- Opens both servers in the running task, which closes them at its end. Fields: url, repos, n_api (requests but for
-- files), files_log ("path" or "path@first byte" for each request for contents), leaks (requests that brought the
-- token to the store).
function M.open()
  local hub = setmetatable({ repos = {}, n_api = 0, n_files = 0, files_log = {}, leaks = {} }, Hub)
  local server, store = open_server(), open_server()
  hub.url, hub.store_url, hub.server = server:url(), store:url(), server
  local function api(handler)
    return function(req, res)
      hub.n_api = hub.n_api + 1
      if hub.on_api and hub.on_api(hub.n_api, res) then return end
      return handler(hub, req, res)
    end
  end
  server:get("/api/models/:org/:name", api(info))
  server:get("/api/models/:org/:name/revision/*revision", api(info))
  server:get("/api/models/:org/:name/tree/:revision", api(tree))
  server:get("/:org/:name/resolve/:revision/*path", function(req, res) return resolve(hub, req, res) end)
  store:get("/store/:org/:name/*path", function(req, res) return stored(hub, req, res) end)
  return hub
end

-- Adds a repository. files: path -> text.
function Hub:add(name, files)
  local commit = M.git_sum(name)
  local repo = { commit = commit, files = files, revisions = { main = commit, ["v1.0"] = commit } }
  self.repos[name] = repo
  return repo
end

return M
