-- Values and tables as text for people.

local M = {}

local WIDTH, DEPTH, ITEMS = 96, 6, 200

local function quoted(s)
  return '"' .. s:gsub('[%c"\\]', function(c)
    local short = { ["\n"] = "\\n", ["\t"] = "\\t", ["\r"] = "\\r", ['"'] = '\\"', ["\\"] = "\\\\" }
    return short[c] or ("\\%03d"):format(c:byte())
  end) .. '"'
end

local function scalar(v)
  if type(v) == "string" then return quoted(v) end
  if type(v) == "number" then
    return v == math.floor(v) and math.abs(v) < 1e15 and ("%d"):format(v) or ("%.14g"):format(v)
  end
  return tostring(v)
end

local function key_text(k)
  if type(k) == "string" and k:match("^[%a_][%w_]*$") then return k end
  return "[" .. scalar(k) .. "]"
end

local function sorted_keys(t, n)
  local keys = {}
  for k in pairs(t) do
    if not (type(k) == "number" and k >= 1 and k <= n and k == math.floor(k)) then keys[#keys + 1] = k end
  end
  table.sort(keys, function(a, b)
    if type(a) == type(b) and (type(a) == "number" or type(a) == "string") then return a < b end
    return tostring(type(a)) < tostring(type(b))
  end)
  return keys
end

local write

local function items_of(t, indent, seen)
  local items, n = {}, #t
  for i = 1, n do items[i] = write(t[i], indent .. "  ", seen) end
  for _, k in ipairs(sorted_keys(t, n)) do
    items[#items + 1] = key_text(k) .. " = " .. write(t[k], indent .. "  ", seen)
  end
  return items
end

write = function(v, indent, seen)
  if type(v) ~= "table" then return scalar(v) end
  local meta = getmetatable(v)
  if type(meta) == "table" and meta.__tostring then return tostring(v) end
  if seen[v] then return "{…}" end
  if #indent / 2 >= DEPTH then return next(v) == nil and "{}" or "{…}" end
  seen[v] = true
  local items = items_of(v, indent, seen)
  seen[v] = nil
  local count = #items
  for i = count, ITEMS + 1, -1 do items[i] = nil end
  if count > ITEMS then items[#items + 1] = ("… (%d more)"):format(count - ITEMS) end
  local line = "{ " .. table.concat(items, ", ") .. " }"
  if #items == 0 then return "{}" end
  if #line + #indent <= WIDTH and not line:find("\n") then return line end
  return "{\n" .. indent .. "  " .. table.concat(items, ",\n" .. indent .. "  ") .. "\n" .. indent .. "}"
end

-- Lua source that reads like the value (not always source that makes it: functions, cycles, depth).
function M.pretty(value) return write(value, "", {}) end

-- Columns of text, numbers to the right. header: list of titles; rows: list of lists of strings or numbers.
function M.columns(header, rows)
  local widths, lines, rule = {}, {}, {}
  for c, title in ipairs(header) do
    widths[c] = #title
    for _, row in ipairs(rows) do widths[c] = math.max(widths[c], #tostring(row[c])) end
    widths[c] = math.min(widths[c], 99) -- the most that string.format pads to
    rule[c] = ("-"):rep(widths[c])
  end
  local function line(row)
    local cells = {}
    for c = 1, #header do
      local text = tostring(row[c])
      local numeric = text:match("^[%d.,+-]+%%?$")
      cells[c] = (numeric and "%" .. widths[c] .. "s" or "%-" .. widths[c] .. "s"):format(text)
    end
    lines[#lines + 1] = (table.concat(cells, "  "):gsub("%s+$", ""))
  end
  line(header)
  line(rule)
  for _, row in ipairs(rows) do line(row) end
  return table.concat(lines, "\n") .. "\n"
end

return M
