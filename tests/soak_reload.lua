-- Hot loading under load, through the real serve.lua on a real model: streaming clients go on while the script is
-- loaded again and again, well or with a mistake in it.
--
--   build/llmlua tests/soak_reload.lua [--reloads 1000] [--clients 32] [--model PATH]
--
-- Exit code 0 only if no request failed, no stream was cut or said anything but what it says without reloads, each
-- mistake left the old script serving and was told with file and line, and neither threads nor memory grew after the
-- first 50 reloads.

local llm = require "llm"

local here = arg[0]:match "^(.*)/" or "."
package.path = here .. "/lua/?.lua;" .. package.path
local support, process = require "support", require "process"

local opts = llm.options(arg, {
  summary = "Reloads a server's script under streaming clients.", engine = false,
  { name = "reloads", type = "count", initial = 1000, help = "how often the script is loaded" },
  { name = "clients", type = "count", initial = 32, help = "streams at a time" },
  { name = "model", type = "path", initial = support.model(), help = "the model to serve" },
})

local SETTLED = 50          -- reloads after which nothing may grow any more
local RSS_SLACK_KIB = 4096  -- ten pages of KV memory, used for the first time when more streams than ever overlap
local MAX_TOKENS = 24
local KEY = "soak"

local source = support.slurp(support.root .. "/scripts/serve.lua")
local before_run = source:find("server:get(\"/health\"", 1, true)

-- serve.lua with something of its own in the midst.
local function script(addition) return source:sub(1, before_run - 1) .. addition .. "\n" .. source:sub(before_run) end
local function version(n) return script(("server:get('/n', function() return '%d' end)"):format(n)) end

local mistakes = {
  { "a syntax error", "local x = = 1", "unexpected symbol" },
  { "a self-test that fails", "server:self_test(function() error 'not good enough' end)", "not good enough" },
  { "an endless loop", "while true do end", "has not loaded within" },
  { "a missing file", "require 'no_such_module_here'", "module 'no_such_module_here' not found" },
}

local function save(path, text)
  support.write(path .. ".new", text)
  assert(os.rename(path .. ".new", path))
end

local function ask(server, method, path)
  local reply, message = llm.fetch(server.url .. path, { method = method, timeout = 60,
    headers = { Authorization = "Bearer " .. KEY } })
  return assert(reply, message)
end

