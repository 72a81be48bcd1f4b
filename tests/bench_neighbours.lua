-- What a runaway script costs the others: the time between tokens of streams on a server whose model computes nothing
-- but takes its time for a step, alone and while a request a second runs into its limit.
--
--   build/llmlua tests/bench_neighbours.lua [--streams 16] [--seconds 7] [--step 10] [--rate 1]
--
-- Measured at the client, a process of its own on the same machine. Each figure with runaways stands beside one of the
-- same server just before, without.

local llm = require "llm"

local here = arg[0]:match "^(.*)/" or "."
package.path = here .. "/lua/?.lua;" .. package.path
local support, process = require "support", require "process"

local opts = llm.options(arg, {
  summary = "Times streams beside runaway scripts.", engine = false,
  { name = "streams", type = "count", initial = 16, help = "neighbours" },
  { name = "seconds", type = "number", initial = 7, help = "of each measurement" },
  { name = "step", type = "number", initial = 10, help = "milliseconds of the model's step" },
  { name = "rate", type = "number", initial = 1, help = "runaways a second" },
})

local POLICY = [[
local policy = require "llm".policy("runaway", {})
function policy.candidates() while true do end end
return policy
]]

-- serve.lua with a route that loops, and such a limit for handlers (seconds).
local function script(limit)
  local lines = ([[
require("llm.task").SOFT, require("llm.task").HARD = %g, %g
server:get("/loop", function() while true do end end)
]]):format(limit, limit)
  return support.file((support.slurp(support.root .. "/scripts/serve.lua"):gsub('server:get%("/health"', lines .. "%0", 1)))
end

local function post(url, body)
  return assert(llm.fetch(url .. "/v1/completions", { method = "POST", body = llm.json.encode(body), stream = body.stream,
    headers = { ["Content-Type"] = "application/json" } }))
end

-- One neighbour: adds the seconds between its tokens to a list.
local function neighbour(url, gaps, till)
  local reply = post(url, { prompt = "a", max_tokens = 16000, ignore_eos = true, temperature = 0, stream = true })
  assert(reply.status == 200)
  local last
  while llm.now() < till do
    local text = reply:read()
    local now = llm.now()
    local _, n = text:gsub("data: ", "")
    if last and n > 0 then
      gaps[#gaps + 1] = now - last
      for _ = 2, n do gaps[#gaps + 1] = 0 end -- tokens that came together
    end
    if n > 0 then last = now end
  end
  reply:close()
end

-- Sorted seconds between tokens of all neighbours; runaway(url): starts one, returns when it has ended.
local function measure(url, runaway)
  local gaps, n, till = {}, 0, llm.now() + opts.seconds
  local jobs = {}
  for i = 1, opts.streams do jobs[i] = function() neighbour(url, gaps, till) end end
  jobs[#jobs + 1] = function()
    while runaway and llm.now() + 1 / opts.rate < till do
      llm.sleep(1 / opts.rate)
      runaway(url)
      n = n + 1
    end
  end
  llm.parallel(jobs)
  table.sort(gaps)
  return gaps, n
end

local function ms(gaps, q) return 1e3 * gaps[math.max(1, math.ceil(q * #gaps))] end

local function compare(what, limit, more, runaway)
  local words = { script(limit), "--load-format", "null", "--null-step-ms", tostring(opts.step), "--port", "0",
                  "--disable-access-log" }
  for _, word in ipairs(more) do words[#words + 1] = word end
  local server = process.start(words)
  local without = measure(server.url)
  local with, n = measure(server.url, runaway)
  print(("%-34s %3d  %6.2f %6.2f  %6.2f %6.2f  %6.1f %%  %6.2f %6.2f"):format(what, n, ms(without, .5), ms(with, .5),
    ms(without, .99), ms(with, .99), 100 * (ms(with, .99) / ms(without, .99) - 1), ms(without, 1), ms(with, 1)))
  server:stop()
  os.remove(words[1])
end

local function loop_of_client(url)
  assert(post(url, { prompt = "a", script = "while true do end" }).status == 400)
end

local function loop_of_handler(url)
  assert(assert(llm.fetch(url .. "/loop")).status == 500)
end

local function loop_of_policy(url)
  assert(post(url, { prompt = "a", max_tokens = 4, policy = "runaway" }).status >= 400)
end

local directory = support.directory()
support.write(directory .. "/runaway.lua", POLICY)

require("llm.task").run(function()
  print(("%d streams, a step of %g ms, %g runaways a second; ms between tokens, without and with"):format(opts.streams,
    opts.step, opts.rate))
  print(("%-34s %3s  %13s  %13s  %8s  %13s"):format("", "n", "median", "99 %", "", "worst"))
  compare("a client's script, 50 ms", 5, { "--allow-client-scripts" }, loop_of_client)
  compare("a hook, deadline 10 ms", 5, { "--policy-dir", directory, "--policy-timeout", "0.01" }, loop_of_policy)
  compare("a hook, deadline 100 ms", 5, { "--policy-dir", directory }, loop_of_policy)
  compare("a handler, limit 10 ms", 0.01, {}, loop_of_handler)
end)
os.execute("rm -r " .. directory)
