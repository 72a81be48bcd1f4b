-- How long a change of a server's script takes to serve: from the save to the first answer of the new code, beside
-- nothing and under streaming clients, through the watched file and through POST /admin/reload.
--
--   build/llmlua tests/bench_reload.lua [--rounds 50] [--clients 8] [--model PATH]
--
-- The client asks again as soon as it has its answer, over one connection after the other.

local llm = require "llm"

local here = arg[0]:match "^(.*)/" or "."
package.path = here .. "/lua/?.lua;" .. package.path
local support, process = require "support", require "process"

local opts = llm.options(arg, {
  summary = "Times hot loading.", engine = false,
  { name = "rounds", type = "count", initial = 50, help = "changes of the script for each figure" },
  { name = "clients", type = "count", initial = 8, help = "streams at a time in the second half" },
  { name = "model", type = "path", initial = support.model(), help = "the model to serve" },
})

local KEY = "bench"
local source = support.slurp(support.root .. "/scripts/serve.lua")

local function save(path, n)
  support.write(path,
    (source:gsub('server:get%("/health"', ("server:get('/n', function() return '%d' end)\n%%0"):format(n), 1)))
end

local function ask(server, method, path, body)
  return assert(llm.fetch(server.url .. path, { method = method, body = body,
    headers = { Authorization = "Bearer " .. KEY, ["Content-Type"] = "application/json" } }))
end

local function await_version(server, n)
  while ask(server, "GET", "/n").body ~= tostring(n) do end
end

local n = 0

-- Milliseconds from the save to the first answer of the new code. by_request: not by the watched file.
local function change(server, path, by_request)
  n = n + 1
  local began = llm.now()
  save(path, n)
  if by_request then assert(ask(server, "POST", "/admin/reload").status == 200) end
  await_version(server, n)
  local ms = (llm.now() - began) * 1000
  llm.sleep(0.05) -- the watched file's look at it is over
  return ms
end

local function measure(server, path, what, by_request)
  local times = {}
  for i = 1, opts.rounds do times[i] = change(server, path, by_request) end
  table.sort(times)
  print(("%-40s median %5.1f ms   worst %5.1f ms"):format(what, times[math.ceil(opts.rounds / 2)], times[opts.rounds]))
end

local function begin_streams(server)
  local state = { n = opts.clients }
  local body = llm.json.encode { prompt = "Once upon a time", max_tokens = 64, ignore_eos = true, stream = true }
  for _ = 1, opts.clients do
    llm.task.spawn(function()
      while not state.stop do ask(server, "POST", "/v1/completions", body) end
      state.n = state.n - 1
    end)
  end
  return state
end

local function main()
  local directory = support.directory()
  local path = directory .. "/serve.lua"
  save(path, 0)
  local server = process.start { path, "--model", opts.model, "--host", "127.0.0.1", "--port", "0", "--api-key", KEY,
                                 "--max-model-len", "256", "--disable-access-log" }
  local ok, failure = pcall(function()
    measure(server, path, "saved, idle", false)
    measure(server, path, "POST /admin/reload, idle", true)
    local streams = begin_streams(server)
    measure(server, path, ("saved, %d streams"):format(opts.clients), false)
    measure(server, path, ("POST /admin/reload, %d streams"):format(opts.clients), true)
    streams.stop = true
    while streams.n > 0 do llm.sleep(0.01) end
  end)
  server:stop()
  os.execute("rm -r " .. directory)
  if not ok then error(failure, 0) end
end

llm.try(llm.task.run, main)
