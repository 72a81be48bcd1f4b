-- Scripts that come with requests: what they can do, what they answer, and that limits hold. What hostile ones try is in
-- hostile_spec.

local llm = require "llm"
local client_script = require "llm.client_script"
local json = llm.json
local openai = require "llm.openai"
local support = require "support"
local tasks = require "llm.task"
local tools = require "llm.tools"

local function in_task(f) return function() tasks.run(f) end end

local function open_server(opts)
  opts = opts or { allow_client_scripts = true }
  opts.host, opts.port, opts.disable_access_log = "127.0.0.1", 0, true
  opts.served_model_name = { "smol" }
  local engine = support.engine()
  local server = llm.server(openai.server_options(opts))
  server.on_error = function(failure) error(failure, 0) end
  openai.protect(server, opts)
  server:post("/v1/completions", openai.completions(engine, opts))
  server:post("/v1/chat/completions", openai.chat(engine, opts))
  assert(server:listen())
  tasks.own(server, server.close)
  return server:url(), engine
end

local function post(url, body, path)
  local reply = assert(llm.fetch(url .. (path or "/v1/completions"), { method = "POST",
    headers = { ["Content-Type"] = "application/json" }, body = json.encode(body) }))
  return json.decode(reply.body, { null = json.null }), reply
end

local function value_of(url, script, args)
  if args then args = json.object(args) end
  local body, reply = post(url, { script = script, script_args = args })
  assert(reply.status == 200, reply.body)
  return body.script.result, body
end

local function failure_of(url, body)
  local answer, reply = post(url, body)
  assert.equal("script", answer.error.param, reply.body)
  return answer.error.message, reply.status
end

