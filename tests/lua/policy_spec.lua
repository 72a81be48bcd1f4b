-- Policies in Lua: hooks and what they see, failures, loading, graphs, and what the server makes of them.
local llm = require "llm"
local policies = require "llm.policy"
local support = require "support"
local tasks = require "llm.task"

local PROMPT = "The capital of France is"

local function engine() return support.engine() end

-- Loads a policy made of these lines.
local function load(name, body, options)
  return engine():load_policy(name, ('local llm = require "llm"\nlocal policy = llm.policy(%q, DEFAULTS)\n')
    :format(name):gsub("DEFAULTS", body:match "^%-%- (%b{})" or "{}") .. body, options)
end

local function run(params, prompt)
  params.temperature = params.temperature or 0
  params.max_tokens = params.max_tokens or 8
  return engine():generate(prompt or PROMPT, params, { progress = false })[1].outputs
end

local function ids(params, prompt) return run(params, prompt)[1].token_ids end

local function failure_of(params)
  local ok, message = pcall(run, params)
  assert.is_false(ok)
  return message
end

local function refuses(text, ...)
  local ok, message = pcall(engine().load_policy, engine(), "refused", text)
  assert.is_false(ok)
  for _, part in ipairs { ... } do assert.truthy(message:find(part, 1, true), message) end
end

