-- The policies of scripts/policies against their published formulas, written out in plain Lua over sorted lists.
local graph = require "llm.graph"
local support = require "support"
local watermark = require "llm.watermark"

local inf = math.huge

local function load_policy(name, library)
  local policy = graph.load(support.root .. "/scripts/policies/" .. name .. ".lua", library)
  assert.equal(name, policy.name)
  return policy
end

local state = 7
local function random()
  state = (state * 16807) % 2147483647
  return state / 2147483647
end

-- Like a language model's: many small, a few large; some masked.
local function logits_of(n, spread)
  local row = {}
  for i = 1, n do
    row[i] = random() * 6 - 3
    if random() < 0.05 then row[i] = row[i] + random() * (spread or 8) end
    if random() < 0.05 then row[i] = -inf end
  end
  row[1] = 0
  return row
end

local function softmax(row)
  local max, total, p = -inf, 0, {}
  for _, x in ipairs(row) do max = math.max(max, x) end
  for i, x in ipairs(row) do
    p[i] = math.exp(x - max)
    total = total + p[i]
  end
  for i in ipairs(p) do p[i] = p[i] / total end
  return p
end

local function entropy(p)
  local h = 0
  for _, v in ipairs(p) do if v > 0 then h = h - v * math.log(v) end end
  return h
end

local function order_by(n, key)
  local order = {}
  for i = 1, n do order[i] = i end
  table.sort(order, function(a, b) return key(a) > key(b) end)
  return order
end

-- The graph of a policy on rows of n logits; args over its defaults. Returns a function (row, call) -> its result.
local function runner(policy, n, args)
  local sequence = graph.sequence(policy.graph, policy.defaults, n, policy.ranges)
  for name, value in pairs(args or {}) do assert(sequence:set(name, value)) end
  return function(row, call)
    call = call or {}
    call.logits = row
    local result, message = sequence:run(call)
    assert(result, message)
    return result
  end
end

