-- The examples of the documents run as they stand: the scripts of some of them, the policies and schedulers of others.
local support = require "support"

local function examples(path)
  local text = support.slurp(support.root .. "/" .. path)
  local list = {}
  local position = 1
  while true do
    local start, finish, code = text:find("\n```lua\n(.-)\n```", position)
    if not start then return list end
    local line = 2 + select(2, text:sub(1, start):gsub("\n", ""))
    list[#list + 1] = { code = code, line = line }
    position = finish
  end
end

local function run_script(code)
  local file = support.file(code, ".lua")
  local result = support.shell(("cd %s && %s %s"):format(support.quote(support.root),
    support.quote(support.program), support.quote(file)))
  os.remove(file)
  assert.equal(0, result.code, result.err)
  assert.equal("", result.err)
end

local function load_policy(code)
  local engine = support.engine()
  local name = engine:load_policy("an example", code)
  assert.equal(4, #engine:generate("The sea is", { max_tokens = 4, ignore_eos = true, policy = name })[1].outputs[1].token_ids)
  engine:remove_policy(name)
end

local function load_scheduler(code)
  local engine = support.engine()
  engine:load_scheduler("an example", code)
  engine:generate("The sea is", { max_tokens = 1 })
  engine:remove_scheduler()
end

-- Those of a document that `pattern` is found in.
for _, entry in ipairs {
  { "docs/scripting.md", "", 5, run_script },
  { "docs/programs.md", "", 4, run_script },
  { "README.md", "^%-%- hello.lua", 1, run_script },
  { "README.md", "return policy$", 1, load_policy },
  { "docs/graph.md", "return policy$", 1, load_policy },
  { "docs/scheduling.md", "return llm.scheduler", 1, load_scheduler },
} do
  local path, pattern, at_least, try = unpack(entry)
  describe(path, function()
    local list = {}
    for _, example in ipairs(examples(path)) do
      if example.code:find(pattern) then list[#list + 1] = example end
    end

    it("has examples", function() assert.truthy(#list >= at_least) end)

    for _, example in ipairs(list) do
      it("line " .. example.line, function() try(example.code) end)
    end
  end)
end
