-- The functions of `g`: what a graph function may do. docs/graph.md is the reference.

local trace = require "llm.graph.trace"
local values = require "llm.graph.value"

local M = {}

local fail, wrap, operand, numeric = trace.fail, values.wrap, values.operand, values.numeric

local num, row, mask = { num = true }, { row = true }, { mask = true }
local truth = { mask = true, bool = true }
local lowest = -math.huge

local function node(op, type, operands, attribute) return wrap(values.trace():node(op, type, operands, attribute)) end
local function a_row(x, what) return operand(x, row, what, "a row") end
local function a_num(x, what) return operand(x, num, what, "a number") end

-- ---- element by element -----------------------------------------------------------------------------------------

for _, op in ipairs { "abs", "exp", "log", "tanh", "sqrt", "floor" } do
  M[op] = function(x) return numeric(op, x) end
end

function M.pow(x, y) return numeric("pow", x, y) end
function M.ceil(x) return -numeric("floor", -x) end
function M.round(x) return numeric("floor", x + 0.5) end
function M.clamp(x, low, high) return numeric("min", numeric("max", x, low), high) end

local function compare(op, swapped, inverted)
  return function(a, b)
    local value = swapped and numeric(op, b, a) or numeric(op, a, b)
    if inverted then value = wrap(values.trace():element("not", { values.id(value) })) end
    return values.note_truth(value)
  end
end

M.lt, M.le, M.eq = compare("lt"), compare("le"), compare("eq")
M.gt, M.ge, M.ne = compare("lt", true), compare("le", true), compare("eq", false, true)

local function logical(op, name)
  return function(first, ...)
    local id = operand(first, truth, "operand 1 of g." .. name, "a mask or a truth value")
    for i = 1, select("#", ...) do
      local other = operand((select(i, ...)), truth, ("operand %d of g.%s"):format(i + 1, name), "a mask or a truth value")
      id = values.trace():element(op, { id, other })
    end
    return values.note_truth(wrap(id))
  end
end

M.land, M.lor = logical("and", "land"), logical("or", "lor")

function M.lnot(x)
  return values.note_truth(wrap(values.trace():element("not", { operand(x, truth, "the operand of g.lnot",
                                                                            "a mask or a truth value") })))
end

local arithmetic = { row = true, num = true }

function M.where(condition, a, b)
  return wrap(values.trace():element("where", {
    operand(condition, truth, "the condition of g.where", "a mask or a truth value"),
    operand(a, arithmetic, "operand 2 of g.where", "a row or a number"),
    operand(b, arithmetic, "operand 3 of g.where", "a row or a number"),
  }))
end
local where = M.where

-- ---- reductions -------------------------------------------------------------------------------------------------

local function reduce(op, type_wanted, expected)
  return function(x) return node(op, "num", { operand(x, type_wanted, "the operand of g." .. op, expected) }) end
end

local row_max, row_min = reduce("row_max", row, "a row"), reduce("row_min", row, "a row")
M.sum, M.argmax = reduce("row_sum", row, "a row"), reduce("row_argmax", row, "a row")
M.greedy = M.argmax
M.count = reduce("mask_count", mask, "a mask")

-- One row: its largest element. Several: element by element.
local function extreme(op, of_row)
  return function(first, ...)
    if select("#", ...) == 0 then return of_row(first) end
    for i = 1, select("#", ...) do first = numeric(op, first, (select(i, ...))) end
    return first
  end
end

-- The largest element is not looked for again where only smaller ones were masked.
local function largest(x)
  local id = a_row(x, "the operand of g.max")
  local known = values.trace().nodes[id].largest
  return known and wrap(known) or row_max(x)
end

M.max, M.min = extreme("max", largest), extreme("min", row_min)

function M.argmin(x) return M.argmax(-x) end
function M.mean(x) return M.sum(x) / M.vocab() end
function M.variance(x)
  local d = x - M.mean(x)
  return M.mean(d * d)
end
function M.any(m) return values.note_truth(numeric("lt", 0, M.count(m))) end
function M.all(m) return values.note_truth(numeric("eq", M.count(m), M.vocab())) end
function M.gather(x, id) return node("gather", "num", { a_row(x, "operand 1 of g.gather"), a_num(id, "the id") }) end
function M.rank(x, id) return M.count(numeric("lt", M.gather(x, id), x)) + 1 end

-- ---- distributions ----------------------------------------------------------------------------------------------

