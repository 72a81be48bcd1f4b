-- The examples of docs/scripting.md and docs/programs.md run as they stand.
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

for path, at_least in pairs { ["docs/scripting.md"] = 5, ["docs/programs.md"] = 4 } do
  describe(path, function()
    local list = examples(path)

    it("has examples", function() assert.truthy(#list >= at_least) end)

    for _, example in ipairs(list) do
      it("line " .. example.line, function()
        local file = support.file(example.code, ".lua")
        local result = support.shell(("cd %s && %s %s"):format(support.quote(support.root),
          support.quote(support.program), support.quote(file)))
        os.remove(file)
        assert.equal(0, result.code, result.err)
        assert.equal("", result.err)
      end)
    end
  end)
end
