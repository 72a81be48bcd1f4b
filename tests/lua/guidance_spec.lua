-- Guidance by a second prompt, against the same computed from whole rows of log-probabilities.
local llm = require "llm"
local support = require "support"

local engine = support.engine()
local PROMPT, NEGATIVE = "Today the weather is wonderful and", "The news from the war were terrible:"

local function both() return engine:sequence(PROMPT), engine:sequence(NEGATIVE) end

local function rows_of(seq)
  local row = {}
  for _, candidate in ipairs(seq:next { logprobs = -1 }) do row[candidate.token] = candidate.logprob end
  return row
end

-- The likeliest token of negative + scale * (text - negative).
local function naive(seq, negative, scale)
  local a, b = rows_of(seq), rows_of(negative)
  local best, token = -math.huge, nil
  for id, x in pairs(a) do
    local guided = b[id] + scale * (x - b[id])
    if guided > best then best, token = guided, id end
  end
  return token
end

local function guided(seq, negative, params)
  local ids = {}
  for token in seq:guided(negative, params) do ids[#ids + 1] = token end
  return ids
end

describe("guidance", function()
  for _, scale in ipairs { 1.5, 3, -1 } do
    it("of scale " .. scale .. " chooses what whole rows give", function()
      local seq, negative = both()
      local a, b, want = seq:fork(), negative:fork(), {}
      for i = 1, 6 do
        want[i] = naive(a, b, scale)
        a:feed(want[i])
        b:feed(want[i])
      end
      local length = #seq
      assert.same(want, guided(seq, negative, { scale = scale, max_tokens = 6, ignore_eos = true }))
      assert.same(want, seq:tokens(length + 1))
      assert.equal(b:text(), negative:text())
    end)
  end

  it("is the text's own at scale 1, the other's at scale 0", function()
    local seq, negative = both()
    local params = { temperature = 0, max_tokens = 8, ignore_eos = true }
    local own, other = seq:fork():generate(params).token_ids, negative:fork():generate(params).token_ids
    assert.same(own, guided(seq:fork(), negative:fork(), { scale = 1, max_tokens = 8, ignore_eos = true }))
    assert.same(other, guided(seq:fork(), negative:fork(), { scale = 0, max_tokens = 8, ignore_eos = true }))
  end)

  it("draws by its parameters, and by its seed", function()
    local seq, negative = both()
    local params = { scale = 1, temperature = 1, top_k = 40, seed = 11, max_tokens = 8, ignore_eos = true }
    local want = seq:fork():generate { temperature = 1, top_k = 40, seed = 11, max_tokens = 8, ignore_eos = true }
    assert.same(want.token_ids, guided(seq:fork(), negative:fork(), params))
    params.seed = 12
    assert.not_same(want.token_ids, guided(seq:fork(), negative:fork(), params))
  end)

  it("gives the same beside others", function()
    local seq, negative = both()
    local params = { scale = 2, max_tokens = 8, ignore_eos = true }
    local want = guided(seq:fork(), negative:fork(), params)
    local plain = seq:fork():generate { temperature = 0, max_tokens = 30 }.token_ids
    local list = llm.parallel({ 1, 2, 3, 4, 5, 6 }, function(i)
      if i > 3 then return seq:fork():generate { temperature = 0, max_tokens = 30 }.token_ids end
      return guided(seq:fork(), negative:fork(), params)
    end)
    for i = 1, 6 do assert.same(i > 3 and plain or want, list[i]) end
  end)

  it("ends with the text", function()
    local seq = engine:sequence(engine:tokenizer():encode(
      "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n", { parse_special = true }))
    assert.is_true(seq:next().stops)
    assert.same({}, guided(seq:fork(), seq:fork(), { scale = 1 }))
    assert.equal(1, #guided(seq:fork(), seq:fork(), { scale = 1, ignore_eos = true, max_tokens = 1 }))
  end)

  -- Token 0 is also what the policy gives to the one of the two that has nothing to draw from.
  it("can draw token 0", function()
    local null = llm.engine { load_format = "null" }
    local seq, n = null:sequence { 300, 301 }, 0
    local params = { temperature = 1e6, max_tokens = 1, scale = 1, ignore_eos = true }
    for seed = 1, 4000 do
      params.seed = seed
      if seq:next { temperature = 1e6, seed = seed }.token == 0 then
        assert.same({ 0 }, guided(seq:fork(), null:sequence { 302 }, params))
        n = n + 1
      end
      if n == 3 then break end
    end
    assert.equal(3, n)
    null:close()
  end)

  it("says so if the rows do not meet", function()
    local seq, negative = both()
    local args = { pair = "spec", met = true }
    local ok, message = pcall(seq.next, seq, { policy = { name = "guidance", args = args } })
    assert.is_false(ok)
    assert.truthy(message:find("have not met", 1, true))
    args.met = false
    assert.equal(0, seq:next({ policy = { name = "guidance", args = args } }).token)
    assert.equal(0, negative:next({ policy = { name = "guidance", args = { pair = "spec", negative = true } } }).token)
  end)

  it("refuses what it does not know", function()
    local seq, negative = both()
    local ok, message = pcall(seq.guided, seq, negative, { top_q = 1 })
    assert.is_false(ok)
    assert.truthy(message:find("guided takes no parameter 'top_q'", 1, true))
    ok, message = pcall(seq.guided, seq, seq)
    assert.is_false(ok)
    assert.truthy(message:find("fork it", 1, true))
    ok, message = pcall(engine.generate, engine, "a", { policy = "guidance" }, { progress = false })
    assert.is_false(ok)
    assert.truthy(message:find("needs a pair", 1, true))
  end)
end)
