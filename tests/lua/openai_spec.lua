-- The OpenAI handlers in process: server, engine and client share one event loop. What needs a real client of another
-- make is in tests/clients.
local llm = require "llm"
local auth = require "llm.auth"
local cors = require "llm.cors"
local escape = require "llm.openai.escape"
local json = llm.json
local openai = require "llm.openai"
local params = require "llm.openai.params"
local prometheus = require "llm.prometheus"
local support = require "support"
local tasks = require "llm.task"
local template = require "llm.template"

local function in_task(f) return function() tasks.run(f) end end

-- A server with all routes over the shared engine; closed with the test.
local function open_server(opts, engine)
  opts = opts or {}
  opts.host, opts.port, opts.disable_access_log = "127.0.0.1", 0, true
  opts.served_model_name = opts.served_model_name or { "smol" }
  engine = engine or support.engine()
  local server = llm.server(openai.server_options(opts))
  server.log = {}
  server.on_error = function(failure) table.insert(server.log, tostring(failure)) end
  openai.protect(server, opts)
  server:post("/v1/completions", openai.completions(engine, opts))
  server:post("/v1/chat/completions", openai.chat(engine, opts))
  server:post("/v1/responses", openai.responses(engine, opts))
  server:post("/v1/messages", openai.messages(engine, opts))
  server:get("/v1/models", openai.models(engine, opts))
  server:post("/tokenize", openai.tokenize(engine, opts))
  server:get("/ready", openai.ready(engine, server))
  server:get("/health", openai.live())
  server:get("/metrics", llm.metrics)
  assert(server:listen())
  tasks.own(server, server.close)
  return server, server:url()
end

local function post(url, path, body, headers)
  local fields = { ["Content-Type"] = "application/json" }
  for name, value in pairs(headers or {}) do fields[name] = value end
  local reply = assert(llm.fetch(url .. path, { method = "POST", headers = fields,
    body = type(body) == "string" and body or json.encode(body) }))
  return reply, json.decode(reply.body, { null = json.null })
end

