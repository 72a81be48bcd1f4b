-- Template text → tokens, with the white space rules of trim_blocks and lstrip_blocks, which every chat template is
-- written for: the newline after a block tag goes, and the blanks before one at the start of a line go.
--
-- Tokens lie in three parallel arrays: type, value, line. Types: data, variable_begin, variable_end, block_begin,
-- block_end, name, string, integer, float, an operator by its own text, eof.

local errors = require "llm.jinja.errors"
local unicode = require "llm.jinja.unicode"

local M = {}

local byte, find, match, sub = string.byte, string.find, string.match, string.sub

local function fail(message, line)
  errors.raise("TemplateSyntaxError", message, line)
end

local function count_newlines(s, first, last)
  local n, at = 0, first
  while true do
    at = find(s, "\n", at, true)
    if not at or at > last then return n end
    n, at = n + 1, at + 1
  end
end

-- First byte at or after `at` that is not white space.
local function skip_space(s, at)
  local stop = find(s, "[^ \t\n\r\v\f]", at) or #s + 1
  local b = byte(s, stop)
  if b and (b >= 0x80 or (b >= 28 and b <= 31)) then
    local c = match(s, "^[%z\1-\127\192-\255][\128-\191]*", stop)
    if c and unicode.is_space(c) then return skip_space(s, stop + #c) end
  end
  return stop
end

local SIMPLE_ESCAPES = {
  n = "\n", t = "\t", r = "\r", ["\\"] = "\\", ["'"] = "'", ['"'] = '"', a = "\a", b = "\b", f = "\f", v = "\v",
  ["\n"] = "",
}
local HEX_ESCAPES = { x = 2, u = 4, U = 8 }

-- Replaces the escapes of a string literal (its text between the quotes).
local function unescape(body, line)
  local out, at = {}, 1
  while true do
    local slash = find(body, "\\", at, true)
    if not slash then break end
    out[#out + 1] = sub(body, at, slash - 1)
    local c = sub(body, slash + 1, slash + 1)
    local digits = HEX_ESCAPES[c]
    if SIMPLE_ESCAPES[c] then
      out[#out + 1] = SIMPLE_ESCAPES[c]
      at = slash + 2
    elseif digits then
      local hex = match(body, "^%x+", slash + 2) or ""
      if #hex < digits then
        fail("truncated \\" .. c .. string.rep("X", digits) .. " escape", line)
      end
      local cp = tonumber(sub(hex, 1, digits), 16)
      if cp > 0x10FFFF then fail("illegal Unicode character", line) end
      out[#out + 1] = unicode.encode(cp)
      at = slash + 2 + digits
    elseif find(c, "^[0-7]") then
      local octal = match(body, "^[0-7][0-7]?[0-7]?", slash + 1)
      out[#out + 1] = unicode.encode(tonumber(octal, 8))
      at = slash + 1 + #octal
    else
      out[#out + 1] = "\\"
      at = slash + 1
    end
  end
  out[#out + 1] = sub(body, at)
  return table.concat(out)
end

-- The end of the string literal whose quote is at `at`, and its value.
local function read_string(s, at, line)
  local quote = byte(s, at)
  local stop = at
  local escaped = false
  while true do
    stop = find(s, quote == 39 and "['\\]" or '["\\]', stop + 1)
    if not stop then
      fail("unexpected char " .. (quote == 39 and '"\'"' or "'\"'") .. " at " .. (at - 1), line)
    end
    if byte(s, stop) == quote then break end
    escaped = true
    stop = stop + 1
  end
  local body = sub(s, at + 1, stop - 1)
  if escaped then body = unescape(body, line) end
  return stop + 1, body
end

-- A number at `at`: its type, value and end. A leading "." was no part of it, so "1.2.3" after a dot stays integers.
local function read_number(s, at)
  local after_dot = byte(s, at - 1) == 46
  if not after_dot then
    local digits = match(s, "^%d[%d_]*", at)
    local rest = at + #digits
    local fraction = match(s, "^%.%d[%d_]*", rest) or ""
    local exponent = match(s, "^[eE][+-]?%d[%d_]*", rest + #fraction) or ""
    if fraction ~= "" or exponent ~= "" then
      local text = digits .. fraction .. exponent
      return "float", tonumber((text:gsub("_", ""))), at + #text
    end
  end
  local prefix = match(s, "^0[xX][%x_]+", at)
  if prefix then return "integer", tonumber((prefix:gsub("_", ""))), at + #prefix end
  local base, digits = match(s, "^0([oObB])([0-7_]+)", at)
  if base then
    local value = tonumber((digits:gsub("_", "")), (base == "o" or base == "O") and 8 or 2)
    if value then return "integer", value, at + 2 + #digits end
  end
  local text = match(s, "^0[0_]*", at) or match(s, "^%d[%d_]*", at)
  return "integer", tonumber((text:gsub("_", ""))), at + #text
end

local CLOSER = { ["{"] = "}", ["("] = ")", ["["] = "]" }
local TWO_BYTE = { ["//"] = true, ["**"] = true, ["=="] = true, ["!="] = true, [">="] = true, ["<="] = true }

-- Byte classes of the inside of a tag.
local NAME, DIGIT, QUOTE = 1, 2, 3
local CLASS = {}
for b = 0, 255 do
  local c = string.char(b)
  if find(c, "[%a_]") or b >= 0x80 then
    CLASS[b] = NAME
  elseif find(c, "%d") then
    CLASS[b] = DIGIT
  elseif b == 34 or b == 39 then
    CLASS[b] = QUOTE
  end
end
local OPERATOR = {}
for c in ("+-*/%~[](){}<>=.:|,;!"):gmatch(".") do OPERATOR[c] = true end

local Lexer = {}
Lexer.__index = Lexer

function Lexer:push(type_name, value)
  local n = self.n + 1
  self.n = n
  self.types[n], self.values[n], self.lines[n] = type_name, value, self.line
end

-- Handles the end of a tag at `at` if one is there; returns the position after it, or nil.
function Lexer:tag_end(at, is_block)
  local s = self.source
  local b = byte(s, at)
  local sign = (b == 45 or (b == 43 and is_block)) and 1 or 0
  if sub(s, at + sign, at + sign + 1) ~= (is_block and "%}" or "}}") then return end
  self:push(is_block and "block_end" or "variable_end")
  local stop = at + sign + 2
  if b == 45 then
    stop = skip_space(s, stop)
  elseif is_block and sign == 0 and byte(s, stop) == 10 then
    stop = stop + 1
  end
  self.line = self.line + count_newlines(s, at, stop - 1)
  return stop
end

-- Tokens of a tag's inside from `at`; returns the position after the tag.
function Lexer:tag(at, is_block)
  local s, stack = self.source, {}
  while true do
    local first = skip_space(s, at)
    if first > at then self.line = self.line + count_newlines(s, at, first - 1) end
    at = first
    local b = byte(s, at)
    if not b then return at end
    if #stack == 0 and (b == 37 or b == 125 or b == 45 or b == 43) then
      local stop = self:tag_end(at, is_block)
      if stop then return stop end
    end
    local class = CLASS[b]
    if class == NAME then
      local word = match(s, "^[%w_\128-\255]+", at)
      self:push("name", word)
      at = at + #word
    elseif class == QUOTE then
      local stop, text = read_string(s, at, self.line)
      self:push("string", text)
      self.line = self.line + count_newlines(s, at, stop - 1)
      at = stop
    elseif class == DIGIT then
      local type_name, value, stop = read_number(s, at)
      self:push(type_name, value)
      at = stop
    else
      at = self:operator(at, stack)
    end
  end
end

function Lexer:operator(at, stack)
  local s = self.source
  local op = sub(s, at, at + 1)
  if not TWO_BYTE[op] then
    op = sub(s, at, at)
    if not OPERATOR[op] or op == "!" then
      fail("unexpected char '" .. op .. "' at " .. (at - 1), self.line)
    end
  end
  if CLOSER[op] then
    stack[#stack + 1] = CLOSER[op]
  elseif op == "}" or op == ")" or op == "]" then
    local expected = table.remove(stack)
    if not expected then fail("unexpected '" .. op .. "'", self.line) end
    if expected ~= op then fail("unexpected '" .. op .. "', expected '" .. expected .. "'", self.line) end
  end
  self:push(op)
  return at + #op
end

-- Pushes the text before a tag with the blanks removed that `sign` and lstrip_blocks say; `text` ends at the tag.
function Lexer:data(text, sign, is_variable)
  local kept = text
  if sign == "-" then
    kept = unicode.rstrip(text)
  elseif sign ~= "+" and not is_variable then
    local line_start = match(text, ".*\n()") or 1
    if (line_start > 1 or self.line_starting) and unicode.is_blank(sub(text, line_start)) then
      kept = sub(text, 1, line_start - 1)
    end
  end
  if kept ~= "" then self:push("data", kept) end
  self.line = self.line + count_newlines(text, 1, #text)
end

-- After a comment's or raw block's "#}" or "%}" at `at` (its sign included); returns the position behind it.
local function after_end(s, sign, at)
  if sign == "-" then return skip_space(s, at) end
  if sign == "" and byte(s, at) == 10 then return at + 1 end
  return at
end

function Lexer:comment(at)
  local s = self.source
  if at > #s then return at end -- jinja2 lets a template end in "{#"
  local close = find(s, "#}", at, true)
  if not close then fail("Missing end of comment tag", self.line) end
  local sign = match(sub(s, at, close - 1), "[-+]$") or ""
  local stop = after_end(s, sign, close + 2)
  self.line = self.line + count_newlines(s, at, stop - 1)
  return stop
end

-- The text between {% raw %} and {% endraw %}; `at` is behind the first.
function Lexer:raw(at)
  local s, from = self.source, at
  if at > #s then return at end
  while true do
    local open, sign, inner = match(s, "(){%%([-+]?)%s*endraw%s*()", from)
    if not open then fail("Missing end of raw directive", self.line) end
    local close_sign, stop = match(s, "^([-+]?)%%}()", inner)
    if close_sign then
      self:data(sub(s, at, open - 1), sign)
      local behind = after_end(s, close_sign, stop)
      self.line = self.line + count_newlines(s, open, behind - 1)
      return behind
    end
    from = open + 2
  end
end

function Lexer:run()
  local s, at, size = self.source, 1, #self.source
  while at <= size do
    local open = find(s, "{[%%{#]", at)
    if not open then
      self:push("data", sub(s, at))
      self.line = self.line + count_newlines(s, at, size)
      break
    end
    local mark = byte(s, open + 1)
    local sign = match(s, "^[-+]", open + 2) or ""
    local inside = open + 2 + #sign
    local raw_end = mark == 37 and match(s, "^%s*raw%s*%-?%%}()", inside)
    self:data(sub(s, at, open - 1), sign, mark == 123)
    if raw_end then
      if sub(s, raw_end - 3, raw_end - 3) == "-" then raw_end = skip_space(s, raw_end) end
      self.line = self.line + count_newlines(s, open, raw_end - 1)
      self.line_starting = byte(s, raw_end - 1) == 10
      at = self:raw(raw_end)
    elseif mark == 35 then
      at = self:comment(inside)
    else
      self:push(mark == 37 and "block_begin" or "variable_begin")
      at = self:tag(inside, mark == 37)
    end
    self.line_starting = byte(s, at - 1) == 10
  end
  self:push("eof")
end

-- Returns the arrays of types, values and lines. Raises TemplateSyntaxError.
function M.tokenize(source)
  if find(source, "\r", 1, true) then source = source:gsub("\r\n?", "\n") end
  if byte(source, -1) == 10 then source = sub(source, 1, -2) end
  local self = setmetatable({
    source = source, line = 1, n = 0, types = {}, values = {}, lines = {}, line_starting = true,
  }, Lexer)
  self:run()
  return self.types, self.values, self.lines
end

return M
