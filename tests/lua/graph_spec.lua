-- Tracing graphs: what becomes of the text, errors that point at the line, and what the functions of g compute.
local core = require "llm.core"
local functions = require "llm.graph.functions"
local graph = require "llm.graph"
local support = require "support"

local inf = math.huge

local function trace(f, defaults) return (graph.trace(f, defaults)) end

-- The nodes of the text without declarations, operands and numbers: "logits mul draw".
local function operations(text)
  local names = {}
  for op in text:gmatch("%%%d+ %a+ = ([%a_]+)") do names[#names + 1] = op end
  return table.concat(names, " ")
end

local function logits_of(n, seed)
  local row, state = {}, seed or 1
  for i = 1, n do
    state = (state * 16807) % 2147483647
    row[i] = state / 2147483647 * 12 - 6
  end
  return row
end

-- Runs f once on the row; arguments as in the call of llm.core.graph.
local function run(f, logits, call, defaults)
  local g = graph.sequence(f, defaults, #logits)
  call = call or {}
  call.logits = logits
  local result, message = g:run(call)
  assert(result, message)
  return result, g
end

-- A num of the graph: it is stored and read back.
local function value(f, logits, call, defaults)
  local _, g = run(function(g, x, p)
    local s = g.state{ value = 0 }
    s.value = f(g, x, p)
    return x
  end, logits, call, defaults)
  return g:variable("value")
end

local function line() return debug.getinfo(2, "l").currentline end

describe("tracing", function()
  it("makes one node of equal expressions, whatever the order of the operands", function()
    local text = trace(function(g, x)
      local a, b = g.exp(x) + 1, 1 + g.exp(x)
      return a * b
    end)
    assert.equal("logits exp const add mul", operations(text))
  end)

  it("leaves out what the result does not need", function()
    local text = trace(function(g, x, p)
      local _ = g.sum(g.exp(x)) * p.unused
      return x * p.used
    end, { unused = 1, used = 2 })
    assert.equal("logits param mul", operations(text))
    assert.is_nil(text:find("unused", 1, true))
  end)

  it("computes constants and drops operations that change nothing", function()
    local text = trace(function(g, x)
      local k = g.exp(g.max(0, 2 - 2)) * 3 ^ 2
      return g.where(g.lt(1, 2), x * 1 + 0 * k, x) / k - 0
    end)
    assert.equal("logits const const add div", operations(text))
    assert.truthy(text:find("const 9\n", 1, true))
    assert.equal("logits mul", operations(trace(function(_, x) return (x ^ 2) ^ 1 end)))
  end)

  it("does not look for the maximum of a filtered row again", function()
    local text = trace(function(g, x) return g.sample(g.min_p(g.top_p(g.top_k(x, 50), 0.9), 0.1)) end)
    assert.equal(1, select(2, text:gsub("row_max", "")))
    assert.equal(1, select(2, text:gsub("= exp", "")))
  end)

  it("declares parameters with their ranges, and only those that are used", function()
    local text, tables = graph.trace(function(g, x, p)
      return g.where(g.land(g.set(p.banned), p.on), -inf, x / p.t)
    end, { t = 0.7, banned = { 1, 2 }, on = true, other = "text" }, { t = { 0.01, 5 } })
    assert.truthy(text:find("param t num 0.7 0.01 5\n", 1, true))
    assert.truthy(text:find("param on num 1 0 1\n", 1, true))
    assert.truthy(text:find("param banned list\n", 1, true))
    assert.same({ banned = { 1, 2 } }, tables)
  end)

  it("prints what the C side prints", function()
    local text = trace(function(g, x, p)
      local s = g.state{ mu = 0.1, ring = { 1, 2.5, -inf } }
      s.ring = g.push(s.ring, s.mu)
      s.mu = s.mu + g.random()
      return g.sample(x * p.t + g.token_hash(p.t, g.last(1)) + g.repeats{ breakers = { 3, 4 }, max = 8 })
    end, { t = 1e-7 })
    assert.equal(text, assert(core.graph(text, 10)):dump())
  end)

  it("gives each random number a site of its own", function()
    local text = trace(function(g, x) return g.sample(x + g.random() + g.random()) end)
    assert.truthy(text:find("random 1\n", 1, true) and text:find("random 2\n", 1, true) and text:find("draw 0 ", 1, true))
  end)
end)

describe("mistakes", function()
  -- Each function, the line it fails on, and part of the message.
  local function fails(f, at, part, defaults)
    local ok, message = pcall(graph.trace, f, defaults)
    assert.falsy(ok)
    assert.truthy(message:find(part, 1, true), message)
    local place = "graph_spec.lua:" .. at .. ":"
    assert.truthy(message:find(place, 1, true), message .. "\nis not at line " .. at)
  end

  it("are told with the line they are on", function()
    fails(function(g, x)
      local a = g.max(x)
      if a < 3 then return x end
    end, line() - 1, "use g.lt")
    fails(function(g, x)
      if g.max(x) <= g.min(x) then return x end
    end, line() - 1, "cannot compare with < or <=")
    fails(function(g, x)
      if g.max(x) == g.min(x) then return x end
    end, line() - 1, "cannot compare with ==")
    fails(function(g, x)
      if g.lt(g.max(x), 3) then return x end
      return x * 2
    end, line() - 2, "a Lua `if`")
    fails(function(_, x)
      local a = x[3]
      return a
    end, line() - 2, "g.gather(row, id)")
    fails(function(_, x)
      x[3] = 1
    end, line() - 1, "g.where(mask, x, row)")
    fails(function(_, x)
      local a = math.exp(x)
      return a
    end, line() - 2, "such as g.exp")
    fails(function(g, x)
      local a = g.softmx(x)
      return a
    end, line() - 2, "did you mean 'softmax'?")
    fails(function(_, x, p)
      local a = x * p.temprature
      return a
    end, line() - 2, "there is no parameter 'temprature'", { temperature = 1 })
    fails(function(g, x)
      local a = g.lt(x, 1) + 3
      return a
    end, line() - 2, "g.where(mask, 1, 0)")
    fails(function(_, x)
      local a = x + nil
      return a
    end, line() - 2, "operand 2 of + must be a row or a number; it is nil")
    fails(function(g, x)
      local a = g.kth(3, x)
      return a
    end, line() - 2, "operand 1 of g.kth must be a row")
    fails(function(g, x)
      local s = g.state{ mu = 1 }
      s.nu = 2
      return x
    end, line() - 2, "there is no variable nu")
    fails(function(_, x)
      local a = x .. "!"
      return a
    end, line() - 2, "no text")
    fails(function(_, x, p)
      local a = x * p.name
      return a
    end, line() - 2, "parameter name is a string", { name = "x" })
  end)

  it("in what is returned name the function", function()
    fails(function(g, x) return g.lt(x, 1) end, line(), "returned a mask")
    fails(function() return 7 end, line(), "returned a Lua number")
    fails(function() end, line(), "returned nil")
    fails(function(_, x) return math.exp(x) end, line(), "such as g.exp")
  end)

  it("leave the tracer fit for the next graph, and values of one graph out of another", function()
    local kept
    assert.falsy(pcall(graph.trace, function(_, x) kept = x error("stop") end))
    fails(function(_, x)
      local a = x + kept
      return a
    end, line() - 2, "belongs to another graph")
    assert.equal("logits", operations(trace(function(_, x) return x end)))
  end)
end)

describe("functions of g", function()
  local logits = logits_of(700)
  local function near(a, b, tolerance) assert.truthy(math.abs(a - b) <= (tolerance or 1e-5) * math.max(1, math.abs(b)), a .. " is not " .. b) end

  local function softmax(row)
    local max, total, p = -inf, 0, {}
    for _, x in ipairs(row) do max = math.max(max, x) end
    for i, x in ipairs(row) do p[i] = math.exp(x - max) total = total + p[i] end
    for i in ipairs(p) do p[i] = p[i] / total end
    return p
  end

  local function sum(list, f)
    local total = 0
    for _, v in ipairs(list) do total = total + f(v) end
    return total
  end

  it("agree with their definitions", function()
    local n, p = #logits, softmax(logits)
    local mean = sum(logits, function(x) return x end) / n
    near(value(function(g, x) return g.mean(x) end, logits), mean)
    near(value(function(g, x) return g.variance(x) end, logits), sum(logits, function(x) return (x - mean) ^ 2 end) / n)
    near(value(function(g, x) return g.logsumexp(x) end, logits), math.log(sum(logits, math.exp)))
    near(value(function(g, x) return g.entropy(x) end, logits), -sum(p, function(v) return v * math.log(v) end))
    near(value(function(g, x) return g.entropy(g.mask(x, g.lt(x, 0))) end, logits),
         (function()
           local kept = {}
           for _, x in ipairs(logits) do if x < 0 then kept[#kept + 1] = x end end
           return -sum(softmax(kept), function(v) return v * math.log(v) end)
         end)())
    near(value(function(g, x) return g.sum(g.softmax(x)) end, logits), 1)
    near(value(function(g, x) return g.gather(g.log_softmax(x), 5) end, logits), math.log(p[6]))
    assert.equal(3 % -2, value(function(g) return (g.vocab() - 697) % -2 end, logits))
    assert.equal(-2, value(function(g) return g.round(g.vocab() - 702.4) end, logits))
    assert.equal(-1, value(function(g) return g.ceil(g.vocab() - 701.4) end, logits))
    local rank = 1
    for _, x in ipairs(logits) do if x > logits[11] then rank = rank + 1 end end
    assert.equal(rank, value(function(g, x) return g.rank(x, 10) end, logits))
    assert.equal(1, value(function(g, x) return g.where(g.any(g.gt(x, 5)), 1, 0) end, logits))
    assert.equal(0, value(function(g, x) return g.where(g.all(g.gt(x, 5)), 1, 0) end, logits))
    assert.equal(0, value(function(g, x) return g.clamp(g.min(x), 0, 1) end, logits))
  end)

  it("filter rows as sorting does", function()
    local order = {}
    for i = 1, #logits do order[i] = i end
    table.sort(order, function(a, b) return logits[a] > logits[b] end)
    local p = softmax(logits)
    local function kept(f)
      local row, n = run(f, logits), 0
      for _, x in ipairs(row) do if x > -inf then n = n + 1 end end
      for i = 1, n do assert.truthy(row[order[i]] > -inf) end
      return n
    end
    assert.equal(17, kept(function(g, x) return g.top_k(x, 17) end))
    assert.equal(#logits, kept(function(g, x) return g.top_k(x, 0) end))
    local mass, n = 0, 0
    repeat n = n + 1 mass = mass + p[order[n]] until mass >= 0.5
    assert.equal(n, kept(function(g, x) return g.top_p(x, 0.5) end))
    n = 0
    for i = 1, #p do if p[i] >= 0.2 * p[order[1]] then n = n + 1 end end
    assert.equal(n, kept(function(g, x) return g.min_p(x, 0.2) end))
    assert.equal(3, kept(function(g, x) return g.top_p(g.top_k(x, 3), 0.999) end))
  end)

  it("read the request and the history", function()
    local call = { prompt = { 5, 6, 7, 5, 6 }, output = { 7, 5, 6 }, temperature = 0.5, top_k = 40, top_p = 0.9, min_p = 0.05 }
    local function number(f) return value(f, logits, call) end
    assert.equal(8, number(function(g) return g.position() end))
    assert.equal(5, number(function(g) return g.n_prompt() end))
    assert.equal(3, number(function(g) return g.n_output() end))
    assert.equal(40.5, number(function(g) return g.request.top_k + g.request.temperature end))
    near(number(function(g) return g.request.top_p + g.request.min_p end), 0.95)
    assert.equal(6, number(function(g) return g.last() end))
    assert.equal(5, number(function(g) return g.last(8) end))
    assert.equal(-1, number(function(g) return g.last(9) end))
    assert.equal(1, number(function(g) return g.gather(g.counts("output"), 6) end))
    assert.equal(1, number(function(g) return g.gather(g.counts("prompt"), 6) end))
    assert.equal(0, number(function(g) return g.gather(g.counts("prompt"), 8) end))
    assert.equal(2, number(function(g) return g.gather(g.recent(5), 5) end))
    assert.equal(8, number(function(g) return g.sum(g.recent(100)) end))
    -- ... 5 6 7 5 6 | 7 5 6: "5 6" was followed by 7 twice, once after 7 5 6 before it.
    assert.equal(5, number(function(g) return g.gather(g.repeats(), 7) end))
    assert.equal(2, number(function(g) return g.gather(g.repeats{ max = 2 }, 7) end))
    assert.equal(1, number(function(g) return g.gather(g.repeats{ breakers = { 5 } }, 7) end))
    assert.equal(0, number(function(g) return g.max(g.repeats{ breakers = { 6 } }) end))
    assert.equal(0, number(function(g) return g.max(g.repeats{ window = 3 }) end))
  end)

  it("take token lists and pairs", function()
    local _, g = run(function(g, x, p)
      return g.where(g.set(p.banned), -inf, x) + g.scatter(p.bias)
    end, logits, nil, { banned = {}, bias = graph.pairs{} })
    assert(g:set("banned", { 0, 699 }))
    assert(g:set("bias", graph.pairs{ [3] = 2, [698] = -1 }))
    local row = assert(g:run{ logits = logits })
    assert.equal(-inf, row[1])
    assert.equal(-inf, row[700])
    near(row[4], logits[4] + 2)
    near(row[699], logits[699] - 1)
    near(row[5], logits[5])
    local ok, message = g:set("banned", { 700 })
    assert.is_nil(ok)
    assert.truthy(message:find("banned has token 700", 1, true))
  end)

  it("keep variables between tokens, and only if the run succeeds", function()
    local text = trace(function(g, x, p)
      local s = g.state{ n = 0, ring = { 0, 0, 0 } }
      s.n = s.n + 1
      s.ring = g.put(g.push(s.ring, s.n), 1, g.at(s.ring, 2) * 10)
      return g.where(g.gt(s.n, p.limit), -inf, x)
    end, { limit = 3 })
    local g = assert(core.graph(text, 4))
    for i = 1, 3 do
      assert(g:run{ logits = { 1, 2, 3, 4 } })
      assert.equal(i, g:variable("n"))
    end
    assert.same({ 10, 2, 3 }, g:variable("ring"))
    local row, message = g:run{ logits = { 1, 2, 3, 4 } }
    assert.is_nil(row)
    assert.truthy(message:find("masks all tokens", 1, true))
    assert.equal(3, g:variable("n"))
  end)

  it("draw as often as the weights say, each position anew", function()
    local g = assert(core.graph(trace(function(g, x) return g.sample(x) end), 4))
    local seen = { 0, 0, 0, 0 }
    for seed = 1, 4000 do
      local token = g:run{ logits = { math.log(1), math.log(2), math.log(5), -inf }, seed = seed }
      seen[token + 1] = seen[token + 1] + 1
    end
    near(seen[1], 500, 0.15)
    near(seen[2], 1000, 0.1)
    assert.equal(0, seen[4])
    local first, differs = g:run{ logits = { 0, 0, 0, 0 }, seed = 9 }, false
    for n = 1, 20 do
      local output = {}
      for i = 1, n do output[i] = 0 end
      differs = differs or g:run{ logits = { 0, 0, 0, 0 }, seed = 9, output = output } ~= first
    end
    assert.truthy(differs)
  end)

  it("hash as the detector's functions do", function()
    local row = run(function(g, x) return g.where(g.lt(x, inf), g.token_hash(42, g.last()), 0) end, logits, { output = { 17 } })
    for i = 1, #row do assert.equal(core.graph_hash({ 42, 17 }, i - 1), row[i]) end
    near(sum(row, function(v) return v end) / #row, 0.5, 0.05)
    near(value(function(g) return g.hash(1, 2, 3) end, logits), core.graph_hash({ 1, 2, 3 }), 0)
  end)

  it("gumbel noise samples as draws do", function()
    local g = assert(core.graph(trace(function(g, x) return g.argmax(x + g.gumbel()) end), 3))
    local seen = { 0, 0, 0 }
    for seed = 1, 4000 do
      local token = g:run{ logits = { math.log(1), math.log(3), 0 - inf }, seed = seed }
      seen[token + 1] = seen[token + 1] + 1
    end
    near(seen[1], 1000, 0.1)
    assert.equal(0, seen[3])
  end)

  it("penalize as vLLM does", function()
    local row = run(function(g, x) return g.penalize(x, { repetition = 2, frequency = 0.5, presence = 0.25 }) end,
                    { 1, -1, 3, 4, -5 }, { prompt = { 0, 1 }, output = { 2, 2, 4 } })
    assert.same({ 0.5, -2, 1.5 - 1.25, 4, -10 - 0.75 }, row)
  end)

  it("run through the default sampling of the request", function()
    local g = assert(core.graph(trace(function(g, x) return g.default(x) end), #logits))
    local best = 1
    for i, x in ipairs(logits) do if x > logits[best] then best = i end end
    for seed = 1, 20 do
      assert.equal(best - 1, g:run{ logits = logits, seed = seed, temperature = 0 })
      assert.equal(best - 1, g:run{ logits = logits, seed = seed, top_k = 1 })
      assert.equal(best - 1, g:run{ logits = logits, seed = seed, top_p = 0.001 })
      assert.equal(best - 1, g:run{ logits = logits, seed = seed, min_p = 1 })
    end
  end)
end)

describe("docs/graph.md", function()
  local text = support.slurp(support.root .. "/docs/graph.md")

  it("has every function of g, and no other", function()
    for name in pairs(functions) do
      assert.truthy(text:find("g%." .. name .. "[^%w_]"), "g." .. name .. " is not described")
    end
    for name in text:gmatch("g%.([%a_]+)[({]") do assert.truthy(rawget(functions, name), "there is no g." .. name) end
  end)

  it("shows the text that min_p has", function()
    local policy = graph.load(support.root .. "/scripts/policies/min_p.lua")
    assert.truthy(text:find("```\n" .. policy.text .. "```", 1, true))
  end)
end)
