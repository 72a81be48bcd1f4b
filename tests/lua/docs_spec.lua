-- The examples of docs/scripting.md run as they stand.
local support = require "support"

local text = support.slurp(support.root .. "/docs/scripting.md")

local function examples()
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

describe("docs/scripting.md", function()
  local list = examples()

  it("has examples", function() assert.truthy(#list >= 5) end)

  for _, example in ipairs(list) do
    it("line " .. example.line, function()
      local path = support.file(example.code, ".lua")
      local result = support.shell(("cd %s && %s %s"):format(support.quote(support.root),
        support.quote(support.program), support.quote(path)))
      os.remove(path)
      assert.equal(0, result.code, result.err)
      assert.equal("", result.err)
    end)
  end
end)
