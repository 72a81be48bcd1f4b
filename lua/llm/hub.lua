-- Names of models: a path, or an id on the Hugging Face hub ("ORG/NAME"), which is looked up in the cache that all
-- programs using the hub share, and downloaded into it if it is not there.

local caches = require "llm.hub.cache"
local clients = require "llm.hub.client"
local core = require "llm.core"
local download = require "llm.hub.download"
local exit = require "llm.exit"
local files = require "llm.hub.files"
local fs = require "llm.fs"
local json = require "llm.json"
local progress = require "llm.progress"
local read_file = require("llm.file").read
local suggest = require "llm.suggest"
local tasks = require "llm.task"

local M = {}

local DEFAULT_REVISION = "main"
local WORKERS = 8 -- files at once
local MAX_COMPONENT = 96
local extensions = { gguf = true, json = true, model = true, safetensors = true, bin = true } -- of paths

-- ---- names ---------------------------------------------------------------------------------------------------

local function is_component(text)
  return #text <= MAX_COMPONENT and text:find "^[%w_][%w_.-]*$" ~= nil and not text:find("..", 1, true)
    and not text:find("--", 1, true)
end

-- "NAME", "ORG/NAME", either with ":QUANT", or "ORG/NAME/FILE.gguf" -> the repository, and what is wanted of it
-- (quant, file). nil for what can only be a path.
function M.parse(name)
  local id, quant = name:match "^([^:]+):([%w_-]+)$"
  id = id or name
  local parts = {}
  for part in (id .. "/"):gmatch "([^/]*)/" do parts[#parts + 1] = part end
  local extension = id:lower():match "%.(%a+)$"
  local file = #parts > 2 and extension == "gguf" and not quant and table.concat(parts, "/", 3) or nil
  if #parts > 2 and not file or #parts <= 2 and extensions[extension] then return nil end
  if file and ("/" .. file .. "/"):find "/%.?%.?/" then return nil end
  local repo = parts[2] and parts[1] .. "/" .. parts[2] or parts[1]
  if not is_component(parts[1]) or parts[2] and not is_component(parts[2]) or repo:find "%.git$" then return nil end
  return repo, { quant = quant, file = file }
end

-- "; did you mean models/b?" if something near is where the path leads to, else "".
local function local_hint(name)
  local directory, last = name:match "^(.*)/([^/]+)/*$"
  directory, last = directory or ".", last or name
  local near = suggest.nearest(last, fs.list(directory == "" and "/" or directory) or {})
  if not near then return "" end
  return ("; did you mean %s?"):format(name:find "/" and directory .. "/" .. near or near)
end

-- ---- downloading ---------------------------------------------------------------------------------------------

local function human(bytes)
  if bytes >= 2 ^ 30 then return ("%.1f GiB"):format(bytes / 2 ^ 30) end
  return ("%.0f MiB"):format(bytes / 2 ^ 20)
end

local Meter = {}
Meter.__index = Meter

function Meter:add(bytes)
  self.done = self.done + bytes
  self.bar:update(self.done, self.note)
end

-- Bytes that were there already: they do not count for the rate.
function Meter:skip(bytes)
  self.skipped = self.skipped + bytes
  self:add(bytes)
end

-- What follows on the terminal starts on a new line.
local function break_off(meter)
  if meter.bar.enabled and meter.bar.drawn > 0 then io.stderr:write("\n") end
  meter.bar.enabled = false
end

local SMALL = 2 ^ 20 -- bytes that are not worth a bar

local function new_meter(label, total)
  local bar = progress.new(label, total, total < SMALL and false or nil)
  local meter = setmetatable({ done = 0, skipped = 0, bar = bar, start = core.now() }, Meter)
  meter.note = function()
    local rate = math.max(meter.done - meter.skipped, 0) / math.max(core.now() - meter.start, 1e-3)
    return ("%s of %s, %.0f MiB/s"):format(human(meter.done), human(total), rate / 2 ^ 20)
  end
  return tasks.own(meter, break_off)
end

local function cancel_all(workers)
  for _, worker in ipairs(workers) do tasks.cancel(worker, "stopped") end
end

-- Calls f for each of the entries, several at once; the first failure ends the others. true, or nil and what f said.
local function in_parallel(entries, f)
  local me, workers, n_live, next_entry = tasks.running(), {}, 0, 1
  local failure, raised
  local function work()
    while next_entry <= #entries and not failure do
      local entry = entries[next_entry]
      next_entry = next_entry + 1
      local ok, message, code = f(entry)
      if not ok then failure = failure or { message, code } end
    end
  end
  local function ended(_, ok, problem)
    n_live = n_live - 1
    if not ok and not tasks.is_canceled(problem) then raised = raised or problem end
    tasks.wake(me)
  end
  tasks.own(workers, cancel_all)
  for i = 1, math.min(WORKERS, #entries) do
    n_live = n_live + 1
    workers[i] = tasks.spawn(work, ended)
  end
  while n_live > 0 and not failure and not raised do tasks.wait() end
  cancel_all(workers)
  tasks.disown(workers)
  if raised then error(raised, 0) end
  if failure then return nil, unpack(failure) end
  return true
end

local function entries_of(tree, names)
  local list = {}
  for i, name in ipairs(names) do list[i] = tree[name] end
  return list
end

-- Downloads what is not in the cache of these files, and puts names to all when all are there: a snapshot never shows
-- weights without what belongs to them.
local function bring(get, entries)
  local missing, total = {}, 0
  for _, entry in ipairs(entries) do
    if not fs.stat(get.cache:blob(entry.sum)) then
      missing[#missing + 1], total = entry, total + entry.size
    end
  end
  local room = fs.room(get.cache.path)
  if room and total > room then
    return nil, ("%s needs %s, and the file system of %s has %s left: choose another directory with --download-dir or "
      .. "HF_HUB_CACHE"):format(get.repo, human(total), get.cache.root, human(room)), "refused"
  end
  table.sort(missing, function(a, b) return a.size > b.size end)
  local meter = new_meter("Downloading " .. get.repo, total)
  local ok, message, code = in_parallel(missing, function(entry)
    return download.fetch(get.client, get.cache, get.repo, get.commit, entry, meter)
  end)
  if ok then meter.bar:finish(meter.done, meter.note) else break_off(meter) end
  tasks.disown(meter)
  if not ok then return nil, message, code end
  for _, entry in ipairs(entries) do
    ok, message = get.cache:link(get.commit, entry.path, entry.sum)
    if not ok then return nil, message end
  end
  return true
end

-- The shards that the index names, which is downloaded for that.
local function shards(get, index)
  local ok, message, code = bring(get, { index })
  if not ok then return nil, message, code end
  local value
  value, message = json.decode(read_file(get.cache:blob(index.sum)) or "")
  local names = files.shards(value)
  if not names then
    return nil, ("%s of %s is no index: %s"):format(index.path, get.repo, message or "no weight_map")
  end
  for _, name in ipairs(names) do
    if not get.tree[name] then
      return nil, ("%s has no file %s, which its %s names"):format(get.repo, name, index.path)
    end
  end
  return names
end

-- The path to open, downloaded; or nil, a message and a code ("network": the hub could not be reached).
local function obtain(get, want)
  local ok, message, code = get.cache:prepare()
  if not ok then return nil, message end
  get.commit, message, code = get.client:commit(get.repo, get.revision)
  if not get.commit then return nil, message, code end
  get.tree, message, code = get.client:tree(get.repo, get.commit)
  if not get.tree then return nil, message, code end
  local plan
  plan, message = files.plan(get.tree, want)
  if not plan then return nil, ("llmlua cannot use %s: %s"):format(get.repo, message), "refused" end
  local weights = plan.weights
  if plan.index then
    plan.small[#plan.small + 1] = plan.index
    weights, message, code = shards(get, get.tree[plan.index])
    if not weights then return nil, message, code end
  end
  local entries = entries_of(get.tree, plan.small)
  for _, entry in ipairs(entries_of(get.tree, weights)) do entries[#entries + 1] = entry end
  ok, message, code = bring(get, entries)
  if ok then ok, message = get.cache:set_ref(get.revision, get.commit) end
  if not ok then return nil, message, code end
  local snapshot = get.cache:snapshot(get.commit)
  return plan.gguf and snapshot .. "/" .. plan.gguf or snapshot
end

-- Ctrl-C ends it also while nothing comes.
local function interruptible(f, ...)
  if tasks.running() then return f(...) end
  local watch = tasks.loop():signal("INT", function() exit(130) end)
  local results = { pcall(tasks.run, f, ...) }
  if watch then watch:close() end
  if not results[1] then error(results[2], 0) end
  return unpack(results, 2, 4)
end

-- ---- resolving -----------------------------------------------------------------------------------------------

local function is_offline()
  for _, name in ipairs { "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE" } do
    local value = (os.getenv(name) or ""):lower()
    if value == "1" or value == "on" or value == "yes" or value == "true" then return name end
  end
end

-- Is this a revision that is safe in a path and a URL?
local function is_revision(text)
  return not text:find "[%c%s\\~^:?*%[]" and not ("/" .. text .. "/"):find "/%.?%.?/"
end

local function not_cached(name, get, why)
  return ("%s is neither a path here nor in the cache at %s (revision %s), and %s%s"):format(name, get.cache.root,
    get.revision, why, local_hint(name))
end

local function look_up(name, repo, want, options)
  local get = { repo = repo, revision = options.revision or DEFAULT_REVISION,
                cache = caches.new(caches.root(options.download_dir), repo) }
  if not is_revision(get.revision) then return nil, ("'%s' is no revision"):format(get.revision) end
  local commit = get.cache:commit(get.revision)
  local path, complete
  if commit then path, complete = get.cache:find(commit, want) end
  if complete then return path end
  local offline = is_offline()
  if offline then
    if path then return path end
    return nil, not_cached(name, get, offline .. " forbids to download it; unset it, or give a path")
  end
  get.client = clients.new(options)
  local fresh, message, code = interruptible(obtain, get, want)
  if fresh then return fresh end
  if path and code == "network" then return path end
  if code == "network" then
    return nil, not_cached(name, get, ("the hub at %s does not give it: %s. Without a network, give a path or copy the "
      .. "cache from another machine; for a mirror, set HF_ENDPOINT"):format(get.client.endpoint, message))
  end
  return nil, message .. local_hint(name)
end

-- The path for a model's name; or nil and a message that says what to do. options: revision (branch, tag or commit),
-- download_dir (the cache, if not the usual one), hf_token, load_format, tokenizer_only (no weights), retry_delay
-- (seconds). What is in the cache is taken as it is: the hub is asked only for what is not there. In a task the others
-- run meanwhile.
function M.resolve(name, options)
  options = options or {}
  if fs.stat(name) then return name end
  local repo, want = M.parse(name)
  if not repo then
    return nil, ("no model at %s: there is no such file or directory%s"):format(name, local_hint(name))
  end
  want.format, want.tokenizer_only = options.load_format or "auto", options.tokenizer_only
  return look_up(name, repo, want, options)
end

return M
