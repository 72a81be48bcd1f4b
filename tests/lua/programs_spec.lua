-- The programs of scripts/examples on the default model: called, behind routes, and as scripts.
local json = require "llm.json"
local llm = require "llm"
local servable = require "llm.servable"
local support = require "support"
local tasks = require "llm.task"

local engine = support.engine()
local programs = servable.load(support.root .. "/scripts/examples")

local function at_rest()
  for _ = 1, 200 do
    collectgarbage()
    if engine:stats().n_blocks_used == 0 then return true end
    llm.sleep(0.01)
  end
  return false
end

-- What each must give of small arguments: check(result, text).
local cases = {
  best_of_n = { { prompt = "The sea is", n = 3, max_tokens = 8 }, function(result, text)
    assert.equal(3, #result.candidates)
    assert.equal(text, result.candidates[1].text)
    assert.is_true(result.candidates[1].mean_logprob >= result.candidates[3].mean_logprob)
  end },
  beam_search = { { prompt = "The capital of France is", width = 3, max_tokens = 4 }, function(result, text)
    assert.equal(3, #result.beams)
    assert.equal(" Paris.", text:sub(1, 7))
    local greedy = engine:sequence("The capital of France is")
    local likely = greedy:score(greedy:fork():generate{ temperature = 0, max_tokens = 4 }.token_ids).total
    assert.is_true(result.beams[1].logprob >= likely - 1e-6)
    assert.near(greedy:score(result.beams[1].token_ids).total, result.beams[1].logprob, 1e-4)
  end },
  self_consistency = { { n = 3, max_tokens = 40 }, function(result, text)
    assert.equal(3, #result.chains)
    assert.equal(text, result.answer)
    assert.truthy(result.votes[result.answer])
  end },
  tree_of_thoughts = { { depth = 2, branches = 2, keep = 1, max_tokens = 12 }, function(result, text)
    assert.equal(2 + 2, result.judged)
    assert.equal(2, select(2, text:gsub("\n", "")))
  end },
  react = { { question = "What is 12 * 34 + 5?" }, function(result, text)
    assert.equal("413", result.answer)
    assert.same({ { tool = "calculator", argument = "12 * 34 + 5", observation = "413" } }, result.calls)
    assert.truthy(text:find("Action: calculator[12 * 34 + 5]\nObservation: 413\nThought:", 1, true))
  end },
  prompt_lookup = { { max_tokens = 24 }, function(result, text)
    local prompt
    for _, entry in ipairs(programs.prompt_lookup.spec) do prompt = prompt or entry.initial end
    local plain = engine:generate(prompt, { temperature = 0, max_tokens = 24 }, { progress = false })[1].outputs[1]
    assert.equal(plain.text, text:sub(1, #plain.text)) -- it may end a few tokens later
    assert.equal(result.tokens, result.accepted + result.steps)
    assert.is_true(result.steps < result.tokens / 2)
  end },
  guard_rail = { { max_tokens = 24, forbid = { "place", "people" }, attempts = 4 }, function(result, text)
    assert.is_nil(text:lower():find("place", 1, true))
    assert.is_nil(text:lower():find("people", 1, true))
    assert.is_true(#result.rewound >= 1)
    for _, one in ipairs(result.rewound) do assert.truthy(one.text:lower():find(one.rule, 1, true)) end
  end },
  skeleton_of_thought = { { points = 3, max_tokens = 8 }, function(result, text)
    assert.equal(3, #result.points)
    assert.equal(3, #result.parts)
    assert.truthy(text:find(result.points[2] .. ":" .. result.parts[2], 1, true))
  end },
  json_template = { {}, function(result, text)
    assert.equal(result.json, text)
    assert.same({ name = "Ada", age = 36, pet = "cat" }, result.value)
  end },
  debate = { { rounds = 2, max_tokens = 12 }, function(result)
    assert.equal(4, #result.speeches)
    assert.truthy(result.winner == "for" or result.winner == "against")
    assert.is_true(result.verdict[result.winner] >= math.max(result.verdict["for"], result.verdict.against))
  end },
  router = { { max_tokens = 6 }, function(result)
    assert.equal(5, #result.jobs)
    assert.is_true(result.jobs[1].tenant ~= result.jobs[2].tenant) -- the tenant with most jobs does not go first twice
    local shared = 0
    for _, job in ipairs(result.jobs) do shared = shared + job.shared_tokens end
    assert.is_true(shared >= 10)
  end },
  guidance = { { prompt = "The weather is nice, so", negative = "The weather is bad, so", scale = 3, max_tokens = 6 },
    function(result, text)
      assert.equal(6, #result.token_ids)
      assert.equal(result.text, text)
    end },
  ab_policies = { { samples = 2, max_tokens = 8, a = '{"temperature": 0}', b = '{"temperature": 1.5, "policy": "typical"}' }, function(result)
    assert.is_true(result.a.mean_logprob > result.b.mean_logprob)
    assert.equal(8, result.a.mean_tokens)
  end },
}

local function post(url, name, args)
  local reply, message = llm.fetch(("%s/programs/%s"):format(url, name),
    { method = "POST", body = args and json.encode(json.object(args)) or "" })
  assert(reply, message)
  return reply
end

describe("scripts/examples", function()
  it("has a case here for each program", function()
    for name in pairs(programs) do assert.truthy(cases[name], name) end
    for name in pairs(cases) do assert.truthy(programs[name], name) end
  end)

  for name, case in pairs(cases) do
    it(name, function()
      local program = programs[name]
      local texts = {}
      local args = assert(program:arguments(case[1]))
      local result = tasks.run(program.run, engine, args, function(text) texts[#texts + 1] = text end)
      case[2](result, table.concat(texts))
      assert.is_true(at_rest())
    end)
  end
end)

describe("programs behind routes", function()
  local function serve(f)
    return function()
      tasks.run(function()
        local server = llm.server{ host = "127.0.0.1", port = 0 }
        server.on_error = function() end
        for name, program in pairs(programs) do server:post("/programs/" .. name, program:handler(engine)) end
        assert(server:listen())
        tasks.own(server, server.close)
        f(server:url())
      end)
      assert.is_true(at_rest())
    end
  end

  it("answer as they do when they are called, all at once", serve(function(url)
    local names = {}
    for name in pairs(cases) do names[#names + 1] = name end
    llm.parallel(names, function(name)
      local reply = post(url, name, cases[name][1])
      assert.equal(200, reply.status, name .. ": " .. tostring(reply.body))
      local answer = assert(json.decode(reply.body))
      cases[name][2](answer.result, answer.text)
    end)
  end))

  it("stream events", serve(function(url)
    local reply = post(url, "react", { question = "What is 12 * 34 + 5?", stream = true })
    local texts, result, done = {}, nil, false
    for data in reply.body:gmatch "data: ([^\n]*)\n\n" do
      if data == "[DONE]" then
        done = true
      else
        local event = assert(json.decode(data))
        texts[#texts + 1] = event.text
        result = event.result or result
      end
    end
    assert.is_true(done)
    cases.react[2](result, table.concat(texts))
    assert.is_true(#texts > 3)
  end))

  it("say what is wrong with their arguments, and with themselves", serve(function(url)
    local reply = post(url, "best_of_n", { promt = "a" })
    assert.equal(400, reply.status)
    assert.truthy(reply.body:find("did you mean 'prompt'", 1, true), reply.body)
    reply = post(url, "best_of_n", { n = 1000 })
    assert.equal(400, reply.status)
    reply = post(url, "best_of_n", { n = "three" })
    assert.equal(400, reply.status)
    reply = post(url, "ab_policies", { a = "no JSON" })
    assert.equal(500, reply.status)
  end))

  it("are canceled when their client leaves", serve(function(url)
    local before = engine:stats().n_finished
    local call = llm.spawn(function()
      return llm.fetch(url .. "/programs/tree_of_thoughts", { method = "POST", timeout = 0.3,
        body = '{"depth": 16, "branches": 4, "keep": 4, "max_tokens": 200}' })
    end)
    assert.is_nil((call:wait()))
    for _ = 1, 100 do
      if engine:stats().n_running == 0 and engine:stats().n_waiting == 0 then break end
      llm.sleep(0.02)
    end
    assert.equal(0, engine:stats().n_running)
    assert.is_true(engine:stats().n_finished > before)
  end))
end)

describe("a program as a script", function()
  it("takes arguments from the command line and prints its result", function()
    local result = support.run { "examples/json_template", "--model", support.model(), "--text", "Ada is 36 years old.",
      "--template", '{"age": {{integer}}}' }
    assert.equal(0, result.code, result.err)
    assert.equal('{"age": 36}\n', result.out:match "^[^\n]*\n")
    assert.equal(36, json.decode(result.out:match "\n({.*)$").value.age)
    local file = support.run { support.root .. "/scripts/examples/json_template.lua", "--help" }
    assert.equal(0, file.code)
    assert.truthy(file.out:find("Fills the holes of a JSON template", 1, true))
  end)

  it("is served by serve_programs.lua", function()
    tasks.run(function()
      local process = require("process").start { "serve_programs", "--model", support.model(), "--port", "0",
                                                 "--max-model-len", "1024" }
      local list = json.decode(assert(llm.fetch(process.url .. "/programs")).body)
      for name in pairs(cases) do assert.truthy(list[name].summary) end
      local reply = post(process.url, "react", cases.react[1])
      process:stop()
      assert.equal(200, reply.status, reply.body)
      local answer = json.decode(reply.body)
      cases.react[2](answer.result, answer.text)
    end)
  end)
end)
