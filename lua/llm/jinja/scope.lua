-- Where the names of a template live. A frame is a scope of jinja2: the template, a loop body, a macro, a block that
-- captures. At run time a frame is one Lua table, called s<level> in the generated code; this pass decides, before a
-- frame's code is generated, which names it holds itself and how each of them begins:
--
--   param      set by the construct (loop target, macro parameter)
--   resolve    looked up in the context when the frame is entered
--   alias      a copy of the outer frame's value: assigned here, read before; never written back
--   undefined  assigned here before it is read
--
-- The order of reads and writes in the source decides, not the order at run time, exactly as in jinja2.

local M = {}

local Frame = {}
Frame.__index = Frame

function M.new(parent)
  local level = parent and parent.level + 1 or 0
  return setmetatable({
    parent = parent, level = level, var = "s" .. level, names = {}, order = {}, buffer = parent and parent.buffer,
  }, Frame)
end

-- The frame that holds `name`, or nil.
function Frame:find(name)
  local frame = self
  while frame do
    if frame.names[name] then return frame end
    frame = frame.parent
  end
end

function Frame:declare(name, mode)
  if not self.names[name] then self.order[#self.order + 1] = name end
  self.names[name] = mode
end

function Frame:param(name)
  self:declare(name, "param")
end

function Frame:load(name)
  if not self:find(name) then self:declare(name, "resolve") end
end

-- An assignment that may not run (inside an `if`) leaves what the name meant before.
function Frame:store(name, conditional)
  if self.names[name] then return end
  if self.parent and self.parent:find(name) then
    self:declare(name, "alias")
  else
    self:declare(name, conditional and "resolve" or "undefined")
  end
end

local visit

local function visit_all(frame, nodes, conditional)
  for i = 1, #nodes do visit(frame, nodes[i], conditional) end
end

local function visit_args(frame, args, conditional)
  if not args then return end
  visit_all(frame, args, conditional)
  visit_all(frame, args.values, conditional)
  if args.star then visit(frame, args.star, conditional) end
  if args.star_star then visit(frame, args.star_star, conditional) end
end

local function store_target(frame, target, conditional)
  if target.k == "tuple" then
    for _, item in ipairs(target.items) do store_target(frame, item, conditional) end
  elseif target.k == "nsref" then
    frame:load(target.name)
  else
    frame:store(target.name, conditional)
  end
end

local visitors = {
  name = function(frame, node) frame:load(node.name) end,
  const = function() end,
  none = function() end,
  float = function() end,
  ["not"] = function(frame, node, c) visit(frame, node.operand, c) end,
  unary = function(frame, node, c) visit(frame, node.operand, c) end,
  binary = function(frame, node, c)
    visit(frame, node.left, c)
    visit(frame, node.right, c)
  end,
  cond = function(frame, node, c)
    visit(frame, node.test, c)
    visit(frame, node.value, c)
    if node.otherwise then visit(frame, node.otherwise, c) end
  end,
  compare = function(frame, node, c)
    visit(frame, node.first, c)
    for _, op in ipairs(node.ops) do visit(frame, op.operand, c) end
  end,
  attr = function(frame, node, c) visit(frame, node.node, c) end,
  item = function(frame, node, c)
    visit(frame, node.node, c)
    visit(frame, node.index, c)
  end,
  sliced = function(frame, node, c)
    visit(frame, node.node, c)
    visit(frame, node.slice, c)
  end,
  slice = function(frame, node, c)
    if node.start then visit(frame, node.start, c) end
    if node.stop then visit(frame, node.stop, c) end
    if node.step then visit(frame, node.step, c) end
  end,
  call = function(frame, node, c)
    visit(frame, node.node, c)
    visit_args(frame, node.args, c)
  end,
  filter = function(frame, node, c)
    if node.node then visit(frame, node.node, c) end
    visit_args(frame, node.args, c)
  end,
  -- Statements. Bodies that are frames of their own are visited when their code is generated.
  output = visit_all,
  set = function(frame, node, c)
    visit(frame, node.value, c)
    store_target(frame, node.target, c)
  end,
  set_block = function(frame, node, c) store_target(frame, node.target, c) end,
  ["if"] = function(frame, node)
    visit(frame, node.branches[1].test)
    for i, branch in ipairs(node.branches) do
      if i > 1 then visit(frame, branch.test, true) end
      visit_all(frame, branch.body, true)
    end
    if node.otherwise then visit_all(frame, node.otherwise, true) end
  end,
  ["for"] = function(frame, node, c) visit(frame, node.iter, c) end,
  macro = function(frame, node, c) frame:store(node.name, c) end,
  call_block = function(frame, node, c) visit(frame, node.call, c) end,
  filter_block = function(frame, node, c)
    for _, filter in ipairs(node.filters) do visit(frame, filter, c) end
  end,
  ["with"] = function(frame, node, c) visit_all(frame, node.values, c) end,
  generation = function() end,
  scope = function() end,
  ["break"] = function() end,
  continue = function() end,
}
visitors.test = visitors.filter
for _, k in ipairs { "and", "or", "add", "concat" } do
  visitors[k] = function(frame, node, c) visit_all(frame, node.operands, c) end
end
for _, k in ipairs { "tuple", "list", "dict" } do
  visitors[k] = function(frame, node, c) visit_all(frame, node.items, c) end
end

visit = function(frame, node, conditional)
  visitors[node.k](frame, node, conditional)
end

-- Declares what `nodes` read and assign in `frame`.
function Frame:analyze(nodes)
  visit_all(self, nodes, false)
end

function Frame:analyze_node(node)
  visit(self, node, false)
end

-- The names a target binds become parameters of the frame.
function Frame:target_params(target)
  if target.k == "tuple" then
    for _, item in ipairs(target.items) do self:target_params(item) end
  elseif target.k == "name" then
    self:param(target.name)
  end
end

return M
