-- Text to the inside of a JSON string, and numbers to JSON: the parts of a chunk that change with each token.

local M = {}

local escapes = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\b"] = "\\b",
                  ["\f"] = "\\f" }
for byte = 0, 31 do
  local c = string.char(byte)
  escapes[c] = escapes[c] or ("\\u%04x"):format(byte)
end

local find, gsub = string.find, string.gsub

-- text is UTF-8, as the engine makes it.
function M.escape(text)
  if not find(text, '[%z\1-\31"\\]') then return text end
  return (gsub(text, '[%z\1-\31"\\]', escapes))
end

function M.string(text) return '"' .. M.escape(text) .. '"' end

-- JSON has no infinity.
function M.number(x)
  if x ~= x or x == math.huge or x == -math.huge then return "null" end
  if x == math.floor(x) and math.abs(x) < 2 ^ 53 then return ("%.0f"):format(x) end
  return ("%.9g"):format(x)
end

function M.ids(list) return "[" .. table.concat(list, ",") .. "]" end

return M
