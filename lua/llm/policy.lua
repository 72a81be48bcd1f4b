-- Policies as the program sees them: where they come from, loading them into an engine, asking for them in a request,
-- watching their files. A policy itself runs in a Lua state of its own (llm/policy/state.lua), on the engine's thread.
--
-- An engine knows policies by name. One it does not know yet is looked for in the directories it was told of, then
-- among those that come with the program (scripts/policies).

local core = require "llm.core"
local embedded = require "llm.embedded"
local fs = require "llm.fs"
local http = require "llm.http"
local json = require "llm.json"
local read_file = require("llm.file").read
local suggest = require "llm.suggest"
local tasks = require "llm.task"

local M = {}

-- Seconds: of a load with its self-test; of a call of a hook, logged beyond the first, ended beyond the second.
local LOAD, SOFT, HARD = 1, 0.01, 0.1 -- HARD unless set_limits says otherwise
local MEMORY = 256 * 2 ^ 20 -- bytes of a policy's Lua state
local SETTLE = 0.02 -- between a change of a file and the look at it: editors write in steps
local BUNDLED = "scripts/policies/"

-- engine -> { directories = {…}, files = {path = {text, name, failure}}, default = uses, loads = {number = task},
-- named = {name = job}, reloads = {path = job} }; what this Lua state has done
local records = setmetatable({}, { __mode = "k" })

local function record_of(engine)
  local record = records[engine]
  if not record then
    local weak = { __mode = "v" } -- jobs, while they run
    record = { directories = {}, files = {}, loads = {}, named = setmetatable({}, weak), reloads = setmetatable({}, weak) }
    records[engine] = record
  end
  return record
end

local function log(format, ...) io.stderr:write("llmlua: " .. format:format(...) .. "\n") end

-- ---- loading -------------------------------------------------------------------------------------------------

-- A load runs a file, its self-test, and the compiler for its graph: seconds, perhaps. In a task another thread does it
-- while the loop goes on (policy_load_beside); loads that have been asked for end in that order. Only what the main
-- program loads blocks it. A load that has begun is seen through, whoever has asked for it: hence the jobs.

-- limits: deadline, load_seconds, memory (as of load_policy) of policies that are loaded without options.
function M.set_limits(engine, limits) record_of(engine).limits = limits end

local function stop_watching_loads(record)
  if record.loads_watch then record.loads_watch:close() end
  record.loads_watch = nil
end