-- The data lines of a stream, decoded but for [DONE].
local function events_of(text)
  local list = {}
  for data in text:gmatch "data: (.-)\n\n" do
    list[#list + 1] = data == "[DONE]" and data or assert(json.decode(data, { null = json.null }))
  end
  return list
end

local function wait_until_idle(engine)
  for _ = 1, 500 do
    if engine:stats().n_blocks_used == 0 and engine:stats().n_running == 0 then return true end
    llm.sleep(0.01)
  end
  return false
end

describe("escape", function()
  it("makes the inside of a JSON string", function()
    for _, text in ipairs { "", "plain", 'a "b" \\ c', "\n\r\t\b\f\0\1\31\127", "é日😀", "</script>" } do
      assert.equal(text, json.decode(escape.string(text)))
    end
    assert.equal("\\u0001\\n", escape.escape "\1\n")
  end)

  it("writes numbers that JSON has", function()
    assert.equal("null", escape.number(-math.huge))
    assert.equal("null", escape.number(0 / 0))
    assert.equal("-9999", escape.number(-9999))
    assert.equal(-0.25, tonumber(escape.number(-0.25)))
  end)
end)

describe("the parameters", function()
  local function read(endpoint, text) return params.read(endpoint, template.from_json(text)) end

  local function refusal(endpoint, text)
    local ok, failure = pcall(read, endpoint, text)
    assert.is_false(ok)
    assert.is_true(llm.http.is_error(failure), tostring(failure))
    assert.equal(400, failure.status)
    return failure.message, failure.details and failure.details.param
  end

  it("are sorted into the engine's and the endpoint's", function()
    local given = read("completions", [[{"prompt":"x","temperature":0.5,"stop":"a","priority":3,"echo":true,
      "seed":null,"logit_bias":{"5":-1.5},"top_k":40.0,"b":1,"a":2}]])
    assert.same({ temperature = 0.5, stop = { "a" }, logit_bias = { [5] = -1.5 }, top_k = 40 }, given.sampling)
    assert.same({ priority = 3 }, given.request)
    assert.same({ prompt = "x", echo = true }, given.own)
    assert.same({ "a", "b" }, given.unknown)
  end)

  it("are refused by name", function()
    assert.same({ "temperature must be a number", "temperature" }, { refusal("chat", '{"temperature":"0.5"}') })
    assert.same({ "top_p is 1.5; it must be at most 1", "top_p" }, { refusal("chat", '{"top_p":1.5}') })
    assert.same({ "n must be a whole number", "n" }, { refusal("chat", '{"n":1.5}') })
    assert.same({ "stop must be a string or a list of strings", "stop" }, { refusal("chat", '{"stop":["a",1]}') })
    assert.truthy(refusal("completions", '{"guided_json":{}}'):find("structured output", 1, true))
    assert.truthy(refusal("completions", "[]"):find("must be a JSON object", 1, true))
  end)

  it("take what changes nothing", function()
    assert.same({}, read("completions", '{"best_of":1,"use_beam_search":false,"suffix":"","user":"u"}').unknown)
  end)

  it("are documented", function()
    local text = support.slurp(support.root .. "/docs/serving.md")
    for _, entry in ipairs(params.entries) do
      assert.truthy(text:find("`" .. entry.name .. "`", 1, true), entry.name .. " is not in docs/serving.md")
    end
    for _, entry in ipairs(openai.options) do
      local option = "--" .. entry.name:gsub("_", "-")
      assert.truthy(text:find(option, 1, true), option .. " is not in docs/serving.md")
    end
  end)
end)

describe("API keys", function()
  it("are equal only when they are", function()
    assert.is_true(auth.equal("abc", "abc"))
    for _, other in ipairs { "", "ab", "abcd", "abd", "abcabc", "ABC" } do
      assert.is_false(auth.equal("abc", other), other)
      assert.is_false(auth.equal(other, "abc"), other)
    end
  end)

  it("come from a file", function()
    local path = support.file("# comment\n\n one \ntwo  the tenant\r\n")
    local keys, tenants = auth.read_keys(path)
    assert.same({ "one", "two" }, keys)
    assert.same({ two = "the tenant" }, tenants)
    os.remove(path)
    assert.is_nil((auth.read_keys(path)))
    path = support.file "# nothing\n"
    assert.is_nil((auth.read_keys(path)))
    os.remove(path)
  end)
end)

describe("cors", function()
  it("lets known origins in and names them", in_task(function()
    local server = llm.server { host = "127.0.0.1", port = 0 }
    server:use(cors.layer { origins = { "https://a.example" } })
    server:get("/", function() return "x" end)
    server:listen()
    tasks.own(server, server.close)
    local function origin(from) return llm.fetch(server:url() .. "/", { headers = { Origin = from } }).headers end
    assert.equal("https://a.example", origin("https://a.example")["access-control-allow-origin"])
    assert.equal("Origin", origin("https://b.example").vary)
    assert.is_nil(origin("https://b.example")["access-control-allow-origin"])
  end))
end)

describe("prometheus", function()
  it("counts into buckets", function()
    local histogram, out = prometheus.histogram { 0.005, 1, 10 }, prometheus.new()
    for _, x in ipairs { 0.001, 0.005, 0.006, 1, 11 } do histogram:observe(x) end
    out:family("x", "histogram", "An x.")
    out:histogram({ { "a", 'q"\n' } }, histogram)
    assert.equal(table.concat({ "# HELP x An x.", "# TYPE x histogram", 'x_bucket{le="0.005",a="q\\"\\n"} 2.0',
      'x_bucket{le="1.0",a="q\\"\\n"} 4.0', 'x_bucket{le="10.0",a="q\\"\\n"} 4.0',
      'x_bucket{le="+Inf",a="q\\"\\n"} 5.0', 'x_count{a="q\\"\\n"} 5.0', 'x_sum{a="q\\"\\n"} 12.012', "" }, "\n"),
      out:text())
  end)
end)

describe("Retry-After", function()
  it("is the time that the queue takes", function()
    local time_of_queue = require("llm.openai.service").time_of_queue
    local function of(waiting, finished, busy)
      return time_of_queue({ n_waiting = waiting, n_finished = 100 + finished, busy_seconds = 50 + busy },
        { n_finished = 100, busy_seconds = 50 })
    end
    assert.equal(4, of(8, 19, 10))   -- two a second
    assert.equal(5, of(9, 19, 10))
    assert.equal(1, of(1, 999, 1))   -- at least a second
    assert.equal(60, of(1000, 1, 1)) -- at most a minute
    assert.equal(20, of(2, 0, 10))   -- none has ended yet: one in ten seconds at best
    assert.equal(1, of(0, 0, 0))
  end)
end)

describe("the OpenAI handlers", function()
  it("complete, whole and streamed", in_task(function()
    local server, url = open_server()
    local body = { prompt = "The capital of France is", max_tokens = 8, temperature = 0 }
    local reply, whole = post(url, "/v1/completions", body)
    assert.equal(200, reply.status, reply.body)
    assert.truthy(whole.choices[1].text:find "Paris")
    assert.same({ prompt_tokens = 5, completion_tokens = 8, total_tokens = 13 }, whole.usage)
    body.stream = true
    local events = events_of((post(url, "/v1/completions", body)).body)
    assert.equal("[DONE]", table.remove(events))
    local text = ""
    for _, event in ipairs(events) do text = text .. event.choices[1].text end
    assert.equal(whole.choices[1].text, text)
    assert.equal("length", events[#events].choices[1].finish_reason)
    assert.same({}, server.log)
  end))

  it("chat, and begin a stream with the role", in_task(function()
    local server, url = open_server()
    local body = { messages = { { role = "user", content = "Hi!" } }, max_tokens = 4, temperature = 0, stream = true,
                   stream_options = { include_usage = true } }
    local events = events_of((post(url, "/v1/chat/completions", body)).body)
    assert.same({ role = "assistant", content = "" }, events[1].choices[1].delta)
    assert.same({}, events[#events - 1].choices)
    assert.equal(4, events[#events - 1].usage.completion_tokens)
    assert.same({}, events[#events - 2].choices[1].delta)
    assert.equal("length", events[#events - 2].choices[1].finish_reason)
    assert.same({}, server.log)
  end))

  it("say what is wrong, nested", in_task(function()
    local _, url = open_server()
    local reply, body = post(url, "/v1/completions", '{"prompt":')
    assert.equal(400, reply.status)
    assert.equal(400, body.error.code)
    assert.truthy(body.error.message:find("invalid JSON at byte", 1, true))
    reply, body = post(url, "/v1/completions", { prompt = "x", model = "other" })
    assert.equal(404, reply.status)
    assert.equal("model", body.error.param)
    assert.equal("the model 'other' does not exist; this server has smol", body.error.message)
  end))

  it("refuse prompts of several kinds in a list, with the item", in_task(function()
    local _, url = open_server()
    local function refusal(prompt)
      local reply, body = post(url, "/v1/completions", '{"max_tokens":1,"prompt":' .. prompt .. "}")
      assert.equal(400, reply.status, prompt)
      assert.equal("prompt", body.error.param)
      return body.error.message
    end
    assert.truthy(refusal '[[1],"a"]':find("prompt[1] is a string and prompt[0] is not a string", 1, true))
    assert.truthy(refusal '["a","b",[1]]':find("prompt[2] is not a string and prompt[0] is a string", 1, true))
    assert.truthy(refusal '["a",1]':find("prompt[1] is not a string", 1, true))
    assert.truthy(refusal '[1,"a"]':find("prompt[1] is a string", 1, true))
    assert.truthy(refusal '[[1],[2,"a"]]':find("prompt[1] is no list of token ids", 1, true))
    assert.truthy(refusal '[[1],[]]':find("prompt[1] is an empty list", 1, true))
    assert.truthy(refusal '[1,[2]]':find("prompt is no list of token ids", 1, true))
    local reply, body = post(url, "/v1/completions", '{"max_tokens":1,"prompt":[[1],[2,3]]}')
    assert.equal(200, reply.status)
    assert.equal(2, #body.choices)
  end))

  it("name unknown fields in a header, safely", in_task(function()
    local _, url = open_server()
    local reply = post(url, "/v1/completions", '{"prompt":"x","max_tokens":1,"a\\r\\nSet-Cookie: b":1}')
    assert.equal(200, reply.status)
    assert.equal("unknown field 'a??Set-Cookie? b'", reply.headers["x-llmlua-warning"])
    assert.is_nil(reply.headers["set-cookie"])
  end))

  it("free what a client held that left", in_task(function()
    local engine = support.engine()
    local _, url = open_server(nil, engine)
    for _, stream in ipairs { true, false } do
      local replies = {}
      for i = 1, 8 do
        tasks.spawn(function()
          replies[i] = llm.fetch(url .. "/v1/completions", { method = "POST", stream = stream,
            headers = { ["Content-Type"] = "application/json" }, timeout = not stream and 0.3 or nil,
            body = json.encode { prompt = "Once", max_tokens = 1500, ignore_eos = true, stream = stream } }) or false
          if replies[i] then replies[i]:close() end
        end)
      end
      for _ = 1, 500 do
        if #replies == 8 then break end
        llm.sleep(0.01)
      end
      assert.equal(8, #replies)
      assert.is_true(wait_until_idle(engine))
    end
  end))

  it("give a request up at its deadline", in_task(function()
    local engine = support.engine()
    local _, url = open_server({ request_timeout = 0.2 }, engine)
    local body = { prompt = "Once", max_tokens = 1500, ignore_eos = true }
    local reply, answer = post(url, "/v1/completions", body)
    assert.equal(504, reply.status)
    assert.equal(504, answer.error.code)
    body.stream = true
    local events = events_of((post(url, "/v1/completions", body)).body)
    assert.equal("[DONE]", events[#events])
    assert.equal(504, events[#events - 1].error.code)
    assert.is_true(wait_until_idle(engine))
  end))

  it("tell a deadline midway in the words of each API", in_task(function()
    local engine = llm.engine { load_format = "null", null_step_ms = 20, max_model_len = 4096 }
    local _, url = open_server({ request_timeout = 0.3, chat_template = "{{ messages[0].content }}" }, engine)
    for path, own in pairs { ["/v1/responses"] = { input = "Once", max_output_tokens = 1500 },
                             ["/v1/messages"] = { messages = { { role = "user", content = "Once" } }, max_tokens = 1500 } } do
      own.stream = true
      local reply = llm.fetch(url .. path, { method = "POST", body = json.encode(own),
        headers = { ["Content-Type"] = "application/json" } })
      assert.equal(200, reply.status, reply.body)
      assert.equal("no", reply.headers["x-accel-buffering"])
      local kind, data = reply.body:match "event: (%S+)\ndata: ([^\n]+)\n\n$"
      assert.equal("error", kind)
      assert.truthy(data:find("--request-timeout", 1, true), data)
    end
    assert.is_true(wait_until_idle(engine))
    engine:close()
  end))

  it("are not ready while the server drains", in_task(function()
    local server, url = open_server()
    assert.equal(200, llm.fetch(url .. "/ready").status)
    server.draining = true
    assert.equal(503, llm.fetch(url .. "/ready").status)
    assert.equal(200, llm.fetch(url .. "/health").status)
  end))

  it("keep one service for an engine and its options, and none that nobody uses", in_task(function()
    local services = require "llm.openai.service"
    local engine, opts = support.engine(), {}
    local service = services.of(engine, opts)
    assert.equal(service, services.of(engine, opts))
    for _ = 1, 50 do services.of(engine, {}) end
    collectgarbage()
    collectgarbage()
    local n = 0
    for _ in pairs(service.front.services) do n = n + 1 end
    assert.truthy(n < 20, n .. " services are kept")
  end))
end)

describe("chat.lua", function()
  it("answers piped lines and obeys commands", function()
    local result = support.run({ "chat", "--model", support.model(), "--temperature", "0", "--max-tokens", "6",
                                 "--system", "Be brief." }, "Hello\n/retry\n/bogus\n/undo\n/undo\n/exit\nnever\n")
    assert.equal(0, result.code, result.err)
    local first, second, rest = result.out:match "^(.-)\n(.-)\n(.*)$"
    assert.truthy(#first > 0)
    assert.equal(first, second)
    assert.equal("", rest)
    assert.truthy(result.err:find("there is no command /bogus", 1, true))
    assert.truthy(result.err:find("there is nothing to take back", 1, true))
  end)

  it("needs a chat template that compiles", function()
    local result = support.run { "chat", "--model", support.model(), "--chat-template", "{% if %}" }
    assert.equal(1, result.code)
    assert.truthy(result.err:find("the chat template does not compile", 1, true), result.err)
  end)
end)
