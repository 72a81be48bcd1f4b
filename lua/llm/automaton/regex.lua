-- Regular expressions into nondeterministic automata over bytes (Thompson's construction). Patterns are UTF-8 and match
-- whole texts: literals, . [a-z] [^...] \d \w \s \D \W \S \n \r \t \xHH \u{HHHH}, groups (...) and (?:...), |, * + ? {m,n}.
-- ^ at the beginning and $ at the end mean nothing, as everything is anchored. No back-references, no look-around.

local bit = require "bit"

local M = {}

local LAST = 0x10ffff

local function new() return { ranges = {}, empty = {}, n = 0 } end

local function add_state(nfa)
  nfa.n = nfa.n + 1
  nfa.ranges[nfa.n], nfa.empty[nfa.n] = {}, {}
  if nfa.n > 20000 then error({ pattern = "is too long: its counted repetitions multiply" }, 0) end
  return nfa.n
end

-- ---- characters ----------------------------------------------------------------------------------------------------

local function encode(c)
  if c < 0x80 then return { c } end
  if c < 0x800 then return { 0xc0 + bit.rshift(c, 6), 0x80 + c % 64 } end
  if c < 0x10000 then return { 0xe0 + bit.rshift(c, 12), 0x80 + bit.rshift(c, 6) % 64, 0x80 + c % 64 } end
  return { 0xf0 + bit.rshift(c, 18), 0x80 + bit.rshift(c, 12) % 64, 0x80 + bit.rshift(c, 6) % 64, 0x80 + c % 64 }
end

-- Adds the paths of the bytes of all characters from low to high. A range whose last bytes are not all there is cut
-- until it is a product of ranges of bytes (as in RE2).
local function add_characters(nfa, from, to, low, high)
  if low > high then return end
  for _, edge in ipairs { 0x7f, 0x7ff, 0xd7ff, 0xdfff, 0xffff } do
    if low <= edge and edge < high then
      add_characters(nfa, from, to, low, edge)
      return add_characters(nfa, from, to, edge + 1, high)
    end
  end
  if low >= 0xd800 and high <= 0xdfff then return end -- surrogates are no characters
  for i = 1, low < 0x80 and 0 or 3 do
    local m = bit.lshift(1, 6 * i) - 1
    if bit.band(low, bit.bnot(m)) ~= bit.band(high, bit.bnot(m)) then
      local cut
      if bit.band(low, m) ~= 0 then cut = bit.bor(low, m) elseif bit.band(high, m) ~= m then cut = high - bit.band(high, m) - 1 end
      if cut then
        add_characters(nfa, from, to, low, cut)
        return add_characters(nfa, from, to, cut + 1, high)
      end
    end
  end
  local a, b = encode(low), encode(high)
  for i = 1, #a do
    local at = i == #a and to or add_state(nfa)
    table.insert(nfa.ranges[from], { a[i], b[i], at })
    from = at
  end
end

local classes = {
  d = { { 48, 57 } },
  w = { { 48, 57 }, { 65, 90 }, { 95, 95 }, { 97, 122 } },
  s = { { 9, 13 }, { 32, 32 } },
}

local function complement(set)
  table.sort(set, function(a, b) return a[1] < b[1] end)
  local rest, at = {}, 0
  for _, range in ipairs(set) do
    if range[1] > at then rest[#rest + 1] = { at, range[1] - 1 } end
    at = math.max(at, range[2] + 1)
  end
  if at <= LAST then rest[#rest + 1] = { at, LAST } end
  return rest
end

-- ---- the parser ----------------------------------------------------------------------------------------------------

local P = {}
P.__index = P

function P:fail(message) error({ pattern = ("%s, at byte %d"):format(message, self.at) }, 0) end
function P:peek() return self.text:sub(self.at, self.at) end

function P:accept(s)
  if self.text:sub(self.at, self.at + #s - 1) ~= s then return false end
  self.at = self.at + #s
  return true
end

function P:character()
  local c = self.text:match("^[%z\1-\127\194-\244][\128-\191]*", self.at)
  if not c then self:fail("is not UTF-8") end
  self.at = self.at + #c
  local code = c:byte(1)
  if #c == 1 then return code end
  code = code % (#c == 2 and 32 or #c == 3 and 16 or 8)
  for i = 2, #c do code = code * 64 + c:byte(i) % 64 end
  return code
end

function P:hex(pattern)
  local digits, rest = self.text:match(pattern, self.at)
  if not digits then self:fail("has an escape without its hexadecimal digits") end
  self.at = rest
  return tonumber(digits, 16)
end

local controls = { n = 10, r = 13, t = 9, f = 12, v = 11, ["0"] = 0 }

-- After a backslash: a character, or a set.
function P:escape()
  local c = self:peek()
  if c == "" then self:fail("ends with a backslash") end
  if classes[c:lower()] then
    self.at = self.at + 1
    local set = {}
    for i, range in ipairs(classes[c:lower()]) do set[i] = range end
    return nil, c:lower() == c and set or complement(set)
  end
  if c == "x" then return self:hex("^x(%x%x)()") end
  if c == "u" then
    if self.text:sub(self.at + 1, self.at + 1) == "{" then return self:hex("^u{(%x+)}()") end
    return self:hex("^u(%x%x%x%x)()")
  end
  if controls[c] then
    self.at = self.at + 1
    return controls[c]
  end
  if c:find("[%w]") then self:fail("has an escape \\" .. c .. " that is not supported") end
  return self:character()
end

function P:class()
  local inverted, set, first = self:accept("^"), {}, true
  while first or self:peek() ~= "]" do
    if self:peek() == "" then self:fail("has a [ without its ]") end
    first = false
    local low, members
    if self:accept("\\") then low, members = self:escape() else low = self:character() end
    if members then
      for _, range in ipairs(members) do set[#set + 1] = range end
    else
      local high = low
      if self:peek() == "-" and self.text:sub(self.at + 1, self.at + 1) ~= "]" then
        self.at = self.at + 1
        if self:accept("\\") then high = self:escape() else high = self:character() end
        if not high or high < low then self:fail("has a range that goes down") end
      end
      set[#set + 1] = { low, high }
    end
  end
  self.at = self.at + 1
  return inverted and complement(set) or set
end

-- The functions below make a tree: a node is a function (nfa, from, to) that adds its paths.
local function of_set(set)
  return function(nfa, from, to)
    for _, range in ipairs(set) do add_characters(nfa, from, to, range[1], math.min(range[2], LAST)) end
  end
end

local function nothing(nfa, from, to) table.insert(nfa.empty[from], to) end

local function sequence(parts)
  if #parts == 0 then return nothing end
  return function(nfa, from, to)
    for i, part in ipairs(parts) do
      local at = i == #parts and to or add_state(nfa)
      part(nfa, from, at)
      from = at
    end
  end
end

local function star(part)
  return function(nfa, from, to)
    local inside = add_state(nfa)
    nothing(nfa, from, inside)
    part(nfa, inside, inside)
    nothing(nfa, inside, to)
  end
end

local function optional(part)
  return function(nfa, from, to)
    part(nfa, from, to)
    nothing(nfa, from, to)
  end
end

local function repeated(part, least, most)
  local parts = {}
  for i = 1, least do parts[i] = part end
  if not most then
    parts[#parts + 1] = star(part)
    return sequence(parts)
  end
  local tail = nothing
  for _ = least + 1, most do tail = optional(sequence { part, tail }) end
  parts[#parts + 1] = tail
  return sequence(parts)
end

function P:atom()
  if self:accept("(") then
    if self:accept("?") and not self:accept(":") then self:fail("has a group (?…) that is not supported") end
    local inside = self:alternatives()
    if not self:accept(")") then self:fail("has a ( without its )") end
    return inside
  end
  if self:accept("[") then return of_set(self:class()) end
  if self:accept(".") then return of_set(complement { { 10, 10 } }) end
  if self:accept("\\") then
    local code, set = self:escape()
    return of_set(set or { { code, code } })
  end
  if self:peek():find("[*+?{]") then self:fail("repeats nothing") end
  local code = self:character()
  return of_set { { code, code } }
end

function P:count()
  local low, comma, high, rest = self.text:match("^{(%d*)(,?)(%d*)}()", self.at)
  if not low or (low == "" and high == "") then self:fail("has a { that is no count; write \\{") end
  self.at = rest
  local least = tonumber(low) or 0
  local most = comma == "" and least or tonumber(high)
  if least > 1000 or (most and (most > 1000 or most < least)) then self:fail("has a count out of range (0 to 1000)") end
  return least, most
end

function P:concatenation()
  local parts = {}
  while true do
    local c = self:peek()
    if c == "" or c == "|" or c == ")" then break end
    if c == "$" and self.text:find("^%$[|)]", self.at) or self.text:sub(self.at) == "$" then
      self.at = self.at + 1
    elseif c == "^" and #parts == 0 then
      self.at = self.at + 1
    else
      local part = self:atom()
      while self:peek():find("[*+?{]") do
        if self:accept("*") then part = repeated(part, 0)
        elseif self:accept("+") then part = repeated(part, 1)
        elseif self:accept("?") then part = optional(part)
        else part = repeated(part, self:count()) end
        self:accept("?") -- lazy or not, the same texts match
      end
      parts[#parts + 1] = part
    end
  end
  return sequence(parts)
end

function P:alternatives()
  local branches = { self:concatenation() }
  while self:accept("|") do branches[#branches + 1] = self:concatenation() end
  if #branches == 1 then return branches[1] end
  return function(nfa, from, to)
    for _, branch in ipairs(branches) do
      local start = add_state(nfa)
      nothing(nfa, from, start)
      branch(nfa, start, to)
    end
  end
end

-- { n, ranges: state -> list of { low, high, target }, empty: state -> targets, start, accept }; or nil, message.
function M.parse(pattern)
  local parser = setmetatable({ text = pattern, at = 1 }, P)
  local nfa = new()
  local ok, failure = pcall(function()
    local tree = parser:alternatives()
    if parser.at <= #pattern then parser:fail("has a ) without its (") end
    nfa.start, nfa.accept = add_state(nfa), add_state(nfa)
    tree(nfa, nfa.start, nfa.accept)
  end)
  if ok then return nfa end
  if type(failure) == "table" and failure.pattern then
    return nil, ("the pattern %q %s"):format(pattern, failure.pattern)
  end
  error(failure, 0)
end

return M
