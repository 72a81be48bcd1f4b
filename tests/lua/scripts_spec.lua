-- The bundled scripts from outside, on the default model.
local json = require("llm").json
local support = require "support"

local model = support.model()

local function run(args, stdin) return support.run(args, stdin) end

local function lines_of(text)
  local list = {}
  for line in text:gmatch("[^\n]+") do list[#list + 1] = line end
  return list
end

local function objects(result)
  assert.equal(0, result.code, result.err)
  local list = {}
  for i, line in ipairs(lines_of(result.out)) do list[i] = assert(json.decode(line, { null = json.null })) end
  return list
end

-- The keys of the outermost object in a line of JSON.
local function keys_in_order(line)
  local keys = {}
  local stripped = line:gsub('\\"', "")
  local level = 0
  for text, after in stripped:gmatch('([%[%]{}]?)([^%[%]{}]*)') do
    if text == "{" or text == "[" then level = level + 1 elseif text == "}" or text == "]" then level = level - 1 end
    if level == 1 then
      for key in after:gmatch('"([%w_]+)":') do keys[#keys + 1] = key end
    end
  end
  return keys
end

local function has(text, part) assert.truthy(text:find(part, 1, true), text) end

describe("generate.lua", function()
  it("prints one object a line, in the order of the prompts", function()
    local result = run { "generate.lua", "--model", model, "--temperature", "0", "--max-tokens", "8", "--json",
                         "--prompt", "The capital of France is", "--prompt-ids", "504,3575,282,4649,314", "--prompt",
                         "Once upon a time", "--logprobs", "1", "--prompt-logprobs", "0" }
    local list = objects(result)
    assert.equal(3, #list)
    assert.same({ "prompt", "prompt_token_ids", "prompt_logprobs", "outputs", "metrics", "num_cached_tokens" },
      keys_in_order(lines_of(result.out)[1]))
    assert.equal("The capital of France is", list[1].prompt)
    assert.equal(json.null, list[2].prompt)
    assert.equal("Once upon a time", list[3].prompt)
    for _, object in ipairs(list) do
      local output = object.outputs[1]
      assert.equal(0, output.index)
      assert.equal("length", output.finish_reason)
      assert.equal(json.null, output.stop_reason)
      assert.equal(8, #output.token_ids)
      assert.equal(8, #output.logprobs)
      local entry = output.logprobs[1][tostring(output.token_ids[1])]
      assert.truthy(entry.logprob < 0 and entry.rank == 1 and entry.decoded_token)
      assert.truthy(output.cumulative_logprob < 0)
      assert.equal(#object.prompt_token_ids, #object.prompt_logprobs)
      assert.equal(json.null, object.prompt_logprobs[1])
      assert.truthy(object.prompt_logprobs[2][tostring(object.prompt_token_ids[2])].logprob < 0)
      assert.truthy(object.metrics.e2e_latency > 0)
    end
    assert.same(list[1].outputs[1].token_ids, list[2].outputs[1].token_ids)
    assert.equal("", result.err)
  end)

  it("prints null where nothing was asked for", function()
    local object = objects(run { "generate", "--model", model, "--max-tokens", "1", "--json", "--prompt", "x" })[1]
    assert.equal(json.null, object.prompt_logprobs)
    assert.equal(json.null, object.outputs[1].logprobs)
    assert.equal(json.null, object.outputs[1].cumulative_logprob)
  end)

  it("gives a batch the tokens it gives one by one", function()
    local prompts = { "The capital of France is", "Water boils at a temperature of", "def fibonacci(n):",
                      "The three primary colors are" } -- README.md's
    local command = { "generate", "--model", model, "--temperature", "0", "--max-tokens", "32", "--json" }
    local function with(...)
      local words = { unpack(command) }
      for _, prompt in ipairs { ... } do
        words[#words + 1] = "--prompt"
        words[#words + 1] = prompt
      end
      return objects(run(words))
    end
    local batched = with(unpack(prompts))
    for i, prompt in ipairs(prompts) do
      assert.same(with(prompt)[1].outputs[1].token_ids, batched[i].outputs[1].token_ids)
    end
  end)

  it("takes every sampling parameter", function()
    local object = objects(run { "generate", "--model", model, "--json", "--prompt", "The sky", "--n", "2",
      "--temperature",
      "0.9", "--top-p", "0.95", "--top-k", "40", "--min-p", "0.01", "--presence-penalty", "0.1", "--frequency-penalty",
      "0.1", "--repetition-penalty", "1.1", "--seed", "5", "--max-tokens", "6", "--min-tokens", "3", "--stop", "zzz",
      "--stop-token-ids", "7,8", "--ignore-eos", "--include-stop-str-in-output", "--no-skip-special-tokens",
      "--logprobs", "2", "--prompt-logprobs", "1", "--logit-bias", "300:1.5", "--bad-words", "purple",
      "--truncate-prompt-tokens", "2" })[1]
    assert.equal(2, #object.outputs)
    assert.equal(2, #object.prompt_token_ids)
    assert.equal(6, #object.outputs[2].token_ids)
  end)

  it("gives the same text for the same seed", function()
    local command = { "generate", "--model", model, "--prompt", "Once", "--temperature", "1", "--seed", "11" }
    assert.equal(run(command).out, run(command).out)
  end)

  it("reads prompts from a file, line by line, or from standard input", function()
    local path = support.file("The capital of France is\nOnce upon a time\n")
    local list = objects(run { "generate", "--model", model, "--json", "--max-tokens", "1", "--file", path, "--lines" })
    assert.equal(2, #list)
    assert.equal("Once upon a time", list[2].prompt)
    assert.equal("The capital of France is\nOnce upon a time",
      objects(run { "generate", "--model", model, "--json", "--max-tokens", "1", "--file", path })[1].prompt)
    os.remove(path)
    local piped = run({ "generate", "--model", model, "--json", "--max-tokens", "1" }, "piped\n")
    assert.equal("piped", objects(piped)[1].prompt)
  end)

  it("prints valid JSON for a prompt that is not UTF-8", function()
    local object = objects(run { "generate", "--model", model, "--json", "--max-tokens", "1", "--prompt", "a\255b" })[1]
    assert.equal("a\239\191\189b", object.prompt)
  end)

  it("streams what it would print", function()
    local command = { "generate", "--model", model, "--temperature", "0", "--max-tokens", "24", "--prompt",
                      "Once upon a time" }
    local plain = run(command).out
    command[#command + 1] = "--stream"
    assert.equal(plain, run(command).out)
    command[#command + 1] = "--json"
    local text = ""
    for _, delta in ipairs(objects(run(command))) do text = text .. delta.text end
    assert.equal(plain, text .. "\n")
  end)

  it("draws its progress on a terminal only", function()
    local command = { support.program, "generate", "--model", model, "--max-tokens", "2", "--prompt", "a", "--prompt",
                      "b" }
    for i, word in ipairs(command) do command[i] = support.quote(word) end
    local result = support.shell(("script -qec %s /dev/null"):format(support.quote(table.concat(command, " "))))
    assert.truthy(result.out:find("Generating (2 prompts)", 1, true))
    assert.truthy(result.out:find("output %d+ tok/s"))
    assert.truthy(result.out:find("Loading", 1, true))
  end)

  it("says what is wrong, in one line, and exits with 1 or 2", function()
    local function refusal(code, ...)
      local result = run { "generate", ... }
      assert.equal(code, result.code, result.err)
      assert.equal("", result.out)
      assert.equal(1, #lines_of(result.err), result.err)
      return result.err
    end
    local prompt = { "--prompt", "x" }
    has(refusal(1, "--model", "/no/such.gguf", unpack(prompt)), "/no/such.gguf")
    has(refusal(1, unpack(prompt)), "model")
    has(refusal(1, "--model", model, "--temperature", "-1", unpack(prompt)), "temperature is -1")
    has(refusal(1, "--model", model, "--n", "0", unpack(prompt)), "n is 0")
    has(refusal(1, "--model", model, "--top-p", "2", unpack(prompt)), "top_p is 2")
    has(refusal(1, "--model", model, "--prompt", ""), "prompt")
    has(refusal(1, "--model", model, "--max-model-len", "32", "--prompt", ("word "):rep(50)), "32")
    has(refusal(2, "--temprature", "1"), "did you mean '--temperature'?")
    has(refusal(1, "--model", model, "--file", "/no/such/file"), "/no/such/file")
    has(refusal(2, "--model", model, "--stream", "--n", "2", unpack(prompt)), "--stream")
  end)

  it("stops at Ctrl-C with 130", function()
    local result = support.shell(("timeout --preserve-status -s INT 1 %s generate --model %s --prompt x "
      .. "--max-tokens 8000 --ignore-eos --threads 1; echo $?"):format(support.quote(support.program),
        support.quote(model)))
    assert.equal("130\n", result.out)
    assert.equal("llmlua: interrupted\n", result.err)
  end)
end)

describe("scripts that serve", function()
  for script, words in pairs {
    ["serve.lua"] = { "--model", "null", "--load-format", "null", "--uds", "/nonexistent/socket" },
    ["router.lua"] = { "--upstream", "http://localhost:1", "--host", "nowhere.invalid" },
    ["serve_programs.lua"] = { "--model", "null", "--load-format", "null", "--host", "nowhere.invalid" },
  } do
    it("say why they cannot listen: " .. script, function()
      local result = run { script, unpack(words) }
      assert.equal(1, result.code)
      assert.equal(1, #lines_of(result.err), result.err)
      has(result.err, "llmlua: cannot listen on " .. words[#words])
    end)
  end
end)

describe("tokenize.lua", function()
  it("prints the ids of its input, and decodes them", function()
    local text = "Hello <|im_start|> wörld\n\t 😀"
    local result = run({ "tokenize", "--model", model, "--json" }, text)
    local ids = json.decode(result.out)
    assert.same(support.engine():tokenize(text), ids)
    assert.equal(text, run({ "tokenize", "--model", model, "--decode" }, result.out).out)
    assert.equal(json.encode(text) .. "\n", run({ "tokenize", "--model", model, "--decode", "--json" }, result.out).out)
    local skipped = run({ "tokenize", "--model", model, "--decode", "--skip-special" }, result.out)
    assert.equal("Hello  wörld\n\t 😀", skipped.out)
    local plain = json.decode(run({ "tokenize", "--model", model, "--json", "--no-parse-special" }, text).out)
    assert.truthy(#plain > #ids)
  end)

  it("lists tokens for people", function()
    assert.equal("  19556  \"Hello\"\n    905  \" world\"\n", run({ "tokenize", "--model", model }, "Hello world").out)
    assert.equal("[]\n", run({ "tokenize", "--model", model, "--json" }, "").out)
    assert.equal("[19556,905]\n", run({ "tokenize", "--model", model, "--json", "--text", "Hello world" }).out)
    assert.equal("[19556,905]\n", run({ "tokenize", "--model", model, "--json", "--no-special", "--text",
                                        "Hello world" }).out)
  end)

  it("says what is wrong", function()
    has(run({ "tokenize", "--model", model, "--decode" }, "1 x").err, "'x'")
    has(run({ "tokenize", "--model", model, "--decode" }, "99999999").err, "99999999")
    assert.equal(2, run({ "tokenize" }).code)
    assert.equal(1, run({ "tokenize", "--model", "/no/such" }).code)
  end)
end)

describe("perplexity.lua", function()
  it("scores the second half of each window", function()
    local path = support.file(("The quick brown fox jumps over the lazy dog. It barks; the fox runs away.\n"):rep(20))
    local object = objects(run { "perplexity", path, "--model", model, "--ctx", "64", "--json" })[1]
    assert.equal(64, object.ctx)
    assert.equal(object.n_windows * 31, object.n_scored)
    assert.equal(object.n_windows * 64, object.n_tokens)
    assert.truthy(object.perplexity > 1 and object.perplexity < 20)
    assert.truthy(object.stderr > 0)
    local short = run { "perplexity", path, "--model", model, "--ctx", "4096" }
    assert.equal(1, short.code)
    assert.truthy(short.err:find("a window of 4096 needs more text", 1, true))
    os.remove(path)
    has(run({ "perplexity", "/no/such", "--model", model }).err, "/no/such")
  end)

  it("agrees with what the log probabilities of generate say", function()
    local engine = support.engine()
    local ids = engine:tokenize(("one two three four five six seven. "):rep(8))
    local window = { unpack(ids, 1, 32) }
    local rows = engine:generate(window, { max_tokens = 1, temperature = 0, prompt_logprobs = 0 })[1].prompt_logprobs
    local sum = 0
    for k = 18, 32 do sum = sum - rows[k][window[k]].logprob end
    local path = support.file(("one two three four five six seven. "):rep(8))
    local object = objects(run { "perplexity", path, "--model", model, "--ctx", "32", "--chunks", "1", "--json" })[1]
    os.remove(path)
    assert.equal(15, object.n_scored)
    assert.truthy(math.abs(math.exp(sum / 15) / object.perplexity - 1) < 1e-6)
  end)
end)

describe("bench.lua", function()
  local function check(object, mode)
    assert.equal(mode, object.mode)
    for _, name in ipairs { "tok_s", "gb_s", "bandwidth_gb_s", "bandwidth_share", "weight_bytes", "load_seconds",
                            "peak_memory_bytes", "threads" } do
      assert.truthy(object[name] > 0, name)
    end
    assert.truthy(math.abs(object.gb_s / object.bandwidth_gb_s - object.bandwidth_share) < 1e-6)
  end

  it("measures prefill, decode and batches", function()
    local list = objects(run { "bench", "--model", model, "--json", "--mode", "prefill", "--mode", "decode", "--mode",
      "batch", "--n-prompt", "32", "--n-gen", "8", "--depth", "0,64", "--batch", "2", "--reps", "2" })
    assert.equal(5, #list)
    local modes = { "prefill", "decode", "decode", "batch", "batch" }
    for i, object in ipairs(list) do
      check(object, modes[i])
      assert.equal(2, #object.tok_s_reps)
    end
    assert.equal(64, list[3].depth)
    assert.equal(2, list[4].batch)
    assert.equal(32, list[1].n_prompt)
  end)

  it("needs no more than a config.json", function()
    local directory = support.root .. "/tests/golden/models/llama"
    for _, args in ipairs { { "--load-format", "dummy", "--config", directory }, { "--config", directory } } do
      local object = objects(run { "bench", "--json", "--mode", "decode", "--n-gen", "4", unpack(args) })[1]
      check(object, "decode")
      assert.equal("llama", object.architecture)
    end
  end)

  it("simulates users", function()
    local object = objects(run { "bench", "--model", model, "--json", "--mode", "serve-sim", "--requests", "4",
      "--rate",
      "50", "--n-prompt", "16", "--n-gen", "8" })[1]
    check(object, "serve-sim")
    assert.equal(4, object.requests)
    assert.truthy(object.ttft_ms_p50 > 0 and object.ttft_ms_p99 >= object.ttft_ms_p50)
    assert.truthy(object.itl_ms_p50 > 0 and object.itl_ms_p99 >= object.itl_ms_p50)
  end)

  it("prints a table for people", function()
    local result = run { "bench", "--model", model, "--mode", "decode", "--n-gen", "4", "--reps", "1" }
    assert.equal(0, result.code)
    assert.truthy(result.out:find("test%s+tok/s%s+GB/s%s+of memory"))
    assert.truthy(result.out:find("\ndecode 4%s+[%d.]+%s+[%d.]+%s+%d+%%"))
  end)
end)
