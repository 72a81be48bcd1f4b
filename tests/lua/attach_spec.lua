-- llmlua attach: a prompt in a running server.
local llm = require "llm"
local process = require "process"
local support = require "support"

local KEY = "the key"

local function in_task(f) return function() llm.task.run(f) end end

local function serve(...)
  return process.start { "serve.lua", "--load-format", "null", "--host", "127.0.0.1", "--port", "0", "--disable-access-log",
                         "--null-step-ms", "5", ... }
end

local function post(server, path, body, key)
  return assert(llm.fetch(server.url .. path, { method = "POST", body = body, headers = {
    ["Content-Type"] = "application/json", Authorization = key and "Bearer " .. key or nil } }))
end

-- What a line gives, through HTTP.
local function eval(server, code)
  local reply = post(server, "/admin/eval", llm.json.encode { code = code }, KEY)
  assert.equal(200, reply.status, reply.body)
  return llm.json.decode(reply.body)
end

local function attach(server, stdin, ...)
  local words = { "LLMLUA_API_KEY=" .. support.quote(KEY), support.quote(support.program), "attach",
                  support.quote(server.url:gsub("^http://", "")) }
  for _, word in ipairs { ... } do words[#words + 1] = support.quote(word) end
  return support.shell(table.concat(words, " "), stdin)
end

describe("a server that allows to attach", function()
  local server
  setup(in_task(function() server = serve("--allow-attach", "--api-key", KEY) end))
  teardown(in_task(function() server:stop() end))

  it("runs lines with a key only", in_task(function()
    for path, body in pairs { ["/admin/eval"] = '{"code": "1"}', ["/admin/complete"] = '{"word": "l"}' } do
      assert.equal(401, post(server, path, body).status)
      assert.equal(401, post(server, path, body, "another").status)
      assert.equal(200, post(server, path, body, KEY).status)
      assert.equal(400, post(server, path, "{}", KEY).status)
      assert.equal(400, post(server, path, "x", KEY).status)
      assert.equal(405, assert(llm.fetch(server.url .. path, { headers = { Authorization = "Bearer " .. KEY } })).status)
    end
  end))

  it("is a prompt through a pipe", function()
    local result = attach(server, table.concat({ "1 + 1", "x = { 1, b = 'c' }", "for i = 1, 2 do", "print(i)", "end", "x",
      "do error 'bad' end", "y = = 2", "help 'llm.version'", "llm.exit(3)", "os.exit(4)", "x.b" }, "\n"))
    assert.equal(0, result.code, result.err)
    assert.equal('2\n1\n2\n{ 1, b = "c" }\nllm.version()\n  -> string  such as "0.1.0"\n"c"\n', result.out)
    assert.truthy(result.err:find("stdin:1: bad\nstack traceback:", 1, true), result.err)
    assert.truthy(result.err:find("unexpected symbol near '='", 1, true))
    assert.falsy(result.err:find("attach.lua", 1, true))
    assert.equal(2, select(2, result.err:gsub("a prompt in a server cannot end it", "")))
  end)

  it("is a prompt on a terminal, with completion", function()
    local home = os.tmpname()
    os.remove(home)
    local command = ("mkdir %s && (sleep 1; printf 'llm.vers\\t()\\n'; sleep 1; printf '6 * 7\\n\\004') | HOME=%s TERM=dumb "
      .. "LLMLUA_API_KEY=%s script -qec %s /dev/null; cat %s/.llmlua_history; rm -r %s"):format(home, home,
      support.quote(KEY), support.quote(("%s attach %s"):format(support.quote(support.program), server.url)), home, home)
    local out = support.shell(command).out
    assert.truthy(out:find('"' .. llm.version() .. '"', 1, true), out)
    assert.truthy(out:find("42", 1, true), out)
    assert.truthy(out:find("llm.version()", 1, true), out)
  end)

  it("completes names", in_task(function()
    local function names(word)
      return llm.json.decode(post(server, "/admin/complete", llm.json.encode { word = word }, KEY).body).names
    end
    assert.same({ "llm.table", "llm.task" }, names "llm.ta")
    assert.same({ "engine:generate" }, names "engine:gen")
    assert.same({}, names "none.such")
    local reloads = names "relo"
    assert.same({ "reload" }, reloads)
  end))

  it("runs one line with --execute", function()
    local result = attach(server, "", "--execute", "print 'seen' io.write('as ', 'well\\n') return server.port > 0")
    assert.equal("seen\nas well\ntrue\n", result.out)
    assert.truthy(attach(server, "", "--execute", "io.read()").err:find("no input to read", 1, true))
    assert.equal(1, attach(server, "", "--execute", "error 'no'").code)
  end)

  it("shows requests, KV memory, policies, scripts", in_task(function()
    local before = eval(server, "kv().running").values
    assert.equal("0", before)
    local stream = assert(llm.fetch(server.url .. "/v1/completions", { method = "POST", stream = true, body =
      '{"prompt": [1, 2, 3], "max_tokens": 400, "stream": true, "ignore_eos": true}', headers = {
      ["Content-Type"] = "application/json", Authorization = "Bearer " .. KEY } }))
    assert.truthy(stream:read())
    assert.equal('{ "/v1/completions", 1 }', eval(server, [[
      local seen = {}
      for _, r in ipairs(requests()) do if r.path ~= "/admin/eval" then seen = { r.path, kv().running } end end
      return seen]]).values)
    stream:close()
    assert.truthy(eval(server, "policies()").values:find("policies", 1, true))
    assert.truthy(eval(server, "scripts()").values:find("generations", 1, true))
    assert.truthy(eval(server, "accounts()").values:find("attach", 1, true))
  end))

  it("changes what is served", in_task(function()
    eval(server, "server:get('/new', function() return 'added' end)")
    assert.equal("added", assert(llm.fetch(server.url .. "/new", { headers = { Authorization = "Bearer " .. KEY } })).body)
    assert.truthy(eval(server, "reload()").error:find("to load again", 1, true)) -- a bundled script
  end))

  it("waits as handlers do", in_task(function()
    assert.equal("8", eval(server, [[
      local n = 0
      for delta in engine:stream({ 1, 2 }, { max_tokens = 8, ignore_eos = true, detokenize = false }) do
        n = n + #delta.token_ids
      end
      llm.sleep(0.01)
      return n]]).values)
  end))

  it("stops what does not end, and goes on", in_task(function()
    for _, code in ipairs { "while true do end", "while true do pcall(function() while true do end end) end",
                            "local function f() return f() end f()", "local t = {} for i = 1, 1e9 do t[i % 7] = i end",
                            "coroutine.wrap(function() while true do end end)()" } do
      local answer = eval(server, code)
      assert.truthy(answer.error and answer.error:find("stopped: it has run for more than 50 ms", 1, true),
        code .. ": " .. tostring(answer.error))
    end
    assert.truthy(eval(server, "for i = 1, 1e9 do print(('x'):rep(1000)) end").error)
    assert.equal("3", eval(server, "1 + 2").values)
  end))

  it("does not hold streams up for longer than its limit", in_task(function()
    local stream = assert(llm.fetch(server.url .. "/v1/completions", { method = "POST", stream = true, body =
      '{"prompt": [1, 2, 3], "max_tokens": 100, "stream": true, "ignore_eos": true}', headers = {
      ["Content-Type"] = "application/json", Authorization = "Bearer " .. KEY } }))
    assert.truthy(stream:read())
    for _ = 1, 3 do eval(server, "while true do end") end
    local text = assert(stream:text())
    assert.truthy(text:find("[DONE]", 1, true))
  end))

  it("cuts off what is too long to show", in_task(function()
    local answer = eval(server, "('x'):rep(1e6)")
    assert.truthy(#answer.values < 300000)
    assert.truthy(answer.values:find("bytes more", 1, true))
  end))
end)

describe("a server at a Unix socket", function()
  it("is attached to by its path", in_task(function()
    local path = os.tmpname()
    os.remove(path)
    local server = process.start { "serve.lua", "--load-format", "null", "--uds", path, "--allow-attach", "--api-key", KEY }
    assert.equal("3\n", attach({ url = "unix:" .. path }, "1 + 2").out)
    server:stop()
  end))
end)

describe("a server with workers", function()
  it("runs lines in the first", in_task(function()
    local server = serve("--allow-attach", "--api-key", KEY, "--workers", "3")
    for i = 1, 12 do -- connections are dealt out by the kernel
      assert.equal("1", eval(server, "(llm.worker())").values)
      assert.equal(tostring(i), eval(server, "n = (n or 0) + 1 return n").values)
    end
    server:stop()
  end))
end)

describe("a server that does not", function()
  it("refuses", in_task(function()
    local server = serve("--api-key", KEY)
    local reply = post(server, "/admin/eval", '{"code": "1"}', KEY)
    assert.equal(403, reply.status)
    assert.truthy(reply.body:find("--allow-attach", 1, true))
    server:stop()
    server = serve "--allow-attach"
    assert.equal(403, post(server, "/admin/eval", '{"code": "1"}', KEY).status)
    local result = attach(server, "1")
    assert.equal(1, result.code)
    assert.truthy(result.err:find("needs an API key", 1, true), result.err)
    server:stop()
  end))

  it("is told apart from none", function()
    local result = attach({ url = "http://127.0.0.1:1" }, "1")
    assert.equal(1, result.code)
    assert.truthy(result.err:find("127.0.0.1:1", 1, true), result.err)
    assert.equal(2, support.shell("env -u LLMLUA_API_KEY " .. support.quote(support.program) .. " attach localhost:1").code)
  end)
end)
