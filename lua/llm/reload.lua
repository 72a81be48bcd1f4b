-- Hot loading of a server's script. The script is loaded into a new generation: routes, layers and self-tests of its
-- own. If all that goes well the server's one pointer to what is active is set to it; else the old one goes on and
-- the failure says why. Requests under way keep the generation they began with. The engine, the listeners, the library
-- and llm.state survive.

local attach = require "llm.attach"
local auth = require "llm.auth"
local core = require "llm.core"
local http = require "llm.http"
local json = require "llm.json"
local net = require "llm.net"
local policies = require "llm.policy"
local read_file = require("llm.file").read
local script = require "llm.script"
local tasks = require "llm.task"
local workers = require "llm.workers"

local Manager = {}
Manager.__index = Manager

local M = { Manager = Manager }

local KEEP = 4           -- generations, the active one among them
local MAX_AGE = 3600     -- seconds that a request may go on in a generation that is no longer active
local LOAD_SECONDS = 5   -- for a script and its self-tests
local SETTLE = 0.01      -- seconds between a change of a file and the look at it: editors write in steps
local FLUSH_EVERY = 32   -- loads, after which compiled code is dropped

-- The arguments of the program, before its script could change them.
local program_arg = {}
for i, word in pairs(rawget(_G, "arg") or {}) do program_arg[i] = word end
M.program_arg = program_arg

local function copy(list)
  local new = {}
  for i, v in pairs(list) do new[i] = v end
  return new
end

local function log(format, ...) io.stderr:write("llmlua: " .. format:format(...) .. "\n") end

-- ---- generations ---------------------------------------------------------------------------------------------

local function add_generation(manager, registration, files, seconds)
  manager.n_loaded = manager.n_loaded + 1
  local generation = { id = manager.n_loaded, registration = registration, files = files, loaded_at = os.time(),
                       load_seconds = seconds }
  table.insert(manager.generations, generation)
  return generation
end

-- Requests of a generation that was replaced too long ago are given up.
local function retire_old(manager)
  for _, record in pairs(manager.server.live) do
    local replaced_at = record.server.replaced_at
    if replaced_at and core.now() - replaced_at > manager.max_age then
      tasks.cancel(record, "the script that serves it was replaced long ago")
    end
  end
end

local function has_old(manager)
  for _, record in pairs(manager.server.live) do
    if record.server.replaced_at then return true end
  end
end

-- Looks again while there are such requests.
local function retire_later(manager)
  if manager.retiring or not has_old(manager) then return end
  manager.retiring = tasks.loop():after(math.max(manager.max_age / 8, 0.05), function()
    manager.retiring = nil
    retire_old(manager)
    retire_later(manager)
  end)
end

local function activate(manager, generation)
  if manager.active then manager.active.registration.replaced_at = core.now() end
  generation.registration.replaced_at = nil
  manager.active = generation
  manager.server.active = generation.registration
  while #manager.generations > manager.keep do
    table.remove(manager.generations, manager.generations[1] == generation and 2 or 1)
  end
  retire_old(manager)
  retire_later(manager)
end

-- ---- loading -------------------------------------------------------------------------------------------------

local function is_plain_table(value)
  local meta = getmetatable(value)
  return meta == nil or value == json.null or type(meta) == "table" and meta.__jsontype ~= nil
end

-- The name of the first thing in a value that is not plain data, nil if all is well.
local function unplain(value, name, seen)
  local kind = type(value)
  if kind == "string" or kind == "number" or kind == "boolean" then return nil end
  if kind ~= "table" or not is_plain_table(value) then return ("%s is a %s"):format(name, kind) end
  if seen[value] then return nil end
  seen[value] = true
  for k, v in pairs(value) do
    local inside = ("%s.%s"):format(name, tostring(k))
    local bad = unplain(k, inside, seen) or unplain(v, inside, seen)
    if bad then return bad end
  end
end

local function check_loaded(load)
  local registration = load.registration
  if not registration then return { message = load.path .. ": the script makes no server", file = load.path } end
  local bad = unplain(M.state, "llm.state", {})
  if bad then return { message = bad .. "; it may hold plain data only", file = load.path } end
  local _, failure = script.run(load, function() registration:run_self_tests() end)
  return failure
end

-- Loads the script into manager.pending. Returns true, or nil and a failure.
local function prepare(manager)
  local started = core.now()
  local load, failure = script.load(manager.script, { arg = copy(manager.arg), seconds = manager.load_seconds,
                                                      server = manager.server })
  manager.tried = load.files
  failure = failure or check_loaded(load)
  for path in pairs(load.files) do manager:watch_file(path) end
  if failure then return nil, failure end
  manager.pending = { registration = load.registration, files = load.files, seconds = core.now() - started }
  return true
end

-- What is pending serves from now on. Cannot fail.
local function commit(manager)
  local pending = manager.pending
  manager.pending = nil
  local generation = add_generation(manager, pending.registration, pending.files, pending.seconds)
  activate(manager, generation)
  -- Compiled code outlives the functions it was made of until the compiler's tables are full: megabytes later.
  if generation.id % FLUSH_EVERY == 0 then jit.flush() end
  return generation
