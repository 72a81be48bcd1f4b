-- Strings as sequences of code points: length, slices, search, case, white space. Text is UTF-8; pure ASCII takes
-- short cuts, as most of a chat is. Case mapping covers Latin, Greek, Cyrillic, Armenian, Georgian capitals,
-- full-width and a few more; other scripts have no case or are left alone.

local M = {}

local byte, char, find, gmatch, sub = string.byte, string.char, string.find, string.gmatch, string.sub
local floor, concat = math.floor, table.concat

-- One character: an ASCII or leading byte and its continuation bytes. Broken bytes count one each.
local CHARACTER = "[%z\1-\127\192-\255][\128-\191]*"

local function is_ascii(s)
  return not find(s, "[\128-\255]")
end
M.is_ascii = is_ascii

function M.encode(cp)
  if cp < 0x80 then return char(cp) end
  if cp < 0x800 then return char(0xC0 + floor(cp / 64), 0x80 + cp % 64) end
  if cp < 0x10000 then
    return char(0xE0 + floor(cp / 4096), 0x80 + floor(cp / 64) % 64, 0x80 + cp % 64)
  end
  return char(0xF0 + floor(cp / 262144), 0x80 + floor(cp / 4096) % 64, 0x80 + floor(cp / 64) % 64, 0x80 + cp % 64)
end

-- The code point of one character.
function M.decode(c)
  local a, b, d, e = byte(c, 1, 4)
  if not b then return a end
  if not d then return (a - 0xC0) * 64 + b - 0x80 end
  if not e then return (a - 0xE0) * 4096 + (b - 0x80) * 64 + d - 0x80 end
  return (a - 0xF0) * 262144 + (b - 0x80) * 4096 + (d - 0x80) * 64 + e - 0x80
end

-- The characters of `s` as an array, and their number.
function M.chars(s)
  local out, n = {}, 0
  if is_ascii(s) then
    n = #s
    for i = 1, n do out[i] = sub(s, i, i) end
    return out, n
  end
  for c in gmatch(s, CHARACTER) do
    n = n + 1
    out[n] = c
  end
  return out, n
end

function M.len(s)
  local n = #s
  if is_ascii(s) then return n end
  local count = 0
  for i = 1, n do
    local b = byte(s, i)
    if b < 0x80 or b >= 0xC0 then count = count + 1 end
  end
  return count
end

-- Byte position of the character with index `i` (from 0); #s + 1 when `i` is the length.
local function byte_at(s, i)
  local at = 1
  for _ = 1, i do
    at = find(s, "[%z\1-\127\192-\255]", at + 1) or #s + 1
  end
  return at
end

-- Number of characters before byte position `at`.
function M.index_of_byte(s, at)
  return M.len(sub(s, 1, at - 1))
end

-- Characters first..last-1, indices from 0, already clamped by the caller.
function M.slice(s, first, last)
  if last <= first then return "" end
  if is_ascii(s) then return sub(s, first + 1, last) end
  local from = byte_at(s, first)
  local rest = sub(s, from)
  return sub(rest, 1, byte_at(rest, last - first) - 1)
end

