-- A script that is loaded while the program runs: in an environment of its own, with its own copies of the modules it
-- requires, as a task with a deadline. Library modules (llm.*) and C modules are shared.

local core = require "llm.core"
local globals = require "llm.globals"
local json = require "llm.json"
local options_module = require "llm.options"
local read_file = require("llm.file").read
local tasks = require "llm.task"
local workers = require "llm.workers"

local M = {}

-- The load whose script runs at this moment, nil if none does. llm.engine and llm.server behave by it.
M.current = nil

-- ---- engines -------------------------------------------------------------------------------------------------

local engines = setmetatable({}, { __mode = "k" }) -- engine -> what it was asked for

local function fingerprint(options)
  local parts = {}
  options = options_module.engine_part(options) or options
  for name, value in pairs(options) do
    parts[#parts + 1] = ("%s=%s"):format(tostring(name):gsub("%-", "_"),
      type(value) == "table" and json.encode(value) or tostring(value))
  end
  table.sort(parts)
  return table.concat(parts, "\n")
end

-- In a worker, in place of core.open: the handle of the engine that the program's own state has opened.
local function shared_handle(options)
  local handle, message = workers.engine(fingerprint(options))
  if handle or message then return handle, message end
  return nil, "a worker's script gets the engines that the first worker's has opened, and none is with these options"
end

-- open(options, open_handle), remembered; in a load the engine that was opened with these options before.
function M.engine(options, open)
  if not M.current or type(options) ~= "table" then
    local engine, message = open(options, workers.is_second() and shared_handle or nil)
    if engine then engines[engine] = fingerprint(options) end
    return engine, message
  end
  local wanted = fingerprint(options)
  for engine, had in pairs(engines) do
    if had == wanted and engine.handle:is_open() then return engine end
  end
  return nil, "a reloaded script gets the engine that is open, and none is with these options: restart for others"
end

-- The engines that are open.
function M.engines()
  local list = {}
  for engine in pairs(engines) do
    if engine.handle:is_open() then list[#list + 1] = engine end
  end
  return list
end

-- The engines that are open, a list of {key, handle} for workers.
function M.opened_engines()
  local list = {}
  for engine, key in pairs(engines) do
    if engine.handle:is_open() then list[#list + 1] = { key, engine.handle } end
  end
  return list
end

-- ---- the environment -----------------------------------------------------------------------------------------

local function is_library(name) return name == "llm" or name:sub(1, 4) == "llm." or package.preload[name] ~= nil end

-- The path of the Lua file that require would load, nil for what is shared. path: package.path if it is not the program's.
local function module_path(name, path)
  return not is_library(name) and package.searchpath(name, path or package.path) or nil
end

local function load_file(load, path)
  local text, message = read_file(path)
  if not text then return nil, message end
  load.files[path] = text
  return loadstring(text:gsub("^#[^\n]*", ""), "@" .. path)
end

local BUSY = {} -- the value of a module that is being loaded

local function own_require(load, env)
  return function(name)
    local value = rawget(load.modules, name)
    if value == BUSY then error(("loop in require of '%s'"):format(name), 2) end
    if value ~= nil then return value end
    local path = module_path(name, env.package.path)
    if not path then return require(name) end
    local chunk, message = load_file(load, path)
    if not chunk then error(message, 0) end
    load.modules[name] = BUSY
    value = setfenv(chunk, env)(name, path)
    if value == nil then value = true end
    load.modules[name] = value
    return value
  end
end

-- package as the script sees it: what it has loaded itself, and what is shared.
local function own_package(load)
  local own = setmetatable({ loaded = load.modules }, { __index = package })
  setmetatable(load.modules, { __index = function(_, name)
    if type(name) == "string" and not module_path(name, own.path) then return package.loaded[name] end
  end })
  return own
end

-- Globals as a program has them when it begins; those that the script sets stay here. What it loads with dofile and
-- the like gets the environment from the coroutine.
local function environment(load)
  local env = setmetatable({ arg = load.arg }, { __index = globals })
  env._G = env
  env.require = own_require(load, env)
  env.package = own_package(load)
  function env.loadfile(path) return load_file(load, path) end
  function env.dofile(path)
    local chunk, message = load_file(load, path)
    if not chunk then error(message, 0) end
    return chunk()
  end
  return env
end

-- The files that the program's own script consists of so far: {path = text}.
function M.files_of_program(path)
  local files = { [path] = read_file(path) }
  for name in pairs(package.loaded) do
    local file = type(name) == "string" and module_path(name)
    if file then files[file] = read_file(file) end
  end
  return files
end

-- ---- running it ----------------------------------------------------------------------------------------------

-- Seconds that a script which is loaded may run without a wait: so long this thread's streams may have to stand still.
local RUN_SECONDS = 1

-- Around each run of the task: what is loaded has so long, and no longer than until the load's deadline.
local function guard(load)
  local jit_was_on
  return function(entering)
    if entering then
      M.current = load
      load.account:limit(nil, math.max(math.min(load.deadline - core.now(), RUN_SECONDS), 1e-3))
      if not core.checks_hooks then -- a compiled loop would not notice the deadline: nothing new is compiled
        jit_was_on = jit.status()
        jit.off()
      end
    else
      M.current = nil
      if jit_was_on then jit.on() end
    end
  end
end

-- An error of the script: {message, file, line}.
local function failure_of(failure)
  if tasks.is_canceled(failure) then return { message = failure.reason } end
  if type(failure) == "table" and failure.exit_code then
    return { message = failure.message or ("the script has ended with exit code %d"):format(failure.exit_code) }
  end
  local message = tostring(failure)
  local file, line = message:match "^(.-):(%d+): "
  return { message = message, file = file, line = tonumber(line) }
end

-- Runs f under the load's limits, as a task of its own; waits for its end. true, or nil and a failure.
function M.run(load, f)
  local me, ended, ok, failure = tasks.running(), false, nil, nil
  local function on_end(_, fine, message, killed)
    if killed then
      message = ("%s: the script has not loaded within %g s; it waits for nothing"):format(
        message:match "^(.-): stopped: ", math.min(load.seconds, RUN_SECONDS))
    end
    ended, ok, failure = true, fine, message
    tasks.wake(me)
  end
  local task = tasks.spawn(f, on_end, { guard = guard(load), account = load.account })
  local timer = tasks.loop():after(math.max(load.deadline - core.now(), 0), function()
    tasks.cancel(task, ("the script has not loaded within %g s: it waits for something"):format(load.seconds))
  end)
  while not ended do tasks.wait() end
  timer:close()
  if ok then return true end
  return nil, failure_of(failure)
end

-- Loads the script at a path, in a task. fields: arg (its arguments), seconds (for all of it). Returns the load, whose
-- files are {path = text}, and a failure if there was one.
function M.load(path, fields)
  local load = { path = path, arg = fields.arg, seconds = fields.seconds, deadline = core.now() + fields.seconds,
                 files = {}, modules = {}, server = fields.server, account = core.account("load", path) }
  local chunk, message = load_file(load, path)
  if not chunk then return load, failure_of(message) end
  local env = environment(load)
  setfenv(chunk, env)
  local _, failure = M.run(load, function()
    setfenv(0, env)
    chunk(unpack(load.arg))
  end)
  return load, failure
end

return M
