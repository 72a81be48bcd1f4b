-- The graph being traced: nodes in SSA, hash-consed so that equal expressions are one node, constants folded as
-- they are made, and printed without what the result does not need. What a node means is in core/graph/ops.h.

local M = {}
M.__index = M

local getinfo = debug.getinfo

-- Arithmetic on constants is what the interpreter does with nums: IEEE doubles.
local function truth(b) return b and 1 or 0 end
local function smaller(a, b) return a ~= a and b or b ~= b and a or math.min(a, b) end
local function larger(a, b) return a ~= a and b or b ~= b and a or math.max(a, b) end

local fold = {
  neg = function(a) return -a end, abs = math.abs, exp = math.exp, log = math.log, tanh = math.tanh, sqrt = math.sqrt,
  floor = math.floor,
  add = function(a, b) return a + b end, sub = function(a, b) return a - b end, mul = function(a, b) return a * b end,
  div = function(a, b) return a / b end, pow = function(a, b) return a ^ b end, min = smaller, max = larger,
  lt = function(a, b) return truth(a < b) end, le = function(a, b) return truth(a <= b) end,
  eq = function(a, b) return truth(a == b) end,
  ["and"] = function(a, b) return a * b end, ["or"] = function(a, b) return larger(a, b) end,
  ["not"] = function(a) return 1 - a end,
}

local swaps = { add = true, mul = true, min = true, max = true, eq = true, ["and"] = true, ["or"] = true }

-- The fewest digits that read as the same number.
local function number_text(v)
  if v == math.huge then return "inf" elseif v == -math.huge then return "-inf" end
  for precision = 15, 17 do
    local text = ("%." .. precision .. "g"):format(v)
    if tonumber(text) == v then return text end
  end
end
M.number_text = number_text

function M.new()
  return setmetatable({ nodes = {}, by_key = {}, params = {}, states = {}, n_sites = 0, n_draws = 0 }, M)
end

local own = getinfo(1, "S").source:match("^(.*)/trace%.lua$")

