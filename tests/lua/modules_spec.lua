-- The parts of the library that need no model.
local llm = require "llm"
local suggest = require "llm.suggest"
local schema = require "llm.schema"
local values = require "llm.values"
local repl = require "llm.repl"

describe("llm.suggest", function()
  local names = { "temperature", "top_p", "top_k", "max_tokens", "min_tokens" }

  it("finds near names", function()
    assert.equal("temperature", suggest.nearest("temprature", names))
    assert.equal("max_tokens", suggest.nearest("max-token", names))
    assert.equal("top_p", suggest.nearest("topp", names))
    assert.equal("temperature", suggest.nearest("temp", names))
  end)

  it("finds nothing far away, and nothing where two would do", function()
    assert.is_nil(suggest.nearest("zzzzzzz", names))
    assert.is_nil(suggest.nearest("to", names))
  end)
end)

describe("llm.values", function()
  it("reads sizes", function()
    for text, bytes in pairs { ["24MiB"] = 24 * 2 ^ 20, ["2GiB"] = 2 ^ 31, ["1.5G"] = 1.5 * 2 ^ 30, ["500MB"] = 5e8,
                               ["4096"] = 4096, ["64k"] = 65536, ["10 KiB"] = 10240, ["7B"] = 7 } do
      assert.equal(bytes, values.parse({ type = "bytes" }, text, "x"), text)
    end
    for _, text in ipairs { "", "GiB", "2 cups", "-1MiB", "1.3", "2GiBs" } do
      assert.is_nil((values.parse({ type = "bytes" }, text, "x")), text)
    end
  end)

  it("reads counts as vLLM does", function()
    for text, n in pairs { ["32k"] = 32000, ["32K"] = 32768, ["25.6k"] = 25600, ["1M"] = 2 ^ 20, ["17"] = 17 } do
      assert.equal(n, values.parse({ type = "count" }, text, "x"), text)
    end
    assert.is_nil((values.parse({ type = "count" }, "1kk", "x")))
  end)
end)

describe("llm.schema", function()
  local function refusal(options)
    local checked, message = schema.check(schema.engine, options, "engine option")
    assert.is_nil(checked)
    return message
  end

  it("makes names canonical and sizes numbers", function()
    assert.same({ max_model_len = 32000, kv_cache_memory = 2 ^ 31, model = "m" },
      schema.check(schema.engine, { ["max-model-len"] = "32k", kv_cache_memory_bytes = "2GiB", model = "m" }, "x"))
  end)

  it("suggests, and says what a value must be", function()
    assert.equal("unknown engine option 'max_model_length'; did you mean 'max_model_len'?",
      refusal { max_model_length = 5 })
    assert.equal("unknown engine option '1'", refusal { "model.gguf" })
    assert.equal("max_num_seqs must be a whole number; it is 'many'", refusal { max_num_seqs = "many" })
    assert.equal("max_num_seqs must be a whole number; it is 1.5", refusal { max_num_seqs = 1.5 })
    assert.equal("enable_prefix_caching must be true or false; it is 1", refusal { enable_prefix_caching = 1 })
    assert.truthy(refusal { dtype = "int3" }:find("dtype must be one of 'auto', 'float32'", 1, true))
    assert.truthy(refusal { tensor_parallel = 4 }:find("tensor_parallel_size is 4; only 1 is supported today", 1, true))
    assert.truthy(refusal { quantization = "awq" }:find("quantization 'awq' is not supported", 1, true))
  end)
end)