describe("a client's script", function()
  it("is refused unless it is allowed", in_task(function()
    local message, status = failure_of(open_server {}, { script = "return 1" })
    assert.equal(400, status)
    assert.matches("--allow-client-scripts", message, 1, true)
  end))

  it("answers with the text it returns, what it emits and what it prints", in_task(function()
    local url = open_server()
    local body = post(url, { script = "emit 'a%s\\n' emit 'b' print('x', 1, nil, true) return 'c'" })
    assert.equal("text_completion", body.object)
    assert.equal("a%s\nbc", body.choices[1].text)
    assert.equal("stop", body.choices[1].finish_reason)
    assert.equal("x\t1\tnil\ttrue\n", body.script.output)
    assert.equal(json.null, body.script.result)
    assert.is_true(body.script.peak_bytes > 10000 and body.script.run_seconds < 0.05)
    body = post(url, { script = "return 'hi'", messages = json.array {} }, "/v1/chat/completions")
    assert.same({ role = "assistant", content = "hi" }, body.choices[1].message)
  end))

  it("answers with a value", in_task(function()
    local url = open_server()
    assert.same({ 1, "x", true }, (value_of(url, "return { 1, 'x', true }")))
    assert.same({ a = { b = 2 } }, (value_of(url, "return { a = { b = request.args.k + 1 } }", { k = 1 })))
    assert.same({ n = 1e9 }, (value_of(url, "return { n = 1e9 }")))
    assert.same({ ["1"] = 1, ["5"] = 2 }, (value_of(url, "return { 1, [5] = 2 }")))
    assert.same({ 1, json.null }, (value_of(url, "return { 1, 0/0 }")))
    assert.equal(0.5, (value_of(url, "return json.decode(json.encode{ x = 0.5 }).x")))
  end))

  it("sees its own request", in_task(function()
    local url = open_server()
    local body = post(url, { prompt = "p", temperature = 0.25, script =
      "return request.prompt .. request.params.temperature .. type(request.args)" })
    assert.equal("p0.25nil", body.choices[1].text)
    body = post(url, { messages = { { role = "user", content = "q" } }, script = "return request.messages[1].content" },
      "/v1/chat/completions")
    assert.equal("q", body.choices[1].message.content)
  end))

  it("generates with the request's parameters and its own", in_task(function()
    local url, engine = open_server()
    local wanted = engine:generate("The capital of France is", { temperature = 0, max_tokens = 4 })[1].outputs[1]
    local result, body = value_of(url, [[
      local outputs = engine:generate({ "The capital of France is", request.args.second }, { temperature = 0, max_tokens = 4 })
      return { outputs[1].outputs[1], outputs[2].prompt, #outputs[2].outputs[1].token_ids }
    ]], { second = "One and one is" })
    assert.equal(wanted.text, result[1].text)
    assert.same(wanted.token_ids, result[1].token_ids)
    assert.same({ "One and one is", 4 }, { result[2], result[3] })
    assert.equal(8, body.usage.completion_tokens)
    body = post(url, { temperature = 0, max_tokens = 4, script = [[
      local text = ""
      for delta in engine:stream "The capital of France is" do text = text .. delta.text end
      return text
    ]] })
    assert.equal(wanted.text, body.choices[1].text)
    assert.equal(4, body.usage.completion_tokens)
  end))

  it("talks to the model through its template", in_task(function()
    local url, engine = open_server()
    local asked = { { role = "user", content = "Say yes." } }
    local plain = post(url, { messages = asked, temperature = 0, max_tokens = 5 }, "/v1/chat/completions")
    local body = post(url, { messages = asked, temperature = 0, max_tokens = 5,
      script = "return engine:chat(request.messages).outputs[1].text" }, "/v1/chat/completions")
    assert.equal(plain.choices[1].message.content, body.choices[1].message.content)
    assert.equal(plain.usage.prompt_tokens, body.usage.prompt_tokens)
    assert.equal(0, engine:stats().n_running)
  end))

  it("cannot generate more than the request's max_tokens", in_task(function()
    local body = post(open_server(), { max_tokens = 6, script = [[
      local sizes = {}
      for i = 1, 10 do
        local ok, outputs = pcall(engine.generate, engine, "a", { max_tokens = 4, ignore_eos = true })
        sizes[i] = ok and #outputs[1].outputs[1].token_ids or outputs
        if not ok then return sizes end
      end
    ]] })
    assert.same({ 4, 2, "the request's max_tokens are used up" }, body.script.result)
    assert.equal(6, body.usage.completion_tokens)
  end))

  it("works in coroutines of its own", in_task(function()
    assert.equal("3 true y 200000", (value_of(open_server(), [[
      local co = coroutine.wrap(function()
        local inner = coroutine.wrap(function() return #engine:generate("a", { max_tokens = 3, ignore_eos = true })[1].outputs[1].token_ids end)
        local n, x = inner(), 0
        coroutine.yield(n)
        for i = 1, 2e5 do x = x + 1 end -- several slices
        return x
      end)
      local n = co()
      local other = coroutine.create(function() coroutine.yield "y" end)
      return { table.concat({ n, tostring(coroutine.resume(other)), select(2, true, "y"), ("%d"):format(co()) }, " ") }
    ]])[1]))
  end))

  it("calls tools that the operator has registered, and no others", in_task(function()
    local url = open_server()
    llm.tool("add", function(a, b)
      llm.sleep(0.001)
      return a + b, { sum = true }
    end)
    llm.tool("fails", function() error("no weather today", 0) end)
    llm.tool("leaks", function() return print end)
    assert.same({ 5, true }, (value_of(url, "local n, t = tools.add(2, 3) return { n, t.sum }")))
    assert.same({ false, "no weather today" }, (value_of(url, "return { pcall(tools.fails) }")))
    assert.matches("cannot be passed on", value_of(url, "return { pcall(tools.leaks) }")[2])
    assert.is_true((value_of(url, "return tools.other == nil")))
    for _, name in ipairs(tools.names()) do llm.tool(name, nil) end
  end))

  it("streams what it emits", in_task(function()
    local url = open_server()
    for path, object in pairs { ["/v1/completions"] = "text_completion",
                                ["/v1/chat/completions"] = "chat.completion.chunk" } do
      local _, reply = post(url, { stream = true, script = "emit 'a' emit '\"' return 'c'" }, path)
      local text, last = "", nil
      for data in reply.body:gmatch "data: ({.-})\n\n" do
        last = json.decode(data)
        assert.equal(object, last.object)
        text = text .. (last.choices[1].text or last.choices[1].delta.content)
      end
      assert.equal('a"c', text)
      assert.equal("stop", last.choices[1].finish_reason)
      assert.is_table(last.script)
      assert.matches("data: %[DONE%]\n\n$", reply.body)
    end
    local _, reply = post(url, { stream = true, script = "emit 'a' error 'late'" })
    assert.matches('"message":"script:1: late"', reply.body, 1, true)
    assert.matches("data: %[DONE%]\n\n$", reply.body)
  end))

  it("fails with a message that says where", in_task(function()
    local url = open_server()
    for script, message in pairs {
      ["x ="] = "script:1: unexpected symbol near '<eof>'",
      ["\n\nerror 'boom'"] = "script:3: boom",
      ["return nothing.here"] = "script:1: attempt to index global 'nothing'",
      ["error {}"] = "it raised a table",
      ["return print"] = "a function cannot be passed on",
      ["local t = {} t[1] = t return t"] = "nested more than 16 deep",
      ["return engine.generate('a')"] = "call it with a colon",
      ["engine:generate('a', { temperature = -1 })"] = "temperature",
      ["engine:generate('a', { nonsense = 1 })"] = "nonsense",
      ["coroutine.yield(1)"] = "attempt to yield from outside a coroutine",
      [("-- %s"):format(("x"):rep(70000))] = "longer than 65536 bytes",
    } do
      local got, status = failure_of(url, { script = script })
      assert.equal(400, status)
      assert.truthy(got:find(message, 1, true), got)
    end
  end))

  it("is stopped after its time and refused memory; others go on", in_task(function()
    local url, engine = open_server()
    local message = failure_of(url, { script = "\nwhile true do end" })
    assert.equal("script:2: stopped: the script has run for more than 50 ms", message)
    message = failure_of(url, { script = "local t = {} for i = 1, 1e9 do t[i] = ('x'):rep(1000) .. i end" })
    assert.equal("not enough memory: the script may use 16 MiB", message)
    message = failure_of(open_server { allow_client_scripts = true, client_script_time = 0.01 },
      { script = "while true do pcall(function() while true do end end) end" })
    assert.matches("more than 10 ms", message)
    assert.equal(7, (value_of(url, "return 7")))
    assert.equal(0, engine:stats().n_running)
  end))

  it("ends when it waits too long, with its requests", in_task(function()
    local url, engine = open_server { allow_client_scripts = true, client_script_timeout = 0.05 }
    local body, reply = post(url, { script = "engine:generate('a', { max_tokens = 100000, ignore_eos = true })" })
    assert.equal(504, reply.status)
    assert.matches("the script has not ended within 0.05 s", body.error.message)
    for _ = 1, 100 do
      if engine:stats().n_running == 0 then break end
      llm.sleep(0.01)
    end
    assert.equal(0, engine:stats().n_running)
  end))

  it("is counted in the metrics", in_task(function()
    local url = open_server()
    local function counter(name)
      local text = require("llm.metrics").text()
      return tonumber(text:match("llmlua:script_" .. name .. '_total{kind="client",script="script"} (%S+)'))
    end
    value_of(url, "return 1")
    local kills, errors, calls = counter "kills", counter "errors", counter "calls"
    failure_of(url, { script = "while true do end" })
    failure_of(url, { script = "error 'x'" })
    assert.same({ kills + 1, errors + 1 }, { counter "kills", counter "errors" })
    assert.is_true(counter "calls" > calls + 1 and counter "bytes" > 0 and counter "seconds" > 0)
  end))

  it("leaves nothing to the next", in_task(function()
    local url = open_server()
    value_of(url, [[
      x, string.x, math.pi, table.insert = 1, 1, 3, nil
      rawset(_G, "print", nil)
    ]])
    assert.same({ "nil", "nil", true, "function", "function" }, (value_of(url,
      "return { type(x), type(string.x), math.pi > 3.1, type(table.insert), type(print) }")))
  end))

  it("waits its turn, and does not run in great numbers", in_task(function()
    local url = open_server()
    local codes, left = {}, 24
    local me = tasks.running()
    for _ = 1, left do
      tasks.spawn(function()
        local _, reply = post(url, { script = "engine:generate('a', { max_tokens = 8, ignore_eos = true }) return 1" })
        codes[reply.status] = (codes[reply.status] or 0) + 1
        left = left - 1
        if left == 0 then tasks.wake(me) end
      end)
    end
    while left > 0 do tasks.wait() end
    assert.same({ [200] = 16, [503] = 8 }, codes)
    assert.equal(0, client_script.running())
  end))
end)

describe("a script's string functions", function()
  -- The same expression here and there.
  local expressions = {
    [[("hello world"):find("o")]], [[("hello world"):find("o", 6)]], [[("hello"):find("l+")]], [[("a.b"):find(".", 1, true)]],
    [[("hello"):find("xyz")]], [[("hello"):find("")]], [[("hello"):find("", 10)]], [[("hello"):find("", 6)]],
    [[("hello"):find("(l)(l)")]], [[("hello"):find("()ll()")]], [[("  x "):match("^%s*(.-)%s*$")]], [[("key = value"):match("(%w+)%s*=%s*(%w+)")]],
    [[("2026-11-23"):match("(%d+)-(%d+)-(%d+)")]], [[("f(a(b)c)d"):match("%b()")]], [[("THE (quick) fox"):find("%((%a+)%)")]],
    [[("THE (quick) fox"):gsub("%f[%a]%a+", string.lower)]], [[("hello"):gsub("", "-")]], [[("hello"):gsub("l", "L", 1)]],
    [[("hello world"):gsub("%w+", "<%0>")]], [[("hello world"):gsub("(%w+) (%w+)", "%2 %1")]], [[("abc"):gsub("%w", { a = "1", b = false })]],
    [[("abc"):gsub("%w", function(c) if c == "b" then return false end return c:upper() end)]], [[("abc"):gsub("^a", "x")]],
    [[("aaa"):gsub("^a", "x")]], [[("a%b"):gsub("%%", "%%%%")]], [[("x"):rep(3, ",")]], [[("x"):rep(0)]], [[("x"):rep(-1)]],
    [[("abc"):reverse()]], [[("aBc"):upper() .. ("aBc"):lower()]], [[("%5d|%-5d|%05.1f|%x|%q|%s|%%"):format(42, 42, 3.14159, 255, "a\nb", true)]],
    [[("%s %s"):format(nil, 1.5)]], [[("%c%c"):format(72, 105)]], [[("abc"):byte(1, -1)]], [[("abc"):sub(-2)]],
    [[table.concat({ 1, 2, "x" }, ", ")]], [[table.concat({}, "x")]], [[table.concat({ 1, 2, 3 }, "-", 2, 3)]],
    [[(function() local t = { 3, 1, 2 } table.sort(t) return unpack(t) end)()]],
    [[(function() local t = { "b", "a", "c" } table.sort(t, function(x, y) return x > y end) return unpack(t) end)()]],
    [[(function() local t = { 1, 2, 3 } table.insert(t, 2, "x") table.insert(t, "y") return unpack(t) end)()]],
    [[(function() local t = { 1, 2, 3 } return table.remove(t, 1), table.remove(t), #t, table.remove({}) end)()]],
    [[(function() local r = {} for k, v in ("a=1, b=2"):gmatch("(%w+)=(%w+)") do r[#r + 1] = k .. v end return unpack(r) end)()]],
    [[(function() local r = {} for w in ("one  two"):gmatch("%a*") do r[#r + 1] = "<" .. w .. ">" end return unpack(r) end)()]],
    [=[("x]y"):find("[]]")]=], [[("x^y"):find("[%^]")]], [[("a-c"):find("[a%-c]+")]], [[("abc"):find("[^a]")]], [[("a\0b"):find("%z")]],
    [[("abab"):find("(ab)%1")]], [[("x"):find("[a-]")]], [[("-"):find("[a-]")]], [[("é"):find("[\128-\255]+")]],
    [[("a,b,,c"):gsub(",", ";")]], [[("abc"):match(".-")]], [[("abc"):match("a-c?$")]], [[("aXb"):gsub("%u", "%%")]], [[tostring(12.5)]], [[tonumber("0x10")]],
    [[tonumber("z", 36)]], [[tonumber("1e3")]], [[tonumber("x")]], [[select("#", 1, nil, nil)]], [[math.floor(2.7)]], [[bit.band(7, 10)]],
  }
  local bad = { [[("x"):find("[a")]], [[("x"):find("%")]], [[("a"):find("(a")]], [[("a"):match("a)")]], [[("x"):find("%b")]],
                [[("x"):find("%f")]], [[("x"):gsub("x", "%2")]], [[("x"):find("%1")]], [[("x"):gsub("x", {}, {})]], [[("%d"):format("x")]] }

  it("do what Lua's do", in_task(function()
    local url = open_server()
    for _, expression in ipairs(expressions) do
      local wanted = { assert(loadstring("return " .. expression))() }
      local got = value_of(url, "return { " .. expression .. " }")
      for i = 1, 8 do assert.equal(wanted[i], got[i], expression) end
    end
    for _, expression in ipairs(bad) do
      assert.is_false(pcall(assert(loadstring("return " .. expression))), expression)
      local result = value_of(url, "return (pcall(function() return " .. expression .. " end))")
      assert.is_false(result, expression)
    end
  end))
end)