-- The first line of the stack that is not the tracer's own: "policies/mine.lua:12:".
local function user_place()
  for level = 3, 60 do
    local info = getinfo(level, "Sl")
    if not info then return "" end
    if info.currentline > 0 and info.source:sub(1, #own) ~= own then
      return ("%s:%d: "):format(info.short_src, info.currentline)
    end
  end
  return ""
end
M.user_place = user_place

-- Raises with the user's line in front.
function M.fail(format, ...) error({ graph_error = user_place() .. format:format(...) }, 0) end

-- Where a function begins: "policies/mine.lua:10: ".
function M.place_of(f)
  local info = getinfo(f, "S")
  return ("%s:%d: "):format(info.short_src, info.linedefined)
end

-- Is this the message of an error that Lua places in the tracer itself (the user's frame is gone in a tail call)?
function M.is_own(message) return message:find("^lua/llm/graph[%w_/]*%.lua:%d+: ") ~= nil end

-- The node with these operands, made if there is none. type: of the result; operands: ids.
function M:node(op, type, operands, attribute)
  if swaps[op] and operands[1] > operands[2] then operands = { operands[2], operands[1] } end
  local key = op .. " " .. (attribute or "") .. " " .. table.concat(operands, " ")
  local id = self.by_key[key]
  if not id then
    id = #self.nodes + 1
    self.nodes[id] = { op = op, type = type, operands = operands, attribute = attribute }
    self.by_key[key] = id
  end
  return id
end

function M:constant(v)
  if v ~= v then M.fail("a constant is NaN") end
  local id = self:node("const", "num", {}, number_text(v))
  self.nodes[id].value, self.nodes[id].positive = v, v > 0
  return id
end

-- A truth value known at trace time. The text has none: printed, it is a comparison of constants.
function M:flag(v)
  local one = self:constant(1)
  local id = self:node(v and "le" or "lt", "bool", { one, one })
  self.nodes[id].value = truth(v)
  return id
end

local function is_number(node, v) return node.type == "num" and node.value == v end

-- What needs no node: constants, and operations that change nothing whatever the operand is.
function M:simplify(op, type, operands)
  local a, b = self.nodes[operands[1]], self.nodes[operands[2]]
  if op == "where" and a.value then return operands[a.value ~= 0 and 2 or 3] end
  if op == "where" and operands[2] == operands[3] then return operands[2] end
  if fold[op] and a.value and (not b or b.value) then
    local v = fold[op](a.value, b and b.value)
    if type == "bool" then return self:flag(v ~= 0) end
    if v ~= v then M.fail("%s of constants is NaN", op) end
    return self:constant(v)
  end
  if (op == "mul" or op == "div" or op == "pow") and is_number(b, 1) then return operands[1] end
  if op == "mul" and is_number(a, 1) then return operands[2] end
  if op == "sub" and is_number(b, 0) then return operands[1] end
  if op == "pow" and is_number(b, 2) then return self:element("mul", { operands[1], operands[1] }) end
  if op == "and" or op == "or" then
    if operands[1] == operands[2] then return operands[1] end
    local known, other = a.value and a or b, a.value and operands[2] or operands[1]
    if known.value then
      if (known.value ~= 0) == (op == "and") then return other end
      if self.nodes[other].type == "bool" then return self:flag(op == "or") end
    end
  end
  if op == "not" and a.op == "not" then return a.operands[1] end
end

local function is_wide(type) return type == "row" or type == "mask" end

local gives_truth = { lt = true, le = true, eq = true, ["and"] = true, ["or"] = true, ["not"] = true }

-- An element-wise operation on rows, masks, nums and bools whose types have been checked.
function M:element(op, operands)
  local wide = false
  for _, id in ipairs(operands) do wide = wide or is_wide(self.nodes[id].type) end
  local type = gives_truth[op] and (wide and "mask" or "bool") or (wide and "row" or "num")
  local simple = self:simplify(op, type, operands)
  if simple and is_wide(self.nodes[simple].type) == wide then return simple end
  return self:node(op, type, operands)
end

function M:site()
  self.n_sites = self.n_sites + 1
  return tostring(self.n_sites)
end

-- ---- the text ------------------------------------------------------------------------------------------------------

function M:reachable(roots)
  local seen, stack = {}, {}
  for _, id in ipairs(roots) do stack[#stack + 1] = id end
  while #stack > 0 do
    local id = table.remove(stack)
    if not seen[id] then
      seen[id] = true
      for _, operand in ipairs(self.nodes[id].operands) do stack[#stack + 1] = operand end
    end
  end
  return seen
end

local function declare_param(lines, name, param)
  local line = ("param %s %s"):format(name, param.type)
  if param.type == "num" then
    line = ("%s %s %s %s"):format(line, number_text(param.initial), number_text(param.least), number_text(param.most))
  end
  lines[#lines + 1] = line
end

local function declare_state(lines, name, state)
  local initial = {}
  for i, v in ipairs(state.initial) do initial[i] = number_text(v) end
  lines[#lines + 1] = ("state %s %s%s %s"):format(name, state.type, state.type == "vec" and " " .. #initial or "",
                                                 table.concat(initial, " "))
end

local function sorted_names(map)
  local names = {}
  for name in pairs(map) do names[#names + 1] = name end
  table.sort(names)
  return names
end

-- gives: "row" or "token"; result: the node.
function M:print(gives, result)
  local roots, lines, numbers, n = { result }, { "graph 1" }, {}, 0
  for _, name in ipairs(sorted_names(self.states)) do
    local state = self.states[name]
    if state.value ~= state.before then roots[#roots + 1] = state.value end
  end
  local needed = self:reachable(roots)
  for _, name in ipairs(sorted_names(self.params)) do
    if needed[self.params[name].id] then declare_param(lines, name, self.params[name]) end
  end
  for _, name in ipairs(sorted_names(self.states)) do declare_state(lines, name, self.states[name]) end
  for id, node in ipairs(self.nodes) do
    if needed[id] then
      numbers[id], n = n, n + 1
      local words = { ("%%%d %s = %s"):format(numbers[id], node.type, node.op), node.attribute }
      for _, operand in ipairs(node.operands) do words[#words + 1] = "%" .. numbers[operand] end
      lines[#lines + 1] = table.concat(words, " ")
    end
  end
  for _, name in ipairs(sorted_names(self.states)) do
    local state = self.states[name]
    if state.value ~= state.before then lines[#lines + 1] = ("store %s %%%d"):format(name, numbers[state.value]) end
  end
  lines[#lines + 1] = ("result %s %%%d"):format(gives, numbers[result])
  return table.concat(lines, "\n") .. "\n", needed
end

return M
