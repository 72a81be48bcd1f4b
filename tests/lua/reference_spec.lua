-- The reference: it covers what is registered, help(name) finds it, docs/api.md is made from it.
local llm = require "llm"
local reference = require "llm.reference"
local support = require "support"

local function documented()
  local classes = {}
  local function add(class, member, kind)
    classes[class] = classes[class] or {}
    classes[class][member] = kind
  end
  for _, item in ipairs(reference.items()) do
    if item.kind == "function" then add(item.class, item.member, "function") end
    for _, field in ipairs(item.fields or {}) do add(item.name, field.name, "field") end
  end
  return classes
end

describe("the reference", function()
  local classes = documented()

  for _, entry in ipairs(reference.live()) do
    local name, live = entry[1], entry[2]
    it("has all of " .. name .. ", and no function that is not there", function()
      local missing, gone = {}, {}
      for member in pairs(live) do
        if type(member) == "string" and not member:find "^__" and not (classes[name] or {})[member] then
          missing[#missing + 1] = member
        end
      end
      for member, kind in pairs(classes[name] or {}) do
        if kind == "function" and type(live[member]) ~= "function" and type(live[member]) ~= "table" then
          gone[#gone + 1] = member
        end
      end
      assert.same({ missing = {}, gone = {} }, { missing = missing, gone = gone })
    end)
  end

  it("has all that a policy's file sees", function()
    local names = {}
    for name in pairs(classes["llm.PolicyLibrary"]) do names[#names + 1] = name end
    support.engine():load_policy("walker", ([[
      local llm, documented = require "llm", {}
      for name in ("%s"):gmatch "%%S+" do
        documented[name] = true
        assert(llm[name] ~= nil, name .. " is documented and not there")
      end
      for name in pairs(llm) do assert(documented[name], name .. " is there and not documented") end
      local policy = llm.policy "walker"
      function policy.candidates() end]]):format(table.concat(names, " ")))
    support.engine():remove_policy "walker"
  end)

  it("has all that a client's script sees", function()
    llm.task.run(function()
      local openai, engine = require "llm.openai", support.engine()
      local opts = { allow_client_scripts = true, host = "127.0.0.1", port = 0, disable_access_log = true }
      local server = llm.server(openai.server_options(opts))
      openai.protect(server, opts)
      server:post("/v1/completions", openai.completions(engine, opts))
      assert(server:listen())
      local reply = assert(llm.fetch(server:url() .. "/v1/completions", { method = "POST",
        headers = { ["Content-Type"] = "application/json" }, body = llm.json.encode { script = [[
          local names = {}
          for name in pairs(_G) do names[#names + 1] = name end
          for name in pairs(engine) do names[#names + 1] = "engine:" .. name end
          return names]] } }))
      server:close()
      local there, missing = {}, {}
      for _, name in ipairs(llm.json.decode(reply.body).script.result) do there[name] = true end
      local function look(class, prefix)
        for name in pairs(classes[class]) do
          if not there[prefix .. name] then missing[#missing + 1] = prefix .. name end
          there[prefix .. name] = nil
        end
      end
      look("llm.ClientScript", "")
      look("llm.ClientEngine", "engine:")
      for name in pairs(there) do
        if rawget(_G, name) == nil then missing[#missing + 1] = "not documented: " .. name end
      end
      assert.same({}, missing)
    end)
  end)

  it("walks all that llm leads to", function()
    local known = {}
    for _, entry in ipairs(reference.live()) do known[entry[2]] = true end
    for name, value in pairs(llm) do
      if type(value) == "table" and name ~= "state" then assert.truthy(known[value], name) end
    end
  end)

  it("is docs/api.md", function()
    assert.equal(support.slurp(support.root .. "/docs/api.md"), reference.markdown(),
      "run build/llmlua scripts/dev/make-api-docs.lua >docs/api.md")
  end)

  it("reads types with spaces", function()
    local items = reference.parse [[
---@class a.B what it is
---@field f fun(x: integer, y: string): table<string, any>|nil does it
local B = {}

---First line,
---second.
---@param n? integer|string how many
---@param ... any
---@return {a: integer, b?: string} # both, message
function B:go(n, ...) end
]]
    assert.same({ { name = "f", optional = false, type = "fun(x: integer, y: string): table<string, any>|nil",
                    doc = "does it" } }, items[1].fields)
    assert.equal("a.B:go", items[2].name)
    assert.equal("First line, second.", items[2].doc)
    assert.same({ { name = "n", optional = true, type = "integer|string", doc = "how many" },
                  { name = "...", optional = false, type = "any", doc = "" } }, items[2].params)
    assert.same({ { type = "{a: integer, b?: string}", doc = "both, message" } }, items[2].returns)
  end)
end)

describe("help", function()
  local function help(what) return tostring(reference.help(what)) end

  it("finds functions, classes, fields, and values", function()
    local text = help "engine:generate"
    assert.truthy(text:find("llm.Engine:generate(prompts, params, options)", 1, true), text)
    assert.truthy(text:find("llm.Output[]  in the order of the prompts", 1, true), text)
    assert.equal(text, help "Engine.generate")
    assert.truthy(help("temperature"):find("llm.SamplingParams.temperature?: number\n0: greedy (1)", 1, true))
    assert.truthy(help("SamplingParams"):find("\n  top_k?: integer", 1, true))
    assert.equal(help "llm.server", help(llm.server))
    assert.truthy(help(llm.json):find("llm.json.encode(value, options)", 1, true))
    assert.truthy(help(support.engine()):find("llm.Engine:stream", 1, true))
  end)

  it("gives an overview, and says what it does not know", function()
    assert.truthy(help():find("llm.engine(options)", 1, true))
    assert.equal("there is nothing called 'frobnicate'; help() lists what there is", help "frobnicate")
    assert.truthy(help(print):find("does not know this function", 1, true))
  end)

  it("is at the prompt", function()
    local result = support.run({ "-i" }, "help 'llm.version'\nhelp(llm.now)")
    assert.equal('llm.version()\n  -> string  such as "0.1.0"\nllm.now()\n  -> number  seconds of a clock that only goes forward\n',
      result.out)
  end)
end)