-- exp(x - max x): proportional to the probabilities, the largest 1. Those of a filtered row are the masked ones of the
-- row before. Of x = y / t with a t that is above 0 for sure they are computed as the sampler computes them.
local function weights(x)
  local t = values.trace()
  local id = a_row(x, "the logits")
  local known = t.nodes[id].weights
  if known then return wrap(known) end
  local made = t.nodes[id]
  local w
  if made.op == "div" and t.nodes[made.operands[2]].positive then
    local y, d = wrap(made.operands[1]), wrap(made.operands[2])
    w = numeric("exp", (y - largest(y)) * (1 / d))
  else
    w = numeric("exp", x - largest(x))
  end
  t.nodes[id].weights = values.id(w)
  return w
end
M.weights = weights

-- x with the tokens outside a mask that holds for the largest one at -inf.
local function filtered(x, m)
  local t = values.trace()
  local y = where(m, x, lowest)
  local made = t.nodes[values.id(y)]
  if values.id(y) ~= values.id(x) then
    made.largest = values.id(largest(x))
    made.weights = values.id(where(m, weights(x), 0))
  end
  return y
end

function M.softmax(x)
  local w = weights(x)
  return w / M.sum(w)
end

function M.log_softmax(x) return x - largest(x) - numeric("log", M.sum(weights(x))) end
function M.logsumexp(x) return largest(x) + numeric("log", M.sum(weights(x))) end

-- In nats: log of the sum of the weights, less the mean of their logarithms.
function M.entropy(x)
  local w = weights(x)
  local total = M.sum(w)
  return numeric("log", total) - M.sum(where(numeric("lt", 0, w), w * (x - largest(x)), 0)) / total
end

function M.kth(x, k) return node("kth", "num", { a_row(x, "operand 1 of g.kth"), a_num(k, "k") }) end

function M.quantile(x, w, p)
  return node("quantile", "num", { a_row(x, "operand 1 of g.quantile"), a_row(w, "the weights"), a_num(p, "p") })
end

function M.mask(x, m) return where(m, x, lowest) end
function M.top_k(x, k) return filtered(x, numeric("le", M.kth(x, k), x)) end
function M.top_p(x, p)
  local w = weights(x)
  return filtered(x, numeric("le", M.quantile(w, w, p), w))
end
function M.min_p(x, p) return filtered(x, numeric("le", p, weights(x))) end

-- ---- tokens -----------------------------------------------------------------------------------------------------

function M.draw(w)
  local t = values.trace()
  local site = t.n_draws == 0 and "0" or t:site()
  t.n_draws = t.n_draws + 1
  return node("draw", "num", { a_row(w, "the operand of g.draw") }, site)
end

function M.sample(x) return M.draw(weights(x)) end

-- What the engine does with the request's own temperature, top_k, top_p and min_p.
function M.default(x)
  local t = numeric("max", M.request.temperature, 1e-5)
  values.trace().nodes[values.id(t)].positive = true
  local w = weights(x / t)
  local least = numeric("max", M.request.min_p, M.kth(w, M.request.top_k))
  local kept = where(numeric("le", least, w), w, 0)
  least = numeric("max", least, M.quantile(kept, kept, M.request.top_p))
  return where(numeric("lt", M.request.temperature, 1e-5), M.argmax(x), M.draw(where(numeric("le", least, w), w, 0)))
end

-- ---- inputs -----------------------------------------------------------------------------------------------------

for _, op in ipairs { "position", "n_prompt", "n_output", "vocab" } do
  M[op] = function() return node(op, "num", {}) end
end

M.request = setmetatable({}, {
  __index = function(_, name)
    if name ~= "temperature" and name ~= "top_k" and name ~= "top_p" and name ~= "min_p" then
      fail("g.request has temperature, top_k, top_p and min_p, no '%s'", tostring(name))
    end
    return node(name, "num", {})
  end,
})

function M.tokens() return node("index", "row", {}) end
function M.random() return node("random", "num", {}, values.trace():site()) end
function M.random_row() return node("row_random", "row", {}, values.trace():site()) end
function M.gumbel() return -M.log(-M.log(M.random_row())) end

local function key_of(name, ...)
  local ids, n = {}, select("#", ...)
  if n < 1 or n > 6 then fail("g.%s takes one to six numbers as its key", name) end
  for i = 1, n do ids[i] = a_num((select(i, ...)), ("number %d of the key of g.%s"):format(i, name)) end
  return ids
end

function M.hash(...) return node("hash", "num", key_of("hash", ...)) end
function M.token_hash(...) return node("row_hash", "row", key_of("token_hash", ...)) end

-- ---- history and token lists ------------------------------------------------------------------------------------

function M.counts(region)
  if region ~= "prompt" and region ~= "output" then fail("g.counts takes \"prompt\" or \"output\"") end
  return node("counts", "row", {}, region)
end

function M.recent(window) return node("recent", "row", { a_num(window, "the window") }) end
function M.last(i) return node("last", "num", { a_num(i or 1, "the operand of g.last") }) end

