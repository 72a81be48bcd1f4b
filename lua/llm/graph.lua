-- Sampling policies as graphs: a Lua function over the logits is called once, with values in place of numbers, and
-- what it did becomes the text of a graph (core/graph/graph.h) that runs without Lua. docs/graph.md.

local core = require "llm.core"
local functions = require "llm.graph.functions"
local trace = require "llm.graph.trace"
local values = require "llm.graph.value"

local M = {}

local Pairs, Automaton = {}, {}

-- A default for a parameter that maps token ids to numbers: graph.pairs{ [5] = -1 }.
function M.pairs(map)
  local ids = {}
  for id, v in pairs(map) do
    if type(id) ~= "number" or type(v) ~= "number" then
      error("graph.pairs takes a table from token ids to numbers", 2)
    end
    ids[#ids + 1] = id
  end
  table.sort(ids)
  local list = {}
  for i, id in ipairs(ids) do list[i] = map[id] end
  return setmetatable({ ids = ids, values = list }, Pairs)
end

-- A default for a parameter that is an automaton: its tables as made by llm.automaton, 32-bit integers in strings.
function M.automaton(tables) return setmetatable(tables, Automaton) end

function M.is_automaton(v) return getmetatable(v) == Automaton end
function M.is_pairs(v) return getmetatable(v) == Pairs end

local function declare(name, default, range)
  local kind = type(default)
  if kind == "number" then
    range = range or {}
    return { type = "num", initial = default, least = range[1] or -math.huge, most = range[2] or math.huge }
  elseif kind == "boolean" then
    return { type = "num", initial = default and 1 or 0, least = 0, most = 1, boolean = true }
  elseif M.is_automaton(default) then
    return { type = "automaton" }
  elseif M.is_pairs(default) then
    return { type = "pairs" }
  elseif kind == "table" then
    return { type = "list" }
  end
  trace.fail("parameter %s is a %s by default: a graph takes numbers, true and false, lists of token ids, "
               .. "graph.pairs and automata", name, kind)
end

-- p of a graph function: p.name is a node, made when it is first asked for.
local function parameters(t, defaults, ranges)
  return setmetatable({}, {
    __index = function(_, name)
      if defaults[name] == nil then
        trace.fail("there is no parameter '%s': the policy's defaults declare them", tostring(name))
      end
      local param = t.params[name]
      if not param then
        param = declare(name, defaults[name], ranges[name])
        param.id = t:node("param", param.type, {}, name)
        t.nodes[param.id].positive = param.type == "num" and param.least > 0
        t.params[name] = param
      end
      if param.boolean then return functions.ne(values.wrap(param.id), 0) end
      return values.wrap(param.id)
    end,
    __newindex = function() trace.fail("parameters cannot be assigned: use a local, or g.state") end,
  })
end

local function result_of(f, result)
  local kind = values.is(result) and values.type(result)
  if kind == "row" then return "row", values.id(result) end
  if kind == "num" then return "token", values.id(result) end
  error({ graph_error = ("%sthe graph function that begins here returned %s; it must return a row (the logits) or a "
                           .. "token (g.sample)"):format(trace.place_of(f), values.describe(result)) }, 0)
end

-- Calls f(g, logits, p) once. defaults: the policy's parameters; ranges: name -> { least, most } of numbers.
-- Returns the text and the defaults of its tables, name -> list, pairs or automaton. Raises with the line of f that is
-- wrong in front.
function M.trace(f, defaults, ranges)
  defaults, ranges = defaults or {}, ranges or {}
  local t = trace.new()
  local outer = values.trace()
  values.begin(t)
  local ok, gives, result = xpcall(function()
    local logits = values.wrap(t:node("logits", "row", {}))
    local gives, result = result_of(f, f(functions, logits, parameters(t, defaults, ranges)))
    values.check_truths()
    return gives, result
  end, function(failure) return values.explain(failure, f) end)
  values.begin(outer)
  if not ok then error(gives, 0) end
  local text, needed = t:print(gives, result)
  local tables = {}
  for name, param in pairs(t.params) do
    if param.type ~= "num" and needed[param.id] then tables[name] = defaults[name] end
  end
  return text, tables
end

-- The graph of a function, ready to run on one sequence, for trying it out: rows are lists of vocab_size numbers.
-- graph.sequence(f, defaults, vocab_size):run{ logits = …, output = … }; see lua/api_graph.c.
function M.sequence(f, defaults, vocab_size, ranges)
  local text, tables = M.trace(f, defaults, ranges)
  local sequence, message = core.graph(text, vocab_size)
  if not sequence then error(message, 2) end
  for name, value in pairs(tables) do
    local ok, why = sequence:set(name, value)
    if not ok then error(why, 2) end
  end
  return sequence
end

-- What a policy's file makes, without an engine: a table with name, defaults, its hooks, and `text` if it has a graph.
-- print(graph.load("scripts/policies/min_p.lua").text). library: what llm has in the file besides llm.policy.
function M.load(path, library)
  local real, made = package.loaded.llm, nil
  local stub = setmetatable({ policy = function(name, defaults)
    made = { name = name, defaults = defaults or {} }
    return made
  end }, { __index = library })
  local chunk, message = loadfile(path)
  if not chunk then error(message, 2) end
  package.loaded.llm = stub
  local ok, failure = pcall(chunk)
  package.loaded.llm = real
  if not ok then error(failure, 0) end
  if not made then error(path .. " makes no policy", 2) end
  if made.graph then made.text = M.trace(made.graph, made.defaults, made.ranges) end
  return made
end

-- The numbers behind g.hash and g.token_hash, for detectors: uniform in (0, 1) of a list of numbers, and a token.
function M.hash(key, token) return core.graph_hash(key, token) end

return M
