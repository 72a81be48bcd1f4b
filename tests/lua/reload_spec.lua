-- Hot loading: a script is replaced while requests stream, or is not replaced and the answer says why.
local llm = require "llm"
local reload = require "llm.reload"
local script = require "llm.script"
local support = require "support"
local tasks = require "llm.task"

local write = support.write

local function in_task(f) return function() tasks.run(f) end end

local head = 'local llm = require "llm"\nlocal server = llm.server{ host = "127.0.0.1", port = 0, api_key = "k" }\n'

-- A script that says `word`, whole and in pieces.
local function says(word)
  return head .. ([[
server:get("/word", function() return "%s" end)
server:get("/stream", function(req, res)
  for i = 1, tonumber(req:args().n) do
    res:write("%s ")
    llm.sleep(0.001)
  end
end)
server:run()
error "never reached"
]]):format(word, word)
end

-- A directory with a script in it, a server and its manager; all gone when the task ends.
local function open(text, options)
  local directory = support.directory()
  local path = directory .. "/script.lua"
  write(path, text or "")
  local server = llm.server { host = "127.0.0.1", port = 0, api_key = "k" }
  server:get("/word", function() return "first" end)
  assert(server:listen())
  options = options or {}
  options.script, options.arg, options.watch = path, options.arg or {}, options.watch or false
  local manager = reload.adopt(server, options)
  tasks.own(server, function()
    manager:close()
    server:close()
    os.execute("rm -r " .. directory)
  end)
  return { server = server, manager = manager, path = path, directory = directory, url = server:url() }
end

local function word(s)
  local reply, message = llm.fetch(s.url .. "/word")
  return reply and reply.body or message
end