local lists = { list = true }

-- A list in the text, of a Lua list of ids; or a parameter.
local function a_list(x, what)
  if type(x) ~= "table" or values.is(x) then return operand(x, lists, what, "a list of token ids") end
  for i, id in ipairs(x) do
    if type(id) ~= "number" or id < 0 or id ~= math.floor(id) then fail("%s has at place %d no token id", what, i) end
  end
  return values.trace():node("ids", "list", {}, "[" .. table.concat(x, " ") .. "]")
end

function M.set(list) return node("set", "mask", { a_list(list, "the operand of g.set") }) end
function M.scatter(x)
  return node("scatter", "row", { operand(x, { pairs = true }, "the operand of g.scatter", "a parameter of pairs") })
end

function M.repeats(options)
  options = options or {}
  local longest = options.max or 64
  if type(longest) ~= "number" or longest < 1 or longest > 256 or longest ~= math.floor(longest) then
    fail("max of g.repeats is a whole number from 1 to 256")
  end
  return node("repeats", "row", { a_num(options.window or math.huge, "the window of g.repeats"),
                                  a_list(options.breakers or {}, "the breakers of g.repeats") }, tostring(longest))
end

-- vLLM's penalties, in its order.
function M.penalize(x, options)
  local output = M.counts("output")
  if options.repetition then
    local seen = numeric("lt", 0, output + M.counts("prompt"))
    local r = options.repetition
    x = where(seen, where(numeric("lt", 0, x), x / r, x * r), x)
  end
  if options.frequency then x = x - output * options.frequency end
  if options.presence then x = x - where(numeric("lt", 0, output), options.presence, 0) end
  return x
end

-- ---- variables and automata -------------------------------------------------------------------------------------

local arrays = { vec = true }

function M.at(array, i)
  return node("at", "num", { operand(array, arrays, "operand 1 of g.at", "an array"), a_num(i, "the index") })
end

function M.put(array, i, x)
  return node("put", "vec", { operand(array, arrays, "operand 1 of g.put", "an array"), a_num(i, "the index"),
                              a_num(x, "the element") })
end

function M.push(array, x)
  return node("push", "vec", { operand(array, arrays, "operand 1 of g.push", "an array"), a_num(x, "the element") })
end

local function initial_of(name, v)
  local list = type(v) == "table" and v or { v }
  if #list == 0 or #list > 1024 then fail("variable %s must be a number or a list of 1 to 1024 numbers", name) end
  for i, x in ipairs(list) do
    if type(x) ~= "number" or x ~= x then fail("variable %s must begin with numbers; element %d is none", name, i) end
  end
  return { unpack(list) }
end

-- g.state{ mu = 10 }: variables of the sequence. Reading gives the newest value, assigning makes the next.
function M.state(declared)
  local t = values.trace()
  if type(declared) ~= "table" then fail("g.state takes a table of names and initial values") end
  for name, v in pairs(declared) do
    if type(name) ~= "string" or not name:find("^[%a_][%w_]*$") or #name > 63 then
      fail("g.state: %s is no name", tostring(name))
    end
    if t.states[name] then fail("variable %s is declared twice", name) end
    local kind = type(v) == "table" and "vec" or "num"
    local state = { type = kind, initial = initial_of(name, v) }
    state.before = t:node("state", kind, {}, name)
    t.nodes[state.before].length = #state.initial
    state.value = state.before
    t.states[name] = state
  end
  return setmetatable({}, {
    __index = function(_, name)
      if not declared[name] then fail("there is no variable %s; g.state declares them", tostring(name)) end
      return wrap(t.states[name].value)
    end,
    __newindex = function(_, name, v)
      if not declared[name] then fail("there is no variable %s; g.state declares them", tostring(name)) end
      local state = t.states[name]
      if state.type == "vec" then
        state.value = operand(v, arrays, "variable " .. name, "an array")
      else
        state.value = a_num(v, "variable " .. name)
      end
    end,
  })
end

local automata = { automaton = true }
local function an_automaton(a, name) return operand(a, automata, "operand 1 of g." .. name, "an automaton") end

function M.accepts(a, state) return node("accepts", "mask", { an_automaton(a, "accepts"), a_num(state, "the state") }) end
function M.step(a, state, token)
  return node("step", "num", { an_automaton(a, "step"), a_num(state, "the state"), a_num(token, "the token") })
end

local names = {}
for name in pairs(M) do names[#names + 1] = name end

return setmetatable(M, {
  __index = function(_, name)
    fail("g has no function '%s'%s", tostring(name), require("llm.suggest").hint(tostring(name), names))
  end,
})
