-- Expression grammar of the parser: methods that parser.lua mixes into its class. Every node is a table with a kind
-- `k` and the template line `line`.

local M = {}

-- Nesting of expressions; beyond it the generated Lua would not compile.
local MAX_DEPTH = 60

local CONSTANTS = { ["true"] = true, ["True"] = true, ["false"] = false, ["False"] = false }
local COMPARE = { ["=="] = "eq", ["!="] = "ne", ["<"] = "lt", ["<="] = "le", [">"] = "gt", [">="] = "ge" }
local ADDITIVE = { ["+"] = "add", ["-"] = "sub" }
local MULTIPLICATIVE = { ["*"] = "mul", ["/"] = "div", ["//"] = "floordiv", ["%"] = "mod" }
local TEST_ARGUMENT = { name = true, string = true, integer = true, float = true, ["["] = true, ["{"] = true }

function M:deeper()
  self.depth = self.depth + 1
  if self.depth > MAX_DEPTH then self:fail("the template nests expressions too deeply") end
end

function M:expression(without_condition)
  self:deeper()
  local node = without_condition and self:parse_or() or self:condition()
  self.depth = self.depth - 1
  return node
end

function M:condition()
  local line = self:line()
  local node = self:parse_or()
  while self:skip_name("if") do
    local test = self:parse_or()
    local otherwise
    if self:skip_name("else") then
      self:deeper()
      otherwise = self:condition()
      self.depth = self.depth - 1
    end
    node = { k = "cond", line = line, test = test, value = node, otherwise = otherwise }
  end
  return node
end

