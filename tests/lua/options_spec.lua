local options = require "llm.options"

local spec = {
  summary = "A test.",
  sampling = true,
  positional = { { name = "file", type = "path", help = "a file" } },
  { name = "prompt", type = "string", collect = "prompts", help = "a prompt" },
  { name = "prompt_ids", type = "integers", collect = "prompts", help = "ids" },
  { name = "json", type = "boolean", initial = false, help = "JSON" },
  { name = "tag", type = "string", many = true, help = "a tag" },
  { name = "level", type = "integer", initial = 3, min = 1, max = 9, help = "a level" },
  { name = "mode", type = "string", choices = { "fast", "slow" }, help = "a mode" },
}

local function parse(...) return options.parse({ ... }, spec) end
local function refusal(...)
  local opts, message = parse(...)
  assert.is_nil(opts)
  return message
end

describe("llm.options", function()
  it("reads values in all the ways they are written", function()
    local opts = parse("--model", "m.gguf", "--max-model-len=4k", "--kv_cache_memory", "24MiB", "--json", "--level=5")
    assert.equal("m.gguf", opts.model)
    assert.equal(4000, opts.max_model_len)
    assert.equal(24 * 2 ^ 20, opts.kv_cache_memory)
    assert.is_true(opts.json)
    assert.equal(5, opts.level)
  end)

  it("gives initial values, and nothing for what was not given", function()
    local opts = parse()
    assert.is_false(opts.json)
    assert.equal(3, opts.level)
    assert.is_nil(opts.model)
    assert.same({}, opts.sampling)
  end)

  it("switches booleans off with --no-", function()
    local opts = parse("--no-enable-prefix-caching", "--json", "--no-json")
    assert.is_false(opts.enable_prefix_caching)
    assert.is_false(opts.json)
    assert.is_true(parse("--enable-prefix-caching=yes").enable_prefix_caching)
  end)

  it("keeps the order of repeated options that share a list", function()
    local opts = parse("--prompt", "a", "--prompt-ids", "1,2", "--prompt", "--json")
    assert.same({ { name = "prompt", value = "a" }, { name = "prompt_ids", value = { 1, 2 } },
                  { name = "prompt", value = "--json" } }, opts.prompts)
    assert.is_false(opts.json)
    assert.same({ "x", "y" }, parse("--tag", "x", "--tag=y").tag)
  end)

  it("keeps sampling parameters apart, and --seed sets both", function()
    local opts = parse("--temperature", "0", "--top-p", "0.5", "--stop", "a", "--stop", "b", "--seed", "7",
      "--logit-bias", "5:-100,6:2.5", "--logit-bias", '{"7": 1}', "--stop-token-ids", "1,2", "--max-tokens", "-1")
    assert.same({ temperature = 0, top_p = 0.5, stop = { "a", "b" }, seed = 7, stop_token_ids = { 1, 2 },
                  logit_bias = { [5] = -100, [6] = 2.5, [7] = 1 }, max_tokens = -1 }, opts.sampling)
    assert.equal(7, opts.seed)
  end)

  it("takes positional arguments and what comes after --", function()
    assert.equal("x.txt", parse("x.txt", "--json").file)
    assert.equal("--json", parse("--", "--json").file)
    assert.equal("unexpected argument 'b'", refusal("a", "b"))
    local _, message = options.parse({ "m.gguf" }, {})
    assert.equal("unexpected argument 'm.gguf'; a model is given as --model m.gguf", message)
  end)

  it("suggests the nearest name", function()
    assert.equal("unknown option '--temprature'; did you mean '--temperature'?", refusal("--temprature", "1"))
    assert.equal("unknown option '--max-modellen'; did you mean '--max-model-len'?", refusal("--max-modellen=5"))
    assert.equal("unknown option '--quux-flibber'; --help lists all there are", refusal("--quux-flibber"))
    assert.truthy(refusal("-x"):find("unknown option '-x'", 1, true))
  end)

  it("says what a value must be", function()
    assert.equal("--level must be a whole number; it is 'x'", refusal("--level", "x"))
    assert.equal("--level must be between 1 and 9; it is '10'", refusal("--level", "10"))
    assert.equal("--mode must be one of 'fast', 'slow'; it is 'warp'", refusal("--mode", "warp"))
    assert.equal("--level needs a value: a whole number", refusal("--level"))
    assert.equal("--mode needs a value: one of 'fast', 'slow'", refusal("--mode"))
    assert.equal("--temperature must be a number; it is 'hot'", refusal("--temperature", "hot"))
    assert.truthy(refusal("--kv-cache-memory", "2 cups"):find("a size such as 24MiB, 2GiB", 1, true))
    assert.truthy(refusal("--prompt-ids", "1,,2"):find("a list of whole numbers", 1, true))
    assert.truthy(refusal("--json=perhaps"):find("true or false", 1, true))
    assert.truthy(refusal("--tensor-parallel-size", "2"):find("only 1 is supported today", 1, true))
  end)

  it("accepts one device and the default quantization", function()
    assert.equal(1, parse("--tp", "1").tensor_parallel_size)
    assert.truthy(refusal("--quantization", "awq"):find("leave the option out", 1, true))
  end)

  it("writes --help from the same table", function()
    local opts, message = parse("--help")
    assert.is_nil(opts)
    assert.is_nil(message)
    local help = options.help(spec, "llmlua test.lua")
    for _, text in ipairs { "usage: llmlua test.lua [FILE] [options]", "A test.", "--prompt-ids N,N,...", "--[no-]json",
                            "--temperature X", "--max-model-len N", "sampling:", "engine:", "fast, slow" } do
      assert.truthy(help:find(text, 1, true), text)
    end
  end)

  it("ends a script on a mistake", function()
    local ok, failure = pcall(options.options, { [0] = "x.lua", "--nope" }, {})
    assert.is_false(ok)
    assert.equal(2, failure.exit_code)
    assert.truthy(failure.message:find("x.lua: unknown option '--nope'", 1, true))
  end)

  it("hands llm.engine the engine options, as the script left them", function()
    local opts = parse("--model", "a", "--prompt", "p")
    opts.max_model_len = 64
    assert.same({ model = "a", max_model_len = 64 }, options.engine_part(opts))
    assert.is_nil(options.engine_part({ model = "a" }))
  end)
end)
