-- What streams feel of a policy that is loaded beside them: the longest time between two deltas of any of them, while
-- nothing else happens; while the event loop itself loads a policy whose graph was never compiled; while another thread
-- does (engine:load_policy in a task); when the graph is in the cache, and when a generation too many is let go for it;
-- and when policies are removed.
local llm = require "llm"
local tasks = require "llm.task"
local opts = llm.options(arg, {
  { name = "config", type = "path", help = "directory with a config.json", required = true },
  { name = "streams", type = "integer", initial = 64, min = 1 },
  { name = "depth", type = "integer", initial = 256, min = 1, help = "tokens of their prompts" },
  { name = "rounds", type = "integer", initial = 3, min = 1 },
})
opts.model, opts.load_format, opts.skip_tokenizer_init = opts.config, "dummy", true
opts.max_model_len = opts.max_model_len or 16384
opts.max_num_seqs = opts.max_num_seqs or math.max(256, opts.streams)
local engine = llm.engine(opts)
math.randomseed(os.time())

-- A policy that was never compiled here: the order of its operations is its own.
local n_made = 0
local function new_policy(tables)
  n_made = n_made + 1
  local steps = { "x * 1.01", "x - 0.25", "g.max(x, -50)", "g.min(x, 60)", "x + g.tokens() * 1e-6", "x - g.max(x) * 0.1",
                  "g.where(g.gt(x, 3), x, x - 0.5)", "x - g.log(g.sum(g.exp(x - g.max(x))))" }
  local lines = {}
  for i = 1, 24 do lines[i] = "  x = " .. steps[math.random(#steps)] end
  if tables then lines[#lines + 1] = "  x = x - g.counts('output') * 0.5" end
  local name = ("made_%d"):format(n_made)
  return name, ([[
local policy = require "llm".policy(%q)
function policy.graph(g, logits)
  local x = logits
%s
  return x
end
return policy
]]):format(name, table.concat(lines, "\n"))
end

local running, gaps, longest = true, {}, 0

local function stream()
  local ids = {}
  for i = 1, opts.depth do ids[i] = math.random(0, engine:info().vocab_size - 1) end
  while running do
    local last
    local deltas = engine:stream(ids, { temperature = 1, max_tokens = 8192, ignore_eos = true, detokenize = false })
    for _ in function() return running and deltas:next() or nil end do
      local now = llm.now()
      if last then
        gaps[#gaps + 1] = now - last
        longest = math.max(longest, now - last)
      end
      last = now
    end
    deltas:close()
  end
end

-- f, among the streams; half a second before and after it counts, too.
local function window(name, f)
  gaps, longest = {}, 0
  llm.sleep(0.5)
  local before, began = engine:stats().n_steps, llm.now()
  f()
  local seconds = llm.now() - began
  local steps = engine:stats().n_steps - before
  llm.sleep(0.5)
  table.sort(gaps)
  print(("%-26s took %8.1f ms  gaps: median %6.2f  p99.9 %7.2f  longest %8.2f ms  steps meanwhile %d")
    :format(name, seconds * 1e3, gaps[math.ceil(#gaps / 2)] * 1e3, gaps[math.ceil(#gaps * 0.999)] * 1e3, longest * 1e3,
      steps))
  io.flush()
end

local function on_the_loop(name, text)
  assert(engine.handle:policy_load("=" .. name, text, 1, 0.01, 0.1, 2 ^ 28))
end

tasks.run(function()
  for _ = 1, opts.streams do tasks.spawn(stream) end
  llm.sleep(3)
  local cached
  for _ = 1, opts.rounds do
    window("nothing", function() llm.sleep(0.7) end)
    local name, text = new_policy()
    window("on the loop", function() on_the_loop(name, text) end)
    name, text = new_policy()
    cached = { name, text }
    window("beside", function() engine:load_policy(name, text) end)
    name, text = new_policy(true)
    window("beside, with history", function() engine:load_policy(name, text) end)
    window("cached, on the loop", function() on_the_loop(unpack(cached)) end)
    window("cached, beside", function() engine:load_policy(unpack(cached)) end)
    for _ = 1, 4 do engine:load_policy(unpack(cached)) end
    window("cached, one is let go", function() engine:load_policy(unpack(cached)) end)
    local list = {}
    for i = 1, 4 do list[i] = { new_policy() } end
    window("four beside", function()
      local n_left, me = #list, tasks.running()
      for _, policy in ipairs(list) do
        tasks.spawn(function()
          engine:load_policy(unpack(policy))
          n_left = n_left - 1
          tasks.wake(me)
        end)
      end
      while n_left > 0 do tasks.wait() end
    end)
    window("removed", function()
      for i = n_made - 4, n_made do pcall(engine.remove_policy, engine, ("made_%d"):format(i)) end
    end)
  end
  running = false
  for _, info in ipairs(engine:policies()) do
    if info.on_host then print("on the host: " .. info.name .. ": " .. info.on_host) break end
  end
end)
engine:close()
