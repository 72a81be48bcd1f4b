-- Expressions → Lua source. Methods of the compiler (compiler.lua), each of which returns the text of one Lua
-- expression without side effects on the generated code around it, so that evaluation order is Lua's own.

local errors = require "llm.jinja.errors"
local filters = require "llm.jinja.filters"
local tests = require "llm.jinja.tests"

local M = {}

-- Lua functions take at most about 250 arguments; longer chains nest calls of this many operands.
local MAX_OPERANDS = 40

local concat = table.concat

local ESCAPES = { ["\n"] = "\\n", ["\r"] = "\\r", ["\\"] = "\\\\", ['"'] = '\\"' }

-- A Lua string literal on one line, whatever bytes are in `s`.
local function quote(s)
  if s:find('[%c\\"\127-\255]') then
    s = s:gsub('[\n\r\\"]', ESCAPES):gsub("[%z\1-\31\127]", function(c) return ("\\%03d"):format(c:byte()) end)
  end
  return '"' .. s .. '"'
end
M.quote = quote

local function number_literal(x)
  if x ~= x then return "(0/0)" end
  if x == math.huge then return "(1/0)" end
  return ("%.17g"):format(x)
end

local expr = {}

-- The Lua expression of a node's value.
function M:expr(node)
  return expr[node.k](self, node)
end

function M:exprs(nodes)
  local out = {}
  for i = 1, #nodes do out[i] = self:expr(nodes[i]) end
  return out
end

-- The Lua slot of a variable.
function M:variable(name)
  local frame = self.frame:find(name)
  if not frame then errors.raise("TemplateSyntaxError", "unknown name " .. name, self.line) end
  return frame.var .. "[" .. quote(name) .. "]", frame.names[name] == "param" and not frame.unset
end

function expr.name(self, node)
  local slot, always_set = self:variable(node.name)
  if always_set then return slot end
  return "get(" .. slot .. "," .. quote(node.name) .. ")"
end

function expr.const(_, node)
  local v = node.value
  if type(v) == "string" then return quote(v) end
  if type(v) == "number" then return number_literal(v) end
  return tostring(v)
end

function expr.none() return "none" end

function expr.float(self, node)
  return self:constant("R.float(" .. number_literal(node.value) .. ")")
end

local LITERAL = { const = true, none = true, float = true }

local function is_constant(nodes)
  for i = 1, #nodes do
    local node = nodes[i]
    if not LITERAL[node.k] and not (node.k == "list" or node.k == "tuple") then return false end
    if node.items and not is_constant(node.items) then return false end
  end
  return true
end

-- A literal of constants is made once: no template can change it.
local function collection(maker)
  return function(self, node)
    local items = node.items
    local n = maker == "R.dict_of" and #items / 2 or #items
    local code = maker .. "({" .. concat(self:exprs(items), ",") .. "}," .. n .. ")"
    return is_constant(items) and self:constant(code) or code
  end
end
expr.list = collection "R.list"
expr.tuple = collection "R.tuple"
expr.dict = collection "R.dict_of"