end

-- Waits for the end of a load under way: it may have read what the caller has changed since.
local function take_turn(manager)
  while manager.loading do
    local me = tasks.running()
    table.insert(manager.queue, me)
    local ok, failure = pcall(tasks.wait)
    if not ok then
      for i, task in ipairs(manager.queue) do
        if task == me then table.remove(manager.queue, i) break end
      end
      error(failure, 0)
    end
  end
  manager.loading = true
end

local function end_turn(manager)
  manager.loading = false
  local waiting = table.remove(manager.queue, 1)
  if waiting then tasks.wake(waiting) end
end

-- The others prepare. true, or nil and the first failure.
local function prepare_others()
  local answers, message, worker = workers.call_others "prepare"
  if not answers then return nil, { message = ("worker %d: %s"):format(worker, message) } end
  for i, failure in pairs(answers) do
    if failure ~= true then
      failure.message = ("worker %d: %s"):format(i, failure.message)
      return nil, failure
    end
  end
  return true
end

-- One transaction over all workers: all have loaded the script before any serves it; if one fails none does.
local function load_generation(manager)
  local ok, failure = prepare(manager)
  if ok then ok, failure = prepare_others() end
  if ok then
    local generation = commit(manager)
    workers.call_others "commit"
    return generation
  end
  manager.pending = nil
  workers.call_others "abandon"
  return nil, failure
end

local function find_generation(manager, id)
  for _, generation in ipairs(manager.generations) do
    if generation.id == id then return generation end
  end
end

-- What worker 1 does for another one. Returns a generation of this worker, or nil and a failure.
local function ask_leader(manager, name)
  local ok, result = workers.call(1, name)
  if not ok then return nil, { message = result } end
  if result.failure then return nil, result.failure end
  return find_generation(manager, result.generation)
end

-- Loads the script anew; in a task. Returns the generation that serves now, or nil and a failure: {message, file,
-- line}. The caller may go away meanwhile.
function Manager:reload()
  if workers.is_second() then return ask_leader(self, "reload") end
  if not self.script then return nil, { message = self.no_script } end
  take_turn(self)
  local me, ended, generation, failure = tasks.running(), false, nil, nil
  tasks.spawn(load_generation, function(_, ok, result, why)
    ended, generation, failure = true, ok and result, why
    if not ok then failure = { message = tostring(result) } end
    self.failure = failure
    if failure then
      log("%s\nllmlua: generation %d of %s goes on serving", failure.message, self.active.id, self.script)
    else
      log("generation %d of %s serves (loaded in %.0f ms)", generation.id, self.script, generation.load_seconds * 1000)
    end
    tasks.wake(me)
    end_turn(self)
  end, nil, self)
  while not ended do tasks.wait() end
  return generation or nil, failure
end

-- The same without waiting, from anywhere.
function Manager:trigger()
  tasks.spawn(function() self:reload() end)
end

-- Makes the generation before the active one serve again; in a task. Returns it, or nil and a failure.
function Manager:rollback()
  if workers.is_second() then return ask_leader(self, "rollback") end
  local generation, failure = self:roll_back_here()
  if generation then
    workers.call_others "roll_back_here"
    log("back to generation %d of %s", generation.id, self.script or "the script")
  end
  return generation, failure
end

-- The same in this worker alone.
function Manager:roll_back_here()
  for i, generation in ipairs(self.generations) do
    if generation == self.active then
      local previous = self.generations[i - 1]
      if not previous then return nil, { message = "there is no earlier generation" } end
      generation.rolled_back = true
      activate(self, previous)
      return previous
    end
  end
end

-- ---- watched files -------------------------------------------------------------------------------------------

local function has_changed(manager)
  for path, had in pairs(manager.tried) do
    local text = read_file(path)
    if text and text ~= had then return true end -- a file that is away for a moment is being replaced
  end
  return false
end

local function on_change(manager)
  if manager.settling then return end
  manager.settling = tasks.loop():after(SETTLE, function()
    manager.settling = nil
    if manager.loading then return on_change(manager) end
    if has_changed(manager) then manager:trigger() end
  end)
end

-- The directory of the file is watched: editors replace files rather than write them.
function Manager:watch_file(path)
  local directory = path:match "^(.*)/[^/]*$" or "."
  if directory == "" then directory = "/" end
  if not self.files or self.directories[directory] then return end
  local ok, message = self.files:add(directory)
  self.directories[directory] = true
  if not ok then log("%s", message) end
end

local function begin_watching(manager)
  local message
  manager.files, message = net.files(tasks.loop(), function() on_change(manager) end)
  if not manager.files then return log("%s", message) end
  for path in pairs(manager.tried) do manager:watch_file(path) end
end

function Manager:close()
  if self.files then self.files:close() end
  if self.settling then self.settling:close() end
  if self.retiring then self.retiring:close() end
  self.files, self.server.admin, self.server.manager = nil, nil, nil
end

-- ---- over HTTP -----------------------------------------------------------------------------------------------

