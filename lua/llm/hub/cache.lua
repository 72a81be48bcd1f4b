-- The cache that programs using the Hugging Face hub share, in the layout they agree on:
--
--   ROOT/models--ORG--NAME/refs/REVISION             a commit, as text
--                         /snapshots/COMMIT/FILE  -> ../../blobs/SUM
--                         /blobs/SUM                 a file; its SHA-256, or git's SHA-1 of small ones
--                         /blobs/SUM.incomplete      the part of it that has come so far
--   ROOT/.locks/models--ORG--NAME/SUM.lock           flock(2): who downloads it

local files = require "llm.hub.files"
local fs = require "llm.fs"
local json = require "llm.json"
local read_file = require("llm.file").read

local Cache = {}
Cache.__index = Cache

local M = {}

local function env(name)
  local value = os.getenv(name)
  return value ~= "" and value or nil
end
M.env = env

-- A path of the environment may begin with ~, which no shell has replaced there.
local function env_path(name)
  local value = env(name)
  return value and (value:gsub("^~", os.getenv "HOME" or "~"))
end

-- Where the hub's programs keep their things.
function M.home()
  local base = env_path "XDG_CACHE_HOME" or (os.getenv "HOME" or "") .. "/.cache"
  return env_path "HF_HOME" or base .. "/huggingface"
end

function M.root(given)
  return given or env_path "HF_HUB_CACHE" or env_path "HUGGINGFACE_HUB_CACHE" or M.home() .. "/hub"
end

-- The part of the cache of one repository ("ORG/NAME").
function M.new(root, repo)
  local name = "models--" .. repo:gsub("/", "--")
  return setmetatable({ root = root, path = root .. "/" .. name, locks = root .. "/.locks/" .. name }, Cache)
end

function M.is_commit(revision) return #revision == 40 and not revision:find "[^%x]" end

-- The commit that a branch, a tag or a commit stands for here, nil if that is not known.
function Cache:commit(revision)
  if M.is_commit(revision) then return revision end
  local text = read_file(self.path .. "/refs/" .. revision)
  text = text and text:match "^%s*(%x+)%s*$"
  return text and M.is_commit(text) and text or nil
end

function Cache:snapshot(commit) return self.path .. "/snapshots/" .. commit end

function Cache:blob(sum) return self.path .. "/blobs/" .. sum end

-- The set of files under a directory; links to nothing are left out.
local function walk(directory, prefix, names)
  for _, name in ipairs(fs.list(directory) or {}) do
    local path = directory .. "/" .. name
    local entry = fs.stat(path)
    if entry and entry.type == "directory" then
      walk(path, prefix .. name .. "/", names)
    elseif entry then
      names[prefix .. name] = true
    end
  end
  return names
end

-- The path to open if the model is here: the snapshot, or the GGUF file in it. Second: is it all that one would
-- download? nil if it is not here or not usable.
function Cache:find(commit, want)
  local snapshot = self:snapshot(commit)
  local names = walk(snapshot, "", {})
  local plan = files.plan(names, want)
  if not plan then return nil end
  local weights = plan.weights
  if plan.index then
    weights = files.shards(json.decode(read_file(snapshot .. "/" .. plan.index) or ""))
    if not weights then return nil end
  end
  for _, name in ipairs(weights) do
    if not names[name] then return nil end
  end
  return plan.gguf and snapshot .. "/" .. plan.gguf or snapshot, plan.complete
end

-- ---- changing it ---------------------------------------------------------------------------------------------

local TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# Backups may leave this directory out: "
  .. "all of it can be downloaded again.\n"

local function write_whole(path, text)
  local temporary = ("%s.%x.tmp"):format(path, math.random(0, 2 ^ 31 - 1))
  local file, message = io.open(temporary, "wb")
  if not file then return nil, message end
  local ok
  ok, message = file:write(text)
  file:close()
  if ok then ok, message = os.rename(temporary, path) end
  if not ok then
    os.remove(temporary)
    return nil, message
  end
  return true
end

-- Makes the directories that downloads go to. true, or nil and a message.
function Cache:prepare()
  for _, path in ipairs { self.path .. "/blobs", self.path .. "/refs", self.path .. "/snapshots", self.locks } do
    local ok, message = fs.mkdir(path)
    if not ok then return nil, message end
  end
  local tag = self.root .. "/CACHEDIR.TAG"
  if not fs.stat(tag) then write_whole(tag, TAG) end
  return true
end

-- Remembers what a branch or tag stands for.
function Cache:set_ref(revision, commit)
  if revision == commit or self:commit(revision) == commit then return true end
  local path = self.path .. "/refs/" .. revision
  local ok, message = fs.mkdir(path:match "^(.*)/")
  if not ok then return nil, message end
  return write_whole(path, commit)
end

-- Puts a blob under a name into a snapshot.
function Cache:link(commit, name, sum)
  local path = self:snapshot(commit) .. "/" .. name
  if fs.stat(path) then return true end
  local ok, message = fs.mkdir(path:match "^(.*)/")
  if not ok then return nil, message end
  os.remove(path) -- a link to a blob that is gone
  local _, depth = name:gsub("/", "")
  return fs.symlink(("../"):rep(depth + 2) .. "blobs/" .. sum, path)
end

return M