-- f(a, b, c …) with the operands in groups: f(f(a, b), c …) means the same for + and ~.
local function grouped(name, codes)
  local result = concat(codes, ",", 1, math.min(#codes, MAX_OPERANDS))
  for first = MAX_OPERANDS + 1, #codes, MAX_OPERANDS do
    result = name .. "(" .. result .. ")," .. concat(codes, ",", first, math.min(#codes, first + MAX_OPERANDS - 1))
  end
  return name .. "(" .. result .. ")"
end

-- a + b + c adds before it evaluates c: the first error is Python's. Only very long sums evaluate all operands first.
function expr.add(self, node)
  local codes = self:exprs(node.operands)
  if #codes > MAX_OPERANDS then return grouped("R.add_all", codes) end
  return ("add("):rep(#codes - 1) .. codes[1] .. "," .. concat(codes, "),", 2) .. ")"
end

function expr.concat(self, node) return grouped("R.concat", self:exprs(node.operands)) end

function expr.binary(self, node)
  return "R." .. node.op .. "(" .. self:expr(node.left) .. "," .. self:expr(node.right) .. ")"
end

function expr.unary(self, node)
  if node.op == "neg" and node.operand.k == "const" and type(node.operand.value) == "number" then
    return "(" .. number_literal(-node.operand.value) .. ")"
  end
  return "R." .. node.op .. "(" .. self:expr(node.operand) .. ")"
end

local function lazy_chain(self, nodes, wrap)
  local out, last = {}, #nodes
  for i = 1, last do
    local code = self:expr(nodes[i])
    out[i] = i < last and wrap .. "(" .. code .. ")" or code
  end
  return concat(out, " or ")
end

expr["or"] = function(self, node) return "(" .. lazy_chain(self, node.operands, "R.or_value") .. ")" end
expr["and"] = function(self, node) return "R.unbox(" .. lazy_chain(self, node.operands, "R.and_value") .. ")" end
expr["not"] = function(self, node) return "(not " .. self:cond(node.operand) .. ")" end

function expr.cond(self, node)
  local parts, soft = {}, self.soft
  self.soft = true
  while true do
    local v = self:expr(node.value)
    if not (LITERAL[node.value.k] and node.value.value ~= false) then v = "R.box(" .. v .. ")" end
    parts[#parts + 1] = self:cond(node.test) .. " and " .. v
    local rest = node.otherwise
    if not rest then
      parts[#parts + 1] = "R.no_else(" .. node.line .. ")"
      break
    elseif rest.k ~= "cond" then
      parts[#parts + 1] = self:expr(rest)
      break
    end
    node = rest
  end
  self.soft = soft
  return "R.unbox(" .. concat(parts, " or ") .. ")"
end

function expr.compare(self, node)
  local first, ops = self:expr(node.first), node.ops
  if #ops == 1 then
    local op = ops[1].op
    return (op == "eq" and "eq" or "R." .. op) .. "(" .. first .. "," .. self:expr(ops[1].operand) .. ")"
  end
  local parts = { first }
  for _, op in ipairs(ops) do
    parts[#parts + 1] = '"' .. op.op .. '",function() return ' .. self:expr(op.operand) .. " end"
  end
  return "R.chain(" .. concat(parts, ",") .. ")"
end

function expr.attr(self, node)
  return "attr(" .. self:expr(node.node) .. "," .. quote(node.name) .. ")"
end

function expr.item(self, node)
  if node.index.k == "slice" then return expr.sliced(self, { node = node.node, slice = node.index }) end
  return "item(" .. self:expr(node.node) .. "," .. self:expr(node.index) .. ")"
end

function expr.sliced(self, node)
  local slice = node.slice
  local function bound(b) return b and self:expr(b) or "nil" end
  return "R.slice(" .. self:expr(node.node) .. "," .. bound(slice.start) .. "," .. bound(slice.stop) .. ","
    .. bound(slice.step) .. ")"
end

function expr.slice(_, node)
  errors.raise("TemplateSyntaxError", "a slice stands alone in its subscript", node.line)
end

-- Keyword arguments as a dict, with the extra entry of a call block; "nil" when there are none.
local function keywords(self, args, caller)
  local names = args and args.names or {}
  if #names == 0 and not caller then return "nil" end
  local out = {}
  for i, name in ipairs(names) do out[i] = quote(name) .. "," .. self:expr(args.values[i]) end
  if caller then out[#out + 1] = '"caller",' .. caller end
  return "R.dict_of({" .. concat(out, ",") .. "}," .. #out .. ")"
end

-- "{a,b},2,kwargs" for the calling functions of the runtime.
local function packed(self, args, caller)
  local codes = self:exprs(args or {})
  return "{" .. concat(codes, ",") .. "}," .. #codes .. "," .. keywords(self, args, caller)
end

local function spread(self, f, args, caller)
  return "R.spread(" .. f .. "," .. packed(self, args, caller) .. "," .. (args.star and self:expr(args.star) or "nil")
    .. "," .. (args.star_star and self:expr(args.star_star) or "nil") .. ")"
end

-- A call; `caller` is the Lua expression of a call block's body.
function M:call_code(node, caller)
  local callee, args = node.node, node.args
  if args.star or args.star_star then
    local f = "function(a,n,k) return call(" .. self:expr(callee) .. ",a,n,k) end"
    return spread(self, f, args, caller)
  end
  if callee.k ~= "attr" then
    return "call(" .. self:expr(callee) .. "," .. packed(self, args, caller) .. ")"
  end
  local target = self:expr(callee.node) .. "," .. quote(callee.name)
  if #args > 1 or #args.names > 0 or caller then
    return "method(" .. target .. "," .. packed(self, args, caller) .. ")"
  end
  return "method1(" .. target .. (args[1] and "," .. self:expr(args[1]) or "") .. ")"
end

expr.call = M.call_code

-- Arguments by position for a function whose parameters are known, or nil if they do not fit (the call is then made
-- at run time, where it fails with Python's message).
local function positional(self, params, args)
  if #args > #params then return nil end
  local out = self:exprs(args)
  for i, name in ipairs(args.names) do
    local position
    for p, param in ipairs(params) do
      if param == name then position = p end
    end
    if not position or (out[position] and out[position] ~= "nil") then return nil end
    while #out < position - 1 do out[#out + 1] = "nil" end
    out[position] = self:expr(args.values[i])
    for p = 1, position do out[p] = out[p] or "nil" end
  end
  return out
end

-- A filter or test applied to `subject`; `fast` is the table of bare functions, `full` the one of their descriptions.
local function applied(self, entry, name, subject, args, fast, full)
  if args and (args.star or args.star_star) then
    local f = "function(a,n,k) return R.call_native(" .. full .. "[" .. quote(name) .. "]," .. subject .. ",a,n,k) end"
    return spread(self, f, args)
  end
  if entry.raw then return fast .. "[" .. quote(name) .. "](" .. subject .. "," .. packed(self, args) .. ")" end
  local codes = {}
  if args then codes = positional(self, entry.params, args) end
  if not codes then
    return "R.call_native(" .. full .. "[" .. quote(name) .. "]," .. subject .. "," .. packed(self, args) .. ")"
  end
  table.insert(codes, 1, subject)
  return fast .. "[" .. quote(name) .. "](" .. concat(codes, ",") .. ")"
end

-- Unknown names are errors at once, except where a condition may keep them from being reached.
local function unknown(self, what, node)
  if self.soft then return "R.no_" .. what .. "(" .. quote(node.name) .. ")" end
  errors.raise("TemplateAssertionError", "No " .. what .. " named '" .. node.name .. "'.", node.line)
end

-- A filter node on `subject`, by default the code of its own operand.
function M:filter_code(node, subject)
  local entry = filters.table[node.name]
  if not entry then return unknown(self, "filter", node) end
  return applied(self, entry, node.name, subject or self:expr(node.node), node.args, "F", "R.filters")
end

function expr.filter(self, node) return self:filter_code(node) end

function expr.test(self, node)
  local entry = tests.table[node.name]
  if not entry then return unknown(self, "test", node) end
  if node.node.k == "name" and (node.name == "defined" or node.name == "undefined") and not node.args then
    return (node.name == "defined" and "R.is_defined(" or "(not R.is_defined(") .. self:variable(node.node.name)
      .. (node.name == "defined" and ")" or "))")
  end
  return applied(self, entry, node.name, self:expr(node.node), node.args, "T", "R.tests")
end

-- Nodes whose value is a Lua boolean already.
local BOOLEAN = { compare = true, ["not"] = true }

-- The Lua expression of a node's truth.
function M:cond(node)
  local k = node.k
  if k == "and" or k == "or" then
    local out = {}
    for i, operand in ipairs(node.operands) do out[i] = self:cond(operand) end
    return "(" .. concat(out, " " .. k .. " ") .. ")"
  elseif BOOLEAN[k] or (k == "test" and tests.table[node.name]) then
    return self:expr(node)
  elseif k == "name" then
    return "R.is_set(" .. self:variable(node.name) .. ")"
  end
  return "truth(" .. self:expr(node) .. ")"
end

return M
