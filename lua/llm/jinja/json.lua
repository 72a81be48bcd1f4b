-- JSON ↔ template values. Objects keep the order of their keys, integers stay apart from floats, so that a tool
-- definition comes out of `tojson` as the client sent it.

local core = require "llm.core"
local budget = require "llm.jinja.budget"
local errors = require "llm.jinja.errors"
local text = require "llm.jinja.text"
local unicode = require "llm.jinja.unicode"
local value = require "llm.jinja.value"

local M = {}

local find, sub, byte, match = string.find, string.sub, string.byte, string.match
local none = value.none

M.MAX_DEPTH = 128

local UNESCAPE = {
  ['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t",
}

local function fail(at, what)
  error({ json = ("invalid JSON at byte %d: %s"):format(at, what) }, 0)
end

local function skip(s, at)
  return find(s, "[^ \t\r\n]", at) or #s + 1
end

-- An escape of four hex digits at `at` (the "u"), with its low surrogate if it has one: the character and the next position.
local function decode_escape(s, at)
  local hex = match(s, "^%x%x%x%x", at + 1)
  if not hex then fail(at, "bad \\u escape") end
  local cp = tonumber(hex, 16)
  if cp >= 0xD800 and cp < 0xDC00 then
    local low = match(s, "^\\u([dD][c-fC-F]%x%x)", at + 5)
    if low then
      return unicode.encode(0x10000 + (cp - 0xD800) * 1024 + tonumber(low, 16) - 0xDC00), at + 11
    end
  end
  if cp >= 0xD800 and cp < 0xE000 then return "\239\191\189", at + 5 end -- a lone surrogate is no character
  return unicode.encode(cp), at + 5
end

local json_string, json_integers = core.json_string, core.json_integers

local function decode_string(s, at)
  local plain, next_at = json_string(s, at)
  if plain then return plain, next_at end
  -- Something is wrong with it; here we find out what.
  local stop = find(s, '["\\%c]', at + 1)
  if stop and byte(s, stop) == 34 then return sub(s, at + 1, stop - 1), stop + 1 end
  local parts, from = {}, at + 1
  while true do
    if not stop then fail(at, "unterminated string") end
    parts[#parts + 1] = sub(s, from, stop - 1)
    local b = byte(s, stop)
    if b == 34 then return table.concat(parts), stop + 1 end
    if b == 92 then
      local c = sub(s, stop + 1, stop + 1)
      if c == "u" then
        parts[#parts + 1], from = decode_escape(s, stop + 1)
      elseif UNESCAPE[c] then
        parts[#parts + 1], from = UNESCAPE[c], stop + 2
      else
        fail(stop, "bad escape")
      end
      stop = find(s, '["\\%c]', from)
    elseif b == 127 then
      parts[#parts + 1], from = "\127", stop + 1
      stop = find(s, '["\\%c]', from)
    else
      fail(stop, "control character in a string")
    end
  end
end

local function decode_number(s, at)
  local whole = match(s, "^-?%d+", at)
  if not whole then fail(at, "unexpected character") end
  if find(whole, "^-?0%d") then fail(at, "number with a leading zero") end
  local rest = at + #whole
  local fraction = match(s, "^%.%d+", rest) or ""
  local exponent = match(s, "^[eE][+-]?%d+", rest + #fraction) or ""
  local stop = rest + #fraction + #exponent
  if fraction ~= "" or exponent ~= "" then return value.float(tonumber(sub(s, at, stop - 1))), stop end
  local n = tonumber(whole)
  if math.abs(n) > value.MAX_INT then return value.bigint(whole), stop end
  return n + 0, stop
end

local decode_value

local function decode_array(s, at, depth)
  if depth < M.MAX_DEPTH then
    local list, length, next_at = json_integers(s, at)
    if list then return value.list(list, length), next_at end
  end
  local out, n = {}, 0
  at = skip(s, at + 1)
  if byte(s, at) == 93 then return value.list(out, 0), at + 1 end
  while true do
    n = n + 1
    out[n], at = decode_value(s, at, depth)
    at = skip(s, at)
    local b = byte(s, at)
    if b == 93 then return value.list(out, n), at + 1 end
    if b ~= 44 then fail(at, "expected ',' or ']'") end
    at = skip(s, at + 1)
  end
end

local function decode_object(s, at, depth)
  local d = value.dict()
  at = skip(s, at + 1)
  if byte(s, at) == 125 then return d, at + 1 end
  while true do
    if byte(s, at) ~= 34 then fail(at, "expected a string as key") end
    local k, v
    k, at = decode_string(s, at)
    at = skip(s, at)
    if byte(s, at) ~= 58 then fail(at, "expected ':'") end
    v, at = decode_value(s, skip(s, at + 1), depth)
    value.dict_set(d, k, v)
    at = skip(s, at)
    local b = byte(s, at)
    if b == 125 then return d, at + 1 end
    if b ~= 44 then fail(at, "expected ',' or '}'") end
    at = skip(s, at + 1)
  end
end

local WORDS = { { "true", true }, { "false", false }, { "null", none } }

decode_value = function(s, at, depth)
  if depth > M.MAX_DEPTH then fail(at, "nested too deeply") end
  local b = byte(s, at)
  if b == 34 then return decode_string(s, at) end
  if b == 123 then return decode_object(s, at, depth + 1) end
  if b == 91 then return decode_array(s, at, depth + 1) end
  for _, word in ipairs(WORDS) do
    if sub(s, at, at + #word[1] - 1) == word[1] then return word[2], at + #word[1] end
  end
  if not b then fail(at, "unexpected end") end
  return decode_number(s, at)
end

-- Parses a JSON text. Returns the value, or nil and a message.
function M.decode(s)
  local ok, result = pcall(function()
    local v, at = decode_value(s, skip(s, 1), 0)
    at = skip(s, at)
    if at <= #s then fail(at, "more text after the value") end
    return v
  end)
  if ok then return result end
  if type(result) == "table" and result.json then return nil, result.json end
  error(result, 0)
end

local ESCAPE = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\f"] = "\\f",
  ["\b"] = "\\b" }

local function escape_control(c)
  return ESCAPE[c] or ("\\u%04x"):format(byte(c))
end

local function escape_wide(c)
  local cp = unicode.decode(c)
  if cp < 0x10000 then return ("\\u%04x"):format(cp) end
  cp = cp - 0x10000
  return ("\\u%04x\\u%04x"):format(0xD800 + math.floor(cp / 1024), 0xDC00 + cp % 1024)
end

local function encode_string(s, options)
  budget.text(#s)
  if find(s, '[%z\1-\31"\\]') then s = s:gsub('[%z\1-\31"\\]', escape_control) end
  if options.ascii then
    s = s:gsub("\127", "\\u007f")
    if not unicode.is_ascii(s) then s = s:gsub("[\192-\255][\128-\191]*", escape_wide) end
  end
  return '"' .. s .. '"'
end

local function float_text(x)
  if x ~= x then return "NaN" end
  if x == math.huge then return "Infinity" end
  if x == -math.huge then return "-Infinity" end
  return text.float_text(x)
end

-- A dict key as the text of a JSON key.
local function key_text(k)
  local kind = value.kind(k)
  if type(k) == "string" then return k end
  if type(k) == "boolean" then return k and "true" or "false" end
  if k == none then return "null" end
  if kind == "float" then return float_text(k.x) end
  if kind == "markup" then return k.s end
  if type(k) == "number" or kind == "bigint" then return text.str(k) end
  errors.type_error("keys must be str, int, float, bool or None, not " .. value.type_name(k))
end

local encode

-- Writes the items that `each(i)` makes between the brackets.
local function encode_items(out, n, open, close, options, depth, each)
  if n == 0 then
    out[#out + 1] = open .. close
    return
  end
  local inner = options.indent and "\n" .. options.indent:rep(depth) or ""
  out[#out + 1] = open .. inner
  for i = 1, n do
    if i > 1 then out[#out + 1] = options.item_separator .. inner end
    each(i)
  end
  out[#out + 1] = (options.indent and "\n" .. options.indent:rep(depth - 1) or "") .. close
end

local function encode_dict(out, d, options, depth)
  local keys = d.keys
  if options.sort_keys then
    local ops, seq = require "llm.jinja.ops", require "llm.jinja.seq"
    keys = seq.sort(d.keys, d.keys, d.n, ops.lt)
  end
  encode_items(out, d.n, "{", "}", options, depth, function(i)
    out[#out + 1] = encode_string(key_text(keys[i]), options) .. options.key_separator
    encode(out, value.dict_get(d, keys[i]), options, depth)
  end)
end

encode = function(out, v, options, depth)
  budget.spend(3)
  if depth > budget.MAX_VALUE_DEPTH then errors.raise("RecursionError", "maximum recursion depth exceeded") end
  local t, kind = type(v), value.kind(v)
  if t == "string" then
    out[#out + 1] = encode_string(v, options)
  elseif t == "number" then
    out[#out + 1] = text.str(v)
  elseif t == "boolean" then
    out[#out + 1] = v and "true" or "false"
  elseif kind == "none" then
    out[#out + 1] = "null"
  elseif kind == "dict" then
    encode_dict(out, v, options, depth + 1)
  elseif kind == "list" or kind == "tuple" then
    encode_items(out, v.n, "[", "]", options, depth + 1, function(i) encode(out, v[i], options, depth + 1) end)
  elseif kind == "float" then
    out[#out + 1] = float_text(v.x)
  elseif kind == "bigint" then
    out[#out + 1] = v.digits
  elseif kind == "markup" then
    out[#out + 1] = encode_string(v.s, options)
  else
    errors.type_error("Object of type " .. value.type_name(v) .. " is not JSON serializable")
  end
end

-- json.dumps. Options: ascii, indent (a string), item_separator, key_separator, sort_keys.
function M.encode(v, options)
  local out = {}
  encode(out, v, options, 0)
  local s = table.concat(out)
  budget.text(#s)
  return s
end

return M
