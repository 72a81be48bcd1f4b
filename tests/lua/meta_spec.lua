-- lua/meta/*.d.lua declare what require "llm" exports, no more and no less.
local llm = require "llm"
local engines = require "llm.engine"
local program = require "llm.program"
local sequences = require "llm.sequence"
local servable = require "llm.servable"
local tokenizers = require "llm.tokenizer"
local schema = require "llm.schema"
local upstreams = require "llm.upstreams"
local support = require "support"

local text = support.slurp(support.root .. "/lua/meta/llm.d.lua")
  .. support.slurp(support.root .. "/lua/meta/upstreams.d.lua")
  .. support.slurp(support.root .. "/lua/meta/scheduler.d.lua")

local function sorted(set)
  local list = {}
  for name in pairs(set) do list[#list + 1] = name end
  table.sort(list)
  return list
end

-- Names declared as `function CLASS.name` or `function CLASS:name`.
local function functions_of(class)
  local names = {}
  for name in text:gmatch("function " .. class .. "[.:]([%w_]+)%(") do names[name] = true end
  return names
end

-- Names of the @field lines of a class.
local function fields_of(class)
  local names, inside = {}, false
  for line in text:gmatch("[^\n]+") do
    local started = line:match("^%-%-%-@class ([%w_.]+)")
    if started then inside = started == class end
    local field = inside and line:match("^%-%-%-@field ([%a_][%w_]*)")
    if field then names[field] = true end
  end
  return names
end

local function exported(module)
  local names = {}
  for name in pairs(module) do
    if not name:find("^__") then names[name] = true end
  end
  return names
end

local function entries(list)
  local names = {}
  for _, entry in ipairs(list) do names[entry.name] = true end
  return names
end

describe("llm.d.lua", function()
  it("declares what the module exports", function()
    local declared = functions_of("llm")
    for name in pairs(fields_of("llm")) do declared[name] = true end
    assert.same(sorted(exported(llm)), sorted(declared))
  end)

  it("declares the methods of objects", function()
    assert.same(sorted(exported(upstreams.Pool)), sorted(functions_of("Upstreams")))
    assert.same(sorted(exported(engines.Engine)), sorted(functions_of("Engine")))
    assert.same(sorted(exported(engines.Stream)), sorted(functions_of("Stream")))
    assert.same(sorted(exported(tokenizers.Tokenizer)), sorted(functions_of("Tokenizer")))
    assert.same(sorted(exported(sequences.Sequence)), sorted(functions_of("LiveSequence")))
    assert.same(sorted(exported(sequences.Run)), sorted(functions_of("SequenceStream")))
    assert.same(sorted(exported(program.Program)), sorted(functions_of("Program")))
    assert.same(sorted(exported(servable.Servable)), sorted(functions_of("Servable")))
  end)

  it("declares servers and llm.openai", function()
    local Server = require("llm.server").Server
    local declared = functions_of "Server"
    for _, method in ipairs { "get", "post", "put", "patch", "delete", "options" } do declared[method] = true end
    assert.same(sorted(exported(Server)), sorted(declared))
    assert.same(sorted(exported(require "llm.openai")), sorted(fields_of "llm.openai"))
  end)

  it("declares llm.json and llm.table", function()
    local declared = functions_of("json")
    declared.null = true
    assert.same(sorted(exported(llm.json)), sorted(declared))
    assert.same(sorted(exported(llm.table)), sorted(functions_of("text_table")))
  end)

  it("declares all options and sampling parameters", function()
    assert.same(sorted(entries(schema.engine)), sorted(fields_of("llm.EngineOptions")))
    assert.same(sorted(entries(schema.sampling)), sorted(fields_of("llm.SamplingParams")))
  end)

  it("declares what info and stats say", function()
    local engine = support.engine()
    local info = exported(engine:info())
    for name in pairs(fields_of("llm.Info")) do assert.is_true(info[name] or name == "isa", name) end
    for name in pairs(info) do
      assert.is_true(fields_of("llm.Info")[name] or name:find("^default_") ~= nil, name)
    end
    assert.same(sorted(exported(engine:stats())), sorted(fields_of("llm.Stats")))
  end)
end)