local function run(policy, row, args, call) return runner(policy, #row, args)(row, call) end

local function near(a, b, what)
  if a == b then return end
  assert.truthy(math.abs(a - b) <= 1e-4 * math.max(1, math.abs(b)), ("%s: %.9g, not %.9g"):format(what, a, b))
end

-- The row must be the logits where `kept` holds and -inf elsewhere; `close(i)`: too near the threshold to tell in f32.
local function is_filter(result, row, kept, close)
  for i = 1, #row do
    if not (close and close(i)) then near(result[i], kept(i) and row[i] or -inf, "token " .. i - 1) end
  end
end

describe("the policy", function()
  it("min_p keeps what is likely enough beside the best", function()
    local policy = load_policy "min_p"
    for _, least in ipairs { 0, 0.05, 0.3, 1 } do
      local row = logits_of(700)
      local p, best = softmax(row), 0
      for _, v in ipairs(p) do best = math.max(best, v) end
      is_filter(run(policy, row, { min_p = least }), row, function(i) return p[i] >= least * best end,
                function(i) return math.abs(p[i] - least * best) < 1e-6 * best and least < 1 end)
    end
  end)

  it("cool_down falls with the output", function()
    local policy = load_policy "cool_down"
    local row, cold, hot = { 0, 2, 1 }, {}, {}
    local long = {}
    for i = 1, 300 do long[i] = 1 end
    local draw = runner(policy, 3, { floor = 0.1 })
    for seed = 1, 2000 do
      local a, b = draw(row, { seed = seed }), draw(row, { seed = seed, output = long })
      hot[a], cold[b] = (hot[a] or 0) + 1, (cold[b] or 0) + 1
    end
    local p = softmax { 0, 2 / 1.2, 1 / 1.2 }
    assert.truthy(math.abs(hot[0] / 2000 - p[1]) < 0.03)
    assert.truthy(math.abs(hot[1] / 2000 - p[2]) < 0.03)
    assert.truthy(cold[1] > 1990)
  end)

  it("typical keeps what is about as surprising as the entropy", function()
    local policy = load_policy "typical"
    for _, mass in ipairs { 0.2, 0.5, 0.95 } do
      local row = logits_of(700)
      local p = softmax(row)
      local h = entropy(p)
      local function distance(i) return math.abs(-math.log(p[i]) - h) end
      local kept, sum = {}, 0
      local last
      for _, i in ipairs(order_by(#row, function(i) return p[i] > 0 and -distance(i) or -inf end)) do
        if sum >= mass then break end
        kept[i], sum, last = true, sum + p[i], i
      end
      is_filter(run(policy, row, { p = mass }), row, function(i) return kept[i] end,
                function(i) return math.abs(distance(i) - distance(last)) < 1e-4 end)
    end
  end)

  it("epsilon and eta drop the unlikely but never the best", function()
    local epsilon, eta = load_policy "epsilon", load_policy "eta"
    for _, e in ipairs { 1e-4, 2e-3, 0.9 } do
      local row = logits_of(700)
      local p = softmax(row)
      local best, threshold = 1, math.min(e, math.sqrt(e) * math.exp(-entropy(p)))
      for i, v in ipairs(p) do if v > p[best] then best = i end end
      is_filter(run(epsilon, row, { epsilon = e }), row, function(i) return p[i] >= e or i == best end,
                function(i) return math.abs(p[i] / e - 1) < 1e-4 end)
      is_filter(run(eta, row, { epsilon = e }), row, function(i) return p[i] >= threshold or i == best end,
                function(i) return math.abs(p[i] / threshold - 1) < 1e-4 end)
    end
  end)

  it("top_a has a threshold of the square of the best", function()
    local policy = load_policy "top_a"
    for _, a in ipairs { 0.05, 0.5, 1 } do
      local row = logits_of(700, 14)
      local p, best = softmax(row), 0
      for _, v in ipairs(p) do best = math.max(best, v) end
      local threshold = a * best * best
      is_filter(run(policy, row, { a = a }), row, function(i) return p[i] >= threshold end,
                function(i) return math.abs(p[i] / threshold - 1) < 1e-4 end)
    end
  end)

  it("tail_free cuts where the second differences have passed z", function()
    local policy = load_policy "tail_free"
    local function kept(probs, z)
      local c, n = {}, nil
      for i, p in ipairs(probs) do c[i] = { token = i, prob = p } end
      c.draw = function(_, u, count)
        assert.equal(0.25, u)
        n = count
        return 1
      end
      policy.candidates(c, { params = { z = z }, random = function() return 0.25 end })
      return n
    end
    -- Differences .25 .15 .08 .01, of these .1 .07 .07: shares 0.417, 0.708, 1.
    local probs = { 0.5, 0.25, 0.1, 0.02, 0.01 }
    assert.equal(1, kept(probs, 0.4))
    assert.equal(2, kept(probs, 0.5))
    assert.equal(3, kept(probs, 0.75))
    assert.equal(5, kept(probs, 1))
    assert.equal(4, kept({ 0.25, 0.25, 0.25, 0.25 }, 0.5))
    assert.equal(2, kept({ 0.6, 0.4 }, 0.1))
  end)

  it("xtc leaves the least likely of the top choices", function()
    local policy = load_policy "xtc"
    local row = { math.log(0.5), math.log(0.3), math.log(0.15), math.log(0.05) }
    assert.same({ -inf, -inf, 1, 1 }, (function()
      local r = run(policy, row, { probability = 1 })
      return { r[1], r[2], r[3] > -inf and 1, r[4] > -inf and 1 }
    end)())
    local excluded = 0
    local often = runner(policy, 4, { probability = 0.3 })
    for seed = 1, 2000 do
      local r = often(row, { seed = seed })
      if r[1] == -inf then excluded = excluded + 1 end
    end
    assert.truthy(math.abs(excluded / 2000 - 0.3) < 0.04)
    is_filter(run(policy, row, { probability = 1, threshold = 0.4 }), row, function() return true end) -- a single one stays
    is_filter(run(policy, row, { probability = 1, threshold = 0.9 }), row, function() return true end)
  end)

  it("dry penalizes by the length of the repetition", function()
    local policy = load_policy "dry"
    for _ = 1, 20 do
      local text, breakers, row = {}, { 0 }, {}
      for i = 1, 80 do text[i] = math.floor(random() * 4) end
      for i = 1, 6 do row[i] = 1 end
      -- The longest suffix that occurs before, ended by a breaker, for each token that followed.
      local longest = {}
      for at = 1, #text - 1 do
        local n = 0
        while n < 50 and n < at and text[at - n] == text[#text - n] and text[at - n] ~= 0 do n = n + 1 end
        longest[text[at + 1]] = math.max(longest[text[at + 1]] or 0, n)
      end
      local result = run(policy, row, { breakers = breakers, multiplier = 0.5, base = 1.5, allowed = 2 },
                         { prompt = { unpack(text, 1, 30) }, output = { unpack(text, 31) } })
      for token = 0, 5 do
        local n = longest[token] or 0
        near(result[token + 1], 1 - (n >= 2 and 0.5 * 1.5 ^ (n - 2) or 0), "token " .. token)
      end
    end
  end)

  it("mirostat_v2 follows the surprise of what it draws", function()
    local policy = load_policy "mirostat_v2"
    local sequence = graph.sequence(policy.graph, policy.defaults, 300, policy.ranges)
    assert(sequence:set("tau", 3))
    local mu, total = 6, 0
    for seed = 1, 60 do
      local row = logits_of(300)
      local p = softmax(row)
      local token, message = sequence:run{ logits = row, seed = seed }
      assert(token, message)
      local kept, best = {}, 0
      for _, v in ipairs(p) do best = math.max(best, v) end
      for i, v in ipairs(p) do kept[i] = (-math.log(v) / math.log(2) <= mu or v == best) and row[i] or -inf end
      assert.truthy(kept[token + 1] > -inf)
      local surprise = -math.log(softmax(kept)[token + 1]) / math.log(2)
      mu, total = mu - 0.1 * (surprise - 3), total + surprise
      near(6 + sequence:variable("drift"), mu, "mu")
    end
    assert.truthy(math.abs(total / 60 - 3) < 1)
  end)

  it("dynamic_temperature follows the entropy", function()
    local policy = load_policy "dynamic_temperature"
    for _, exponent in ipairs { 0.5, 1, 2 } do
      local row = logits_of(500)
      local t = 0.3 + 1.2 * (entropy(softmax(row)) / math.log(500)) ^ exponent
      local result = run(policy, row, { exponent = exponent })
      for i = 1, #row do near(result[i], row[i] / t, "token " .. i - 1) end
    end
    local flat = {}
    for i = 1, 100 do flat[i] = 3 end
    near(run(policy, flat)[5], 3 / 1.5, "flat")
  end)

  it("quadratic_smoothing bends the logits", function()
    local policy = load_policy "quadratic_smoothing"
    for _, case in ipairs { { 0.3, 1 }, { 0.2, 2.5 }, { 0, 1 } } do
      local factor, curve = unpack(case)
      local row, best = logits_of(500), -inf
      for _, x in ipairs(row) do best = math.max(best, x) end
      local result = run(policy, row, { factor = factor, curve = curve })
      for i, x in ipairs(row) do
        local d = x - best
        local right = best - factor * (3 - curve) / 2 * d ^ 2 + factor * (curve - 1) / 2 * d ^ 3
        near(result[i], (factor == 0 or x == -inf) and x or right, "token " .. i - 1)
      end
    end
  end)
end)

describe("watermarks", function()
  -- A text of n tokens: each drawn by the policy from a fresh row.
  local function text_of(policy, n, args, plain)
    local ids = { 1, 2, 3 }
    local sequence = graph.sequence(policy.graph, policy.defaults, 200, policy.ranges)
    for name, value in pairs(args or {}) do assert(sequence:set(name, value)) end
    for i = 1, n do
      local row = logits_of(200)
      local got, message = sequence:run{ logits = row, output = ids, seed = i }
      assert(got, message)
      if type(got) == "table" or plain then got = plain(type(got) == "table" and got or row) end
      ids[#ids + 1] = got
    end
    return ids
  end

  local function sample(row)
    local p, u = softmax(row), random()
    for i, v in ipairs(p) do
      u = u - v
      if u < 0 then return i - 1 end
    end
    return 0
  end

  it("of Gumbel noise are found with the key and not without", function()
    local policy = load_policy "gumbel_watermark"
    local marked, plain = text_of(policy, 150), text_of(policy, 150, nil, sample)
    assert.truthy(watermark.gumbel(marked, { key = 42, first = 4 }) > 6)
    assert.truthy(math.abs(watermark.gumbel(marked, { key = 43, first = 4 })) < 4)
    assert.truthy(math.abs(watermark.gumbel(plain, { key = 42, first = 4 })) < 4)
  end)

  it("of Gumbel noise sample without bias", function()
    local policy = load_policy "gumbel_watermark"
    local row, seen = { math.log(0.6), math.log(0.3), math.log(0.1) }, { 0, 0, 0 }
    local draw = runner(policy, 3)
    for i = 1, 3000 do
      local token = draw(row, { output = { i % 50, math.floor(i / 50), i } })
      seen[token + 1] = seen[token + 1] + 1
    end
    assert.truthy(math.abs(seen[1] / 3000 - 0.6) < 0.04)
    assert.truthy(math.abs(seen[3] / 3000 - 0.1) < 0.03)
    assert.equal(0, run(policy, row, nil, { temperature = 0, output = { 1 } }))
    assert.equal(0, run(policy, row, nil, { top_k = 1, output = { 2 } }))
  end)

  it("of green lists raise the keyed share and are counted", function()
    local policy = load_policy "green_list_watermark"
    local row = logits_of(200)
    local result = run(policy, row, nil, { output = { 9 } })
    for i = 1, #row do
      near(result[i], row[i] + (graph.hash({ 42, 9 }, i - 1) < 0.25 and 2 or 0), "token " .. i - 1)
    end
    local marked, plain = text_of(policy, 150, { delta = 4 }, sample), text_of(policy, 150, { delta = 0 }, sample)
    assert.truthy(watermark.green_list(marked, { key = 42, first = 4 }) > 6)
    assert.truthy(math.abs(watermark.green_list(marked, { key = 43, first = 4 })) < 4)
    assert.truthy(math.abs(watermark.green_list(plain, { key = 42, first = 4 })) < 4)
  end)
end)

describe("regex_constrained", function()
  it("writes a date", function()
    -- Digits, pairs of digits, a dash, letters; an end.
    local tokens = { "-", "a", "1-" }
    for i = 0, 9 do tokens[#tokens + 1] = tostring(i) end
    for i = 0, 99 do tokens[#tokens + 1] = ("%02d"):format(i) end
    local END = #tokens
    local tokenizer = {
      info = function() return { vocab_size = #tokens + 1 } end,
      token_bytes = function(_, id) return tokens[id + 1] end,
      end_tokens = function() return { END } end,
    }
    local policy = load_policy("regex_constrained", { tokenizer = function() return tokenizer end, vocab_size = #tokens + 5 })
    for seed = 1, 10 do
      local sequence = graph.sequence(function(g, x, p) return g.sample(policy.graph(g, x, p)) end, policy.defaults, #tokens + 5)
      local row, output, text = {}, {}, ""
      for i = 1, #tokens + 5 do row[i] = random() * 4 end
      while output[#output] ~= END do
        local token, message = sequence:run{ logits = row, output = output, seed = seed }
        assert(token, message)
        output[#output + 1] = token
        text = text .. (tokens[token + 1] or "")
        assert.truthy(#output < 15)
      end
      local year, month, day = text:match("^(%d%d%d%d)%-(%d%d)%-(%d%d)$")
      assert.truthy(year and tonumber(month) >= 1 and tonumber(month) <= 12 and tonumber(day) >= 1 and tonumber(day) <= 31, text)
    end
  end)
end)

describe("on a model, the policies", function()
  local PROMPT = "Once upon a time"

  local function generate(params)
    params.max_tokens, params.seed = params.max_tokens or 24, 5
    return support.engine():generate(PROMPT, params, { progress = false })[1]
  end

  -- Prompt and output, and where the output begins.
  local function text_of(out)
    local ids = { unpack(out.prompt_token_ids) }
    for _, id in ipairs(out.outputs[1].token_ids) do ids[#ids + 1] = id end
    return ids, #out.prompt_token_ids + 1
  end

  it("generate, and the same tokens for the same seed", function()
    for _, name in ipairs { "min_p", "cool_down", "typical", "epsilon", "eta", "top_a", "tail_free", "xtc", "dry", "mirostat_v2",
                            "dynamic_temperature", "quadratic_smoothing", "gumbel_watermark", "green_list_watermark" } do
      local first, again = generate{ policy = name }, generate{ policy = name }
      assert.truthy(#first.outputs[1].token_ids > 0, name)
      assert.same(first.outputs[1].token_ids, again.outputs[1].token_ids, name)
    end
  end)

  it("default sampling as a graph gives the tokens of a request without a policy", function()
    support.engine():load_policy("as_built_in", [[
      local policy = require "llm".policy("as_built_in")
      function policy.graph(g, logits) return g.default(logits) end
    ]])
    for _, params in ipairs { { temperature = 0.8, top_k = 50, top_p = 0.95 }, { temperature = 1.3, min_p = 0.02 }, { temperature = 0 } } do
      local plain = generate(params).outputs[1].token_ids
      params.policy = "as_built_in"
      assert.same(plain, generate(params).outputs[1].token_ids)
    end
  end)

  it("leave watermarks that are found in the text", function()
    for name, detect in pairs { gumbel_watermark = watermark.gumbel, green_list_watermark = watermark.green_list } do
      local ids, first = text_of(generate{ policy = name, max_tokens = 120, ignore_eos = true })
      assert.truthy(detect(ids, { key = 42, first = first }) > 4, name)
      assert.truthy(detect(ids, { key = 7, first = first }) < 4, name)
      ids, first = text_of(generate{ max_tokens = 120, ignore_eos = true })
      assert.truthy(detect(ids, { key = 42, first = first }) < 4, name)
    end
  end)

  it("write what a regular expression says", function()
    for seed = 1, 3 do
      local out = support.engine():generate("Today is ", { policy = "regex_constrained", seed = seed, max_tokens = 20 }, { progress = false })[1].outputs[1]
      assert.truthy(out.text:find("^%d%d%d%d%-[01]%d%-[0-3]%d$"), out.text)
      assert.equal("stop", out.finish_reason)
    end
  end)
end)
