-- Sequences and programs on the default model.
local llm = require "llm"
local support = require "support"

local engine = support.engine()

local function has(text, part) assert.truthy(text:find(part, 1, true), text) end

local function failure(f, ...)
  local ok, message = pcall(f, ...)
  assert.is_false(ok)
  return tostring(message)
end

local function pages_free()
  collectgarbage() -- of sequences that nobody holds any more
  for _ = 1, 200 do
    if engine:stats().n_blocks_used == 0 then return true end
    llm.sleep(0.01)
  end
  return false
end

local greedy = { temperature = 0, max_tokens = 12 }

-- What a request without a sequence says.
local function from_nothing(ids, params)
  return engine:generate({ ids }, params, { progress = false })[1]
end

describe("a sequence", function()
  it("generates what a request of the same text does, and is extended by it", function()
    local seq = engine:sequence("The capital of France is")
    assert.equal(5, #seq)
    assert.equal("The capital of France is", seq:text())
    local want = from_nothing(seq:tokens(), greedy).outputs[1]
    local out = seq:generate(greedy)
    assert.equal(want.text, out.text)
    assert.same(want.token_ids, out.token_ids)
    assert.equal("length", out.finish_reason)
    assert.equal(5 + 12, #seq)
    assert.same(want.token_ids, seq:tokens(6))
    assert.equal("llm.Sequence(17 tokens)", tostring(seq))
    seq:close()
    seq:close()
    assert.equal("llm.Sequence(closed)", tostring(seq))
    has(failure(seq.generate, seq, greedy), "the sequence is closed")
    assert.is_true(pages_free())
  end)

  it("does not depend on how its text came about", function()
    local seq = engine:sequence("Roses are red,")
    seq:generate{ temperature = 0, max_tokens = 20 }
    seq:rewind(15):feed(" and then"):compute():feed(" the sun went down")
    local branch = seq:fork()
    branch:feed(" over the hills"):generate(greedy)
    local mark = #seq
    seq:generate{ seed = 3, max_tokens = 9 }
    seq:rewind_to(mark)
    for _, one in ipairs { seq, branch } do
      local params = { seed = 7, max_tokens = 16, logprobs = 2 }
      local want, out = from_nothing(one:tokens(), params).outputs[1], one:generate(params)
      assert.same(want.token_ids, out.token_ids)
      assert.same(want.logprobs, out.logprobs)
      assert.equal(want.cumulative_logprob, out.cumulative_logprob)
    end
    seq:close()
    branch:close()
    assert.is_true(pages_free())
  end)

  it("is extended by what the text shows, whatever the tokens are", function()
    for _, stop in ipairs { "answer", "swer", " classic example", "ic exam", "\n" } do
      local seq = engine:sequence("Question: what is 1+1?\nThought:")
      local mark = #seq
      local out = seq:generate{ temperature = 0, max_tokens = 60, stop = stop }
      assert.equal(stop, out.stop_reason)
      assert.equal("Question: what is 1+1?\nThought:" .. out.text, seq:text())
      seq:rewind_to(mark)
      local text = {}
      for delta in seq:stream{ temperature = 0, max_tokens = 60, stop = stop } do text[#text + 1] = delta.text end
      assert.equal(out.text, table.concat(text))
      assert.equal("Question: what is 1+1?\nThought:" .. out.text, seq:text())
      seq:close()
    end
    local seq = engine:sequence("Question: what is 1+1?\nThought:")
    local out = seq:generate{ temperature = 0, max_tokens = 60, stop = "example", include_stop_str_in_output = true }
    assert.equal("example", out.text:sub(-7))
    assert.equal("Question: what is 1+1?\nThought:" .. out.text, seq:text())
    seq:close()
  end)

  it("ends before a stop token", function()
    local period = engine:tokenize(".", { add_special_tokens = false })[1]
    local seq = engine:sequence("The capital of France is")
    local out = seq:generate{ temperature = 0, max_tokens = 20, stop_token_ids = { period } }
    assert.equal(period, out.stop_reason)
    assert.equal(" Paris", out.text)
    assert.equal("The capital of France is Paris", seq:text())
    seq:close()
  end)

  it("streams, and keeps what was delivered when it is left", function()
    local seq = engine:sequence("Once upon a time")
    local before, n, stream = #seq, 0, seq:stream{ temperature = 0, max_tokens = 200 }
    has(failure(seq.feed, seq, "no"), "a request runs on this sequence")
    has(failure(seq.fork, seq), "a request runs on this sequence")
    local ids = {}
    while n < 5 do
      local delta = stream:next()
      n = n + #delta.token_ids
      for _, id in ipairs(delta.token_ids) do ids[#ids + 1] = id end
    end
    stream:close()
    assert.equal(before + n, #seq)
    assert.same(ids, seq:tokens(before + 1))
    assert.same(from_nothing(seq:tokens(), greedy).outputs[1].token_ids, seq:generate(greedy).token_ids)
    seq:close()
    assert.is_true(pages_free())
  end)

  it("tells what may come next, and takes what is chosen", function()
    local seq = engine:sequence("The capital of France is")
    local list = seq:next{ logprobs = 4 }
    assert.equal(4, #list)
    assert.equal(" Paris", list[1].text)
    assert.equal(list[1].token, list.token)
    assert.equal(1, list[1].rank)
    for i = 2, 4 do assert.is_true(list[i].logprob <= list[i - 1].logprob) end
    assert.near(math.exp(list[2].logprob), list[2].prob, 1e-9)
    assert.equal(5, #seq)
    seq:feed(list[3].token)
    assert.equal("The capital of France is" .. list[3].text, seq:text())
    assert.equal(100, #seq:next{ logprobs = 100 }) -- beyond max_logprobs
    local other = seq:next{ temperature = 1, seed = 1, logprobs = 0, allowed_token_ids = { 42 } }
    assert.equal(42, other.token)
    seq:close()
  end)

  it("scores texts", function()
    local seq = engine:sequence("The capital of France is")
    local paris, london = seq:score(" Paris"), seq:score(" London")
    assert.equal(1, #paris.token_ids)
    assert.is_true(paris.total > london.total)
    assert.equal(seq:next()[1].logprob, paris.total)
    assert.equal(5, #seq)
    local long = seq:score(" Paris, and the capital of Italy is", 2)
    local all = from_nothing(engine:tokenize("The capital of France is Paris, and the capital of Italy is"),
      { max_tokens = 1, prompt_logprobs = 2 })
    local want = {}
    for i = 6, #all.prompt_logprobs do want[#want + 1] = all.prompt_logprobs[i] end
    assert.same(want, long.logprobs)
    assert.near(long.total / #long.token_ids, long.mean, 1e-9)
    seq:feed(" Paris, and the capital of Italy is")
    assert.same(all.prompt_logprobs, seq:logprobs(2))
    assert.is_false(seq:logprobs()[1])
    seq:close()
  end)

  it("verifies guesses as greedy decoding would go on", function()
    local start = "One, two, three, four, five, six,"
    local plain = engine:sequence(start):generate{ temperature = 0, max_tokens = 8 }.token_ids
    for n_right = 0, 5 do
      local seq, guess = engine:sequence(start), {}
      for i = 1, 6 do guess[i] = i <= n_right and plain[i] or 42 end
      local accepted, token = seq:verify(guess)
      assert.equal(n_right, accepted)
      assert.equal(plain[n_right + 1], token)
      local ids = seq:tokens(#engine:tokenize(start) + 1)
      for i, id in ipairs(ids) do assert.equal(plain[i], id) end
      assert.equal(n_right + 1, #ids)
      assert.same(from_nothing(seq:tokens(), greedy).outputs[1].token_ids, seq:generate(greedy).token_ids)
      seq:close()
    end
    local seq = engine:sequence(start)
    local accepted, token = seq:verify { plain[1], plain[2] }
    assert.same({ 2, plain[3] }, { accepted, token })
    seq:close()
  end)

  it("forks without computing its text again", function()
    local text = ("The quick brown fox jumps over the lazy dog. "):rep(40)
    engine:reset_prefix_cache()
    local seq = engine:sequence(text)
    local before = engine:stats()
    local branches = seq:fork(8)
    llm.parallel(branches, function(branch, i) branch:generate{ seed = i, max_tokens = 2, ignore_eos = true } end)
    local after = engine:stats()
    assert.equal(#seq - 1 + 8, after.n_prompt_tokens - before.n_prompt_tokens)
    for _, branch in ipairs(branches) do
      assert.equal(#seq + 2, #branch)
      branch:close()
    end
    seq:close()
    assert.is_true(pages_free())
  end)

  it("is fed text as it goes on, not as it begins", function()
    local seq = engine:sequence("def f")
    seq:feed("(x):"):feed("\n"):feed("  return"):feed { 42 }:feed(43)
    assert.equal("def f(x):\n  return" .. engine:detokenize { 42, 43 }, seq:text())
    local empty = engine:sequence()
    assert.equal(0, #empty)
    assert.equal("", empty:text())
    has(failure(empty.generate, empty, greedy), "the prompt is empty")
    empty:feed("Hello")
    assert.equal(1, #empty)
    has(failure(seq.feed, seq, true), "fed text, token ids or one id")
    has(failure(seq.feed, seq, { 1.5 }), "must be a token id")
    has(failure(seq.generate, seq, { temprature = 1 }), "did you mean 'temperature'")
    has(failure(seq.generate, seq, { n = 2 }), "fork the sequence")
    has(failure(engine.sequence, engine, "a", { prority = 1 }), "no option 'prority'")
    assert.equal(0, #seq:rewind(1000))
    seq:close()
    empty:close()
  end)

  it("is closed by the collector", function()
    for _ = 1, 20 do engine:sequence("Once upon a time"):compute() end
    collectgarbage()
    collectgarbage()
    assert.is_true(pages_free())
  end)
end)

describe("llm.parallel", function()
  it("runs branches in one batch and answers in their order", function()
    local before = engine:stats()
    local texts = llm.parallel({ "One", "Two", "Three", "Four" }, function(word, i)
      return { i, engine:sequence(word .. " is a number"):generate(greedy).text }
    end)
    assert.equal(4, #texts)
    for i, word in ipairs { "One", "Two", "Three", "Four" } do
      local want = from_nothing(engine:tokenize(word .. " is a number"), greedy).outputs[1].text
      assert.same({ i, want }, texts[i])
    end
    assert.is_true(engine:stats().n_steps - before.n_steps < 4 * 12 + 4 * 12)
    assert.same({ 1, "two" }, llm.parallel { function() return 1 end, function() return "two" end })
    assert.same({}, llm.parallel({}, print))
  end)

  it("nests, and keeps to its limit", function()
    local running, most = 0, 0
    local sums = llm.parallel({ 1, 2, 3, 4, 5, 6 }, function(x)
      running = running + 1
      most = math.max(most, running)
      local parts = llm.parallel({ 1, 2 }, function(y)
        llm.sleep(0.01)
        return x * y
      end)
      running = running - 1
      return parts[1] + parts[2]
    end, { limit = 2 })
    assert.same({ 3, 6, 9, 12, 15, 18 }, sums)
    assert.equal(2, most)
  end)

  it("cancels the others when one branch fails, and frees what they held", function()
    local canceled = 0
    has(failure(llm.parallel, { 1, 2, 3 }, function(i)
      local seq = engine:sequence("Once upon a time")
      if i == 2 then
        llm.sleep(0.05)
        error("branch 2 is broken")
      end
      local ok, why = pcall(seq.generate, seq, { max_tokens = 1500, ignore_eos = true })
      if not ok and llm.task.is_canceled(why) then canceled = canceled + 1 end
      error(why, 0)
    end), "branch 2 is broken")
    assert.equal(2, canceled)
    assert.is_true(pages_free())
    has(failure(llm.parallel, "no"), "needs a list")
  end)

  it("gives the main program sequences that its branches made", function()
    local made = llm.parallel({ "One", "Two" }, function(word) return engine:sequence(word):compute() end)
    assert.equal("Two", made[2]:text())
    assert.equal(12, #made[1]:generate(greedy).token_ids)
    made[1]:close()
    made[2]:close()
    assert.is_true(pages_free())
  end)

  it("lets branches use one sequence, one after the other", function()
    local seq = engine:sequence("The capital of France is")
    local totals = llm.parallel({ " Paris", " London", " Rome" }, function(word) return seq:score(word).total end)
    assert.equal(seq:score(" London").total, totals[2])
    local lengths = llm.parallel({ 1, 2, 3 }, function(i)
      local branch = seq:feed(1000 + i):fork()
      branch:generate{ temperature = 0, max_tokens = 2, ignore_eos = true }
      return #branch
    end)
    table.sort(lengths)
    assert.equal(5 + 3, #seq)
    assert.equal(#seq + 2, lengths[3])
    seq:close()
    assert.is_true(pages_free())
  end)

  it("closes a program's sequences when it ends, and leaves the branches' to it", function()
    llm.task.run(function()
      local made = llm.parallel({ 1, 2 }, function() return engine:sequence("Once upon a time"):compute() end)
      assert.is_true(engine:stats().n_blocks_used > 0)
      assert.equal(4, #made[2])
      made[1]:generate(greedy)
    end)
    assert.is_true(pages_free())
  end)
end)

describe("llm.spawn", function()
  it("runs beside, gives its results, raises its error", function()
    local program = llm.spawn(function(a, b)
      llm.sleep(0.01)
      return a + b, "done"
    end, 2, 3)
    assert.same({ 5, "done" }, { program:wait() })
    assert.same({ 5, "done" }, { program:wait() })
    local bad = llm.spawn(function() error("it broke") end)
    has(failure(bad.wait, bad), "it broke")
    has(failure(llm.spawn, 3), "needs a function")
  end)

  it("ends what it has spawned, and can be canceled", function()
    local child_ended
    local parent = llm.spawn(function()
      llm.spawn(function()
        local ok, why = pcall(llm.sleep, 60)
        child_ended = not ok and llm.task.is_canceled(why)
      end)
      llm.sleep(60)
    end)
    parent:cancel("enough")
    has(failure(parent.wait, parent), "enough")
    assert.is_true(child_ended)
  end)
end)

describe("Tokenizer:continue", function()
  it("adds nothing before what SentencePiece would take for a beginning", function()
    local path = support.root .. "/models/vocabs/ggml-vocab-llama-spm.gguf"
    local file = io.open(path)
    if not file then return pending("no SentencePiece vocabulary here") end
    file:close()
    local tokenizer = llm.tokenizer(path)
    local ids = tokenizer:encode("The answer", { add_special_tokens = false })
    for _, more in ipairs { "s are", " is 42", "\nNext:", "ing" } do
      local all = { unpack(ids) }
      for _, id in ipairs(tokenizer:continue(more)) do all[#all + 1] = id end
      assert.equal("The answer" .. more, tokenizer:decode(all))
    end
    tokenizer:close()
  end)
end)
