-- What a graph function handles in place of numbers: a value of each node. Operators make nodes; what Lua would have to
-- know now and a graph knows only when it runs is an error that says what to write instead.

local trace = require "llm.graph.trace"

local M = {}

local Value = {}
local fail = trace.fail

-- Values hold their node apart from their fields, as indexing them is an error.
local node_of = setmetatable({}, { __mode = "k" })

local current -- the trace under way

function M.begin(t) current = t end
function M.trace() return current end

function M.wrap(id)
  local value = setmetatable({}, Value)
  node_of[value] = { trace = current, id = id }
  return value
end

function M.is(v) return node_of[v] ~= nil end

function M.id(v)
  local entry = node_of[v]
  if entry.trace ~= current then fail("this value belongs to another graph: a graph function must not keep values") end
  current.used = current.used or {}
  current.used[v] = true
  return entry.id
end

function M.type(v) return node_of[v].trace.nodes[node_of[v].id].type end

local called = {
  row = "a row", mask = "a mask", num = "a number", bool = "a truth value", vec = "an array", list = "a token list",
  pairs = "token-value pairs", automaton = "an automaton",
}

local function describe(v)
  if node_of[v] then return called[M.type(v)] end
  return type(v) == "nil" and "nil" or "a Lua " .. type(v)
end
M.describe = describe

-- The node of an operand: a value of one of the wanted types (a set), or a Lua number or boolean that becomes a
-- constant. what: for the message.
function M.operand(v, wanted, what, expected)
  if node_of[v] then
    if wanted[M.type(v)] then return M.id(v) end
  elseif type(v) == "number" and wanted.num then
    return current:constant(v)
  elseif type(v) == "boolean" and wanted.bool then
    return current:flag(v)
  end
  local hint = ""
  if node_of[v] and (M.type(v) == "mask" or M.type(v) == "bool") and wanted.num then
    hint = "; g.where(mask, 1, 0) makes numbers of it"
  end
  fail("%s must be %s; it is %s%s", what, expected, describe(v), hint)
end

local arithmetic = { row = true, num = true }
local signs = { add = "+", sub = "-", mul = "*", div = "/", neg = "-" }

function M.numeric(op, ...)
  local operands = {}
  local n = select("#", ...)
  for i = 1, n do
    local what = ("operand %d of %s"):format(i, signs[op] or "g." .. op)
    operands[i] = M.operand((select(i, ...)), arithmetic, what, "a row or a number")
  end
  return M.wrap(current:element(op, operands))
end

local function operator(op)
  return function(a, b) return M.numeric(op, a, b) end
end

Value.__add, Value.__sub, Value.__mul = operator("add"), operator("sub"), operator("mul")
Value.__div, Value.__pow = operator("div"), operator("pow")
function Value.__unm(a) return M.numeric("neg", a) end

-- As Lua's: of the divisor's sign.
function Value.__mod(a, b) return a - M.numeric("floor", M.numeric("div", a, b)) * b end

local function no_order()
  fail("a graph cannot compare with < or <= while it is traced: use g.lt, g.le, g.gt, g.ge, and g.where to choose")
end
Value.__lt, Value.__le = no_order, no_order

function Value.__eq()
  fail("a graph cannot compare with == or ~= while it is traced: use g.eq, g.ne, and g.where to choose")
end

function Value.__index(v, key)
  if M.type(v) == "vec" then fail("elements of an array are read with g.at(array, i)") end
  if type(key) == "number" or node_of[key] then
    fail("elements of %s are read with g.gather(row, id), not by indexing", describe(v))
  end
  fail("%s has no field '%s': functions are called as g.%s(x)", describe(v), tostring(key), tostring(key))
end

function Value.__newindex(v)
  if M.type(v) == "vec" then fail("elements of an array are replaced with array = g.put(array, i, x)") end
  fail("elements cannot be assigned: use g.where(mask, x, row)")
end

function Value.__concat() fail("a traced value has no text: print(x) shows its node, g.dump() the graph") end
function Value.__call() fail("a traced value is no function") end
function Value.__tostring(v) return ("%s (node %d)"):format(describe(v), node_of[v].id) end

-- Messages of Lua itself that come from using a value as what it is not.
local hints = {
  { "attempt to compare", "a traced value has no value yet: use g.lt, g.le, g.gt, g.ge, g.eq, and g.where to choose" },
  { "number expected, got table", "functions of math take numbers: use those of g, such as g.exp" },
  { "attempt to perform arithmetic on .*nil", "perhaps a parameter that the policy does not declare" },
}

-- A failure of the graph function f in words.
function M.explain(failure, f)
  if type(failure) == "table" and failure.graph_error then return failure.graph_error end
  local message = tostring(failure)
  if trace.is_own(message) then message = message:gsub("^[^:]*:%d+: ", trace.place_of(f), 1) end
  for _, hint in ipairs(hints) do
    if message:find(hint[1]) then return message .. " (" .. hint[2] .. ")" end
  end
  return message
end

-- ---- truth values nobody looked at -------------------------------------------------------------------------------

-- `if g.lt(a, b) then` is no error to Lua: any table is true. It shows in that nothing takes the value up.
function M.note_truth(value)
  current.truths = current.truths or {}
  table.insert(current.truths, { value = value, place = trace.user_place() })
  return value
end

function M.check_truths()
  for _, truth in ipairs(current.truths or {}) do
    if not (current.used and current.used[truth.value]) then
      error({ graph_error = truth.place .. "this comparison is never used: a Lua `if` (or `and`, `or`, `not`) cannot "
                .. "look at a traced value, which is always true to it; use g.where(c, a, b), g.land, g.lor, g.lnot" }, 0)
    end
  end
end

return M
