-- The program from outside: arguments, errors, exit codes, the prompt.
local support = require "support"

describe("llmlua", function()
  local run = support.run

  it("prints its version and its help", function()
    assert.truthy(run({ "--version" }).out:find("^llmlua %d+%.%d+%.%d+ %(LuaJIT"))
    local help = run { "--help" }
    assert.equal(0, help.code)
    for _, script in ipairs { "generate.lua", "tokenize.lua", "perplexity.lua", "bench.lua" } do
      assert.truthy(help.out:find(script, 1, true), script)
    end
  end)

  it("suggests an option", function()
    local result = run { "--versoin" }
    assert.equal(2, result.code)
    assert.equal("llmlua: unknown option '--versoin'; did you mean '--version'?\n", result.err)
    assert.truthy(run({ "--frobnicate" }).err:find("llmlua --help", 1, true))
  end)

  it("runs code, files, bundled scripts and standard input", function()
    assert.equal("a\nb\n", run({ "-e", "print'a'", "-e", "print'b'" }).out)
    local path = support.file("print(arg[0] == ARG0, arg[1], ...) ")
    assert.equal("false\tx\tx\ty\n", run({ path, "x", "y" }).out)
    os.remove(path)
    assert.equal("1\t2\n", run({ "-", "1", "2" }, "print(...)").out)
    assert.equal("5\tz\n", run({ "-e", "v = 5", "-", "z" }, "print(v, ...)").out)
    assert.truthy(run({ "tokenize", "--help" }).out:find("usage: llmlua tokenize", 1, true))
    assert.truthy(run({ "tokenize.lua", "--help" }).out:find("usage: llmlua tokenize.lua", 1, true))
  end)

  it("prefers a path to a bundled script of that name", function()
    local directory = os.tmpname()
    os.remove(directory)
    local result = support.shell(("mkdir %s && cd %s && echo 'print(\"mine\")' > generate.lua && %s generate.lua")
      :format(directory, directory, support.quote(support.program)))
    os.remove(directory .. "/generate.lua")
    os.remove(directory)
    assert.equal("mine\n", result.out)
  end)

  it("reports a script's error with file, line and traceback, and exits with 1", function()
    local path = support.file("local function deep() error('boom') end\n\ndeep()\n", ".lua")
    local result = run { path }
    assert.equal(1, result.code)
    assert.equal("", result.out)
    assert.truthy(result.err:find(path .. ":1: boom", 1, true))
    assert.truthy(result.err:find("stack traceback:", 1, true))
    assert.truthy(result.err:find(path .. ":3: in main chunk", 1, true))
    os.remove(path)
  end)

  it("reports a script that does not compile, does not exist, or raises odd things", function()
    local path = support.file("x = = 1", ".lua")
    local result = run { path }
    os.remove(path)
    assert.equal(1, result.code)
    assert.truthy(result.err:find(":1:", 1, true))
    result = run { "no-such-script" }
    assert.equal(1, result.code)
    assert.truthy(result.err:find("no script 'no-such-script'", 1, true))
    assert.truthy(run({ "-e", "error{}" }).err:find("error object is a table value", 1, true))
    assert.truthy(run({ "-e", "error(setmetatable({}, {__tostring = function() return 'custom' end}))" }).err
      :find("custom", 1, true))
    assert.equal(1, run({ "-e", "error()" }).code)
    assert.equal(2, run({ "-e" }).code)
  end)

  it("exits as the script says", function()
    assert.equal(7, run({ "-e", "os.exit(7)" }).code)
    local result = run { "-e", "require('llm').exit(5, 'so long')" }
    assert.equal(5, result.code)
    assert.equal("llmlua: so long\n", result.err)
  end)

  it("keeps the globals clean", function()
    local code = [[local lua = {} for name in ("_G _VERSION arg assert bit collectgarbage coroutine debug dofile error
      gcinfo getfenv getmetatable io ipairs jit load loadfile loadstring math module newproxy next os package pairs
      pcall print rawequal rawget rawset require select setfenv setmetatable string table tonumber tostring type
      unpack xpcall rawlen"):gmatch("%S+") do lua[name] = true end
      require "llm"
      for name in pairs(_G) do if not lua[name] then print(name) end end]]
    assert.equal("", run({ "-e", code }).out)
  end)

  it("finds its library before files that happen to have its name", function()
    local directory = os.tmpname()
    os.remove(directory)
    local result = support.shell(("mkdir %s && echo 'return 1' > %s/llm.lua && %s -e %s"):format(directory, directory,
      support.quote(support.program), support.quote(("package.path = '%s/?.lua;' .. package.path "
      .. "print(require('llm').version, pcall(require, 'llm.nothing'))"):format(directory))))
    os.remove(directory .. "/llm.lua")
    os.remove(directory)
    assert.truthy(result.out:find("^function: [%w]+\tfalse"), result.out .. result.err)
    assert.truthy(result.out:find("no module 'llm.nothing' in this llmlua", 1, true))
  end)

  it("stops at Ctrl-C with 130", function()
    local result = support.shell(("timeout -s INT 0.5 %s -e 'require(\"llm\").sleep(20)'; echo $?")
      :format(support.quote(support.program)))
    assert.truthy(result.err:find("interrupted", 1, true))
    local code = "local t = os.time() while os.time() - t < 20 do end"
    result = support.shell(("timeout --preserve-status -s INT 0.5 %s -e '%s'; echo $?")
      :format(support.quote(support.program), code))
    assert.equal("130\n", result.out)
  end)
end)

describe("the prompt", function()
  local session = table.concat({
    "1 + 1", "= 'a', nil", "for i = 1, 2 do", "print(i)", "end", "x = { 1, b = 'c' }", "x", "{", "7 }", "error('bad')",
    "nil + 1", "y = = 2", "llm.version()", "local z = 5 return z",
  }, "\n")

  it("works through a pipe, without prompts", function()
    local result = support.run({ "-i" }, session)
    assert.equal(0, result.code)
    assert.equal(("2\n\"a\"\tnil\n1\n2\n{ 1, b = \"c\" }\n{ 7 }\n\"%s\"\n5\n"):format(require("llm").version()),
      result.out)
    assert.truthy(result.err:find("stdin:1: bad\nstack traceback:", 1, true) or result.err:find("bad", 1, true))
    assert.truthy(result.err:find("stdin:1: attempt to perform arithmetic on a nil value", 1, true))
    assert.truthy(result.err:find("stdin:1: unexpected symbol near '='", 1, true))
  end)

  it("works on a terminal, and remembers", function()
    local home = os.tmpname()
    os.remove(home)
    local command = ("mkdir %s && HOME=%s TERM=dumb script -qec %s /dev/null"):format(home, home,
      support.quote(support.quote(support.program) .. " -i"))
    local result = support.shell(command, "6 * 7\nfor i = 1, 1 do\nprint('in' .. 'side')\nend\nerror('oops')\n"
      .. "'still' .. ' here'\n")
    assert.truthy(result.out:find("42", 1, true))
    assert.truthy(result.out:find("inside", 1, true))
    assert.truthy(result.out:find("oops", 1, true))
    assert.truthy(result.out:find("still here", 1, true))
    local history = support.slurp(home .. "/.llmlua_history")
    os.remove(home .. "/.llmlua_history")
    os.remove(home)
    assert.truthy(history:find("6", 1, true) and history:find("oops", 1, true))
  end)

  it("survives Ctrl-C, while it waits and while it runs", function()
    local keys = "sleep 0.5; printf 'while true do end\\n'; sleep 0.5; printf '\\003'; sleep 0.3; printf 'abc\\003'; "
      .. "sleep 0.3; printf '6 * 7\\n'; sleep 0.3; printf '\\004'"
    local result = support.shell(("(%s) | HOME=/nonexistent TERM=dumb timeout 20 script -qec %s /dev/null"):format(keys,
      support.quote("exec " .. support.quote(support.program) .. " -i"))) -- or a plain sh would report its own Ctrl-C
    assert.equal(0, result.code)
    assert.truthy(result.out:find("interrupted", 1, true))
    assert.truthy(result.out:find("42", 1, true))
  end)

  it("runs a script first, and ends with llm.exit", function()
    assert.equal("first\n3\n", support.run({ "-e", "v = 3 print 'first'", "-i" }, "v").out)
    assert.equal(4, support.run({ "-i" }, "llm.exit(4)\nprint 'never'").code)
  end)
end)
