-- libllmlua as others use it: installed into a prefix, built against with pkg-config and CMake, and from a plain luajit.
local llm = require "llm"
local support = require "support"

local quote, shell = support.quote, support.shell
local build = support.program:match "^(.*)/[^/]*$" or "."

local function cache(name)
  return support.slurp(build .. "/CMakeCache.txt"):match("\n" .. name .. ":[%w]+=([^\n]*)") or ""
end

local function must(command, stdin)
  local result = shell(command, stdin)
  assert.equal(0, result.code, command .. "\n" .. result.out .. result.err)
  return result.out
end

local function names(text, pattern)
  local set, list = {}, {}
  for name in text:gmatch(pattern) do set[name] = true end
  for name in pairs(set) do list[#list + 1] = name end
  table.sort(list)
  return list
end

if cache "LLMLUA_SANITIZE" == "" and cache "LLMLUA_FUZZ" ~= "ON" then
  local directory = os.tmpname()
  os.remove(directory)
  local prefix = directory .. "/prefix"
  local examples = support.root .. "/scripts/examples/c"
  local environment = ("cd %s && export PKG_CONFIG_PATH=%s/lib/pkgconfig LD_LIBRARY_PATH=%s/lib && "):format(
    quote(directory), quote(prefix), quote(prefix))
  local model = quote(support.model())

  describe("an installation", function()
    setup(function()
      must(("mkdir %s && cmake --install %s --prefix %s"):format(quote(directory), quote(build), quote(prefix)))
      must(environment .. ("for p in submit serve tool; do cc -std=c11 -Wall -Wextra -Werror %s/$p.c -o $p "
        .. "$(pkg-config --cflags --libs llmlua) || exit 1; done"):format(quote(examples)))
    end)
    teardown(function() os.execute("rm -rf " .. quote(directory)) end)

    it("has the program, which finds its scripts", function()
      assert.equal(must(quote(support.program) .. " --version"), must(quote(prefix .. "/bin/llmlua") .. " --version"))
    end)

    it("shows the symbols that the headers declare, and no others", function()
      local headers = ""
      for _, name in ipairs { "llmlua.h", "llmlua_lua.h", "llmlua/status.h" } do
        headers = headers .. support.slurp(prefix .. "/include/" .. name)
      end
      headers = headers:gsub("/%*.-%*/", ""):gsub("typedef [^;]*;", "")
      local declared = names(headers, "[%s%*](llm_[%w_]+)%(")
      assert.truthy(#declared > 50)
      assert.same(declared, names(must("nm -D --defined-only " .. quote(prefix .. "/lib/libllmlua.so.0")),
        " [A-Z] (%S+)\n"))
      assert.same(declared, names(must("nm -g --defined-only " .. quote(prefix .. "/lib/libllmlua.a")),
        " [A-Z] (%S+)\n"))
    end)

    it("submits and streams", function()
      local lines = {}
      for line in must(environment .. "./submit " .. model):gmatch "[^\n]+" do
        local prompt, text = line:match "^(.-) |(.*)$"
        if prompt then lines[prompt] = (lines[prompt] or "") .. text end
      end
      assert.truthy(lines["The capital of France is"]:find("^ Paris"), lines["The capital of France is"])
      assert.truthy(lines["Water boils at a temperature of"])
      local failed = shell(environment .. "./submit /no/such/model")
      assert.equal(1, failed.code)
      assert.truthy(failed.err:find("/no/such/model", 1, true), failed.err)
    end)

    it("gives scripts C functions", function()
      local out = must(environment .. "./tool " .. model)
      local result = assert(llm.json.decode(out:match "^[^\n]*"))
      assert.equal(12, result.count)
      assert.truthy(#result.text > 0)
      assert.is_true(result.missing)
      assert.equal("there is no 'plums' in this shop", result.message)
      assert.equal("ENOENT", result.code)
      assert.equal("argument 1 must be a string; it is a number", result.misuse)
      assert.truthy(out:find("calls: 2\n", 1, true)) -- the misuse was found before it counted
    end)

    it("serves from a Lua string until the program stops it", function()
      local out = must(environment .. "true\n" .. ([[
        ./serve %s 0 >log 2>&1 & pid=$!
        for i in $(seq 600); do grep -q Serving log && break; sleep 0.1; done
        url=$(sed -n 's/Serving at //p' log)
        curl -s $url/hello/you; echo
        curl -s -H 'Content-Type: application/json' $url/v1/completions \
          -d '{"prompt": "The capital of France is", "max_tokens": 1, "temperature": 0}'; echo
        kill -TERM $pid; wait $pid; echo code $?; tail -n 1 log]]):format(model))
      assert.truthy(out:find("hello, you\n", 1, true), out)
      assert.truthy(out:find('"text":" Paris"', 1, true) or out:find('"text": " Paris"', 1, true), out)
      assert.truthy(out:find('code 0\n{"n_requests":2}\n', 1, true), out)
    end)

    it("is found by CMake, shared and static", function()
      local project = directory .. "/project"
      must("mkdir " .. quote(project))
      local file = assert(io.open(project .. "/CMakeLists.txt", "w"))
      file:write(([[
cmake_minimum_required(VERSION 3.22)
project(outside LANGUAGES C)
find_package(llmlua 0.1 REQUIRED)
add_executable(dynamic %s/tool.c)
target_link_libraries(dynamic PRIVATE llmlua::llmlua)
add_executable(fixed %s/tool.c)
target_link_libraries(fixed PRIVATE llmlua::static)
]]):format(examples, examples))
      file:close()
      must(("cd %s && cmake -S . -B b -DCMAKE_PREFIX_PATH=%s -DCMAKE_BUILD_TYPE=Release && cmake --build b")
        :format(quote(project), quote(prefix)))
      assert.truthy(must("ldd " .. quote(project .. "/b/dynamic")):find("libllmlua.so.0", 1, true))
      assert.falsy(must("ldd " .. quote(project .. "/b/fixed")):find("libllmlua.so", 1, true))
      for _, program in ipairs { "dynamic", "fixed" } do
        assert.truthy(must(quote(project .. "/b/" .. program) .. " " .. model):find('"count":12', 1, true))
      end
    end)

    it("can be moved", function()
      local moved = directory .. "/moved"
      must(("cp -r %s %s"):format(quote(prefix), quote(moved)))
      local flags = must(("PKG_CONFIG_PATH=%s/lib/pkgconfig pkg-config --cflags --libs llmlua"):format(quote(moved)))
      assert.falsy(flags:find("/prefix/", 1, true), flags)
      local file = assert(io.open(directory .. "/version.cc", "w")) -- the headers are C++, too
      file:write '#include <llmlua_lua.h>\n#include <cstdio>\nint main() { std::puts(llm_version()); }\n'
      file:close()
      assert.equal(llm.version() .. "\n", must(("cd %s && c++ -Wall -Wextra -Werror version.cc -o version %s && "
        .. "LD_LIBRARY_PATH=%s/lib ./version"):format(quote(directory), flags:gsub("\n", " "), quote(moved))))
    end)

    it("reports what scripts do wrong", function()
      local file = assert(io.open(directory .. "/wrong.c", "w"))
      file:write [[
#include <llmlua_lua.h>
#include <stdio.h>
#include <string.h>
static void try(struct llm_lua *lua, const char *text)
{
    struct llm_error err = {LLM_OK, ""};
    const char *result = "";
    llm_status status = llm_lua_run(lua, text, strlen(text), "wrong", &result, &err);
    printf("%d %s%s|%d\n", status, result, err.message, strstr(llm_lua_traceback(lua), "traceback") != NULL);
}
static llm_status bad_json(struct llm_lua_call *call, void *user, struct llm_error *err)
{
    (void)user;
    return llm_lua_return_json(call, "{", 1, err);
}
static llm_status echo(struct llm_lua_call *call, void *user, struct llm_error *err)
{
    const char *text;
    size_t bytes;
    (void)user;
    llm_status status = llm_lua_arg_json(call, llm_lua_n_args(call), &text, &bytes, err);
    return status ? status : llm_lua_return_json(call, text, bytes, err);
}
int main(void)
{
    struct llm_lua *lua;
    struct llm_error err;
    const char *const args[] = {"a", "b"};
    const char *result;
    if (llm_lua_open(&lua, &err)) return 1;
    if (!llm_lua_register(lua, "llm.json", "x", echo, NULL, &err)) return 2;
    if (llm_lua_register(lua, "c", "echo", echo, NULL, &err)) return 3;
    if (llm_lua_register(lua, "c", "bad_json", bad_json, NULL, &err)) return 4;
    try(lua, "x = = 1");
    try(lua, "\nerror 'boom'");
    try(lua, "os.exit(3)");
    try(lua, "require 'llm'.exit(4, 'so long')");
    try(lua, "error {}");
    try(lua, "return function() end");
    try(lua, "return require 'c'.echo(0, { 1, { a = 'b' } })");
    try(lua, "return require 'c'.echo()");
    try(lua, "return require 'c'.echo(print)");
    try(lua, "return require 'c'.bad_json()");
    try(lua, "local e = require 'llm.host'.engine 'none'");
    try(lua, "kept = 5");
    try(lua, "return kept");
    printf("%d\n", llm_lua_run_file(lua, "args.lua", args, 2, &result, &err));
    printf("%s\n", result);
    printf("%d %s\n", llm_lua_run_file(lua, "none.lua", NULL, 0, &result, &err), err.message);
    llm_lua_close(lua);
    return 0;
}
]]
      file:close()
      file = assert(io.open(directory .. "/args.lua", "w"))
      file:write "return { arg[0], arg[1], arg[2], ... }"
      file:close()
      local lines = {}
      for line in must(environment .. "cc wrong.c -o wrong $(pkg-config --cflags --libs llmlua) && ./wrong")
        :gmatch "[^\n]+" do lines[#lines + 1] = line end
      assert.same({
        "-1 wrong:1: unexpected symbol near '='|0",
        "-10 wrong:2: boom|1",
        "-10 the script has called os.exit(3)|0",
        "-10 so long|0",
        "-10 (error object is a table value)|1",
        lines[6],
        "0 [1,{\"a\":\"b\"}]|0",
        lines[8], lines[9], lines[10],
        "-10 wrong:1: the program has no engine 'none'|1",
        "0 null|0",
        "0 5|0",
        "0",
        "[\"args.lua\",\"a\",\"b\",\"a\",\"b\"]",
        lines[16],
      }, lines)
      assert.truthy(lines[6]:find "^%-10 .*function", lines[6])
      assert.equal("0 null|0", lines[8]) -- nil, message: an expected failure
      assert.equal("0 null|0", lines[9])
      assert.truthy(lines[10]:find "^%-10 .*malformed", lines[10])
      assert.truthy(lines[16]:find "^%-4 no script 'none.lua'", lines[16])
    end)

    it("is a module for a plain luajit, whose Lua it uses", function()
      local module = quote(prefix .. "/lib/lua/5.1/llm.so")
      assert.same({ "luaopen_llm" }, names(must("nm -D --defined-only " .. module), " [A-Z] (%S+)\n"))
      assert.truthy(must("nm -D --undefined-only " .. module):find(" U lua_pcall", 1, true))
      assert.falsy(must("ldd " .. module):find("luajit", 1, true))
      local code = ([[
        local llm = require "llm"
        assert(llm == package.loaded.llm and require "llm.json" == llm.json)
        local engine = llm.engine { model = %q, max_model_len = 1024 }
        io.write(engine:generate("The capital of France is", { max_tokens = 1, temperature = 0 })[1].outputs[1].text)
        for delta in engine:stream(" ", { max_tokens = 3, seed = 1 }) do assert(delta.text) end
        engine:load_policy("first", "local p = require 'llm'.policy 'first' "
          .. "function p.candidates(c) return c[1].token end return p")
        io.write(engine:generate("The capital of France is", { max_tokens = 1, policy = "first" })[1].outputs[1].text)
      ]]):format(support.model())
      local luajit = ("LUA_CPATH=%s'/lib/lua/5.1/?.so;;' luajit - "):format(quote(prefix))
      assert.equal(" Paris Paris", must(luajit, code)) -- the engine is closed with the state
      local left = shell(luajit, code .. " os.exit(6)")
      assert.equal(6, left.code, left.err)
      assert.equal(" Paris Paris", left.out)
    end)
  end)
end