-- The tasks whose loads have ended go on.
local function take_loaded(engine, record)
  local ended = {}
  local function note(number, ...)
    if not number then return false end
    ended[#ended + 1] = { record.loads[number], ... }
    record.loads[number] = nil
    return true
  end
  while note(engine.handle:policy_loaded()) do end
  if not next(record.loads) then stop_watching_loads(record) end
  for _, load in ipairs(ended) do tasks.wake(load[1], unpack(load, 2, 5)) end
end

-- The engine is going to be closed: of what still loads nobody hears any more.
function M.detach(engine)
  local record = records[engine]
  if not record then return end
  stop_watching_loads(record)
  local loads = record.loads
  record.loads = {}
  if not next(loads) then return end
  tasks.loop():after(0, function()
    for _, task in pairs(loads) do tasks.wake(task, nil, "the engine was closed", "ECANCELED") end
  end)
end

-- handle:policy_load, beside the loop in a job.
local function load(engine, ...)
  local handle, record = engine.handle, record_of(engine)
  if not tasks.running() then return handle:policy_load(...) end
  local number, message, code = handle:policy_load_beside(...)
  if not number then return nil, message, code end
  record.loads[number] = tasks.running()
  if not record.loads_watch then
    record.loads_watch = assert(tasks.loop():watch(handle:policy_loads_fd(), function() take_loaded(engine, record) end))
  end
  return tasks.wait()
end

local function load_text(engine, chunk_name, text, options)
  options = options or record_of(engine).limits or {}
  local hard = options.deadline or HARD
  local name, generation, code, details = load(engine, chunk_name, (text:gsub("^#[^\n]*", "")),
    options.load_seconds or LOAD, math.min(SOFT, hard), hard, options.memory or MEMORY)
  if name and not generation then
    local record = record_of(engine)
    record.n_schedulers = (record.n_schedulers or 0) + 1
    return name, record.n_schedulers, true
  end
  if name then return name, generation, false end
  local message = generation
  local file, line = message:match "^(%S-):(%d+): "
  return nil, { message = message, code = code, file = file, line = tonumber(line),
                traceback = details and details ~= "" and details or nil }
end

-- The failure of a load, when nobody waits for it any more.
local function say_lost(ok, result, failure)
  if not ok then return log("%s", tostring(result)) end
  if result then return end
  failure.logged = true
  log("%s", failure.message)
end

-- Loads a policy's text. Returns its name, its generation, and whether it is a scheduler; or nil and a failure:
-- {message, code, file, line, traceback}. In a task the others run meanwhile.
function M.load_text(...) return tasks.apart(say_lost, load_text, ...) end

local function load_file(engine, path, options)
  local text, message = read_file(path)
  if not text then return nil, { message = "cannot read the script: " .. message, file = path } end
  local record = record_of(engine)
  local known = record.files[path]
  local file = { text = text, name = known and known.name, options = options }
  record.files[path] = file
  local name, generation, schedules = load_text(engine, "@" .. path, text, options)
  if name then file.name = name else file.failure = generation end
  return name, generation, schedules
end

-- Loads a file. Results as of load_text.
function M.load_file(...) return tasks.apart(say_lost, load_file, ...) end

local function is_plain_name(name) return type(name) == "string" and #name <= 63 and not name:find "[^%w_-]" end

-- The path of a policy that is not loaded yet, by its name; or its bundled text and path.
local function find(engine, name)
  if not is_plain_name(name) then return nil end
  for _, directory in ipairs(record_of(engine).directories) do
    local path = ("%s/%s.lua"):format(directory, name)
    if fs.stat(path) then return path end
  end
  local path = BUNDLED .. name .. ".lua"
  return nil, embedded(path), path
end

-- The names that a request may use, sorted.
function M.names(engine)
  local set, list = {}, {}
  for _, info in ipairs(engine.handle:policies()) do
    if info.active then set[info.name] = true end
  end
  for _, path in ipairs(core.bundled(BUNDLED)) do set[path:sub(#BUNDLED + 1):gsub("%.lua$", "")] = true end
  for name in pairs(set) do list[#list + 1] = name end
  table.sort(list)
  return list
end

local function load_named(engine, name, options)
  local path, text, chunk = find(engine, name)
  local loaded, result, schedules
  if path then
    loaded, result, schedules = load_file(engine, path, options)
  elseif text then
    loaded, result, schedules = load_text(engine, "@" .. chunk, text, options)
  else
    local names = M.names(engine)
    return nil, { code = "ENOENT", message = ("policy '%s' does not exist%s; there are: %s"):format(name:sub(1, 64),
      suggest.hint(name, names), table.concat(names, ", ")) }
  end
  if not loaded then return nil, result end
  if loaded ~= name then
    return nil, { message = ("%s makes the policy '%s'; its name must be the file's"):format(path or chunk, loaded) }
  end
  return loaded, result, schedules
end

-- Loads a policy that lies in a directory or comes with the program. Results as of load_text; the failure's code is
-- "ENOENT" if there is none of that name.
function M.load_named(...) return tasks.apart(say_lost, load_named, ...) end

-- The same for a request: one load for all that come for it meanwhile.
local function load_wanted(engine, name)
  if not tasks.running() then return load_named(engine, name) end
  local named = record_of(engine).named
  local job = named[name]
  if not job or job.results then
    job = tasks.job(load_named, engine, name)
    named[name] = job
  end
  return tasks.join(job, say_lost)
end

-- ---- requests ------------------------------------------------------------------------------------------------

-- A request's policy and policy_args as the engine takes them: a list of {name, JSON}.
local function uses_of(policy, args)
  if policy == nil then
    if args ~= nil then return nil, "policy_args needs a policy: give its name in 'policy'" end
    return nil
  end
  local list = type(policy) == "table" and (policy.name and { policy } or policy) or { policy }
  if args ~= nil and #list ~= 1 then
    return nil, "policy_args goes with one policy; give several theirs as {name = …, args = {…}}"
  end
  local uses = {}
  for i, use in ipairs(list) do
    local name = type(use) == "table" and use.name or use
    if type(name) ~= "string" then
      return nil, ("policy[%d] must be a name, or {name = …, args = {…}}; it is a %s"):format(i, type(use))
    end
    local own = type(use) == "table" and use.args or args
    if own ~= nil and type(own) ~= "table" then
      return nil, ("policy_args of %s must be a table of arguments by name; it is a %s"):format(name, type(own))
    end
    for key, value in pairs(own or {}) do
      if value == json.null then own[key] = nil end -- over HTTP: as if it were not there
    end
    if own and next(own) == nil then own = nil end
    local text, message
    if own then
      text, message = core.policy_args(own)
      if not text then return nil, ("policy_args of %s: %s"):format(name, message) end
    end
    uses[i] = { name, text }
  end
  return uses
end

-- The chain of these, loading what it needs: a list for the core, nil for none; or nil and a message.
local function resolve(engine, policy, args)
  local uses, message = uses_of(policy, args)
  if not uses then return nil, message end
  for _, use in ipairs(uses) do
    local name = use[1]
    if not engine.handle:has_policy(name) then
      local ok, failure = load_wanted(engine, name)
      if not ok then
        if failure.code == "ENOENT" then return nil, failure.message end
        return nil, ("policy '%s' does not load: %s"):format(name, failure.message)
      end
    end
  end
  return #uses > 0 and uses or nil
end

-- The chain of a request with these sampling parameters. Results as of resolve.
function M.chain(engine, prompt, params, fields)
  local policy, args = params.policy, params.policy_args
  if policy ~= nil or args ~= nil then return resolve(engine, policy, args) end
  local default = records[engine] and records[engine].default
  if type(default) ~= "function" then return default end
  return resolve(engine, default { prompt = prompt, params = params, tenant = fields.tenant,
                                   priority = fields.priority, cache_salt = fields.cache_salt })
end

-- The policy of requests that name none; nil: none. policy, args: as in a request; or a function that is called for each
-- of them and returns these. true, or nil and a message.
function M.set_default(engine, policy, args)
  local default, message = policy, nil
  if policy ~= nil and type(policy) ~= "function" then
    default, message = resolve(engine, policy, args)
    if message then return nil, message end
  end
  record_of(engine).default = default
  return true
end

-- ---- directories and watched files ---------------------------------------------------------------------------

-- Policies that are not loaded yet are looked for in this directory too.
function M.know_directory(engine, directory)
  local list = record_of(engine).directories
  for _, known in ipairs(list) do
    if known == directory then return end
  end
  table.insert(list, directory)
end

-- The policies of a directory are loaded, now and when their files change (watch). Returns true; or nil and the first
-- failure, after which the others are loaded all the same.
function M.add_directory(engine, directory)
  local names, message = fs.list(directory)
  if not names then return nil, { message = message } end
  M.know_directory(engine, directory)
  local failure
  table.sort(names)
  for _, name in ipairs(names) do
    if name:find "%.lua$" then
      local path = directory .. "/" .. name
      local ok, why = M.reload_file(engine, path)
      if not ok then failure = failure or why end
    end
  end
  if failure then return nil, failure end
  return true
end

local function reload_file(engine, path)
  local known = record_of(engine).files[path]
  local text = read_file(path)
  if known and (not text or known.text == text) then return not known.failure or nil, known.failure end
  local name, generation = load_file(engine, path, known and known.options)
  if not name then return nil, generation end
  if known then log("generation %d of policy %s serves", generation, name) end
  return true
end

-- Loads a file whose text is not what was read last. true, or nil and a failure; that of last time if nothing has changed.
-- A file that is away for a moment is being replaced.
function M.reload_file(engine, path)
  if not tasks.running() then return reload_file(engine, path) end
  local reloads = record_of(engine).reloads
  while reloads[path] and not reloads[path].results do tasks.join(reloads[path]) end -- it may have read an older text
  local job = tasks.job(reload_file, engine, path)
  reloads[path] = job
  return tasks.join(job, say_lost)
end

local function directory_of(path)
  local directory = path:match "^(.*)/[^/]*$" or "."
  return directory == "" and "/" or directory
end

local function look(engine)
  local record, paths = record_of(engine), {}
  for _, directory in ipairs(record.directories) do M.add_directory(engine, directory) end
  for path in pairs(record.files) do paths[#paths + 1] = path end
  for _, path in ipairs(paths) do
    local _, failure = M.reload_file(engine, path)
    if failure and not failure.logged then
      failure.logged = true
      log("%s\nllmlua: what was there before %s goes on serving", failure.message, record.files[path].name or path)
    end
  end
end

-- Once more if something changes meanwhile.
local function look_soon(engine, record)
  if record.settling then return end
  record.settling = tasks.loop():after(SETTLE, function()
    record.settling = nil
    if record.looking then return look_soon(engine, record) end
    record.looking = true
    tasks.spawn(function()
      look(engine)
      record.looking = false
    end)
  end)
end

-- Looks at all files of policies when one changes. In a program with an event loop.
function M.watch(engine)
  local record = record_of(engine)
  if not record.watch then
    local message
    record.watch, message = require("llm.net").files(tasks.loop(), function() look_soon(engine, record) end)
    if not record.watch then return log("%s", message) end
    record.watched = {}
  end
  local directories = {}
  for _, directory in ipairs(record.directories) do directories[directory] = true end
  for path in pairs(record.files) do directories[directory_of(path)] = true end
  for directory in pairs(directories) do
    if not record.watched[directory] then
      record.watched[directory] = true
      local ok, message = record.watch:add(directory)
      if not ok then log("%s", message) end
    end
  end
end

-- ---- what there is -------------------------------------------------------------------------------------------

-- A list of {name, generation, active, n_users, n_requests, n_calls, n_failures, seconds, on_host}.
function M.list(engine) return engine.handle:policies() end

local order = { "name", "generation", "active", "n_users", "n_requests", "n_calls", "n_failures", "seconds", "file", "on_host" }

-- GET /admin/policies: those that are loaded, of all engines, and the names of those that would be.
function M.status(engines)
  local loaded, names = json.array(), json.array()
  for _, engine in ipairs(engines) do
    local files = {}
    for path, file in pairs(record_of(engine).files) do
      if file.name then files[file.name] = path end
    end
    for _, info in ipairs(M.list(engine)) do
      info.file = info.active and files[info.name] or nil
      loaded[#loaded + 1] = json.object(info, order)
    end
    for _, name in ipairs(M.names(engine)) do names[#names + 1] = name end
  end
  return json.object({ policies = loaded, names = names }, { "policies", "names" })
end

-- POST /admin/policies/rollback {"name": …}
function M.roll_back(engines, name)
  if type(name) ~= "string" then http.error(400, "name must be the name of a policy", { param = "name" }) end
  local message
  for _, engine in ipairs(engines) do
    local generation
    generation, message = engine.handle:policy_rollback(name)
    if generation then
      log("back to generation %d of policy %s", generation, name)
      return json.object({ name = name, generation = generation }, { "name", "generation" })
    end
  end
  http.error(409, message or "there is no engine")
end

return M