-- One stream: its text, or nil and what was wrong with it.
local function stream(server)
  local reply, message = llm.fetch(server.url .. "/v1/completions", { method = "POST", timeout = 120,
    headers = { Authorization = "Bearer " .. KEY, ["Content-Type"] = "application/json" },
    body = llm.json.encode { prompt = "Once upon a time", max_tokens = MAX_TOKENS, temperature = 0, ignore_eos = true,
                             stream = true } })
  if not reply then return nil, message end
  if reply.status ~= 200 then return nil, reply.status .. " " .. reply.body end
  if reply.body:sub(-14) ~= "data: [DONE]\n\n" then return nil, "cut: " .. reply.body:sub(-200) end
  local parts = {}
  for data in reply.body:gmatch "data: ({.-})\n\n" do
    local event = llm.json.decode(data)
    if event.error then return nil, event.error.message end
    parts[#parts + 1] = event.choices[1].text
  end
  return table.concat(parts)
end

-- Keeps `opts.clients` streams going until state.stop.
local function begin_streams(server, state)
  for _ = 1, opts.clients do
    state.n_clients = state.n_clients + 1
    llm.task.spawn(function()
      while not state.stop do
        local text, message = stream(server)
        state.n_streams = state.n_streams + 1
        if text ~= state.expected then state.bad[#state.bad + 1] = message or "another text: " .. text end
      end
      state.n_clients = state.n_clients - 1
    end)
  end
end

-- Waits until the server answers as version n does.
local function await_version(server, n)
  local till = llm.now() + 30
  while ask(server, "GET", "/n").body ~= tostring(n) do
    if llm.now() > till then error("the script was saved but not loaded:\n" .. server:output():sub(-2000), 0) end
    llm.sleep(0.005)
  end
end

-- Half of the loads by saving the file, half by POST /admin/reload.
local function reload(server, path, i)
  if i % 2 == 0 then
    save(path, version(i))
    return await_version(server, i)
  end
  local reply = ask(server, "POST", "/admin/reload")
  if reply.status ~= 200 then error("a reload failed: " .. reply.body, 0) end
end

local function line_of(text, part)
  local at = text:find(part, 1, true)
  return select(2, text:sub(1, at):gsub("\n", "")) + 1
end

-- Saves a script with a mistake, which is then loaded by request as well; the version before has to go on.
local function try_mistake(server, path, mistake, serving)
  local what, addition, message = unpack(mistake)
  local text = script(addition)
  save(path, text)
  local reply = ask(server, "POST", "/admin/reload")
  local body = llm.json.decode(reply.body)
  local line = line_of(text, addition)
  if reply.status ~= 422 or body.file ~= path or body.line ~= line or not body.error.message:find(message, 1, true) then
    error(("%s at line %d was answered %d %s"):format(what, line, reply.status, reply.body), 0)
  end
  if ask(server, "GET", "/n").body ~= tostring(serving) then error("the old script does not serve after " .. what, 0) end
  print(("%-28s old script serves on; answer: %s"):format(what, body.error.message))
end

local function soak(server, path)
  local expected, message = stream(server)
  if not expected then error("no stream without reloads: " .. message, 0) end
  local state = { expected = expected, n_clients = 0, n_streams = 0, bad = {} }
  begin_streams(server, state)
  while state.n_streams < 2 * opts.clients do llm.sleep(0.01) end -- memory that streams take is taken
  local began, settled = llm.now(), nil
  for i = 1, opts.reloads do
    reload(server, path, i)
    if i == SETTLED then settled = server:status() end
    if i % 100 == 0 then
      local now = server:status()
      print(("%5d reloads  %6d streams  %d KiB  %d threads"):format(i, state.n_streams, now.rss, now.threads))
    end
  end
  local after, seconds = server:status(), llm.now() - began
  local serving = opts.reloads - opts.reloads % 2
  for _, mistake in ipairs(mistakes) do try_mistake(server, path, mistake, serving) end
  state.stop = true
  while state.n_clients > 0 do llm.sleep(0.01) end
  return state, settled or after, after, seconds
end

local function main()
  local directory = support.directory()
  local path = directory .. "/serve.lua"
  save(path, version(0))
  local server = process.start { path, "--model", opts.model, "--host", "127.0.0.1", "--port", "0", "--api-key", KEY,
                                 "--max-model-len", "256", "--disable-access-log" }
  local ok, state, settled, after, seconds = pcall(soak, server, path)
  local load = ok and llm.json.decode(ask(server, "GET", "/load").body)
  local log = server:output()
  server:stop()
  os.execute("rm -r " .. directory)
  if not ok then error(("%s\nThe server's log ends:\n%s"):format(state, log:sub(-2000)), 0) end
  print(("%d reloads in %.1f s under %d clients: %d streams, %d failed; %+d KiB and %+d threads after the first %d")
    :format(opts.reloads, seconds, opts.clients, state.n_streams, #state.bad, after.rss - settled.rss,
      after.threads - settled.threads, SETTLED))
  if #state.bad > 0 then error("first failure: " .. state.bad[1], 0) end
  if load.kv_blocks_used ~= 0 then error(("%d KV pages are still in use"):format(load.kv_blocks_used), 0) end
  if after.threads > settled.threads then error("threads were left behind", 0) end
  if after.rss > settled.rss + RSS_SLACK_KIB then error("the server's memory has grown", 0) end
end

llm.try(llm.task.run, main)
