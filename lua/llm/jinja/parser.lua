-- Tokens → syntax tree: statements here, expressions in expressions.lua. A template is a list of statements; text
-- and {{ expressions }} are "output" nodes.

local errors = require "llm.jinja.errors"
local expressions = require "llm.jinja.expressions"
local lexer = require "llm.jinja.lexer"

local M = {}

-- Scopes inside scopes. The generated Lua keeps two upvalues for each, of at most 60 a function.
local MAX_SCOPES = 16
-- Statements inside statements; each is a level of Lua's own block nesting, limited to 200.
local MAX_NESTING = 60

local Parser = {}
Parser.__index = Parser
for name, method in pairs(expressions) do Parser[name] = method end

function Parser:fail(message, line, type_name)
  errors.raise(type_name or "TemplateSyntaxError", message, line or self.lines[self.at])
end

function Parser:type() return self.types[self.at] end
function Parser:value() return self.values[self.at] end
function Parser:line() return self.lines[self.at] end
function Parser:peek_type() return self.types[self.at + 1] end

function Parser:peek_name()
  return self.types[self.at + 1] == "name" and self.values[self.at + 1] or nil
end

function Parser:advance()
  if self.types[self.at] ~= "eof" then self.at = self.at + 1 end
end

function Parser:at_name(word)
  return self.types[self.at] == "name" and self.values[self.at] == word
end

function Parser:skip(kind)
  if self.types[self.at] ~= kind then return false end
  self.at = self.at + 1
  return true
end

function Parser:skip_name(word)
  if self.types[self.at] ~= "name" or self.values[self.at] ~= word then return false end
  self.at = self.at + 1
  return true
end

local DESCRIPTIONS = {
  variable_begin = "begin of print statement", variable_end = "end of print statement",
  block_begin = "begin of statement block", block_end = "end of statement block",
  data = "template data / text", eof = "end of template",
}

function Parser:describe()
  local kind = self:type()
  if kind == "name" then return self:value() end
  return DESCRIPTIONS[kind] or kind
end

function Parser:unexpected(wanted)
  if self:type() == "eof" then
    self:fail("unexpected end of template, expected '" .. wanted .. "'.")
  end
  self:fail("expected token '" .. wanted .. "', got '" .. self:describe() .. "'")
end

function Parser:expect(kind)
  if not self:skip(kind) then self:unexpected(DESCRIPTIONS[kind] or kind) end
end

function Parser:expect_name(word)
  local value = self:value()
  if self:type() ~= "name" or (word and value ~= word) then self:unexpected(word or "name") end
  self:advance()
  return value
end

-- Names with a meaning of their own are noted on every enclosing loop or macro that may have to provide them.
local SPECIAL = { loop = true, caller = true, kwargs = true, varargs = true }

function Parser:note_special(name)
  if not SPECIAL[name] then return end
  for i = #self.users, 1, -1 do
    self.users[i][name] = true
    if name == "loop" and self.users[i].is_loop then break end
  end
end