describe("hooks", function()
  it("see the candidates and may choose", function()
    load("second", [[
      function policy.candidates(c, req)
        assert(#c == 256 and c[1].prob >= c[2].prob and c[257] == nil and c:find(c[7].token) == 7)
        assert(math.abs(math.exp(c[1].logprob) - c[1].prob) < 1e-6)
        assert(c[1].text == llm.token_text(c[1].token))
        return c[2].token
      end]])
    local out = run{ policy = "second", logprobs = 2 }[1]
    for i, id in ipairs(out.token_ids) do assert.equal(2, out.logprobs[i][id].rank) end
  end)

  it("pass with nil, and then nothing is different", function()
    load("pass", "function policy.candidates() end function policy.logits() end")
    for _, params in ipairs { { temperature = 0 }, { temperature = 1, seed = 5 }, { temperature = 1.5, top_k = 9, seed = 6 } } do
      local want = ids(params)
      params.policy = "pass"
      assert.same(want, ids(params))
    end
  end)

  it("change the row", function()
    load("only", [[-- { ids = {}, keep = true }
      function policy.logits(row, req)
        assert(#row == llm.vocab_size)
        if req.params.keep then return row:keep(req.params.ids) end
        row:fill(-1)
        row[req.params.ids[1] ] = 10
        assert(row[req.params.ids[1] ] == 10 and row:argmax() == req.params.ids[1])
      end]])
    for _, id in ipairs(ids{ policy = "only", policy_args = { ids = { 5, 900, 77 } } }) do
      assert.truthy(id == 5 or id == 900 or id == 77)
    end
    assert.same({ 9, 9, 9 }, ids{ policy = "only", policy_args = { ids = { 9 }, keep = false }, max_tokens = 3 })
  end)

  it("leave a note of what they changed", function()
    load("noted", [[
function policy.logits(row, req) row[5] = 1 end
function policy.test(t)
  local ffi = require "ffi"
  local data, row = ffi.new("float[10]"), ffi.new("struct policy_row")
  local function changed(change)
    row.data, row.n, row.from, row.to = data, 10, 10, 0
    change()
    return row.from .. " " .. row.to
  end
  assert(changed(function() end) == "10 0")
  assert(changed(function() row[3] = 1 end) == "3 4")
  assert(changed(function() row[7] = 1; row[2] = 0 end) == "2 8")
  assert(changed(function() row:ban{ 6, 4 } end) == "4 7")
  assert(changed(function() row:keep{ 6, 4 } end) == "0 10")
  assert(changed(function() row:fill(1) end) == "0 10")
end
return policy]])
  end)

  it("see the request and keep a state for each sequence", function()
    load("looks", [[
      function policy.init(req) req.state.tokens = {} end
      function policy.candidates(c, req)
        local seen = req.state.tokens
        assert(#req.prompt == 5 and req.prompt[1] == req.prompt[-5] and req.prompt[6] == nil)
        assert(#req.output == #seen and req.position == 5 + #seen and req.seed == 11)
        for i = 1, #seen do assert(req.output[i] == seen[i]) end
        local token = c[1 + (req.index + #seen) % 3].token
        seen[#seen + 1] = token
        return token
      end
      function policy.done(req) assert(#req.output == #req.state.tokens) end]])
    local outputs = run{ policy = "looks", n = 3, temperature = 1, seed = 11 }
    assert.equal(3, #outputs)
    assert.not_same(outputs[1].token_ids, outputs[2].token_ids)
    assert.same(outputs[2].token_ids, run{ policy = "looks", n = 3, temperature = 1, seed = 11 }[2].token_ids)
  end)

  it("draw numbers that depend on seed, sequence and position alone", function()
    load("draws", [[
      function policy.candidates(c, req)
        local a, b, m = req:random(), req:random(), req:random(3, 5)
        assert(a >= 0 and a < 1 and a ~= b and (m == 3 or m == 4 or m == 5))
        return c:draw(a)
      end]])
    local one = run{ policy = "draws", n = 2, temperature = 1, seed = 3 }
    local other = run{ policy = "draws", n = 2, temperature = 1, seed = 3 }
    assert.same(one[1].token_ids, other[1].token_ids)
    assert.same(one[2].token_ids, other[2].token_ids)
    assert.not_same(one[1].token_ids, one[2].token_ids)
    assert.not_same(one[1].token_ids, run{ policy = "draws", n = 2, temperature = 1, seed = 4 }[1].token_ids)
  end)

  it("compose in order, with parameters and stop strings", function()
    load("ban_best", "function policy.logits(row) row[(row:argmax())] = -math.huge end")
    load("first", "function policy.candidates(c) return c[1].token end")
    load("second", "function policy.candidates(c) return c[2].token end")
    assert.same(ids{ policy = "second" }, ids{ policy = { "ban_best", "first" } })
    assert.same(ids{ policy = "ban_best" }, ids{ policy = { "ban_best", "first", "second" } })
    assert.same(ids{ policy = { "ban_best", "ban_best" } }, ids{ policy = { "ban_best", "second" } })
    local first = ids{ max_tokens = 1 }[1]
    assert.same(ids{ policy = "second", max_tokens = 1 },
      ids{ policy = "first", logit_bias = { [first] = -100 }, max_tokens = 1 })
    local out = run{ policy = "second", stop = run{ policy = "second", max_tokens = 2 }[1].text }[1]
    assert.equal("stop", out.finish_reason)
    assert.equal("", out.text)
  end)

  it("come by default where the engine is told so", function()
    load("second", "function policy.candidates(c) return c[2].token end")
    local plain, second = ids{}, ids{ policy = "second" }
    engine():default_policy "second"
    assert.same(second, ids{})
    assert.same(plain, ids{ policy = {} })
    engine():default_policy(nil)
    assert.same(plain, ids{})
  end)

  it("are chosen by a function where the engine is told so", function()
    load("ranked", [[-- { rank = 2 }
      function policy.candidates(c, req) return c[req.params.rank].token end]])
    local plain, third = ids{}, ids{ policy = "ranked", policy_args = { rank = 3 } }
    local seen = {}
    engine():default_policy(function(request)
      seen[#seen + 1] = request
      if request.tenant == "lab" then return "ranked", { rank = 3 } end
    end)
    local function of(tenant, params)
      params.temperature, params.max_tokens = 0, 8
      return engine():generate(PROMPT, params, { progress = false, tenant = tenant })[1].outputs[1].token_ids
    end
    assert.same(third, of("lab", {}))
    assert.same(plain, of("shop", {}))
    assert.equal(2, #seen)
    assert.same({ PROMPT, "lab", 8 }, { seen[1].prompt, seen[1].tenant, seen[1].params.max_tokens })
    assert.same(plain, of("lab", { policy = {} })) -- who names one, or none, is not asked for
    assert.equal(2, #seen)
    engine():default_policy(function() return "no_such_policy" end)
    assert.truthy(failure_of{}:find("policy 'no_such_policy' does not exist", 1, true))
    engine():default_policy {}
    assert.same(plain, ids{})
  end)
end)

describe("a request", function()
  it("names policies that there are, with arguments that they take", function()
    load("args", [[-- { number = 1, flag = false, text = "x", list = {} }
      policy.ranges = { number = { 0, 2 } }
      function policy.init(req) end]])
    run{ policy = "args", policy_args = { number = 2, flag = true, text = "y", list = { 1 } } }
    for _, case in ipairs {
      { "policy 'secnd' does not exist; did you mean 'second'?", "secnd" },
      { "policy args: policy_args: unknown argument 'nmber'; there are: ", "args", { nmber = 1 } },
      { "policy args: policy_args: number must be a number", "args", { number = "1" } },
      { "policy args: policy_args: flag must be true or false", "args", { flag = 1 } },
      { "policy args: policy_args: text must be a string", "args", { text = {} } },
      { "policy args: policy_args: list must be a list or an object", "args", { list = "x" } },
      { "policy args: policy_args: number is 3; it must be from 0 to 2", "args", { number = 3 } },
      { "policy_args of args: there may be numbers, booleans, strings and tables", "args", { list = { print } } },
      { "policy_args of args: a number is not finite", "args", { list = { 0/0 } } },
      { "policy_args of args: a string is not UTF-8", "args", { text = "\255" } },
      { "policy_args needs a policy", nil, { number = 1 } },
      { "policy[1] must be a name", { 5 } },
      { "policy_args goes with one policy", { "args", "args" }, { number = 1 } },
      { "the request names 17 policies; it may name 16", { "args", "args", "args", "args", "args", "args", "args",
        "args", "args", "args", "args", "args", "args", "args", "args", "args", "args" } },
      { "policy '../../etc/passwd' does not exist", "../../etc/passwd" },
    } do
      local message = failure_of { policy = case[2], policy_args = case[3] }
      assert.truthy(message:find(case[1], 1, true), message)
    end
  end)

  it("fails alone, with file, line and traceback", function()
    local cases = {
      { "error 'oh'", "fails:4: oh\nstack traceback:" },
      { "error {}", "(error object is a table value)" },
      { "return 'x'", "candidates returned a string; it must return a token id, or nil" },
      { "return 1.5", "candidates returned 1.5, which is no token id" },
      { "return 0/0", "which is no token id" },
      { "return -1", "candidates returned -1, which is no token id" },
      { "return 1e9", "chose token 1000000000; the model's tokens are 0 to 49151" },
      { "coroutine.yield()", "attempt to yield" },
      { "c[1].prob = 1", "attempt to write to constant location" },
      { "req.output[1] = 5", "the tokens of a sequence cannot be changed" },
      { "return c[1].tokn", "a candidate has token, prob, logprob and text; it has no 'tokn'" },
    }
    local want = ids{}
    for _, case in ipairs(cases) do
      load("fails", "function policy.candidates(c, req)\n" .. case[1] .. "\nend")
      local neighbour = engine():stream(PROMPT, { temperature = 0, max_tokens = 8 })
      local message = failure_of { policy = "fails" }
      assert.truthy(message:find("policy fails: ", 1, true), message)
      assert.truthy(message:find(case[2], 1, true), message)
      local got = {}
      for delta in neighbour do
        for _, id in ipairs(delta.token_ids) do got[#got + 1] = id end
      end
      assert.same(want, got)
    end
  end)

  it("fails for rows that nothing can be sampled from, and views that are kept", function()
    local function rows(body) load("rows", "local kept\nfunction policy.logits(row, req)\n" .. body .. "\nend") end
    rows "row[5] = 0/0"
    assert.truthy(failure_of{ policy = "rows" }:find("the row has NaN or +inf", 1, true))
    rows "row:fill(-math.huge)"
    assert.truthy(failure_of{ policy = "rows" }:find("every token is masked", 1, true))
    rows "row[#row] = 0"
    assert.truthy(failure_of{ policy = "rows" }:find("the row has no token 49152; its tokens are 0 to 49151", 1, true))
    rows "return 5"
    assert.truthy(failure_of{ policy = "rows" }:find("logits returned a number; it must return nothing", 1, true))
    load("keeps", [[local row, best
      function policy.logits(r) row = r end
      function policy.candidates(c) best = c; return row[0] end]])
    assert.truthy(failure_of{ policy = "keeps" }:find("the row is gone", 1, true))
    load("keeps", [[local best
      function policy.logits(r, req) if best then return best[1] end end
      function policy.candidates(c) best = c end]])
    assert.truthy(failure_of{ policy = "keeps" }:find("the candidates are gone", 1, true))
  end)

  it("fails when init does, as a bad argument", function()
    load("init", "function policy.init(req) error('never') end")
    assert.truthy(failure_of{ policy = "init" }:find("policy init: init:3: never", 1, true))
  end)

  it("goes on without a policy that says so", function()
    load("careless", [[policy.on_error = "ignore"
      function policy.logits(row, req) row:fill(0/0) error "no" end
      function policy.candidates(c, req) error "never called: the policy is off" end]])
    assert.same(ids{}, ids{ policy = "careless" })
  end)

  it("is ended by its deadline, in compiled code too", function()
    local want = ids{}
    for _, body in ipairs { "while true do end", "repeat until pcall(function() while true do end end) and false" } do
      load("endless", "function policy.candidates(c, req) if #req.output == 3 then " .. body .. " end end",
        { deadline = 0.02 })
      local neighbour = engine():stream(PROMPT, { temperature = 0, max_tokens = 8 })
      local message = failure_of { policy = "endless" }
      assert.truthy(message:find("policy endless: ", 1, true), message)
      local got = {}
      for delta in neighbour do
        for _, id in ipairs(delta.token_ids) do got[#got + 1] = id end
      end
      assert.same(want, got)
    end
  end)
end)

describe("loading", function()
  it("refuses what is wrong, saying where", function()
    local head = 'local llm = require "llm"\nlocal policy = llm.policy("refused")\n'
    refuses("x = = 1", "refused:1: unexpected symbol")
    refuses("return 1", "the file makes no policy")
    refuses(head, "policy 'refused' has no hook")
    refuses(head .. "function policy.candidate() end", "has a field 'candidate'; did you mean 'candidates'?")
    refuses(head .. "policy.logits = 5", "logits is a number; it must be a function")
    refuses(head .. "error 'while loading'", "refused:3: while loading", "stack traceback:")
    refuses(head .. "function policy.logits() end function policy.test() assert(false, 'self-test') end", "self-test")
    refuses(head .. "function policy.logits() end policy.max_candidates = 257", "max_candidates must be 1 to 256")
    refuses(head .. "llm.policy('other')", "a file makes one policy; this one has made 'refused'")
    refuses("require('llm').policy('a b')", "must be letters, digits")
    refuses("require('llm').policy('a', { f = print })", "the default of f is a function")
    refuses(head .. "function policy.graph(g, x) return 5 end", "refused:3", "must return a row")
    refuses(head .. "while true do end", "refused")
    for _, info in ipairs(engine():policies()) do assert.not_equal("refused", info.name) end
  end)

  it("leaves requests under way the generation they began with", function()
    local function serve(rank) load("rank", ("function policy.candidates(c) return c[%d].token end"):format(rank)) end
    serve(1)
    local first = ids{ policy = "rank" }
    serve(2)
    local second = ids{ policy = "rank" }
    local streams, got, rank = {}, {}, 2
    for i = 1, 12 do
      streams[i] = { engine():stream(PROMPT, { temperature = 0, max_tokens = 8, policy = "rank" }), rank }
      got[i] = {}
      rank = 3 - rank
      serve(rank)
      assert.is_false(pcall(load, "rank", "syntax error"))
    end
    for i, stream in ipairs(streams) do
      for delta in stream[1] do
        for _, id in ipairs(delta.token_ids) do got[i][#got[i] + 1] = id end
      end
      assert.same(stream[2] == 1 and first or second, got[i])
    end
    serve(1)
    serve(2)
    engine():rollback_policy "rank"
    assert.same(first, ids{ policy = "rank" })
    engine():remove_policy "rank"
    assert.truthy(failure_of{ policy = "rank" }:find("does not exist", 1, true))
  end)

  it("tries policies without an engine's rows", function()
    load("tested", [[-- { by = 1 }
      function policy.init(req) req.state.n = 0 end
      function policy.candidates(c, req) req.state.n = req.state.n + 1 return c[req.params.by + #req.output].token end
      function policy.logits(row, req) row[req.prompt[1] ] = -math.huge end
      function policy.test(t)
        local run = t:run{ prompt = { 2 }, args = { by = 2 } }
        assert(run:candidates{ { 7, 0.5 }, { 8, 0.4 }, { 9, 0.1 } } == 8)
        run:push(8)
        assert(run:candidates{ { 7, 0.5 }, { 8, 0.4 }, { 9, 0.1 } } == 9 and run.req.state.n == 2)
        local row = run:logits{ 1, 2, 3 }
        assert(row[2] == -math.huge and row[1] == 2)
      end]])
  end)
end)

describe("graphs", function()
  it("sample as the engine does, and take arguments", function()
    load("plain", "function policy.graph(g, x) return g.default(x) end")
    for _, params in ipairs { { temperature = 0 }, { temperature = 0.8, top_p = 0.9, top_k = 40, seed = 2 } } do
      local want = ids(params)
      params.policy = "plain"
      assert.same(want, ids(params))
    end
    load("cold", [[-- { t = 1 }
      policy.ranges = { t = { 0.01, 2 } }
      function policy.graph(g, x, p) return g.sample(x / p.t) end
      function policy.test(t) assert(t:run{ args = { t = 0.01 } }:graph{ 0, 5, 1 } == 1) end]])
    assert.same(ids{}, ids{ policy = "cold", policy_args = { t = 0.01 }, temperature = 1, seed = 1 })
    assert.truthy(failure_of{ policy = "cold", policy_args = { t = 3 } }:find("t", 1, true))
  end)

  it("take lists: by default, as an argument, from init", function()
    load("allow", [[-- { ids = { 5 }, words = false }
      function policy.init(req) if req.params.words then req.graph.ids = { 8, 9 } end end
      function policy.graph(g, x, p) return g.mask(x, g.set(p.ids)) end]])
    assert.same({ 5, 5 }, ids{ policy = "allow", max_tokens = 2 })
    assert.same({ 7, 7 }, ids{ policy = "allow", policy_args = { ids = { 7 } }, max_tokens = 2 })
    for _, id in ipairs(ids{ policy = "allow", policy_args = { words = true } }) do assert.truthy(id == 8 or id == 9) end
    assert.truthy(failure_of{ policy = "allow", policy_args = { ids = { 1e6 } } }:find("policy_args: ids: ", 1, true))
  end)
end)

describe("a policy that takes too much memory", function()
  local BOMB = [[
    local policy = require "llm".policy("bomb", { where = "" })
    local function explode() local t = {} while true do t[#t + 1] = ("x"):rep(1e5) .. #t end end
    local function explode_small() local t = {} while true do t[#t + 1] = {} end end
    function policy.init(req) if req.params.where == "init" then explode() end end
    function policy.logits(row, req)
      if #req.output == 2 then
        if req.params.where == "hook" then explode() end
        if req.params.where == "small" then explode_small() end
        if req.params.where == "pcall" then pcall(explode) explode() end
        if req.params.where == "cdata" then local t = {} while true do t[#t + 1] = require "ffi".new("char[?]", 1e6) end end
      end
    end
    return policy]]
  local options = { memory = 8 * 2 ^ 20, deadline = 5 }

  it("fails its request, and goes on for others", function()
    engine():load_policy("bomb", BOMB, options)
    local plain = run{ max_tokens = 6 }[1].token_ids
    for round = 1, 3 do
      for _, where in ipairs { "init", "hook", "small", "pcall", "cdata" } do
        local message = failure_of { policy = "bomb", policy_args = { where = where }, max_tokens = 6 }
        assert.truthy(message:find("not enough memory", 1, true), where .. ": " .. message)
        assert.same(plain, run{ max_tokens = 6, policy = "bomb" }[1].token_ids)
      end
    end
    assert.same(plain, run{ max_tokens = 6 }[1].token_ids)
  end)

  it("is not loaded", function()
    local ok, message = pcall(engine().load_policy, engine(), "boom", [[
      local policy = require "llm".policy("boom", {})
      function policy.logits() end
      local t = {} while true do t[#t + 1] = ("x"):rep(1e5) .. #t end]], options)
    assert.is_false(ok)
    assert.truthy(tostring(message):find("not enough memory", 1, true), tostring(message))
  end)
end)

describe("a policy that comes along", function()
  it("loads, and runs with its defaults or says what it needs", function()
    local bundled = require("llm.core").bundled "scripts/policies/"
    assert.truthy(#bundled > 15)
    for _, path in ipairs(bundled) do
      local name = path:match "([%w_]+)%.lua$"
      local ok, message = pcall(run, { policy = name, max_tokens = 3, temperature = 1, seed = 1 })
      assert.truthy(ok or message:find("needs", 1, true), name .. ": " .. tostring(message))
    end
  end)

  it("bad_words never completes a word", function()
    local plain = run{ max_tokens = 24 }[1].text
    local words = {}
    for word in plain:gmatch "%a%a%a+" do words[#words + 1] = word end
    assert.truthy(#words > 5)
    local text = run{ max_tokens = 24, policy = "bad_words", policy_args = { words = words } }[1].text
    local own = run{ max_tokens = 24, bad_words = words }[1].text -- the engine's of the same name
    for _, word in ipairs(words) do
      assert.is_nil((" " .. text .. " "):find("[^%a]" .. word .. "[^%a]"), word)
    end
    assert.equal(own, text)
  end)

  it("allow_list allows nothing else", function()
    local allowed, tokenizer = { [11] = true, [12] = true }, engine():tokenizer()
    for _, id in ipairs(tokenizer:encode(" yes no", { add_special_tokens = false })) do allowed[id] = true end
    allowed[tokenizer:info().eos] = true
    for _, id in ipairs(ids{ policy = "allow_list", temperature = 1, seed = 2, max_tokens = 24,
                             policy_args = { tokens = { 11, 12 }, texts = { " yes no" } } }) do
      assert.is_true(allowed[id] == true)
    end
    assert.same({ 11, 11, 11 }, ids{ policy = "allow_list", max_tokens = 3, policy_args = { tokens = { 11 }, ends = false } })
  end)

  it("no_repeat_ngram repeats none, and is the first choice otherwise", function()
    local prompt = engine():tokenize("one two three one two three one two")
    for n = 1, 4 do
      local tokens = { unpack(prompt) }
      local out = run({ policy = "no_repeat_ngram", policy_args = { n = n }, max_tokens = 40, ignore_eos = true, logprobs = 20 },
        prompt)[1]
      for step, id in ipairs(out.token_ids) do
        local banned = {} -- by the definition
        for i = 1, #tokens - n + 1 do
          local same = true
          for k = 0, n - 2 do same = same and tokens[i + k] == tokens[#tokens - n + 2 + k] end
          if same then banned[tokens[i + n - 1] ] = true end
        end
        assert.is_nil(banned[id])
        for other, entry in pairs(out.logprobs[step]) do -- whatever is likelier is banned
          if entry.rank < out.logprobs[step][id].rank then assert.is_true(banned[other]) end
        end
        tokens[#tokens + 1] = id
      end
    end
  end)

  it("thinking_budget ends a thought that is too long", function()
    local args = { budget = 6, open = "<think>", close = "</think>", finish = "\n</think>\n\n" }
    local plain = run({ max_tokens = 30, ignore_eos = true }, "<think>\nOkay, so")[1]
    local out = run({ max_tokens = 30, ignore_eos = true, policy = "thinking_budget", policy_args = args }, "<think>\nOkay, so")[1]
    local finish = engine():tokenize(args.finish, { add_special_tokens = false })
    for i = 1, 6 do assert.equal(plain.token_ids[i], out.token_ids[i]) end
    for i, id in ipairs(finish) do assert.equal(id, out.token_ids[6 + i]) end
    assert.is_nil(out.text:match "</think>.*</think>")
    -- who does not think, or has stopped, is left alone
    for _, prompt in ipairs { PROMPT, "<think>hm</think>\nThe answer is" } do
      assert.same(ids({ max_tokens = 20 }, prompt), ids({ max_tokens = 20, policy = "thinking_budget", policy_args = args }, prompt))
    end
  end)

  it("token_healing writes the end of the prompt again", function()
    local prompt = engine():tokenize "The capital of France is Par"
    local last = engine():tokenizer():token_text(table.remove(prompt))
    local out = run({ policy = "token_healing", policy_args = { prefix = last }, max_tokens = 6 }, prompt)[1].text
    assert.equal(last, out:sub(1, #last))
    assert.equal(" Paris", out:sub(1, 6))
    local text = run({ policy = "token_healing", policy_args = { prefix = " Parsimonious" }, max_tokens = 12 }, prompt)[1].text
    assert.equal(" Parsimonious", text:sub(1, 13))
  end)
end)

describe("a server's policies", function()
  local function with_directory(f)
    return function()
      local directory = support.directory()
      local stderr, lines = io.stderr, {}
      io.stderr = { write = function(_, text) lines[#lines + 1] = text end }
      local ok, message = pcall(tasks.run, f, directory, lines)
      io.stderr = stderr
      os.execute("rm -r " .. directory)
      if not ok then error(message, 0) end
    end
  end

  local function write(directory, rank)
    support.write(directory .. "/ranked.lua",
      ('local p = require("llm").policy "ranked"\nfunction p.candidates(c) return c[%s].token end\n'):format(rank))
  end

  it("are loaded from a directory, and again when a file changes", with_directory(function(directory, lines)
    write(directory, 1)
    assert(policies.add_directory(engine(), directory))
    policies.watch(engine())
    local first, second = ids{ policy = "ranked" }, ids{ policy = "second" }
    assert.same(ids{}, first)
    local function until_it_is(want)
      for _ = 1, 200 do
        llm.sleep(0.01)
        if llm.table.pretty(ids{ policy = "ranked" }) == llm.table.pretty(want) then return end
      end
      error "the file was not loaded"
    end
    write(directory, 2)
    until_it_is(second)
    write(directory, "(") -- goes on as it was
    for _ = 1, 200 do
      if table.concat(lines):find("ranked.lua:2: ", 1, true) then break end
      llm.sleep(0.01)
    end
    assert.truthy(table.concat(lines):find("ranked.lua:2: ", 1, true))
    assert.same(second, ids{ policy = "ranked" })
    local ok, failure = policies.add_directory(engine(), directory) -- a reload of the server's script says so too
    assert.is_nil(ok)
    assert.equal(2, failure.line)
    assert.is_nil(policies.reload_file(engine(), directory .. "/none.lua"))
    write(directory, 1)
    until_it_is(first)
  end))

  it("are asked for over HTTP", with_directory(function()
    load("second", "function policy.candidates(c) return c[2].token end")
    load("broken", "function policy.candidates(c) error 'broken on purpose' end")
    local openai = require "llm.openai"
    local server = llm.server { host = "127.0.0.1", port = 0 }
    server:post("/v1/completions", openai.completions(engine()))
    server:post("/v1/chat/completions", openai.chat(engine()))
    server:post("/v1/responses", openai.responses(engine()))
    assert(server:listen())
    local function post(path, body)
      local reply = assert(llm.fetch(server:url() .. path, { method = "POST", body = llm.json.encode(body),
        headers = { ["content-type"] = "application/json" } }))
      return reply.status, llm.json.decode(reply.body), reply.body
    end
    local want = run{ policy = "second" }[1].text
    local status, body = post("/v1/completions", { prompt = PROMPT, temperature = 0, max_tokens = 8, policy = "second" })
    assert.equal(200, status)
    assert.equal(want, body.choices[1].text)
    status, body = post("/v1/completions", { prompt = PROMPT, temperature = 0, max_tokens = 8,
      policy = { "second", { name = "bad_words", args = { words = llm.json.null } } } })
    assert.equal(200, status)
    assert.equal(want, body.choices[1].text)
    for path, request in pairs { ["/v1/chat/completions"] = { messages = { { role = "user", content = "Hi" } } },
                                 ["/v1/responses"] = { input = "Hi" } } do
      request.policy = "second"
      assert.equal(200, (post(path, request)))
      request.policy = "broken"
      status, body = post(path, request)
      assert.equal(500, status)
      assert.truthy(body.error.message:find("policy broken: broken:3: broken on purpose", 1, true))
    end
    for _, case in ipairs { { policy = "none_such" }, { policy = 5 }, { policy = "second", policy_args = { x = 1 } },
                            { policy = "bad_words", policy_args = { words = "x" } }, { policy_args = { x = 1 } } } do
      case.prompt = PROMPT
      status, body = post("/v1/completions", case)
      assert.equal(400, status)
      assert.truthy(body.error.message:find("polic", 1, true))
    end
    local _, _, text = post("/v1/completions", { prompt = PROMPT, policy = "broken", stream = true })
    assert.truthy(text:find("broken on purpose", 1, true))
    server:close()
  end))
end)
