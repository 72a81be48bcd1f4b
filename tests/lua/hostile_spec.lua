-- Each script of tests/hostile/corpus.lua in a sandbox, beside one that is waiting and has a secret: it must end, within
-- its memory, with nothing of the machine, the process or the other script in what it returns, prints or fails with.

local client_script = require "llm.client_script"
local core = require "llm.core"
local json = require "llm.json"
local support = require "support"

local corpus = dofile(support.root .. "/tests/hostile/corpus.lua")

local MEMORY, SECONDS, MAX_CALLS = 8 * 2 ^ 20, 0.01, 1000
local SECRET = "the-secret-of-another-request"
local account = core.account("client", "hostile spec")

local function open()
  return assert(core.sandbox(account, { memory = MEMORY, seconds = SECONDS, slice = 0.0005, output = 4096,
                                        data = 2 ^ 18 }))
end

local answers = {
  json_encode = client_script.encode,
  json_decode = function(text) return assert(json.decode(text)) end,
  tokenize = function() return { 1, 2, 3 } end,
}

local function answer(name, ...)
  local f = answers[name]
  if not f then return false, "there is no engine here" end
  local ok, value = pcall(f, ...)
  if ok then return true, value end
  return false, "not possible"
end

-- All that comes out of a script, as one text, and how it ended.
local function outcome(box, source)
  local n_calls = 0
  local results = { box:run(source, { request = { prompt = "p" }, tools = { "sum" } }) }
  while results[1] == "slice" or results[1] == "call" do
    if results[1] == "slice" then
      results = { box:run() }
    else
      n_calls = n_calls + 1
      if n_calls > MAX_CALLS then return "", "calls" end
      results = { box:run(answer(unpack(results, 2))) }
    end
  end
  local parts = { box:output() }
  for i = 2, #results do parts[#parts + 1] = client_script.encode(results[i]) end
  return table.concat(parts, "\n"), results[1]
end

local function open_files()
  local n = 0
  for fd = 0, 255 do
    local file = io.open("/proc/self/fd/" .. fd, "rb")
    if file then
      n = n + 1
      file:close()
    end
  end
  return n
end

describe("hostile scripts", function()
  local victim = open()
  local event, name, held = victim:run(([[
    local secret = %q
    local got = tools.sum(secret)
    return secret .. got
  ]]):format(SECRET), { request = { prompt = SECRET }, tools = { "sum" } })
  assert(event == "call" and name == "tool" and held == "sum")

  it("are at least 200, no two alike", function()
    local seen = {}
    for _, entry in ipairs(corpus) do
      assert.is_nil(seen[entry[1]], entry[1])
      assert.is_nil(seen[entry[2]], entry[1])
      seen[entry[1]], seen[entry[2]] = true, true
    end
    assert.is_true(#corpus >= 200)
  end)

  for _, entry in ipairs(corpus) do
    it(entry[1], function()
      local box = open()
      local text, ending = outcome(box, entry[2])
      local _, peak = box:usage()
      box:close()
      assert.is_true(peak <= MEMORY)
      for _, bad in ipairs { SECRET, "escaped", "0x%x%x%x%x%x", "root:", "/etc/", support.root } do
        local found = text:match(bad == support.root and bad:gsub("%p", "%%%0") or bad)
        -- One says an address of its own making, to see whether it is taken for one.
        if found and entry[1] ~= "address by error" then error(("%s: %s in %q"):format(ending, found, text:sub(1, 200))) end
      end
      if entry[1]:find "^endless" and ending ~= "calls" then
        assert.truthy(ending == "time" or ending == "memory" or ending == "error" or ending == "done", ending)
      end
      assert.is_nil((debug.gethook()))
    end)
  end

  it("leave the others, the host and its files as they were", function()
    assert.same({ "done", SECRET .. "!" }, { victim:run(true, "!") })
    assert.is_nil(io.open "hostile-was-here")
    assert.equal("XYZ", ("xyz"):upper())
    assert.equal(1, select("#", ("a"):find "b" == nil))
    local before = open_files()
    outcome(open(), "return io and io.open '/etc/passwd'")
    assert.equal(before, open_files())
    assert.same({ "done", 7 }, { open():run("return 7", { request = {}, tools = {} }) })
  end)
end)

describe("a sandbox", function()
  local function ending(source)
    local box = open()
    local _, how = outcome(box, source)
    box:close()
    return how
  end

  it("ends endless loops by its time, and bombs by its memory", function()
    assert.equal("time", ending "while true do end")
    assert.equal("time", ending "while true do pcall(function() while true do end end) end")
    assert.equal("time", ending "local function f() pcall(f) while true do end end f()")
    assert.equal("memory", ending "local s = 'x' while true do s = s .. s end")
    assert.equal("memory", ending "local t = {} for i = 1, 1e9 do t[i] = ('x'):rep(10000) .. i end")
    assert.equal("error", ending "local ok, e = pcall(function() local s = 'x' while true do s = s .. s end end) error(e, 0)")
  end)

  it("says not enough memory", function()
    local text = outcome(open(), "local s = 'x' while true do s = s .. s end")
    assert.matches("not enough memory: the script may use 8 MiB", text)
  end)
end)