local function describe(manager, generation)
  local files = json.array()
  for path in pairs(generation.files) do files[#files + 1] = path end
  table.sort(files)
  return { id = generation.id, active = generation == manager.active, rolled_back = generation.rolled_back or false,
           loaded_at = generation.loaded_at, load_seconds = generation.load_seconds,
           n_requests = generation.registration.n_requests, n_running = generation.registration.n_running,
           files = files }
end

local function failure_body(failure)
  return { error = { message = failure.message, type = "ReloadError", param = json.null, code = 422 },
           file = failure.file or json.null, line = failure.line or json.null }
end

-- What the manager knows, for GET /admin/scripts.
function Manager:status()
  local list = json.array()
  for i, generation in ipairs(self.generations) do list[i] = describe(self, generation) end
  return { script = self.script or json.null, watching = self.files ~= nil, generations = list,
           accounts = json.array(core.accounts()),
           last_failure = self.failure and { message = self.failure.message, file = self.failure.file or json.null,
                                             line = self.failure.line or json.null } or json.null }
end

-- The same with the requests of all workers; in a task.
function Manager:status_of_all()
  local status, _, n = self:status(), workers.me()
  status.workers = n
  local others = workers.call_others "status"
  for _, other in pairs(others or {}) do
    for i, generation in ipairs(status.generations) do
      local same = other.generations[i]
      if same and same.id == generation.id then
        generation.n_requests = generation.n_requests + same.n_requests
        generation.n_running = generation.n_running + same.n_running
      end
    end
  end
  if workers.is_second() and others then
    status.last_failure, status.watching = others[1].last_failure, others[1].watching
  end
  return status
end

-- Answers with what reload() or rollback() returned.
function Manager:answer(res, generation, failure)
  if generation then return res:json(describe(self, generation)) end
  res:status(self.script and 422 or 409):json(failure_body(failure))
end

local admin_routes = {
  ["/admin/reload"] = { POST = function(manager, res) manager:answer(res, manager:reload()) end },
  ["/admin/rollback"] = { POST = function(manager, res) manager:answer(res, manager:rollback()) end },
  ["/admin/scripts"] = { GET = function(manager, res) res:json(manager:status_of_all()) end },
  ["/admin/policies"] = { GET = function(_, res) res:json(policies.status(script.engines())) end },
  ["/admin/policies/rollback"] = { POST = function(_, res, req)
    local body = json.decode(req.body or "")
    res:json(policies.roll_back(script.engines(), type(body) == "table" and body.name))
  end },
}

for path, route in pairs(attach.routes) do admin_routes[path] = route end

-- The handler of an admin path, nil for any other. It comes before the script's own layers and routes, which may be
-- what is to be mended; the keys are those of the active generation's options.
local function admin_handler(manager, path)
  local route = admin_routes[path]
  return route and function(req, res)
    req.route = path
    local keys = manager.server.active.admin_keys
    if #keys == 0 then
      http.error(403, "hot loading over HTTP needs an API key: start the server with --api-key or --api-key-file")
    end
    auth.layer { keys = keys, open = {} }(req, res, function()
      local handler = route[req.method]
      if not handler then http.error(405, ("%s does not take %s"):format(path, req.method)) end
      return handler(manager, res, req)
    end)
  end
end

-- ---- workers ---------------------------------------------------------------------------------------------------

-- What the managers of all workers do for each other.
local function serve_workers(manager)
  local function led(f)
    return function()
      local generation, failure = f(manager)
      return { generation = generation and generation.id, failure = failure }
    end
  end
  workers.handle("reload", led(manager.reload))
  workers.handle("rollback", led(manager.rollback))
  workers.handle("prepare", function()
    local ok, failure = prepare(manager)
    return ok or failure
  end)
  workers.handle("commit", function() commit(manager) end)
  workers.handle("abandon", function() manager.pending = nil end)
  workers.handle("roll_back_here", function() manager:roll_back_here() end)
  workers.handle("status", function() return manager:status() end)
  attach.serve_workers(manager)
end

-- ---- taking a server over ------------------------------------------------------------------------------------

-- The manager of a server that the running program has made; its state is generation 1. options: script (path; nil:
-- the program's own), arg (of the script), watch (false: do not look at the files), load_seconds, keep, max_age.
function M.adopt(server, options)
  options = options or {}
  local path = options.script or program_arg[0]
  local text = path and read_file(path)
  local manager = setmetatable({
    server = server, script = text and path or nil, arg = options.arg or program_arg, generations = {}, n_loaded = 0,
    queue = {}, keep = options.keep or KEEP, max_age = options.max_age or MAX_AGE, directories = {},
    load_seconds = options.load_seconds or LOAD_SECONDS,
    no_script = ("there is no file %s to load again: a bundled script must be copied to a file first"):format(path or "")
  }, Manager)
  manager.tried = manager.script and script.files_of_program(path) or {}
  activate(manager, add_generation(manager, server.active, manager.tried, 0))
  server.manager = manager
  serve_workers(manager)
  server.admin = function(request_path) return admin_handler(manager, request_path) end
  if manager.script and options.watch ~= false then begin_watching(manager) end
  return manager
end

-- llm.state: plain data that survives reloads.
M.state = {}

return M
