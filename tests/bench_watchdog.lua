-- What the watchdog costs, and how late it is: build/llmlua tests/bench_watchdog.lua
-- Lateness is time past the deadline until the caller has control again; the processor's other work is in it.

local core = require "llm.core"

local function quantile(list, q)
  table.sort(list)
  return list[math.max(1, math.ceil(q * #list))]
end

local function loop() while true do end end

local runaways = {
  { "while true do end", loop },
  { "the same in pcall, in a loop", function() while true do pcall(loop) end end },
  { "the same in a coroutine", function() while true do coroutine.wrap(loop)() end end },
  { "pcall to the end of the stack", function()
    local function f()
      pcall(f)
      loop()
    end
    f()
  end },
}

local DEADLINE, ROUNDS = 0.01, 100
print(("%-32s %10s %10s %10s"):format("ms past a deadline of 10 ms", "median", "p90", "worst"))
local function report(what, late)
  print(("%-32s %10.3f %10.3f %10.3f"):format(what, 1e3 * quantile(late, .5), 1e3 * quantile(late, .9),
    1e3 * quantile(late, 1)))
end

for _, entry in ipairs(runaways) do
  local account, late = core.account("policy", "bench", nil, DEADLINE), {}
  for i = 1, ROUNDS do
    local co = coroutine.create(entry[2])
    local start = core.now()
    core.resume(account, co)
    late[i] = core.now() - start - DEADLINE
  end
  report(entry[1], late)
end

local account, late, opened = core.account("client", "bench"), {}, {}
for i = 1, ROUNDS do
  local start = core.now()
  local box = assert(core.sandbox(account, { memory = 2 ^ 24, seconds = DEADLINE, slice = 0.0005, output = 1, data = 1000 }))
  opened[i] = core.now() - start
  local event = box:run("while true do end", { request = {}, tools = {} })
  while event == "slice" do event = box:run() end
  late[i] = box:usage() - DEADLINE
  box:close()
end
report("a client's script, in slices", late)
print(("%-32s %10.3f"):format("ms to open a sandbox", 1e3 * quantile(opened, .5)))

local N, best = 1e6, { math.huge, math.huge }
local co = coroutine.create(function() while true do coroutine.yield() end end)
local empty = core.account("policy", "bench", 1, 2)
for _ = 1, 5 do
  local start = core.now()
  for _ = 1, N do coroutine.resume(co) end
  best[1] = math.min(best[1], core.now() - start)
  start = core.now()
  for _ = 1, N do core.resume(empty, co) end
  best[2] = math.min(best[2], core.now() - start)
end
print(("%-32s %10.1f"):format("ns of coroutine.resume", best[1] / N * 1e9))
print(("%-32s %10.1f"):format("ns of the same, watched", best[2] / N * 1e9))