-- Upper-case ranges { first, last, stride, distance to the lower-case letter }.
local RANGES = {
  { 0x41, 0x5A, 1, 32 }, { 0xC0, 0xD6, 1, 32 }, { 0xD8, 0xDE, 1, 32 },
  { 0x100, 0x12E, 2, 1 }, { 0x132, 0x136, 2, 1 }, { 0x139, 0x147, 2, 1 }, { 0x14A, 0x176, 2, 1 },
  { 0x178, 0x178, 1, -121 }, { 0x179, 0x17D, 2, 1 }, { 0x182, 0x184, 2, 1 }, { 0x1A0, 0x1A4, 2, 1 },
  { 0x1AF, 0x1AF, 1, 1 }, { 0x1CD, 0x1DB, 2, 1 }, { 0x1DE, 0x1EE, 2, 1 }, { 0x1F4, 0x1F4, 1, 1 },
  { 0x1F8, 0x21E, 2, 1 }, { 0x222, 0x232, 2, 1 }, { 0x370, 0x372, 2, 1 }, { 0x376, 0x376, 1, 1 },
  { 0x37F, 0x37F, 1, 116 }, { 0x386, 0x386, 1, 38 }, { 0x388, 0x38A, 1, 37 }, { 0x38C, 0x38C, 1, 64 },
  { 0x38E, 0x38F, 1, 63 }, { 0x391, 0x3A1, 1, 32 }, { 0x3A3, 0x3AB, 1, 32 }, { 0x3CF, 0x3CF, 1, 8 },
  { 0x3D8, 0x3EE, 2, 1 }, { 0x400, 0x40F, 1, 80 }, { 0x410, 0x42F, 1, 32 }, { 0x460, 0x480, 2, 1 },
  { 0x48A, 0x4BE, 2, 1 }, { 0x4C0, 0x4C0, 1, 15 }, { 0x4C1, 0x4CD, 2, 1 }, { 0x4D0, 0x52E, 2, 1 },
  { 0x531, 0x556, 1, 48 }, { 0x10A0, 0x10C5, 1, 7264 }, { 0x1E00, 0x1E94, 2, 1 }, { 0x1EA0, 0x1EFE, 2, 1 },
  { 0x1F08, 0x1F0F, 1, -8 }, { 0x1F18, 0x1F1D, 1, -8 }, { 0x1F28, 0x1F2F, 1, -8 }, { 0x1F38, 0x1F3F, 1, -8 },
  { 0x1F48, 0x1F4D, 1, -8 }, { 0x1F59, 0x1F5F, 2, -8 }, { 0x1F68, 0x1F6F, 1, -8 }, { 0x2160, 0x216F, 1, 16 },
  { 0x24B6, 0x24CF, 1, 26 }, { 0x2C00, 0x2C2F, 1, 48 }, { 0x2C80, 0x2CE2, 2, 1 }, { 0xA640, 0xA66C, 2, 1 },
  { 0xA680, 0xA69A, 2, 1 }, { 0xFF21, 0xFF3A, 1, 32 }, { 0x10400, 0x10427, 1, 40 },
}

local to_lower, to_upper = {}, {}
for _, r in ipairs(RANGES) do
  for cp = r[1], r[2], r[3] do
    local upper, lower = M.encode(cp), M.encode(cp + r[4])
    to_lower[upper], to_upper[lower] = lower, upper
  end
end
-- Letters whose partner does not map back, and those that become two.
for lower, upper in pairs {
  ["µ"] = "Μ", ["ı"] = "I", ["ſ"] = "S", ["ς"] = "Σ", ["ß"] = "SS", ["ﬀ"] = "FF", ["ﬁ"] = "FI", ["ﬂ"] = "FL",
  ["ŉ"] = "ʼN", ["ǰ"] = "J̌", ["ΐ"] = "Ϊ́", ["ΰ"] = "Ϋ́",
} do
  to_upper[lower] = upper
end
to_lower["İ"], to_lower["ẞ"] = "i̇", "ß"
local to_title = { ["ß"] = "Ss", ["ﬀ"] = "Ff", ["ﬁ"] = "Fi", ["ﬂ"] = "Fl" }

local function is_cased(c)
  return c ~= nil and (to_lower[c] ~= nil or to_upper[c] ~= nil)
end

function M.upper(s)
  if is_ascii(s) then return s:upper() end
  return (s:gsub(CHARACTER, to_upper))
end

function M.lower(s)
  if is_ascii(s) then return s:lower() end
  if not find(s, "Σ", 1, true) then return (s:gsub(CHARACTER, to_lower)) end
  local chars, n = M.chars(s)
  local out = {}
  for i = 1, n do
    local c = chars[i]
    -- A capital sigma that ends a word becomes the final form.
    if c == "Σ" and is_cased(chars[i - 1]) and not is_cased(chars[i + 1]) then
      out[i] = "ς"
    else
      out[i] = to_lower[c] or c
    end
  end
  return concat(out)
end

function M.swapcase(s)
  return (s:gsub(CHARACTER, function(c) return to_lower[c] or to_upper[c] or c end))
end

local function titled(c)
  return to_title[c] or to_upper[c] or c
end