local log = io.stderr
local function quietly(f)
  return function()
    local lines = {}
    io.stderr = { write = function(_, text) lines[#lines + 1] = text end }
    local ok, failure = pcall(tasks.run, f, lines)
    io.stderr = log
    if not ok then error(failure, 0) end
  end
end

describe("a reload", function()
  it("replaces routes; requests under way keep theirs", quietly(function(lines)
    local s = open(says "second")
    assert.equal("first", word(s))
    assert.equal(2, assert(s.manager:reload()).id)
    assert.equal("second", word(s))
    local body
    tasks.spawn(function() body = llm.fetch(s.url .. "/stream?n=30").body end)
    llm.sleep(0.005)
    write(s.path, says "third")
    assert(s.manager:reload())
    assert.equal("third", word(s))
    while not body do llm.sleep(0.005) end
    assert.equal(("second "):rep(30), body)
    assert.truthy(table.concat(lines):find("generation 3 of", 1, true))
  end))

  it("gives the script globals and modules of its own", quietly(function()
    local s = open()
    local function with(value)
      write(s.directory .. "/reload_spec_module.lua", ("loads = (loads or 0) + 1\nreturn { value = %q }"):format(value))
      write(s.directory .. "/reload_spec_part.lua", "part = 'part of ' .. ...")
      write(s.path, ('package.path = %q\n'):format(s.directory .. "/?.lua;" .. package.path) .. head .. [[
        local module = require "reload_spec_module"
        assert(module == require "reload_spec_module" and module == package.loaded.reload_spec_module)
        assert(loads == 1 and require "llm.task" == llm.task)
        server:get("/word", function() return module.value .. loads end)]])
      package.path = s.directory .. "/?.lua;" .. package.path
      return s.manager:reload()
    end
    local path = package.path
    assert(with "one")
    assert.equal("one1", word(s))
    local second = assert(with "two")
    assert.equal("two1", word(s))
    assert.is_string(second.files[s.directory .. "/reload_spec_module.lua"])
    write(s.directory .. "/reload_spec_module.lua", "return require 'reload_spec_module'")
    local _, failure = s.manager:reload()
    assert.truthy(failure.message:find("loop in require", 1, true))
    package.path = path
    assert.is_nil(rawget(_G, "loads"))
    assert.is_nil(package.loaded.reload_spec_module)
  end))

  it("begins with the globals of a program that begins", quietly(function()
    local s = open(head .. "server:get('/word', function() return tostring(leftover) .. tostring(package.loaded.reload_spec_left) "
      .. "end)\nassert(_G.string == string and package.loaded.string == string and describe == nil)")
    rawset(_G, "leftover", "of the program")
    package.loaded.reload_spec_left = "of the program"
    package.path = s.directory .. "/?.lua;" .. package.path
    write(s.directory .. "/reload_spec_left.lua", "return 1")
    local generation, failure = s.manager:reload()
    package.path = package.path:gsub("^[^;]*;", "")
    rawset(_G, "leftover", nil)
    assert(generation, failure and failure.message)
    assert.equal("nilof the program", word(s)) -- the module is found by the path of the load only
    package.loaded.reload_spec_left = nil
  end))

  it("leaves llm.state", quietly(function()
    local s = open(head .. 'llm.state.n = (llm.state.n or 0) + 1 server:get("/word", function() return "" .. llm.state.n end)')
    for i = 1, 3 do
      assert(s.manager:reload())
      assert.equal(tostring(i), word(s))
    end
    write(s.path, head .. "llm.state.list = { 1, { f = print } }")
    local generation, failure = s.manager:reload()
    assert.is_nil(generation)
    assert.truthy(failure.message:find("llm.state.list.2.f is a function", 1, true))
    assert.equal("3", word(s))
    llm.state.list, llm.state.n = nil, nil
  end))

  it("passes the program's arguments", quietly(function()
    local s = open(head .. 'local a = arg[1] arg[1] = "changed" server:get("/word", function() return a end)',
      { arg = { "given" } })
    for _ = 1, 2 do
      assert(s.manager:reload())
      assert.equal("given", word(s))
    end
  end))
end)

describe("a script that fails", function()
  local cases = {
    { "has a syntax error", "local x = 1\nlocal y = = 2", "unexpected symbol near '='", 2 },
    { "raises", head .. "error 'boom'", "boom", 3 },
    { "raises something else", head .. "error({})", "table" },
    { "calls nil", head .. "\nnothing.here()", "global 'nothing'", 4 },
    { "loops", head .. "while true do end", "has not loaded within 0.2 s", 3 },
    { "loops and catches", head .. "while true do\n  pcall(function() while true do end end)\nend",
      "has not loaded within 0.2 s" },
    { "loops in a coroutine", head .. "coroutine.wrap(function()\n  while true do end\nend)()",
      "has not loaded within 0.2 s" },
    { "waits for ever", head .. "llm.sleep(1000)", "it waits for something" },
    { "ends itself", head .. "llm.exit(3, 'enough')", "enough" },
    { "makes no server", "local x = 1", "makes no server" },
    { "makes two", head .. "llm.server{}", "one server only", 3 },
    { "listens elsewhere", "\nrequire('llm').server{ host = '127.0.0.1', port = 81 }", "restart to make it 81", 2 },
    { "opens an engine", head .. "llm.engine{ model = 'other.gguf' }", "restart for others", 3 },
    { "has no keys", "require('llm').server{ host = '127.0.0.1', port = 0, api_key_file = '/nonexistent' }",
      "cannot read the API keys" },
    { "fails its self-test", head .. "server:get('/word', function() return nil + 1 end)\nserver:self_test(function(s)\n"
      .. "  assert(s:probe('GET', '/word').status == 200, 'no 200')\nend)\nserver:run()", "no 200" },
    { "fails a test of a value", head .. "server:self_test(function()\n  error 'wrong'\nend)", "wrong", 4 },
    { "loops in its self-test", head .. "server:self_test(function() while true do end end)\nserver:run()",
      "has not loaded within 0.2 s", 3 },
    { "waits in its self-test", head .. "server:self_test(function() llm.sleep(1000) end)", "it waits for something" },
  }
  for _, case in ipairs(cases) do
    local what, text, message, line = unpack(case)
    it(what .. ": the old one serves on", quietly(function(lines)
      local s = open(text, { load_seconds = 0.2 })
      s.server.on_error = function() end
      local jit_was_on, n_tasks = jit.status(), tasks.count()
      local generation, failure = s.manager:reload()
      assert.is_nil(generation)
      assert.truthy(failure.message:find(message, 1, true), failure.message)
      if line then
        assert.equal(s.path, failure.file)
        assert.equal(line, failure.line)
      end
      assert.equal("first", word(s))
      assert.truthy(table.concat(lines):find("generation 1", 1, true))
      assert.is_nil(script.current)
      assert.is_nil((debug.gethook()))
      assert.equal(jit_was_on, jit.status())
      assert.is_true(tasks.count() <= n_tasks + 1) -- the connection of word() may still be ending
      write(s.path, says "mended")
      assert(s.manager:reload())
      assert.equal("mended", word(s))
    end))
  end

  it("does not stop others while it waits", quietly(function()
    local s = open(head .. "llm.sleep(0.1)\nserver:get('/word', function() return 'late' end)")
    local generation
    tasks.spawn(function() generation = s.manager:reload() end)
    local n = { first = 0, late = 0 } -- late: the one request that crosses the swap
    while not generation do
      local got = word(s)
      n[got] = n[got] + 1
    end
    assert.is_true(n.first > 1 and n.late <= 1)
    assert.equal("late", word(s))
  end))
end)

describe("loads at the same time", function()
  it("take turns: what was saved last serves in the end", quietly(function()
    local s = open(head .. "llm.sleep(0.05)\nserver:get('/word', function() return 'slow' end)")
    local order = {}
    local function load_as(name)
      return function()
        local id = assert(s.manager:reload()).id
        order[#order + 1] = name .. id
      end
    end
    tasks.spawn(load_as "slow")
    write(s.path, says "last")
    local impatient = tasks.spawn(load_as "gone", function() end)
    tasks.spawn(load_as "last")
    tasks.cancel(impatient, "left")
    while #order < 2 do llm.sleep(0.005) end
    assert.same({ "slow2", "last3" }, order)
    assert.equal("last", word(s))
    assert.same({}, s.manager.queue)
  end))
end)

describe("generations", function()
  it("are kept, a few of them, and can be gone back to", quietly(function()
    local s = open(nil, { keep = 3 })
    for i = 2, 6 do
      write(s.path, says("n" .. i))
      assert(s.manager:reload())
    end
    assert.equal(3, #s.manager.generations)
    assert.equal(5, s.manager:rollback().id)
    assert.equal("n5", word(s))
    assert.equal(4, s.manager:rollback().id)
    assert.equal("n4", word(s))
    local generation, failure = s.manager:rollback()
    assert.is_nil(generation)
    assert.truthy(failure.message:find("no earlier", 1, true))
    write(s.path, says "n7")
    assert.equal(7, assert(s.manager:reload()).id)
    assert.equal("n7", word(s))
  end))

  it("give up requests that go on too long in an old one", quietly(function()
    local s = open(says "x", { max_age = 0 })
    assert(s.manager:reload())
    local status, done
    tasks.spawn(function()
      local reply = llm.fetch(s.url .. "/stream?n=100000")
      status, done = reply and reply.status, true
    end)
    llm.sleep(0.02)
    for _ = 1, 2 do assert(s.manager:reload()) end
    while not done do llm.sleep(0.005) end
    assert.is_nil(status) -- cut off
  end))
end)

describe("an old generation", function()
  it("is given up without another reload", quietly(function()
    local s = open(says "x", { max_age = 0.1 })
    assert(s.manager:reload())
    local status, done
    tasks.spawn(function()
      local reply = llm.fetch(s.url .. "/stream?n=100000")
      status, done = reply and reply.status, true
    end)
    llm.sleep(0.02)
    assert(s.manager:reload())
    while not done do llm.sleep(0.005) end
    assert.is_nil(status) -- cut off
  end))
end)

describe("the admin routes", function()
  it("need a key, load, report and roll back", quietly(function()
    local s = open(says "second")
    local function ask(method, path, key)
      local reply = assert(llm.fetch(s.url .. path, { method = method,
        headers = { Authorization = key and "Bearer " .. key } }))
      return reply.status, llm.json.decode(reply.body)
    end
    for _, path in ipairs { "/admin/reload", "/admin/rollback", "/admin/scripts" } do
      assert.equal(401, (ask("POST", path)))
      assert.equal(401, (ask("GET", path, "wrong")))
      assert.equal(405, (ask("DELETE", path, "k")))
    end
    assert.equal(404, (ask("GET", "/admin/other", "k")))
    local status, body = ask("POST", "/admin/reload", "k")
    assert.equal(200, status)
    assert.equal(2, body.id)
    assert.equal("second", word(s))
    write(s.path, head .. "\n\nx = = 1")
    status, body = ask("POST", "/admin/reload", "k")
    assert.equal(422, status)
    assert.same({ s.path, 5, "ReloadError" }, { body.file, body.line, body.error.type })
    assert.equal("second", word(s))
    status, body = ask("GET", "/admin/scripts", "k")
    assert.equal(200, status)
    assert.equal(s.path, body.script)
    assert.same({ false, true }, { body.generations[1].active, body.generations[2].active })
    assert.same({ s.path }, { unpack(body.generations[2].files) })
    assert.equal(5, body.last_failure.line)
    local account
    for _, entry in ipairs(body.accounts) do
      if entry.kind == "handler" and entry.name == "GET /word" then account = entry end
    end
    assert.is_true(account.calls >= 1 and account.seconds > 0)
    assert.same({ 0, 0 }, { account.kills, account.errors })
    status, body = ask("POST", "/admin/rollback", "k")
    assert.equal(200, status)
    assert.equal(1, body.id)
    assert.equal("first", word(s))
    assert.equal(422, (ask("POST", "/admin/rollback", "k")))
  end))

  it("are shut where there is no key", quietly(function()
    local server = llm.server { host = "127.0.0.1", port = 0 }
    assert(server:listen())
    tasks.own(server, server.close)
    reload.adopt(server, { script = "/nonexistent" })
    assert.equal(403, llm.fetch(server:url() .. "/admin/scripts").status)
  end))
end)

describe("watched files", function()
  local function await(s, expected)
    for _ = 1, 1000 do
      if word(s) == expected then return true end
      llm.sleep(0.005)
    end
    return false
  end

  it("are loaded when they are saved, in place or by renaming", quietly(function(lines)
    local s = open(says "one", { watch = true })
    write(s.path, says "two")
    assert.is_true(await(s, "two"))
    write(s.path .. ".new", says "three")
    assert(os.rename(s.path .. ".new", s.path))
    assert.is_true(await(s, "three"))
    write(s.path, "syntax error")
    for _ = 1, 1000 do
      if s.manager.failure then break end
      llm.sleep(0.005)
    end
    assert.equal(1, s.manager.failure.line)
    assert.equal("three", word(s))
    write(s.path, says "four")
    assert.is_true(await(s, "four"))
    local n = s.manager.n_loaded
    write(s.path, says "four") -- nothing new
    write(s.directory .. "/other", "")
    llm.sleep(0.05)
    assert.equal(n, s.manager.n_loaded)
    assert.is_true(#lines > 0)
  end))
end)

describe("the program", function()
  it("reloads its script at SIGHUP and when it is saved", in_task(function()
    local path, out = support.file("", ".lua"), os.tmpname()
    local text = [[
local llm = require "llm"
local server = llm.server{ host = "127.0.0.1", port = 0 }
server:self_test(function() assert(server:probe("GET", "/").body == "%s") end)
server:get("/", function() return "%s" end)
server:listen()
io.stdout:write(server:url(), "\n") io.stdout:flush()
server:run()
io.stdout:write("ended\n")
]]
    write(path, text:format("a", "a"))
    local pid = io.popen(("%s %s > %s 2>&1 & echo $!"):format(support.quote(support.program), path, out)):read "*l"
    tasks.own(pid, function() os.execute("kill -9 " .. pid .. " 2>/dev/null; true") end)
    local function await(pattern)
      for _ = 1, 1000 do
        local found = support.slurp(out):match(pattern)
        if found then return found end
        llm.sleep(0.01)
      end
      error("not found: " .. pattern .. "\n" .. support.slurp(out))
    end
    local url = await "(http://%S+)\n"
    assert.equal("a", llm.fetch(url).body)
    write(path, text:format("b", "b"))
    await "generation 2 of"
    assert.equal("b", llm.fetch(url).body)
    write(path, text:format("c", "b"))
    await "assertion failed"
    assert.equal("b", llm.fetch(url).body)
    os.execute("kill -HUP " .. pid)
    await "assertion failed.*assertion failed"
    write(path, text:format("c", "c"))
    await "generation 3 of"
    assert.equal("c", llm.fetch(url).body)
    os.execute("kill -TERM " .. pid)
    await "ended"
    os.remove(path)
    os.remove(out)
  end))
end)

describe("1,000 reloads under 32 streaming clients", function()
  it("fail no request and leave nothing behind", quietly(function()
    local s = open(says "w0")
    assert(s.manager:reload())
    local stop, n_streams, n_clients, bad = false, 0, 32, {}
    for _ = 1, n_clients do
      tasks.spawn(function()
        while not stop do
          local reply, message = llm.fetch(s.url .. "/stream?n=20")
          local first = reply and reply.body:match "^w%d+ "
          if not first or reply.body ~= first:rep(20) then bad[#bad + 1] = message or reply.body end
          n_streams = n_streams + 1
        end
      end, function() n_clients = n_clients - 1 end)
    end
    local function measure()
      collectgarbage()
      collectgarbage()
      return collectgarbage "count", tonumber(support.slurp("/proc/self/status"):match "Threads:%s*(%d+)")
    end
    local kib, threads
    for i = 1, 1000 do
      write(s.path, says("w" .. i))
      assert(s.manager:reload())
      if i == 50 then kib, threads = measure() end
      if i % 10 == 0 then llm.sleep(0.002) end
    end
    local kib_after, threads_after = measure()
    stop = true
    while n_clients > 0 do llm.sleep(0.005) end
    assert.same({}, bad)
    assert.is_true(n_streams >= 32)
    assert.equal("w1000", word(s))
    assert.is_true(kib_after < kib + 1024, ("%d KiB after 50, %d after 1000"):format(kib, kib_after))
    assert.equal(threads, threads_after)
    assert.equal(4, #s.manager.generations)
  end))
end)
