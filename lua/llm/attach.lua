-- Attaching to a server (llmlua attach): POST /admin/eval runs Lua in the state of worker 1, POST /admin/complete
-- completes names. Off unless the server has API keys and the option allow_attach.
--
-- What runs here shares a thread with the handlers of worker 1's requests. So it may run for HARD seconds between two
-- waits, then the watchdog stops it; and for SECONDS in all. It may wait as handlers do, for the engine or others.

local core = require "llm.core"
local http = require "llm.http"
local json = require "llm.json"
local policies = require "llm.policy"
local reference = require "llm.reference"
local script = require "llm.script"
local session = require "llm.session"
local tasks = require "llm.task"
local workers = require "llm.workers"

local M = {}

local HARD, SECONDS = 0.05, 25 -- SECONDS: less than a call between workers may take
local MOST = 256 * 1024        -- bytes of output, and of values

local account = core.account("handler", "attach", nil, HARD)
local outputs = setmetatable({}, { __mode = "k" }) -- task -> {pieces, bytes = …}

-- ---- what is at hand -----------------------------------------------------------------------------------------

-- What the running line writes goes back with its answer; what others write by these functions, to the server's output.
local function write_back(text)
  local output = outputs[tasks.running() or false]
  if not output then return io.write(text) end
  output.bytes = output.bytes + #text
  if output.bytes > MOST then error(("a line may print %d bytes"):format(MOST), 3) end
  output[#output + 1] = text
end

local function print_back(...)
  local parts = {}
  for i = 1, select("#", ...) do parts[i] = tostring((select(i, ...))) end
  write_back(table.concat(parts, "\t") .. "\n")
end

-- io and os of the prompt: the server's input is not its own, nor is the process.
local own_io = setmetatable({
  write = function(...) write_back(table.concat { ... }) end,
  read = function() error("a prompt in a server has no input to read", 2) end,
}, { __index = io })
local own_os = setmetatable({ exit = require "llm.exit" }, { __index = os })

local function requests_here(manager)
  local list, now = json.array(), core.now()
  for _, record in pairs(manager.server.live) do
    local req = record.req
    list[#list + 1] = { id = req.id, method = req.method, path = req.path, worker = (workers.me()),
                        seconds = math.floor((now - record.since) * 1000) / 1000 }
  end
  return list
end

-- Those of all workers, oldest first.
local function requests(manager)
  local list = requests_here(manager)
  for _, others in pairs(workers.call_others "requests" or {}) do
    for _, request in ipairs(others) do list[#list + 1] = request end
  end
  table.sort(list, function(a, b) return a.seconds > b.seconds end)
  return list
end

local function kv(engine)
  local stats, info = engine:stats(), engine:info()
  local hits = stats.n_prefix_queries > 0 and stats.n_prefix_hits / stats.n_prefix_queries or 0
  return { pages = stats.n_blocks, used = stats.n_blocks_used, peak = stats.n_blocks_peak,
           page_tokens = info.block_size, bytes_per_token = info.kv_bytes_per_token, waste_peak = stats.kv_waste_peak,
           prefix_hit_rate = hits, running = stats.n_running, waiting = stats.n_waiting,
           preemptions = stats.n_preemptions }
end

local function must(value, failure)
  if not value then error(type(failure) == "table" and failure.message or failure, 3) end
  return value
end

local names = {
  { "server", "the server: server:get(path, handler) adds a route at once, server:stats() counts connections" },
  { "engine", "the first engine, engines all: engine:stats(), engine:load_policy(name, text), engine:reset_prefix_cache()" },
  { "requests()", "those that are being answered, oldest first" },
  { "kv()", "pages of KV memory, prefix cache" },
  { "policies()", "those that are loaded, by generation" },
  { "scripts()", "generations of the server's script, their files, the last failure" },
  { "accounts()", "what each script has used: calls, seconds, kills" },
  { "reload()", "loads the server's script anew; rollback() goes back" },
  { "help(name)", "the reference: help 'engine:generate', help(llm.server)" },
}

local function help(name)
  if name ~= nil then return reference.help(name) end
  local lines = {}
  for i, entry in ipairs(names) do lines[i] = ("  %-12s %s"):format(entry[1], entry[2]) end
  return reference.text(table.concat(lines, "\n"))
end

-- The globals of the prompt. They stay from line to line, for all who attach.
local function environment(manager)
  local env = manager.attach_env
  if not env then
    env = setmetatable({ llm = require "llm", openai = require "llm.openai", print = print_back, help = help, io = own_io, os = own_os,
      requests = function() return requests(manager) end,
      kv = function(engine) return kv(engine or script.engines()[1]) end,
      policies = function() return policies.status(script.engines()) end,
      scripts = function() return manager:status_of_all() end,
      accounts = core.accounts,
      reload = function() return must(manager:reload()).id end,
      rollback = function() return must(manager:rollback()).id end,
    }, { __index = _G })
    env._G = env
    manager.attach_env = env
  end
  env.server, env.engines = manager.server.active, script.engines() -- a reload may have changed them
  env.engine = env.engines[1]
  return env
end

-- ---- running a line ------------------------------------------------------------------------------------------

-- In a LuaJIT whose compiled loops do not notice a deadline, nothing is compiled while a line runs.
local function guard()
  local was_on
  return function(entering)
    if core.checks_hooks then return end
    if entering then
      was_on = jit.status()
      jit.off()
    elseif was_on then
      jit.on()
    end
  end
end

local function describe_failure(task, failure, killed)
  if tasks.is_canceled(failure) then return failure.reason end
  if type(failure) == "table" and failure.exit_code then return "a prompt in a server cannot end it" end
  if killed or type(failure) ~= "string" then return tostring(failure) end
  local text = debug.traceback(task.co, failure):gsub("\n%s*lua/llm/attach%.lua:%d+: in function.*$", "")
  return session.trim_traceback(text)
end

local function cut(text)
  if not text or #text <= MOST then return text end
  return ("%s … (%d bytes more)"):format(text:sub(1, MOST), #text - MOST)
end

-- In a task: {output, values or error}.
local function evaluate(manager, text)
  local chunk, message = session.compile(text)
  if not chunk then return { output = "", error = message } end
  setfenv(chunk, environment(manager))
  local me, output, answer = tasks.running(), { bytes = 0 }, nil
  local task = { guard = guard(), account = account }
  outputs[task] = output
  tasks.spawn(function() return session.format(chunk()) end, function(ended, ok, result, killed)
    answer = { output = table.concat(output) }
    if ok then answer.values = cut(result) else answer.error = describe_failure(ended, result, killed) end
    tasks.wake(me)
  end, task)
  local timer = tasks.loop():after(SECONDS, function()
    tasks.cancel(task, ("given up: it took longer than %d s"):format(SECONDS))
  end)
  local waited, failure = pcall(function()
    while not answer do tasks.wait() end
  end)
  timer:close()
  if not waited then -- who asked has left
    tasks.cancel(task, "left")
    error(failure, 0)
  end
  return answer
end

local function complete(manager, word) return session.complete(word, environment(manager)) end

-- ---- over HTTP -----------------------------------------------------------------------------------------------

-- Answers with what worker 1 says.
local function ask_first(name, argument)
  local ok, result = workers.call(1, name, argument)
  if not ok then http.error(500, result) end
  return result
end

local function field(req, name)
  local body = req:json()
  local value = type(body) == "table" and body[name]
  if type(value) ~= "string" then http.error(400, ('the body must be {"%s": "…"}'):format(name)) end
  return value
end

local function check_allowed(manager)
  if not manager.server.active.options.allow_attach then
    http.error(403, "attaching is off: start the server with --allow-attach")
  end
end

M.routes = {
  ["/admin/eval"] = { POST = function(manager, res, req)
    check_allowed(manager)
    local code = field(req, "code")
    res:json(workers.is_second() and ask_first("eval", code) or evaluate(manager, code))
  end },
  ["/admin/complete"] = { POST = function(manager, res, req)
    check_allowed(manager)
    local word = field(req, "word")
    res:json { names = json.array(workers.is_second() and ask_first("complete", word) or complete(manager, word)) }
  end },
}

-- What other workers may ask of this one.
function M.serve_workers(manager)
  workers.handle("eval", function(code) return evaluate(manager, code) end)
  workers.handle("complete", function(word) return complete(manager, word) end)
  workers.handle("requests", function() return requests_here(manager) end)
end

M.HARD, M.SECONDS = HARD, SECONDS

return M
