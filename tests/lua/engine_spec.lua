-- require "llm" on the default model.
local llm = require "llm"
local support = require "support"

local engine = support.engine()

local prompts = { "The capital of France is", "Once upon a time", "def fibonacci(n):", "Water boils at" }
local greedy = { temperature = 0, max_tokens = 16 }

local function failure(f, ...)
  local ok, message = pcall(f, ...)
  assert.is_false(ok)
  return tostring(message)
end

local function has(text, part) assert.truthy(text:find(part, 1, true), text) end

local function idle()
  for _ = 1, 100 do
    local stats = engine:stats()
    if stats.n_running == 0 and stats.n_waiting == 0 and stats.n_blocks_used == 0 then return true end
    llm.sleep(0.02)
  end
  return false
end

describe("engine:generate", function()
  it("answers in the order of the prompts", function()
    local outputs = engine:generate(prompts, greedy)
    assert.equal(4, #outputs)
    for i, output in ipairs(outputs) do
      assert.equal(prompts[i], output.prompt)
      assert.same(engine:tokenize(prompts[i]), output.prompt_token_ids)
      local sequence = output.outputs[1]
      assert.equal(0, sequence.index)
      assert.equal(16, #sequence.token_ids)
      assert.equal("length", sequence.finish_reason)
      assert.equal(engine:detokenize(sequence.token_ids), sequence.text)
      assert.is_nil(sequence.logprobs)
      assert.is_nil(output.prompt_logprobs)
    end
    assert.truthy(outputs[1].outputs[1].text:find("Paris", 1, true))
  end)

  it("gives a batch the tokens it gives one by one", function()
    local batched = engine:generate(prompts, greedy)
    for i, prompt in ipairs(prompts) do
      local single = engine:generate(prompt, greedy)
      assert.equal(1, #single)
      assert.same(single[1].outputs[1].token_ids, batched[i].outputs[1].token_ids)
    end
    local sampled = { temperature = 1, seed = 7, max_tokens = 16 }
    local together = engine:generate(prompts, sampled)
    for i, prompt in ipairs(prompts) do
      assert.same(engine:generate(prompt, sampled)[1].outputs[1].token_ids, together[i].outputs[1].token_ids)
    end
  end)

  it("takes token ids, and vLLM's forms of a prompt", function()
    local ids = engine:tokenize(prompts[1])
    local expected = engine:generate(prompts[1], greedy)[1].outputs[1].token_ids
    local forms = { ids, { prompt = prompts[1] }, { prompt_token_ids = ids } }
    for _, form in ipairs(forms) do
      assert.same(expected, engine:generate(form, greedy)[1].outputs[1].token_ids)
    end
    local mixed = engine:generate({ ids, prompts[1], forms[3] }, greedy)
    for i = 1, 3 do assert.same(expected, mixed[i].outputs[1].token_ids) end
    assert.is_nil(mixed[1].prompt)
    assert.same({}, engine:generate({}, greedy))
  end)

  it("takes one set of parameters or one for each", function()
    local outputs = engine:generate({ prompts[1], prompts[2] }, { { max_tokens = 2 }, { max_tokens = 5 } })
    assert.equal(2, #outputs[1].outputs[1].token_ids)
    assert.equal(5, #outputs[2].outputs[1].token_ids)
    has(failure(engine.generate, engine, prompts, { {}, {} }), "2 sets of sampling parameters for 4 prompts")
  end)

  it("gives n sequences", function()
    local outputs = engine:generate(prompts[2], { n = 3, temperature = 1, seed = 1, max_tokens = 8 })[1].outputs
    assert.equal(3, #outputs)
    for i, sequence in ipairs(outputs) do assert.equal(i - 1, sequence.index) end
    assert.are_not.same(outputs[1].token_ids, outputs[2].token_ids)
  end)

  it("gives log probabilities as maps by token id", function()
    local params = { temperature = 0, max_tokens = 4, logprobs = 2, prompt_logprobs = 0 }
    local output = engine:generate(prompts[1], params)[1]
    local sequence, sum = output.outputs[1], 0
    assert.equal(4, #sequence.logprobs)
    for i, id in ipairs(sequence.token_ids) do
      local entry = sequence.logprobs[i][id]
      assert.equal(1, entry.rank)
      assert.truthy(entry.logprob <= 0)
      assert.is_string(entry.decoded_token)
      sum = sum + entry.logprob
      local n = 0
      for _ in pairs(sequence.logprobs[i]) do n = n + 1 end
      assert.equal(2, n)
    end
    assert.equal(sequence.text, (function()
      local parts = {}
      for i, id in ipairs(sequence.token_ids) do parts[i] = sequence.logprobs[i][id].decoded_token end
      return table.concat(parts)
    end)())
    assert.truthy(math.abs(sum - sequence.cumulative_logprob) < 1e-9)
    assert.equal(#output.prompt_token_ids, #output.prompt_logprobs)
    assert.is_false(output.prompt_logprobs[1])
    for i = 2, #output.prompt_token_ids do
      local entry = output.prompt_logprobs[i][output.prompt_token_ids[i]]
      assert.truthy(entry.logprob < 0 and entry.rank >= 1)
    end
  end)

  it("says how long things took", function()
    local metrics = engine:generate(prompts[1], greedy)[1].metrics
    assert.truthy(metrics.arrival_time <= metrics.scheduled_time)
    assert.truthy(metrics.scheduled_time <= metrics.first_token_time)
    assert.truthy(metrics.first_token_time <= metrics.finished_time)
    assert.truthy(metrics.time_to_first_token >= 0 and metrics.e2e_latency >= metrics.time_to_first_token)
    assert.equal(0, metrics.num_preemptions)
    assert.truthy(metrics.arrival_time <= llm.now())
  end)

  it("finds prefixes in the cache, and forgets them", function()
    local long = ("The quick brown fox jumps over the lazy dog. "):rep(12)
    engine:reset_prefix_cache()
    assert.equal(0, engine:generate(long, greedy)[1].num_cached_tokens)
    assert.truthy(engine:generate(long, greedy)[1].num_cached_tokens > 0)
    assert.equal(0, engine:generate(long, greedy, { cache_salt = "another" })[1].num_cached_tokens)
  end)

  it("stops at strings and tokens, and says which", function()
    local params = { temperature = 0, max_tokens = 32, stop = { "zzz", "Paris" } }
    local sequence = engine:generate(prompts[1], params)[1].outputs[1]
    assert.equal("stop", sequence.finish_reason)
    assert.equal("Paris", sequence.stop_reason)
    assert.is_nil(sequence.text:find("Paris", 1, true))
    local ids = engine:generate(prompts[1], greedy)[1].outputs[1].token_ids
    sequence = engine:generate(prompts[1], { temperature = 0, stop_token_ids = { ids[3] } })[1].outputs[1]
    assert.equal("stop", sequence.finish_reason)
    assert.equal(ids[3], sequence.stop_reason)
  end)

  it("honours logit_bias, allowed_token_ids and bad_words", function()
    local first = engine:generate(prompts[1], { temperature = 0, max_tokens = 1 })[1].outputs[1].token_ids[1]
    local biased = engine:generate(prompts[1], { temperature = 0, max_tokens = 1, logit_bias = { [first] = -100 } })
    assert.are_not.equal(first, biased[1].outputs[1].token_ids[1])
    biased = engine:generate(prompts[1], { temperature = 0, max_tokens = 2, logit_bias = { ["300"] = 100 } })
    assert.same({ 300, 300 }, biased[1].outputs[1].token_ids)
    local allowed = engine:generate(prompts[1], { temperature = 0, max_tokens = 4, allowed_token_ids = { 400 } })
    assert.same({ 400, 400, 400, 400 }, allowed[1].outputs[1].token_ids)
    local text = engine:generate(prompts[1], { temperature = 0, bad_words = { "Paris" } })[1].outputs[1].text
    assert.is_nil(text:find("Paris", 1, true))
  end)

  it("keeps the last tokens of a prompt", function()
    local ids = engine:tokenize(prompts[1])
    local output = engine:generate(prompts[1], { max_tokens = 1, truncate_prompt_tokens = 2 })[1]
    assert.same({ ids[#ids - 1], ids[#ids] }, output.prompt_token_ids)
  end)

  it("refuses bad parameters with vLLM's names", function()
    local function refusal(params) return failure(engine.generate, engine, prompts[1], params) end
    for name, value in pairs { temperature = -1, n = 0, top_p = 2, top_k = -2, min_p = 1.5, max_tokens = 0,
                               repetition_penalty = 0, presence_penalty = 3, frequency_penalty = -3, logprobs = -2,
                               prompt_logprobs = 1000, min_tokens = -1 } do
      local message = refusal { [name] = value }
      assert.truthy(message:find(name, 1, true), name .. ": " .. message)
    end
    has(refusal({ temprature = 1 }), "unknown sampling parameter 'temprature'; did you mean 'temperature'?")
    has(refusal({ temperature = "hot" }), "temperature must be a number; it is 'hot'")
    has(refusal({ n = 1.5 }), "n must be a whole number")
    has(refusal({ stop = 5 }), "stop must be a string or a list of strings")
    has(refusal({ stop = "" }), "stop")
    has(refusal({ stop_token_ids = { "x" } }), "stop_token_ids")
    has(refusal({ logit_bias = { x = 1 } }), "logit_bias")
    has(refusal({ allowed_token_ids = { 10 ^ 8 } }), "allowed_token_ids")
    has(refusal("hot"), "sampling parameters must be a table")
    assert.is_true(idle())
  end)

  it("refuses bad prompts", function()
    local function refusal(prompt) return failure(engine.generate, engine, prompt, greedy) end
    has(refusal(""), "prompt")
    has(refusal({ {} }), "prompt")
    has(refusal({ { 10 ^ 7 } }), "10000000")
    has(refusal({ { -1 } }), "-1")
    has(refusal({ { 1.5 } }), "prompt[1]")
    has(refusal(7), "a prompt must be a string or a list of token ids; it is a number")
    has(refusal({ "good", true }), "it is a boolean")
    has(refusal({ "good", "" }), "prompt 2")
    local message = refusal(("word "):rep(3000))
    assert.truthy(message:find("2048", 1, true) and message:find("300", 1, true), message)
    assert.is_true(idle())
  end)

  it("puts the blame on the caller's line", function()
    local chunk = assert(loadstring("local e = ... ; e:generate('x', { n = 0 })", "=caller"))
    assert.truthy(failure(chunk, engine):find("^caller:1: "))
  end)
end)

describe("engine:stream", function()
  it("adds up to what generate gives", function()
    for _, params in ipairs { greedy, { temperature = 1, seed = 3, max_tokens = 24 },
                              { temperature = 0, max_tokens = 32, stop = "Paris" } } do
      local text, ids, reason = {}, {}, nil
      for delta in engine:stream(prompts[1], params) do
        text[#text + 1] = delta.text
        for _, id in ipairs(delta.token_ids) do ids[#ids + 1] = id end
        assert.equal(0, delta.index)
        reason = delta.finish_reason or reason
      end
      local whole = engine:generate(prompts[1], params)[1].outputs[1]
      assert.equal(whole.text, table.concat(text))
      assert.same(whole.token_ids, ids)
      assert.equal(whole.finish_reason, reason)
      if whole.finish_reason == "length" then assert.truthy(#text > 1) end
    end
  end)

  it("runs several side by side, in coroutines too", function()
    local texts = {}
    local threads = {}
    for i, prompt in ipairs(prompts) do
      threads[i] = coroutine.create(function()
        local parts = {}
        for delta in engine:stream(prompt, greedy) do
          parts[#parts + 1] = delta.text
          coroutine.yield()
        end
        texts[i] = table.concat(parts)
      end)
    end
    local alive = true
    while alive do
      alive = false
      for _, thread in ipairs(threads) do
        if coroutine.status(thread) ~= "dead" then
          assert(coroutine.resume(thread))
          alive = true
        end
      end
    end
    for i, output in ipairs(engine:generate(prompts, greedy)) do assert.equal(output.outputs[1].text, texts[i]) end
  end)

  it("streams n sequences by index", function()
    local texts = { [0] = "", [1] = "" }
    local params = { n = 2, temperature = 1, seed = 5, max_tokens = 8 }
    for delta in engine:stream(prompts[2], params) do texts[delta.index] = texts[delta.index] .. delta.text end
    local outputs = engine:generate(prompts[2], params)[1].outputs
    assert.equal(outputs[1].text, texts[0])
    assert.equal(outputs[2].text, texts[1])
  end)

  it("frees its pages when it is closed, or nobody holds it any more", function()
    local stream = engine:stream(prompts[2], { max_tokens = 1500, ignore_eos = true })
    assert.truthy(stream:next().token_ids[1])
    stream:close()
    stream:close()
    assert.is_nil(stream:next())
    assert.is_true(idle())
    stream = engine:stream(prompts[2], { max_tokens = 1500, ignore_eos = true })
    stream:next()
    stream = nil -- luacheck: ignore
    collectgarbage()
    collectgarbage()
    assert.is_true(idle())
  end)

  it("polls without waiting", function()
    local stream = engine:stream(prompts[1], greedy)
    local n = 0
    while not stream.done do
      local delta = stream:poll()
      if delta then n = n + #delta.token_ids else engine:wait(0.01) end
    end
    assert.equal(16, n)
    assert.truthy(stream:info().metrics.e2e_latency > 0)
  end)

  it("refuses what generate refuses", function()
    has(failure(engine.stream, engine, "x", { n = 0 }), "n is 0")
    has(failure(engine.stream, engine, { "x" }, {}), "prompt")
  end)
end)

describe("engine:tokenize", function()
  it("goes there and back", function()
    for _, text in ipairs { "Hello, world!", "naïve café 😀 你好", "  spaces\n\ttabs", "" } do
      assert.equal(text, engine:detokenize(engine:tokenize(text)))
    end
  end)

  it("makes control tokens of text that spells them, unless told not to", function()
    assert.equal(1, #engine:tokenize("<|im_start|>"))
    assert.truthy(#engine:tokenize("<|im_start|>", { parse_special = false }) > 1)
    local ids = engine:tokenize("<|im_start|>a")
    assert.equal("a", engine:detokenize(ids))
    assert.equal("<|im_start|>a", engine:detokenize(ids, { skip_special_tokens = false }))
  end)

  it("is the same from a tokenizer of its own", function()
    local tokenizer = llm.tokenizer(support.model())
    assert.same(engine:tokenize("Some text."), tokenizer:encode("Some text."))
    tokenizer:close()
    has(failure(tokenizer.encode, tokenizer, "x"), "the tokenizer is closed")
  end)

  it("refuses ids that are none", function()
    has(failure(engine.detokenize, engine, { 10 ^ 7 }), "10000000")
    has(failure(engine.detokenize, engine, { "x" }), "ids[1]")
    has(failure(engine.tokenize, engine, 5), "encode needs a string")
  end)
end)

describe("llm.engine", function()
  local function refusal(options) return failure(llm.engine, options) end

  it("refuses options, and files that are no models", function()
    has(refusal({}), "the option 'model' is missing")
    has(refusal("x"), "needs a table of options")
    has(refusal({ model = "/no/such/model.gguf" }), "/no/such/model.gguf")
    has(refusal({ model = support.model(), max_model_length = 5 }), "did you mean 'max_model_len'?")
    has(refusal({ model = support.model(), block_size = -1 }), "block_size")
    has(refusal({ model = support.model(), max_model_len = 10 ^ 6 }), "max_model_len")
    has(refusal({ model = support.model(), threads = -2 }), "threads")
    local path = support.file("this is no model", ".gguf")
    assert.truthy(refusal({ model = path }):find(path, 1, true))
    os.remove(path)
    has(failure(llm.tokenizer, "/no/such/tokenizer"), "/no/such/tokenizer")
    has(failure(llm.tokenizer), "needs a path")
  end)

  it("refuses to work after close, and never crashes", function()
    local other = llm.engine { model = support.model(), max_model_len = 256, ["max-num-seqs"] = 2,
                               kv_cache_memory = "24MiB" }
    assert.equal(256, other:info().max_model_len)
    local stream, tokenizer = other:stream("x", { max_tokens = 200, ignore_eos = true }), other:tokenizer()
    other:close()
    other:close()
    has(failure(other.generate, other, "x"), "the engine is closed")
    has(failure(other.info, other), "the engine is closed")
    has(failure(other.tokenize, other, "x"), "the engine is closed")
    has(failure(stream.next, stream), "closed")
    has(failure(tokenizer.encode, tokenizer, "x"), "closed")
    stream:close()
    assert.truthy(tostring(other):find("closed", 1, true))
  end)

  it("suggests a method", function()
    has(failure(function() engine:genrate("x") end), "did you mean 'generate'?")
  end)

  it("gives the model's own sampling defaults", function()
    assert.is_table(engine:default_params())
    local output = engine:generate("x")[1]
    assert.equal(16, #output.outputs[1].token_ids)
  end)
end)