-- Left-associative operators of one kind become one node with many operands: long chains stay flat in the Lua code.
function M:chain(kind, next_operand, word)
  local line = self:line()
  local first = next_operand(self)
  if not self:at_name(word) then return first end
  local operands = { first }
  while self:skip_name(word) do operands[#operands + 1] = next_operand(self) end
  return { k = kind, line = line, operands = operands }
end

function M:parse_or() return self:chain("or", self.parse_and, "or") end
function M:parse_and() return self:chain("and", self.parse_not, "and") end

function M:parse_not()
  if not self:at_name("not") then return self:comparison() end
  local line = self:line()
  self:advance()
  self:deeper()
  local operand = self:parse_not()
  self.depth = self.depth - 1
  return { k = "not", line = line, operand = operand }
end

function M:comparison()
  local line = self:line()
  local first = self:additive()
  local ops
  while true do
    local op = COMPARE[self:type()]
    if op then
      self:advance()
    elseif self:skip_name("in") then
      op = "contains"
    elseif self:at_name("not") and self:peek_name() == "in" then
      self:advance()
      self:advance()
      op = "lacks"
    else
      break
    end
    ops = ops or {}
    ops[#ops + 1] = { op = op, operand = self:additive() }
  end
  if not ops then return first end
  return { k = "compare", line = line, first = first, ops = ops }
end

function M:binary(table_of_ops, next_operand)
  local line = self:line()
  local left = next_operand(self)
  local op = table_of_ops[self:type()]
  while op do
    self:advance()
    local right = next_operand(self)
    if op == "add" and left.k == "add" and not left.closed then
      left.operands[#left.operands + 1] = right
    elseif op == "add" then
      left = { k = "add", line = line, operands = { left, right } }
    else
      left = { k = "binary", op = op, line = line, left = left, right = right }
    end
    op = table_of_ops[self:type()]
  end
  if left.k == "add" then left.closed = true end
  return left
end

function M:additive() return self:binary(ADDITIVE, self.concatenation) end

function M:concatenation()
  local line = self:line()
  local first = self:multiplicative()
  if self:type() ~= "~" then return first end
  local operands = { first }
  while self:skip("~") do operands[#operands + 1] = self:multiplicative() end
  return { k = "concat", line = line, operands = operands }
end

function M:multiplicative() return self:binary(MULTIPLICATIVE, self.power) end
function M:power() return self:binary({ ["**"] = "pow" }, self.unary) end

function M:unary(without_filters)
  local line, op = self:line(), self:type()
  local node
  if op == "-" or op == "+" then
    self:advance()
    self:deeper()
    node = { k = "unary", op = op == "-" and "neg" or "pos", line = line, operand = self:unary(true) }
    self.depth = self.depth - 1
  else
    node = self:primary()
  end
  node = self:postfix(node)
  if not without_filters then node = self:filters_and_tests(node) end
  return node
end

function M:primary(with_namespace)
  local kind, value, line = self:type(), self:value(), self:line()
  if kind == "name" then
    self:advance()
    if CONSTANTS[value] ~= nil then return { k = "const", line = line, value = CONSTANTS[value] } end
    if value == "none" or value == "None" then return { k = "none", line = line } end
    if with_namespace and self:type() == "." then
      self:advance()
      return { k = "nsref", line = line, name = value, attr = self:expect_name() }
    end
    self:note_special(value)
    return { k = "name", line = line, name = value }
  elseif kind == "string" then
    local parts = {}
    while self:type() == "string" do
      parts[#parts + 1] = self:value()
      self:advance()
    end
    return { k = "const", line = line, value = table.concat(parts) }
  elseif kind == "integer" or kind == "float" then
    self:advance()
    return { k = kind == "float" and "float" or "const", line = line, value = value }
  elseif kind == "(" then
    self:advance()
    local node = self:tuple { explicit = true }
    self:expect(")")
    if node.k == "add" then node.closed = true end
    return node
  elseif kind == "[" then
    return self:list_literal()
  elseif kind == "{" then
    return self:dict_literal()
  end
  self:fail("unexpected '" .. self:describe() .. "'")
end

-- Comma-separated expressions. Options: simple (names and literals only), with_namespace, without_condition,
-- stop (a name that ends it), explicit (inside parentheses: may be empty).
function M:tuple(options)
  local line, items, is_tuple = self:line(), {}, false
  self:deeper()
  while true do
    if #items > 0 then self:expect(",") end
    local kind = self:type()
    if kind == "variable_end" or kind == "block_end" or kind == ")" or (options.stop and self:at_name(options.stop))
    then
      break
    end
    items[#items + 1] = options.simple and self:primary(options.with_namespace)
      or self:expression(options.without_condition)
    if self:type() ~= "," then break end
    is_tuple = true
  end
  self.depth = self.depth - 1
  if not is_tuple then
    if #items > 0 then return items[1] end
    if not options.explicit then self:fail("Expected an expression, got '" .. self:describe() .. "'") end
  end
  return { k = "tuple", line = line, items = items }
end

function M:list_literal()
  local line, items = self:line(), {}
  self:expect("[")
  while self:type() ~= "]" do
    if #items > 0 then self:expect(",") end
    if self:type() == "]" then break end
    items[#items + 1] = self:expression()
  end
  self:expect("]")
  return { k = "list", line = line, items = items }
end

function M:dict_literal()
  local line, items = self:line(), {}
  self:expect("{")
  while self:type() ~= "}" do
    if #items > 0 then self:expect(",") end
    if self:type() == "}" then break end
    items[#items + 1] = self:expression()
    self:expect(":")
    items[#items + 1] = self:expression()
  end
  self:expect("}")
  return { k = "dict", line = line, items = items }
end

-- Attributes, subscripts and calls nest in the Lua code as deep as the chain is long, so they count as depth.
function M:postfix(node)
  local levels = 0
  while true do
    local kind = self:type()
    if kind ~= "." and kind ~= "[" and kind ~= "(" then break end
    self:deeper()
    levels = levels + 1
    node = kind == "(" and self:call(node) or self:subscript(node)
  end
  self.depth = self.depth - levels
  return node
end

function M:filters_and_tests(node)
  local levels = 0
  while true do
    local kind = self:type()
    local is_test = kind == "name" and self:value() == "is"
    if kind ~= "|" and kind ~= "(" and not is_test then break end
    self:deeper()
    levels = levels + 1
    if kind == "|" then
      self:advance()
      node = self:filter(node)
    elseif is_test then
      node = self:test(node)
    else
      node = self:call(node)
    end
  end
  self.depth = self.depth - levels
  return node
end

function M:subscript(node)
  local line = self:line()
  if self:skip(".") then
    local kind, value = self:type(), self:value()
    self:advance()
    if kind == "name" then return { k = "attr", line = line, node = node, name = value } end
    if kind ~= "integer" then self:fail("expected name or number") end
    return { k = "item", line = line, node = node, index = { k = "const", line = line, value = value } }
  end
  self:expect("[")
  local args = {}
  while self:type() ~= "]" do
    if #args > 0 then self:expect(",") end
    args[#args + 1] = self:subscript_argument()
  end
  self:expect("]")
  local index = args[1]
  if #args ~= 1 then index = { k = "tuple", line = line, items = args } end
  if index.k == "slice" then return { k = "sliced", line = line, node = node, slice = index } end
  return { k = "item", line = line, node = node, index = index }
end

function M:subscript_argument()
  local line = self:line()
  local function bound()
    local kind = self:type()
    if kind ~= ":" and kind ~= "]" and kind ~= "," then return self:expression() end
  end
  local start = bound()
  if self:type() ~= ":" then
    return start or self:expression()
  end
  self:advance()
  local stop = bound()
  local step
  if self:skip(":") then step = bound() end
  return { k = "slice", line = line, start = start, stop = stop, step = step }
end

-- Arguments of a call: { positional…, names = { … }, values = { … }, star = node, star_star = node }.
function M:arguments()
  self:expect("(")
  local args = { names = {}, values = {} }
  local first = true
  local function check(ok)
    if not ok then self:fail("invalid syntax for function call expression") end
  end
  while self:type() ~= ")" do
    if not first then
      self:expect(",")
      if self:type() == ")" then break end
    end
    first = false
    if self:skip("*") then
      check(not args.star and not args.star_star)
      args.star = self:expression()
    elseif self:skip("**") then
      check(not args.star_star)
      args.star_star = self:expression()
    elseif self:type() == "name" and self:peek_type() == "=" then
      check(not args.star_star)
      local name = self:value()
      self:advance()
      self:advance()
      args.names[#args.names + 1] = name
      args.values[#args.values + 1] = self:expression()
    else
      check(not args.star and not args.star_star and #args.names == 0)
      args[#args + 1] = self:expression()
    end
  end
  self:expect(")")
  return args
end

function M:call(node)
  local line = self:line()
  return { k = "call", line = line, node = node, args = self:arguments() }
end

function M:dotted_name()
  local name = self:expect_name()
  while self:skip(".") do name = name .. "." .. self:expect_name() end
  return name
end

-- One filter, after its "|"; `node` nil in a filter block.
function M:filter(node)
  local line = self:line()
  local name = self:dotted_name()
  local args = self:type() == "(" and self:arguments() or nil
  return { k = "filter", line = line, node = node, name = name, args = args }
end

function M:test(node)
  local line = self:line()
  self:advance()
  local negated = self:skip_name("not")
  local name = self:dotted_name()
  local args
  if self:type() == "(" then
    args = self:arguments()
  elseif TEST_ARGUMENT[self:type()]
    and not (self:at_name("else") or self:at_name("or") or self:at_name("and")) then
    if self:at_name("is") then self:fail("You cannot chain multiple tests with is") end
    args = { self:postfix(self:primary()), names = {}, values = {} }
  end
  local result = { k = "test", line = line, node = node, name = name, args = args }
  if negated then result = { k = "not", line = line, operand = result } end
  return result
end

return M