function M.capitalize(s)
  local first = s:match("^" .. CHARACTER) or ""
  return titled(first) .. M.lower(sub(s, #first + 1))
end

-- str.title: a letter after a letter is lower case, any other letter title case.
function M.title(s)
  local chars, n = M.chars(s)
  local inside = false
  for i = 1, n do
    local c = chars[i]
    if is_cased(c) then
      chars[i] = inside and (to_lower[c] or c) or titled(c)
      inside = true
    else
      inside = false
    end
  end
  return concat(chars)
end

-- True if all cased characters are of one case and there is at least one.
function M.has_case(s, upper)
  local found = false
  for c in gmatch(s, CHARACTER) do
    if to_lower[c] then
      if not upper then return false end
      found = true
    elseif to_upper[c] then
      if upper then return false end
      found = true
    end
  end
  return found
end

function M.is_title(s)
  local found, inside = false, false
  for c in gmatch(s, CHARACTER) do
    if to_lower[c] then
      if inside then return false end
      inside, found = true, true
    elseif to_upper[c] then
      if not inside then return false end
    else
      inside = false
    end
  end
  return found
end

-- What str.isspace accepts beside ASCII.
local SPACES = {}
for c in gmatch(" \t\n\r\v\f\28\29\30\31", ".") do SPACES[c] = true end
for _, cp in ipairs { 0x85, 0xA0, 0x1680, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000 } do SPACES[M.encode(cp)] = true end
for cp = 0x2000, 0x200A do SPACES[M.encode(cp)] = true end

function M.is_space(c)
  return SPACES[c] == true
end

-- Ranges above ASCII that hold no letters: punctuation, symbols, marks, pictographs.
local NOT_LETTERS = {
  { 0x80, 0xA9 }, { 0xAB, 0xB4 }, { 0xB6, 0xB9 }, { 0xBB, 0xBF }, { 0xD7, 0xD7 }, { 0xF7, 0xF7 },
  { 0x2C2, 0x2C5 }, { 0x2D2, 0x2DF }, { 0x2E5, 0x2EB }, { 0x300, 0x36F }, { 0x37E, 0x37E }, { 0x482, 0x489 },
  { 0x55A, 0x55F }, { 0x589, 0x5CF }, { 0x600, 0x61F }, { 0x64B, 0x66D }, { 0x6D4, 0x6D4 },
  { 0x2000, 0x2070 }, { 0x2072, 0x207E }, { 0x2080, 0x208E }, { 0x20A0, 0x2101 }, { 0x2190, 0x2BFF },
  { 0x2E00, 0x3004 }, { 0x3007, 0x3030 }, { 0x303D, 0x3040 }, { 0x3099, 0x309C }, { 0x30A0, 0x30A0 },
  { 0x30FB, 0x30FB }, { 0xD800, 0xF8FF }, { 0xFE00, 0xFE6F }, { 0xFF00, 0xFF20 }, { 0xFF3B, 0xFF40 },
  { 0xFF5B, 0xFF65 }, { 0xFFE0, 0xFFFF }, { 0x1F000, 0x1FAFF }, { 0xE0000, 0x10FFFF },
}

function M.is_alpha(c)
  if #c == 1 then return find(c, "^%a$") ~= nil end
  local cp = M.decode(c)
  for i = 1, #NOT_LETTERS do
    local r = NOT_LETTERS[i]
    if cp < r[1] then return true end
    if cp <= r[2] then return false end
  end
  return true
end

-- First code points of the runs of ten decimal digits.
local DIGIT_ZEROS = { 0x30, 0x660, 0x6F0, 0x7C0, 0x966, 0x9E6, 0xA66, 0xAE6, 0xB66, 0xBE6, 0xC66, 0xCE6, 0xD66,
  0xE50, 0xED0, 0xF20, 0x1040, 0x17E0, 0x1810, 0xFF10 }

-- The value of a decimal digit of any script, or nil.
function M.decimal(c)
  local cp = M.decode(c)
  for i = 1, #DIGIT_ZEROS do
    local d = cp - DIGIT_ZEROS[i]
    if d >= 0 and d <= 9 then return d end
  end
end

-- Superscripts and subscripts are digits, not decimals.
function M.is_digit(c)
  if M.decimal(c) then return true end
  local cp = M.decode(c)
  return cp == 0xB2 or cp == 0xB3 or cp == 0xB9 or cp == 0x2070 or (cp >= 0x2074 and cp <= 0x2079)
    or (cp >= 0x2080 and cp <= 0x2089)
end

function M.is_numeric(c)
  if M.is_digit(c) then return true end
  local cp = M.decode(c)
  return (cp >= 0xBC and cp <= 0xBE) or (cp >= 0x2150 and cp <= 0x2182)
end

function M.is_word(c)
  return c == "_" or M.is_alpha(c) or M.is_numeric(c)
end

-- Whether repr() shows the character itself. Spaces other than " " and unassigned or format characters are escaped.
function M.is_printable(c)
  if #c == 1 then
    local b = byte(c)
    return b >= 0x20 and b < 0x7F
  end
  if SPACES[c] then return false end
  local cp = M.decode(c)
  return not (cp < 0xA0 or cp == 0xAD or (cp >= 0x200B and cp <= 0x200F) or (cp >= 0x202A and cp <= 0x202E)
    or (cp >= 0x2060 and cp <= 0x206F) or (cp >= 0xD800 and cp <= 0xF8FF) or cp == 0xFEFF
    or (cp >= 0xFFF0 and cp <= 0xFFFB) or cp >= 0xE0000)
end

-- Start of the trailing white space of `s`: the byte after the last character kept.
local function trimmed_end(s, set)
  local last = #s
  while last > 0 do
    local first = last
    while first > 1 and byte(s, first) >= 0x80 and byte(s, first) < 0xC0 do first = first - 1 end
    if not set[sub(s, first, last)] then break end
    last = first - 1
  end
  return last
end

local function trimmed_start(s, set)
  local first = 1
  local n = #s
  while first <= n do
    local c = s:match("^" .. CHARACTER, first) or sub(s, first, first)
    if not set[c] then break end
    first = first + #c
  end
  return first
end

local function set_of(characters)
  if not characters then return SPACES end
  local set = {}
  for c in gmatch(characters, CHARACTER) do set[c] = true end
  return set
end

-- str.strip and its sides; `characters` nil means white space.
function M.strip(s, characters)
  local set = set_of(characters)
  local last = trimmed_end(s, set)
  return sub(s, trimmed_start(sub(s, 1, last), set), last)
end

function M.lstrip(s, characters)
  return sub(s, trimmed_start(s, set_of(characters)))
end

function M.rstrip(s, characters)
  return sub(s, 1, trimmed_end(s, set_of(characters)))
end

-- Whether `s` is not empty and all white space.
function M.is_blank(s)
  if s == "" then return false end
  return trimmed_start(s, SPACES) > #s
end

-- Word by word at white space, at most `limit` splits (nil: all). Returns an array and its length.
function M.split_blank(s, limit)
  local out, n, at = {}, 0, trimmed_start(s, SPACES)
  if is_ascii(s) and not limit then
    for word in gmatch(s, "[^ \t\n\r\v\f\28-\31]+") do
      n = n + 1
      out[n] = word
    end
    return out, n
  end
  local size = #s
  while at <= size do
    if limit and n >= limit then
      out[n + 1] = M.rstrip(sub(s, at))
      return out, n + 1
    end
    local stop = at
    while stop <= size do
      local c = s:match("^" .. CHARACTER, stop) or sub(s, stop, stop)
      if SPACES[c] then break end
      stop = stop + #c
    end
    n = n + 1
    out[n] = sub(s, at, stop - 1)
    at = stop
    while at <= size do
      local c = s:match("^" .. CHARACTER, at) or sub(s, at, at)
      if not SPACES[c] then break end
      at = at + #c
    end
  end
  return out, n
end

-- str.splitlines. Returns an array and its length.
function M.split_lines(s, keep_ends)
  local out, n, start, at = {}, 0, 1, 1
  local size = #s
  while at <= size do
    local stop = find(s, "[\n\r\v\f\28-\30\194\226]", at)
    if not stop then break end
    local width
    local b = byte(s, stop)
    if b == 13 and byte(s, stop + 1) == 10 then
      width = 2
    elseif b == 0xC2 then
      width = byte(s, stop + 1) == 0x85 and 2 or nil
    elseif b == 0xE2 then
      local third = sub(s, stop + 1, stop + 2)
      width = (third == "\128\168" or third == "\128\169") and 3 or nil
    else
      width = 1
    end
    if width then
      n = n + 1
      out[n] = sub(s, start, keep_ends and stop + width - 1 or stop - 1)
      start = stop + width
      at = start
    else
      at = stop + 1
    end
  end
  if start <= size then
    n = n + 1
    out[n] = sub(s, start)
  end
  return out, n
end

return M