-- Parses a body whose use of special names is collected; returns the statements and the set.
function Parser:scoped_body(is_loop, ...)
  if #self.users >= MAX_SCOPES then self:fail("the template nests scopes too deeply") end
  local uses = { is_loop = is_loop }
  self.users[#self.users + 1] = uses
  local body = self:body(...)
  self.users[#self.users] = nil
  return body, uses
end

local function quoted_list(names)
  local out = {}
  for i, name in ipairs(names) do out[i] = "'" .. name .. "'" end
  return table.concat(out, " or ")
end

function Parser:fail_unknown(name, line)
  local parts = { name and ("Encountered unknown tag '" .. name .. "'.") or "Unexpected end of template." }
  local looking = self.ends[#self.ends]
  if looking then
    local expected = false
    for _, names in ipairs(self.ends) do
      for _, n in ipairs(names) do expected = expected or n == name end
    end
    if expected then
      parts[2] = "You probably made a nesting mistake. Jinja is expecting this tag, but currently looking for "
        .. quoted_list(looking) .. "."
    else
      parts[2] = "Jinja was looking for the following tags: " .. quoted_list(looking) .. "."
    end
  end
  if #self.tags > 0 then
    parts[#parts + 1] = "The innermost block that needs to be closed is '" .. self.tags[#self.tags] .. "'."
  end
  self:fail(table.concat(parts, " "), line)
end

-- Statements up to one of the end tags, whose name is left as the current token.
function Parser:body(...)
  self:skip(":")
  self:expect("block_end")
  return self:statements { ... }
end

function Parser:statements(ends)
  local out = {}
  if ends then
    if #self.ends >= MAX_NESTING then self:fail("the template nests statements too deeply") end
    self.ends[#self.ends + 1] = ends
  end
  local output
  while true do
    local kind = self:type()
    if kind == "data" or kind == "variable_begin" then
      if not output then
        output = { k = "output", line = self:line(), weight = 0 }
        out[#out + 1] = output
      end
      local start = self.at
      self:advance()
      if kind == "data" then
        output[#output + 1] = { k = "const", line = self.lines[start], value = self.values[start], data = true }
      else
        output[#output + 1] = self:tuple {}
        self:expect("variable_end")
      end
      output.weight = output.weight + self.at - start
    elseif kind == "block_begin" then
      output = nil
      self:advance()
      if ends and self:type() == "name" then
        for _, name in ipairs(ends) do
          if self:value() == name then
            self.ends[#self.ends] = nil
            return out
          end
        end
      end
      out[#out + 1] = self:statement()
      self:expect("block_end")
    else
      break
    end
  end
  if ends then self:fail_unknown(nil) end
  return out
end

function Parser:statement()
  local name, line, start = self:value(), self:line(), self.at
  if self:type() ~= "name" then self:fail("tag name expected") end
  local parse = M.tags[name]
  if not parse then self:fail_unknown(name, line) end
  self.tags[#self.tags + 1] = name
  self:advance()
  local node = parse(self, line)
  self.tags[#self.tags] = nil
  node.line = line
  node.weight = self.at - start
  return node
end

local function check_assignable(self, node)
  if node.k == "tuple" then
    for _, item in ipairs(node.items) do check_assignable(self, item) end
  elseif node.k ~= "name" and node.k ~= "nsref" then
    self:fail("can't assign to '" .. node.k .. "'", node.line)
  end
end

function Parser:target(options)
  options.simple = true
  local node = self:tuple(options)
  check_assignable(self, node)
  return node
end

-- Parameters of a macro or call block: names and default expressions (index → node).
function Parser:signature(node)
  node.params, node.defaults = {}, {}
  local has_default = false
  self:expect("(")
  while self:type() ~= ")" do
    if #node.params > 0 then self:expect(",") end
    local n = #node.params + 1
    node.params[n] = self:expect_name()
    if self:skip("=") then
      node.defaults[n] = self:expression()
      has_default = true
    elseif has_default then
      self:fail("non-default argument follows default argument")
    end
  end
  self:expect(")")
end

M.tags = {}
local tags = M.tags

function tags.set(self, line)
  local target = self:target { with_namespace = true }
  if self:skip("=") then return { k = "set", target = target, value = self:tuple {} } end
  local filters = {}
  while self:skip("|") do filters[#filters + 1] = self:filter() end
  local body = self:scoped_body(false, "endset")
  self:advance()
  return { k = "set_block", target = target, filters = filters, body = body, line = line }
end

tags["for"] = function(self)
  local node = { k = "for", target = self:target { stop = "in" } }
  self:expect_name("in")
  node.iter = self:tuple { without_condition = true, stop = "recursive" }
  if self:skip_name("if") then node.test = self:expression() end
  node.recursive = self:skip_name("recursive")
  node.body, node.uses = self:scoped_body(true, "endfor", "else")
  if self:skip_name("else") then node.otherwise = self:scoped_body(false, "endfor") end
  self:advance()
  return node
end

tags["if"] = function(self)
  local node = { k = "if", branches = {} }
  local line = self.lines[self.at - 1]
  while true do
    local test = self:tuple { without_condition = true }
    local body = self:body("elif", "else", "endif")
    node.branches[#node.branches + 1] = { test = test, body = body, line = line }
    line = self:line()
    if not self:skip_name("elif") then break end
  end
  if self:skip_name("else") then node.otherwise = self:body("endif") end
  self:advance()
  return node
end

function tags.macro(self)
  local node = { k = "macro", name = self:expect_name() }
  self:signature(node)
  node.body, node.uses = self:scoped_body(false, "endmacro")
  self:advance()
  return node
end

function tags.call(self, line)
  local node = { k = "call_block", params = {}, defaults = {} }
  if self:type() == "(" then self:signature(node) end
  node.call = self:expression()
  if node.call.k ~= "call" then self:fail("expected call", line) end
  node.body, node.uses = self:scoped_body(false, "endcall")
  self:advance()
  return node
end

function tags.filter(self)
  local filters = { self:filter() }
  while self:skip("|") do filters[#filters + 1] = self:filter() end
  local body = self:scoped_body(false, "endfilter")
  self:advance()
  return { k = "filter_block", filters = filters, body = body }
end

tags["with"] = function(self)
  local node = { k = "with", targets = {}, values = {} }
  while self:type() ~= "block_end" and self:type() ~= "eof" do
    if #node.targets > 0 then self:expect(",") end
    node.targets[#node.targets + 1] = self:target {}
    self:expect("=")
    node.values[#node.values + 1] = self:expression()
  end
  node.body = self:scoped_body(false, "endwith")
  self:advance()
  return node
end

function tags.print(self)
  local node = { k = "output" }
  while self:type() ~= "block_end" and self:type() ~= "eof" do
    if #node > 0 then self:expect(",") end
    node[#node + 1] = self:expression()
  end
  return node
end

-- transformers' extension: marks what the assistant wrote. It renders its body in a scope of its own.
function tags.generation(self)
  local body = self:scoped_body(false, "endgeneration")
  self:advance()
  return { k = "generation", body = body }
end

-- Without inheritance, a block is its body.
function tags.block(self)
  local name = self:expect_name()
  self:skip_name("scoped")
  local body = self:scoped_body(false, "endblock")
  self:advance()
  self:skip_name(name)
  return { k = "scope", body = body }
end

tags["break"] = function() return { k = "break" } end
tags.continue = function() return { k = "continue" } end

for _, name in ipairs { "include", "import", "from", "extends", "autoescape" } do
  tags[name] = function(self, line)
    self:fail("'" .. name .. "' is not supported: a chat template stands alone", line)
  end
end

-- Returns the statements of a template. Raises TemplateSyntaxError.
function M.parse(source)
  local types, values, lines = lexer.tokenize(source)
  local self = setmetatable({
    types = types, values = values, lines = lines, at = 1, depth = 0, ends = {}, tags = {}, users = {},
  }, Parser)
  return self:statements(nil)
end

return M