describe("llm.json", function()
  local json = llm.json

  it("tells arrays from objects", function()
    assert.equal("[]", json.encode(json.array()))
    assert.equal("{}", json.encode(json.object()))
    assert.equal('[null,1]', json.encode(json.array { json.null, 1 }))
  end)

  it("lets no field decide that a table is an array", function()
    assert.equal('{"n":1}', json.encode { n = 1 })
    assert.equal('{"n":1000000000}', json.encode { n = 1e9 })
    assert.equal('{"n":3}', json.encode(json.object { n = 3 }))
    assert.equal('{"n":2}', json.encode(json.decode '{"n":2}'))
    assert.equal('[{"n":0}]', json.encode { { n = 0 } })
    assert.equal('{"1":"a","2":"b"}', json.encode(json.object({ "a", "b" }, { 1, 2 })))
    assert.equal("[1,null,3]", json.encode { 1, nil, 3 })
    assert.equal('{"1000000000":1}', json.encode { [1e9] = 1 })
    assert.equal('{"0":1}', json.encode { [0] = 1 })
    assert.equal('{"1.5":1}', json.encode { [1.5] = 1 })
  end)

  it("writes numbers, texts and lines as JSON has them", function()
    assert.equal("[9007199254740991,-3,0.5,null,null]", json.encode { 2 ^ 53 - 1, -3, 0.5, 0 / 0, math.huge })
    assert.equal('["\\"\\n","ü",true,null]', json.encode { '"\n', "ü", true, json.null })
    assert.equal('{\n  "a":[{\n      "b":1\n    }]\n}', json.encode({ a = { { b = 1 } } }, { indent = true }))
    local shared = { 1 }
    assert.equal("[[1],[1]]", json.encode { shared, shared })
  end)

  it("keeps the order of keys that is asked for", function()
    assert.equal('{"z":1,"a":2,"m":3}', json.encode(json.object({ a = 2, m = 3, z = 1 }, { "z", "a", "m" })))
  end)

  it("decodes, with line and column of a mistake", function()
    assert.same({ a = { 1, 2, { b = "ü" } } }, json.decode('{"a":[1,2,{"b":"\\u00fc"}]}'))
    local value, message = json.decode('{"a":\n [1,}')
    assert.is_nil(value)
    assert.truthy(message:find("line 2", 1, true))
    value, message = json.decode("1 2")
    assert.is_nil(value)
    assert.truthy(message:find("text after the value", 1, true))
    assert.equal(json.null, json.decode("[null]", { null = json.null })[1])
    assert.equal("[]", json.encode(json.decode("[]")))
  end)

  it("makes any bytes valid UTF-8", function()
    local bad = "\239\191\189"
    assert.equal("aé😀", json.utf8("aé😀"))
    assert.equal("a" .. bad .. "b", json.utf8("a\255b"))
    assert.equal(bad .. bad, json.utf8("\192\128"))
    assert.equal(bad .. bad .. bad, json.utf8("\237\160\128"))
    assert.equal("x" .. bad, json.utf8("x\226"))
  end)

  it("answers nil and a message for what is no JSON", function()
    local text, message = json.encode({ print })
    assert.is_nil(text)
    assert.truthy(message:find("cannot make JSON", 1, true))
    local cycle = {}
    cycle.a = { cycle }
    assert.equal("cannot make JSON: a table contains itself", select(2, json.encode(cycle)))
    assert.equal("cannot make JSON: a boolean cannot be a key", select(2, json.encode { [true] = 1 }))
    local deep = {}
    for _ = 1, 1e6 do deep = { deep } end
    assert.is_nil((json.encode(deep)))
  end)
end)

describe("llm.table", function()
  local pretty = llm.table.pretty

  it("shows values as Lua", function()
    assert.equal('{ 1, "a\\n", x = true }', pretty { 1, "a\n", x = true })
    assert.equal("{}", pretty {})
    assert.equal('{ [7] = 2, ["a b"] = 1.5 }', pretty { ["a b"] = 1.5, [7] = 2 })
    assert.equal("12345678901", pretty(12345678901))
  end)

  it("survives cycles, depth and length", function()
    local t = {}
    t.t = t
    assert.equal("{ t = {…} }", pretty(t))
    local long = {}
    for i = 1, 500 do long[i] = i end
    assert.truthy(pretty(long):find("300 more", 1, true))
    local deep = {}
    local at = deep
    for _ = 1, 50 do
      at.x = {}
      at = at.x
    end
    assert.truthy(#pretty(deep) < 200)
  end)

  it("lines columns up", function()
    assert.equal("test  tok/s\n----  -----\nab        1\nc       200\n",
      llm.table.columns({ "test", "tok/s" }, { { "ab", 1 }, { "c", 200 } }))
  end)
end)

describe("the REPL's completion", function()
  it("knows globals, fields and methods", function()
    assert.same({ "coroutine.yield" }, repl.complete("coroutine.y"))
    local found = {}
    for _, name in ipairs(repl.complete("str")) do found[name] = true end
    assert.is_true(found.string)
    assert.same({}, repl.complete("no.such.thing"))
  end)
end)

describe("llm.bandwidth", function()
  it("measures something plausible", function()
    local rate = llm.bandwidth(1)
    assert.truthy(rate > 1e8 and rate < 1e13)
    assert.has_error(function() llm.bandwidth(-1) end)
  end)
end)
