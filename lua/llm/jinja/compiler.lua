-- Syntax tree → Lua source. A template becomes one function of its context; frames are tables s0, s1 …, output
-- buffers o0, o1 …. Every statement of the generated code is one line, and `map` gives its line in the template.
--
-- Nothing grows with the size of a template that Lua limits: variables are fields, constants of collections lie in
-- the table K, and long bodies are cut into functions, because a jump in LuaJIT spans at most 32,767 instructions.

local errors = require "llm.jinja.errors"
local generator = require "llm.jinja.generator"
local scope = require "llm.jinja.scope"

local M = {}

-- Tokens of template in one generated function's straight code, beyond which a body is cut.
local MAX_WEIGHT = 3000

local Compiler = {}
Compiler.__index = Compiler
for name, method in pairs(generator) do Compiler[name] = method end

local quote = generator.quote

function Compiler:emit(code, line)
  local n = self.n + 1
  self.n, self.lines[n] = n, code
  if line then self.line = line end
  self.map[n] = self.line
end

-- A value made once per template: an index into K.
function Compiler:constant(code)
  local constants = self.constants
  local at = constants[code]
  if not at then
    at = #constants + 1
    constants[at], constants[code] = code, at
  end
  return "K[" .. at .. "]"
end

-- Opens a scope inside the current one and gives its variables their first values. `declare(frame)` names the
-- parameters; `in_place` says that the Lua table exists already (a macro's arguments).
function Compiler:enter(nodes, declare, in_place)
  local frame = scope.new(self.frame)
  if declare then declare(frame) end
  frame:analyze(nodes)
  self.frame = frame
  if not in_place then self:emit("local " .. frame.var .. "={}") end
  return frame
end

function Compiler:leave()
  self.frame = self.frame.parent
end

-- The beginnings of a frame's variables: run at its start, in a loop at the start of every turn.
function Compiler:initialize(frame)
  for _, name in ipairs(frame.order) do
    local mode, slot = frame.names[name], frame.var .. "[" .. quote(name) .. "]"
    if mode == "resolve" then
      self:emit(slot .. "=X(" .. quote(name) .. ")")
    elseif mode == "alias" then
      self:emit(slot .. "=" .. frame.parent:find(name).var .. "[" .. quote(name) .. "]")
    elseif mode == "undefined" and frame.repeats then
      self:emit(slot .. "=nil")
    end
  end
end

function Compiler:own_buffer(frame)
  frame.buffer = "o" .. frame.level
  self:emit("local " .. frame.buffer .. "=R.buffer()")
end

local stmt = {}

-- Whether a break or continue inside `node` leaves it.
local function jumps(node)
  if node.k == "break" or node.k == "continue" then return true end
  local function any(nodes)
    for _, child in ipairs(nodes or {}) do
      if jumps(child) then return true end
    end
    return false
  end
  if node.k == "if" then
    for _, branch in ipairs(node.branches) do
      if any(branch.body) then return true end
    end
    return any(node.otherwise)
  end
  return node.k ~= "for" and node.k ~= "macro" and node.k ~= "call_block" and any(node.body)
end

-- Statements [first, last] as a function of their own. Its result says how a jump left it: 1 break, 2 continue.
function Compiler:part(nodes, first, last)
  local leaves = false
  for i = first, last do leaves = leaves or jumps(nodes[i]) end
  local outer = self.loop
  if outer then self.loop = { in_part = true } end
  self:emit("do local function part()")
  for i = first, last do stmt[nodes[i].k](self, nodes[i]) end
  self:emit("end")
  self.loop = outer
  if not leaves or not outer then
    self:emit("part() end")
  elseif outer.in_part then
    self:emit("local left=part() if left then return left end end")
  else
    self:emit("local left=part() if left==1 then break elseif left==2 then goto " .. outer.label .. " end end")
  end
end

function Compiler:body(nodes)
  local total = 0
  for i = 1, #nodes do total = total + (nodes[i].weight or 1) end
  if total <= MAX_WEIGHT then
    for i = 1, #nodes do stmt[nodes[i].k](self, nodes[i]) end
    return
  end
  local first, weight = 1, 0
  for i = 1, #nodes do
    weight = weight + (nodes[i].weight or 1)
    if weight > MAX_WEIGHT / 2 or i == #nodes then
      self:part(nodes, first, i)
      first, weight = i + 1, 0
    end
  end
end

function stmt.output(self, node)
  local buffer = self.frame.buffer
  local i, n = 1, #node
  while i <= n do
    local item = node[i]
    if item.k == "const" and type(item.value) == "string" then
      local parts = { item.value }
      while i < n and node[i + 1].k == "const" and type(node[i + 1].value) == "string" do
        i = i + 1
        parts[#parts + 1] = node[i].value
      end
      self:emit("write(" .. buffer .. "," .. quote(table.concat(parts)) .. ")", item.line)
    else
      self.line = item.line
      self:emit("out(" .. buffer .. "," .. self:expr(item) .. ")", item.line)
    end
    i = i + 1
  end
end

-- Assigns the Lua expression `code` to a target.
function Compiler:assign(target, code)
  if target.k == "name" then
    self:emit(self:variable(target.name) .. "=" .. code)
  elseif target.k == "nsref" then
    self:emit("R.set_attribute(" .. self:variable(target.name) .. "," .. quote(target.attr) .. "," .. code .. ")")
  else
    self:emit("do local items=R.unpack(" .. code .. "," .. #target.items .. ")")
    for i, item in ipairs(target.items) do self:assign(item, "items[" .. i .. "]") end
    self:emit("end")
  end
end

-- Attributes can be assigned on namespaces only; this is checked before the value is evaluated.
function Compiler:check_namespaces(target)
  if target.k == "nsref" then
    self:emit("R.require_namespace(" .. self:variable(target.name) .. ")")
  elseif target.k == "tuple" then
    for _, item in ipairs(target.items) do self:check_namespaces(item) end
  end
end

-- The name `loop` belongs to the loop.
local function check_loop_name(self, node)
  local function visit(target)
    if target.k == "name" and target.name == "loop" then
      errors.raise("TemplateAssertionError", "Can't assign to special loop variable in for-loop target", node.line)
    elseif target.k == "tuple" then
      for _, item in ipairs(target.items) do visit(item) end
    end
  end
  if self.loop or node.k == "for" then visit(node.target) end
end

function stmt.set(self, node)
  self.line = node.line
  check_loop_name(self, node)
  self:check_namespaces(node.target)
  self:assign(node.target, self:expr(node.value))
end

function Compiler:filtered(filters, code)
  for _, filter in ipairs(filters) do code = self:filter_code(filter, code) end
  return code
end

function stmt.set_block(self, node)
  self.line = node.line
  check_loop_name(self, node)
  self:check_namespaces(node.target)
  self:emit("do")
  local outer = self.frame
  local frame = self:enter(node.body)
  self:initialize(frame)
  self:own_buffer(frame)
  self:body(node.body)
  self.line = node.line
  local code = self:filtered(node.filters, "R.captured(" .. frame.buffer .. ")")
  self.frame = outer
  self:assign(node.target, code)
  self:emit("end")
end

function stmt.filter_block(self, node)
  self:emit("do", node.line)
  local frame = self:enter(node.body)
  for _, filter in ipairs(node.filters) do frame:analyze_node(filter) end
  self:initialize(frame)
  self:own_buffer(frame)
  self:body(node.body)
  local code = self:filtered(node.filters, "R.captured(" .. frame.buffer .. ")")
  self:leave()
  self:emit("out(" .. self.frame.buffer .. "," .. code .. ") end", node.line)
end

stmt["if"] = function(self, node)
  local soft = self.soft
  for i, branch in ipairs(node.branches) do
    self.soft, self.line = true, branch.line
    self:emit((i == 1 and "if " or "elseif ") .. self:cond(branch.test) .. " then", branch.line)
    self:body(branch.body)
  end
  if node.otherwise then
    self:emit("else")
    self:body(node.otherwise)
  end
  self:emit("end")
  self.soft = soft
end

-- The filter of {% for … if test %} as a local function. It has a scope of its own, where `loop` is the outer one's.
function Compiler:loop_test(node)
  self:emit("local function test(it)")
  local frame = self:enter({}, function(f) f:target_params(node.target) end)
  frame:analyze_node(node.test)
  self:initialize(frame)
  self:assign(node.target, "it")
  self:emit("return " .. self:cond(node.test))
  self:emit("end")
  self:leave()
end

-- The loop over `items`, `n`; in a recursive one, `depth` and `walk` are Lua names in reach.
function Compiler:loop_body(node)
  local extended = node.recursive or node.uses.loop
  if node.test then
    self:loop_test(node)
    if extended then self:emit("items,n=R.keep(items,n,test)") end
  end
  local frame = self:enter(node.body, function(f)
    if extended then f:param("loop") end
    f:target_params(node.target)
  end)
  frame.repeats = true
  if node.recursive then frame.buffer = "o" .. frame.level end
  if extended then
    self:emit("local loop=R.loop(items,n," .. (node.recursive and "depth,walk)" or "0)"))
    self:emit(frame.var .. '["loop"]=loop')
  end
  if node.otherwise then self:emit("local empty=true") end
  self.labels = self.labels + 1
  local loop = { label = "next" .. self.labels }
  local filtered = node.test and not extended
  self:emit("for i=1,n do")
  self:emit("local it=items[i]" .. (filtered and " if test(it) then" or ""))
  self:emit("tick(1)" .. (extended and " loop.i=i" or ""))
  self:initialize(frame)
  self:assign(node.target, "it")
  local outer_loop, soft = self.loop, self.soft
  self.loop, self.soft = loop, false
  self:emit("do")
  self:body(node.body)
  self:emit("end")
  self.loop, self.soft = outer_loop, soft
  if node.otherwise then self:emit("empty=false") end
  self:emit("::" .. loop.label .. "::" .. (filtered and " end" or "") .. " end")
  self:leave()
  return frame
end

function Compiler:loop_else(node, buffer)
  if not node.otherwise then return end
  self:emit("if empty then")
  local frame = self:enter(node.otherwise)
  frame.buffer = buffer or frame.buffer
  self:initialize(frame)
  self:body(node.otherwise)
  self:leave()
  self:emit("end")
end

stmt["for"] = function(self, node)
  self.line = node.line
  check_loop_name(self, node)
  if not node.recursive then
    self:emit("do local items,n=R.iter(" .. self:expr(node.iter) .. ")", node.line)
    self:loop_body(node)
    self:loop_else(node)
    self:emit("end")
    return
  end
  local buffer = "o" .. (self.frame.level + 1)
  self:emit("do local function walk(iterable,depth)")
  self:emit("local " .. buffer .. ",items,n=R.buffer(),R.iter(iterable)")
  self:loop_body(node)
  self:loop_else(node, buffer)
  self:emit("return R.captured(" .. buffer .. ") end")
  self:emit("write(" .. self.frame.buffer .. ",walk(" .. self:expr(node.iter) .. ",0)) end", node.line)
end

local function has(names, wanted)
  for _, name in ipairs(names) do
    if name == wanted then return true end
  end
  return false
end

-- R.macro(…) of a macro or call block, over several lines; `prefix` goes before it.
function Compiler:macro_code(prefix, node)
  local uses = {}
  for _, name in ipairs { "caller", "kwargs", "varargs" } do
    uses[name] = node.uses[name] and not has(node.params, name) or false
  end
  local names = {}
  for i, name in ipairs(node.params) do names[i] = quote(name) end
  local name = node.name and quote(node.name) or "nil"
  local level = self.frame.level + 1
  self:emit(("%sR.macro(%s,{%s},%s,%s,%s,function(s%d)"):format(prefix, name, table.concat(names, ","),
    tostring(uses.caller), tostring(uses.kwargs), tostring(uses.varargs), level), node.line)
  local frame = self:enter({}, function(f)
    for _, param in ipairs(node.params) do f:param(param) end
    for special, used in pairs(uses) do
      if used then f:param(special) end
    end
  end, true)
  for _, default in pairs(node.defaults) do frame:analyze_node(default) end
  frame:analyze(node.body)
  self:initialize(frame)
  frame.unset = true -- defaults may name parameters that have no value yet
  for i, param in ipairs(node.params) do
    local slot = frame.var .. "[" .. quote(param) .. "]"
    local default = node.defaults[i] and self:expr(node.defaults[i]) or "R.missing_param(" .. quote(param) .. ")"
    self:emit("if " .. slot .. "==nil then " .. slot .. "=" .. default .. " end")
  end
  frame.unset = false
  self:own_buffer(frame)
  local outer_loop, soft = self.loop, self.soft
  self.loop, self.soft = nil, false
  self:body(node.body)
  self.loop, self.soft = outer_loop, soft
  self:emit("return R.captured(" .. frame.buffer .. ") end)")
  self:leave()
end

function stmt.macro(self, node)
  self:macro_code(self:variable(node.name) .. "=", node)
end

function stmt.call_block(self, node)
  self:emit("do", node.line)
  self:macro_code("local caller=", node)
  self.line = node.line
  self:emit("out(" .. self.frame.buffer .. "," .. self:call_code(node.call, "caller") .. ") end", node.line)
end

stmt["with"] = function(self, node)
  self:emit("do", node.line)
  local outer = self.frame
  local frame = self:enter(node.body, function(f)
    for _, target in ipairs(node.targets) do f:target_params(target) end
  end)
  self:initialize(frame)
  for i, target in ipairs(node.targets) do
    self.frame = outer
    local code = self:expr(node.values[i])
    self.frame = frame
    self:assign(target, code)
  end
  self:body(node.body)
  self:leave()
  self:emit("end")
end

function stmt.scope(self, node)
  self:emit("do", node.line)
  self:initialize(self:enter(node.body))
  self:body(node.body)
  self:leave()
  self:emit("end")
end

-- In jinja2 the body is a function, which break and continue cannot leave.
function stmt.generation(self, node)
  local outer_loop = self.loop
  self.loop = nil
  stmt.scope(self, node)
  self.loop = outer_loop
end

local function jump(self, node, code, result)
  if not self.loop then
    errors.raise("TemplateSyntaxError", "'" .. node.k .. "' outside loop", node.line)
  end
  self:emit(self.loop.in_part and "do return " .. result .. " end" or "do " .. code .. " end", node.line)
end

stmt["break"] = function(self, node) jump(self, node, "break", 1) end
stmt["continue"] = function(self, node) jump(self, node, "goto " .. (self.loop and self.loop.label or ""), 2) end

-- Generates the Lua source of a template: its text and the table from its lines to template lines. The chunk takes
-- the runtime and returns the render function, which takes X, the context as a function from name to value or nil.
function M.generate(nodes)
  local self = setmetatable({ lines = {}, map = {}, n = 0, line = 1, constants = {}, labels = 0 }, Compiler)
  self:emit("local R=...")
  self:emit("local get,truth,write,out,attr,item,call,method,method1,add,eq,tick,none,F,T=R.get,R.truth,R.write,"
    .. "R.out,R.attr,R.item,R.call,R.method,R.method1,R.add,R.eq,R.tick,R.none,R.F,R.T")
  self:emit("local K={}")
  local constants_at = self.n
  self:emit("return function(X)")
  local frame = self:enter(nodes)
  self:initialize(frame)
  self:own_buffer(frame)
  self:body(nodes)
  self:emit("return R.finished(o0) end")
  local makers = {}
  for i, code in ipairs(self.constants) do makers[i] = "K[" .. i .. "]=" .. code end
  self.lines[constants_at] = "local K={} " .. table.concat(makers, " ")
  return table.concat(self.lines, "\n"), self.map
end

return M
