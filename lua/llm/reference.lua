-- The reference of the Lua API, read from lua/meta/*.d.lua, which also tell editors about types: help(name) of a
-- prompt, and docs/api.md.

local embedded = require "llm.embedded"

local M = {}

-- ---- reading -------------------------------------------------------------------------------------------------

-- "name type text" of a tag's rest, where types may have spaces within brackets and after commas or colons.
local function split_type(text)
  local depth, i = 0, 1
  while i <= #text do
    local c = text:sub(i, i)
    if c:find "[%(%[{<]" then depth = depth + 1 elseif c:find "[%)%]}>]" then depth = depth - 1 end
    if c == " " and depth == 0 and not text:sub(1, i - 1):find "[:,|]$" and not text:sub(i + 1):find "^|" then break end
    i = i + 1
  end
  return text:sub(1, i - 1), (text:sub(i + 1):gsub("^%s*#%s*", ""))
end

local readers = {
  class = function(block, rest) block.class = rest:match "^[%w_.]+" end,
  field = function(block, rest)
    local name, optional, tail = rest:match "^([%w_%[%]]+)(%??)%s+(.*)$"
    local kind, doc = split_type(tail)
    table.insert(block.fields, { name = name, optional = optional == "?", type = kind, doc = doc })
  end,
  param = function(block, rest)
    local name, optional, tail = rest:match "^([%w_.]+)(%??)%s+(.*)$"
    local kind, doc = split_type(tail)
    table.insert(block.params, { name = name, optional = optional == "?", type = kind, doc = doc })
  end,
  ["return"] = function(block, rest)
    local kind, doc = split_type(rest)
    table.insert(block.returns, { type = kind, doc = doc })
  end,
  alias = function(block, rest)
    local name, kind = rest:match "^(%S+)%s+(.*)$"
    block.alias = { name = name, type = kind }
  end,
}

local function new_block() return { before = {}, doc = {}, fields = {}, params = {}, returns = {} } end

-- What stands before a class is the class's, what stands after it the function's.
local function read_comment(block, line)
  local tag, rest = line:match "^@(%w+)%s*(.*)$"
  if tag == "class" then block.before, block.doc = block.doc, {} end
  if readers[tag] then return readers[tag](block, rest) end
  if not tag then table.insert(block.doc, line) end
end

local function end_block(block, items, classes, code)
  local variable = code:match "^local ([%w_]+) = "
  local owner, dot, name, arguments = code:match "^function ([%w_]+)([.:])([%w_]+)%((.-)%)"
  if block.alias then
    table.insert(items, { kind = "alias", name = block.alias.name, type = block.alias.type,
                          doc = table.concat(block.doc, " ") })
  end
  if block.class and not classes[block.class] then -- a further file may name a class again to add to it
    classes[block.class] = block.class
    local doc = #block.before > 0 and block.before or not name and block.doc or {}
    table.insert(items, { kind = "class", name = block.class, fields = block.fields, doc = table.concat(doc, " ") })
  end
  if block.class and variable then classes[variable] = block.class end
  if name then
    local class = classes[owner] or owner
    table.insert(items, { kind = "function", class = class, member = name, name = class .. dot .. name,
                          arguments = arguments, params = block.params, returns = block.returns,
                          doc = table.concat(block.doc, " ") })
  end
end

-- The items of the file's text, in its order: {kind = "class", name, doc, fields}, {kind = "function", class, member,
-- name, arguments, doc, params, returns}, {kind = "alias", name, type, doc}.
function M.parse(text)
  local items, classes, block = {}, {}, nil
  for line in (text .. "\n"):gmatch "(.-)\n" do
    local comment = line:match "^%-%-%-(.*)$"
    if comment then
      block = block or new_block()
      read_comment(block, comment)
    else
      if block or line:find "^function" then end_block(block or new_block(), items, classes, line) end
      block = nil
    end
  end
  return items
end

local items

-- The files of types: llm.d.lua, then the others by name.
local function files()
  local first, list = "lua/meta/llm.d.lua", {}
  for _, path in ipairs(embedded()) do
    if path:find "^lua/meta/" and path ~= first then list[#list + 1] = path end
  end
  table.sort(list)
  table.insert(list, 1, first)
  return list
end

-- Those of this program.
function M.items()
  if not items then
    local texts = {}
    for i, path in ipairs(files()) do texts[i] = embedded(path) end
    items = M.parse(table.concat(texts, "\n"))
  end
  return items
end

-- ---- looking up ----------------------------------------------------------------------------------------------

-- The tables that hold what is registered: {name of the class, table}. What is documented is compared with them.
function M.live()
  local engine = require "llm.engine"
  local sequence = require "llm.sequence"
  local http = require "llm.http"
  return {
    { "llm", require "llm" }, { "llm.Engine", engine.Engine }, { "llm.Stream", engine.Stream },
    { "llm.Tokenizer", require("llm.tokenizer").Tokenizer }, { "llm.LiveSequence", sequence.Sequence },
    { "llm.SequenceStream", sequence.Run }, { "llm.Program", require("llm.program").Program },
    { "llm.Servable", require("llm.servable").Servable }, { "llm.Server", require("llm.server").Server },
    { "llm.openai", require "llm.openai" }, { "llm.http", http }, { "llm.Request", http.Request },
    { "llm.Response", http.Response }, { "llm.task", require "llm.task" }, { "llm.json", require "llm.json" },
    { "llm.table", require "llm.table" }, { "llm.graph", require "llm.graph" },
    { "llm.automaton", require "llm.automaton" }, { "llm.watermark", require "llm.watermark" },
    { "llm.host", require "llm.host" }, { "llm.graph.Functions", require "llm.graph.functions" },
    { "llm.template", require "llm.template" }, { "llm.Upstreams", require("llm.upstreams").Pool },
  }
end

-- The name that a registered function or module goes by; nil: it has none.
local function name_of(value)
  for _, entry in ipairs(M.live()) do
    if entry[2] == value then return entry[1] end
    for member, known in pairs(entry[2]) do
      if rawequal(known, value) then return entry[1] .. "." .. tostring(member) end
    end
  end
  local meta = type(value) == "table" and getmetatable(value)
  return type(meta) == "table" and name_of(meta) or nil
end

local function plain(name) return (name:lower():gsub(":", ".")) end

-- Does `name` end with the dotted name `wanted`? Both plain.
local function ends_with(name, wanted)
  return name == wanted or name:sub(-#wanted - 1) == "." .. wanted
end

-- Items, and fields of classes ({kind = "field", name, …}), that a name may mean: those that it names in full, else
-- those that end with it.
function M.find(name)
  local wanted, whole, found = plain(name), {}, {}
  local function look(item)
    local known = plain(item.name)
    if known == wanted then whole[#whole + 1] = item end
    if ends_with(known, wanted) then found[#found + 1] = item end
  end
  for _, item in ipairs(M.items()) do
    look(item)
    for _, field in ipairs(item.fields or {}) do
      look { kind = "field", name = item.name .. "." .. field.name, type = field.type, doc = field.doc,
             optional = field.optional }
    end
  end
  return #whole > 0 and whole or found
end

-- ---- as text -------------------------------------------------------------------------------------------------

local Text = {}
Text.__index = Text
function Text:__tostring() return self.text end

-- A value that a prompt shows as this text, without quotes.
function M.text(text) return setmetatable({ text = text }, Text) end

local function entry_line(entry)
  return ("  %s%s: %s%s"):format(entry.name, entry.optional and "?" or "", entry.type,
    entry.doc ~= "" and "  " .. entry.doc or "")
end

local function describe(item)
  local lines = {}
  if item.kind == "function" then
    lines[1] = ("%s(%s)"):format(item.name, item.arguments)
  else
    lines[1] = item.name .. (item.type and (item.optional and "?: " or ": ") .. item.type or "")
  end
  if item.doc ~= "" then lines[#lines + 1] = item.doc end
  for _, entry in ipairs(item.params or item.fields or {}) do lines[#lines + 1] = entry_line(entry) end
  for _, result in ipairs(item.returns or {}) do
    lines[#lines + 1] = "  -> " .. result.type .. (result.doc ~= "" and "  " .. result.doc or "")
  end
  if item.kind == "class" then
    for _, other in ipairs(M.items()) do
      if other.class == item.name then lines[#lines + 1] = ("  %s(%s)"):format(other.name, other.arguments) end
    end
  end
  return table.concat(lines, "\n")
end

local MOST = 12 -- descriptions; of more only the names are listed

local function overview()
  local lines = { "help 'engine:generate', help 'temperature', help(llm.server). There are:" }
  for _, item in ipairs(M.items()) do
    if item.class == "llm" then lines[#lines + 1] = ("  %s(%s)"):format(item.name, item.arguments) end
    if item.kind == "class" then lines[#lines + 1] = "  " .. item.name end
  end
  return table.concat(lines, "\n")
end

-- What the reference says of a name ("llm.engine", "engine:generate", "temperature") or of a function or object of the
-- library; an overview without one. A value that a prompt shows as text.
function M.help(what)
  if what == nil then return M.text(overview()) end
  local name = type(what) == "string" and what or name_of(what)
  if not name then return M.text(("the reference does not know this %s; help() lists what there is"):format(type(what))) end
  local found, parts = M.find(name), {}
  if #found == 0 then return M.text(("there is nothing called '%s'; help() lists what there is"):format(name)) end
  for i, item in ipairs(found) do parts[i] = #found > MOST and item.name or describe(item) end
  return M.text(table.concat(parts, #found > MOST and "\n" or "\n\n"))
end

-- ---- as Markdown ---------------------------------------------------------------------------------------------

local function escape(text) return (text:gsub("|", "\\|"):gsub("<", "&lt;")) end

local function code(text) return "`" .. text:gsub("|", "\\|") .. "`" end

local function table_of(lines, entries, heading)
  if #entries == 0 then return end
  lines[#lines + 1] = ("\n| %s | type | |\n|---|---|---|"):format(heading)
  for _, entry in ipairs(entries) do
    lines[#lines + 1] = ("| %s%s | %s | %s |"):format(code(entry.name), entry.optional and " (optional)" or "",
      code(entry.type), escape(entry.doc))
  end
end

local function write_function(lines, item)
  lines[#lines + 1] = ("\n### %s(%s)\n"):format(item.name:gsub("_", "\\_"), item.arguments:gsub("_", "\\_"))
  if item.doc ~= "" then lines[#lines + 1] = escape(item.doc) end
  table_of(lines, item.params, "argument")
  if #item.returns > 0 then
    lines[#lines + 1] = "\nReturns"
    for i, result in ipairs(item.returns) do
      lines[#lines] = lines[#lines] .. (i > 1 and "; " or " ") .. code(result.type)
        .. (result.doc ~= "" and " " .. escape(result.doc) or "")
    end
    lines[#lines] = lines[#lines] .. "."
  end
end

local function write_class(lines, class)
  lines[#lines + 1] = "\n## " .. class.name
  if class.doc ~= "" then lines[#lines + 1] = "\n" .. escape(class.doc) end
  table_of(lines, class.fields, "field")
  for _, item in ipairs(M.items()) do
    if item.kind == "function" and item.class == class.name then write_function(lines, item) end
  end
end

-- docs/api.md.
function M.markdown()
  local lines = { "# The Lua API\n\nMade from `lua/meta/` by `scripts/dev/make-api-docs.lua`: do not edit. "
    .. "[scripting.md](scripting.md) and [serving.md](serving.md) explain, with examples." }
  for _, item in ipairs(M.items()) do
    if item.kind == "class" then write_class(lines, item) end
    if item.kind == "alias" then
      lines[#lines + 1] = ("\n## %s\n\n%s%s"):format(item.name, item.doc ~= "" and escape(item.doc) .. " " or "",
        code(item.type))
    end
  end
  return table.concat(lines, "\n") .. "\n"
end

return M
