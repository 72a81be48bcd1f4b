-- What the page asks for: the engine's state, and the files of the server's script.
local llm = require "llm"
local access_log = require "llm.access_log"
local page = require "llm.page"
local reload = require "llm.reload"
local support = require "support"
local tasks = require "llm.task"

local function in_task(f) return function() tasks.run(f) end end

local function shell(command) return (support.shell(command).out:gsub("%s+$", "")) end

local script = 'local llm = require "llm"\nlocal server = llm.server{ host = "127.0.0.1", port = 0, api_key = "k" }\n'
  .. 'require "llm.page".mount(server, llm.page_spec_engine)\nserver:get("/word", function() return "%s" end)'

-- A server of a script in a directory, with the page; gone when the task ends. engine: anything with info and stats.
local function open(engine)
  local directory = support.directory()
  local path = directory .. "/script.lua"
  support.write(path, script:format "first")
  local server = llm.server { host = "127.0.0.1", port = 0, api_key = "k" }
  local lines = {}
  access_log.attach(server, { log = { write = function(_, line) lines[#lines + 1] = line end } })
  rawset(llm, "page_spec_engine", engine)
  page.mount(server, engine, { api_key = { "k" } })
  server:get("/word", function() return "zero" end)
  assert(server:listen())
  local manager = reload.adopt(server, { script = path, arg = {}, watch = false })
  tasks.own(server, function()
    manager:close()
    server:close()
    os.execute("rm -r " .. directory)
    rawset(llm, "page_spec_engine", nil)
  end)
  return { server = server, manager = manager, path = path, directory = directory, url = server:url(), lines = lines }
end

local fake = { info = function() return {} end }

local function ask(s, method, path, options)
  options = options or {}
  local headers = { Authorization = options.key ~= false and "Bearer " .. (options.key or "k") or nil,
                    ["If-Match"] = options.tag }
  return assert(llm.fetch(s.url .. path, { method = method, body = options.body, headers = headers }))
end

local function file_of(s, path) return "/admin/file?path=" .. (path or s.path) end

local stderr = io.stderr
local function quietly(f)
  return function()
    io.stderr = { write = function() end }
    local ok, failure = pcall(tasks.run, f)
    io.stderr = stderr
    if not ok then error(failure, 0) end
  end
end

describe("GET /admin/state", function()
  it("says what the engine is, does and has done", in_task(function()
    local engine = support.engine()
    local s = open(engine)
    local function state()
      local reply = ask(s, "GET", "/admin/state")
      assert.equal(200, reply.status)
      assert.equal("no-store", reply.headers["cache-control"])
      return llm.json.decode(reply.body)
    end
    local function count(map, wanted)
      local n = 0
      for i = 1, #map, 2 do
        if wanted(map[i]) then n = n + map[i + 1] end
      end
      return n
    end
    local before = state()
    for _, name in ipairs { "architecture", "backend", "model", "version" } do assert.is_string(before[name]) end
    assert.equal(engine:info().n_blocks, before.kv_pages)
    assert.equal(engine:info().n_blocks, count(before.kv_map, function() return true end))
    assert.is_true(before.scripts)
    assert.equal(1, before.generation)
    local stream = engine:stream(("Once upon a time there was "):rep(5), { max_tokens = 400, ignore_eos = true })
    stream:next()
    local during
    repeat during = state() until count(during.kv_map, function(what) return what >= 3 end) > 0
    assert.equal(1, during.running)
    assert.is_true(during.kv_pages_used > 0)
    stream:close()
    local after
    repeat after = state() until count(after.kv_map, function(what) return what >= 2 end) == 0
    assert.is_true(count(after.kv_map, function(what) return what == 1 end) > 0) -- full pages are kept
    assert.is_true(after.output_tokens > before.output_tokens)
    assert.is_true(after.time > before.time)
  end))
end)

describe("/admin/file", function()
  it("gives the files of the script, to those with a key", quietly(function()
    local s = open(fake)
    local reply = ask(s, "GET", file_of(s))
    assert.equal(200, reply.status)
    assert.equal(script:format "first", reply.body)
    assert.is_string(reply.headers.etag)
    for _, method in ipairs { "GET", "PUT" } do
      for _, key in ipairs { false, "", "K", "kk" } do
        assert.equal(401, ask(s, method, file_of(s), { key = key, body = method == "PUT" and "x" or nil }).status)
      end
    end
    assert.equal(405, ask(s, "DELETE", file_of(s)).status)
    assert.equal(400, ask(s, "GET", "/admin/file").status)
  end))

  it("knows no other file, however it is called", quietly(function()
    local s = open(fake)
    support.write(s.directory .. "/secret", "secret")
    assert(os.execute(("ln -s %s/secret %s/link.lua"):format(s.directory, s.directory)) == 0)
    for _, path in ipairs { "/etc/passwd", s.directory .. "/secret", s.directory .. "/link.lua", s.directory .. "/./script.lua",
                            s.directory .. "/../" .. s.path:match "[^/]+/[^/]+$", "script.lua", s.directory, "" } do
      local reply = ask(s, "GET", file_of(s, path))
      assert.equal(404, reply.status, path)
      assert.is_nil(reply.body:find("root:", 1, true))
      assert.equal(404, ask(s, "PUT", file_of(s, path), { body = "x", tag = "*" }).status, path)
    end
    assert.equal("secret", support.slurp(s.directory .. "/secret"))
  end))

  it("takes a new text, which serves at once", quietly(function()
    local s = open(fake)
    local tag = ask(s, "GET", file_of(s)).headers.etag
    assert.equal(428, ask(s, "PUT", file_of(s), { body = "x" }).status)
    assert.equal(412, ask(s, "PUT", file_of(s), { body = "x", tag = '"other"' }).status)
    local reply = ask(s, "PUT", file_of(s), { body = script:format "second", tag = tag })
    assert.equal(200, reply.status)
    assert.equal(2, llm.json.decode(reply.body).id)
    assert.equal("second", ask(s, "GET", "/word").body)
    assert.equal(412, ask(s, "PUT", file_of(s), { body = "x", tag = tag }).status)
    tag = reply.headers.etag
    reply = ask(s, "PUT", file_of(s), { body = "\n\nx = = 1", tag = tag })
    local body = llm.json.decode(reply.body)
    assert.same({ 422, s.path, 3 }, { reply.status, body.file, body.line })
    assert.equal("second", ask(s, "GET", "/word").body)
    assert.equal("\n\nx = = 1", ask(s, "GET", file_of(s)).body) -- saved all the same
  end))

  it("keeps the file's mode, and links", quietly(function()
    local s = open(fake)
    local real = s.directory .. "/real.lua"
    assert(os.execute(("mv %s %s && ln -s real.lua %s && chmod 750 %s"):format(s.path, real, s.path, real)) == 0)
    local reply = ask(s, "PUT", file_of(s), { body = script:format "second", tag = ask(s, "GET", file_of(s)).headers.etag })
    assert.equal(200, reply.status)
    assert.equal("second", ask(s, "GET", "/word").body)
    assert.equal("real.lua", shell("readlink " .. s.path))
    assert.equal("750", shell("stat -c %a " .. real))
    assert.equal(script:format "second", support.slurp(real))
    assert.equal("real.lua\nscript.lua", shell("ls " .. s.directory)) -- nothing is left over
  end))

  it("says why it cannot write", quietly(function()
    local s = open(fake)
    local tag = ask(s, "GET", file_of(s)).headers.etag
    local fs = require "llm.fs"
    local replace = fs.replace
    fs.replace = function() return nil, "cannot replace it: No space left on device" end
    local reply = ask(s, "PUT", file_of(s), { body = "x", tag = tag })
    fs.replace = replace
    assert.equal(500, reply.status)
    assert.truthy(reply.body:find("No space left", 1, true))
    assert.equal(script:format "first", support.slurp(s.path))
    assert.is_nil(fs.replace(s.directory .. "/none", "x"))
    assert.is_nil((fs.replace(s.directory .. "/script.lua/x", "x")))
  end))
end)

describe("the access log", function()
  it("names client and route of admin requests too", quietly(function()
    local s = open(fake)
    ask(s, "GET", "/admin/scripts")
    ask(s, "POST", "/admin/reload", { key = "wrong" })
    ask(s, "GET", "/word")
    for _ = 1, 100 do
      if #s.lines == 3 then break end
      llm.sleep(0.005)
    end
    assert.truthy(s.lines[1]:find '127%.0%.0%.1:%d+ "GET /admin/scripts" 200 %d+ B 0%.%d+ s ')
    assert.truthy(s.lines[2]:find '127%.0%.0%.1:%d+ "POST /admin/reload" 401 ')
    assert.truthy(s.lines[3]:find '127%.0%.0%.1:%d+ "GET /word" 200 ')
    local text = require("llm.metrics").text()
    assert.truthy(text:find('http_requests_total{handler="/admin/scripts",method="GET",status="2xx"}', 1, true))
    assert.truthy(text:find('http_requests_total{handler="/admin/reload",method="POST",status="4xx"}', 1, true))
  end))
end)
