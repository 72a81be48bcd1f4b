-- The command-line parser: one table of entries makes the parser, the checks and --help.
--
-- A spec is a list of a script's own entries, with the fields summary (text for --help), positional (list of entries),
-- sampling = true (sampling parameters are options too, and come in opts.sampling), engine = false (engine options
-- are not). An entry: name, type (values.lua), help; and as needed initial (value if not given), default (what --help
-- says it is), choices, min, max, alias (list of names), many (repeatable, a list), collect (repeatable: goes with its
-- name into this list, which entries may share, so that their order is kept), shown (placeholder), required.

local exit = require "llm.exit"
local schema = require "llm.schema"
local suggest = require "llm.suggest"
local values = require "llm.values"

local M = {}

-- The tables that parse() made: weak, and apart, so that options are ordinary tables to their owner.
local parsed = setmetatable({}, { __mode = "k" })

-- The part of parsed options that llm.engine takes, as it is now (a script may have changed it); nil for a table
-- that was not made here.
function M.engine_part(opts)
  if not parsed[opts] then return nil end
  local part = {}
  for _, entry in ipairs(schema.engine) do part[entry.name] = opts[entry.name] end
  return part
end

local function dashed(name) return "--" .. name:gsub("_", "-") end

-- The groups of entries, in the order of --help: the script's own, sampling, engine.
local function groups_of(spec)
  local groups = { { title = "options", entries = {} } }
  for _, entry in ipairs(spec) do
    local own = groups[1].entries
    own[#own + 1] = entry
  end
  if spec.sampling then groups[#groups + 1] = { title = "sampling", entries = schema.sampling, into = "sampling" } end
  if spec.engine ~= false then groups[#groups + 1] = { title = "engine", entries = schema.engine, into = "engine" } end
  return groups
end

-- canonical name -> list of {entry, group}: a name can mean something in several groups (seed), and then sets
-- all of them. A script's own entry hides the others.
local function index_of(groups)
  local index, names = {}, { "--help" }
  for _, group in ipairs(groups) do
    for _, entry in ipairs(group.entries) do
      local all = { entry.name, unpack(entry.alias or {}) }
      for _, name in ipairs(all) do
        local there = index[name]
        if not there then
          index[name] = { { entry = entry, group = group } }
          names[#names + 1] = dashed(name)
        elseif there[1].group.into then
          there[#there + 1] = { entry = entry, group = group }
        end
      end
    end
  end
  return index, names
end

local function store(target, entry, value)
  if entry.collect then
    target[entry.collect] = target[entry.collect] or {}
    table.insert(target[entry.collect], { name = entry.name, value = value })
  elseif entry.many then
    target[entry.name] = target[entry.name] or {}
    table.insert(target[entry.name], value)
  elseif entry.type == "bias" and target[entry.name] then
    for id, bias in pairs(value) do target[entry.name][id] = bias end
  else
    target[entry.name] = value
  end
end

local function unknown(label, names)
  local hint = suggest.hint(label, names)
  return nil, ("unknown option '%s'%s"):format(label, hint ~= "" and hint or "; --help lists all there are")
end

-- Splits "--name=value"; finds the entries; reads the value. Returns the next index, or nil and a message.
local function take(argv, i, index, names, put)
  local text = argv[i]
  local name, attached = text:match("^%-%-([^=]+)=(.*)$")
  name = schema.canonical(name or text:sub(3))
  local found, negated = index[name], false
  if not found and name:sub(1, 3) == "no_" then
    local positive = index[name:sub(4)]
    if positive and positive[1].entry.type == "boolean" then found, negated = positive, true end
  end
  if not found then
    return unknown(text:match("^[^=]+"), names)
  end
  local label, entry = dashed(name), found[1].entry
  if negated and attached then return nil, ("%s takes no value"):format(label) end
  if entry.type == "boolean" and not attached then attached = negated and "false" or "true" end
  if not attached then
    i = i + 1
    attached = argv[i]
    if not attached then return nil, ("%s needs a value: %s"):format(label, values.wanted(entry)) end
  end
  for _, place in ipairs(found) do
    local value, message = values.parse(place.entry, attached, label)
    if value == nil then return nil, message end
    local ok
    ok, message = schema.check_only(place.entry, value, label)
    if not ok then return nil, message end
    put(place, value)
  end
  return i + 1
end

local function take_positionals(opts, spec, words)
  local positional = spec.positional or {}
  for i, entry in ipairs(positional) do
    if words[i] then
      local value, message = values.parse(entry, words[i], entry.name:upper())
      if value == nil then return nil, message end
      opts[entry.name] = value
    elseif entry.required then
      return nil, ("%s is missing: %s"):format(entry.name:upper(), entry.help)
    end
  end
  if #words > #positional then
    local word = words[#positional + 1]
    local is_model = spec.engine ~= false and #positional == 0 and not opts.model
    return nil, ("unexpected argument '%s'%s"):format(word, is_model and "; a model is given as --model " .. word or "")
  end
  return true
end

-- Parses argv (a list of strings) by spec. Returns the options; or nil and a message; or nil, nil where --help
-- was asked for.
function M.parse(argv, spec)
  spec = spec or {}
  local groups = groups_of(spec)
  local index, names = index_of(groups)
  local opts, words = {}, {}
  if spec.sampling then opts.sampling = {} end
  for _, entry in ipairs(spec) do
    if entry.initial ~= nil then opts[entry.name] = entry.initial end
  end
  local function put(place, value)
    store(place.group.into == "sampling" and opts.sampling or opts, place.entry, value)
  end
  local i, plain = 1, false
  while argv[i] do
    local text = argv[i]
    if not plain and text == "--" then
      plain, i = true, i + 1
    elseif not plain and (text == "--help" or text == "-h") then
      return nil, nil
    elseif not plain and text:sub(1, 2) == "--" then
      local next_i, message = take(argv, i, index, names, put)
      if not next_i then return nil, message end
      i = next_i
    elseif not plain and text:sub(1, 1) == "-" and #text > 1 then
      return unknown(text, names)
    else
      words[#words + 1], i = text, i + 1
    end
  end
  local ok, message = take_positionals(opts, spec, words)
  if not ok then return nil, message end
  parsed[opts] = true
  return opts
end

local function help_line(entry)
  local kind = values.types[entry.type]
  local left = "  " .. (entry.type == "boolean" and "--[no-]" .. entry.name:gsub("_", "-")
    or dashed(entry.name) .. " " .. (entry.shown or entry.choices and "NAME" or kind.shown))
  local right = entry.help or ""
  if entry.choices then right = right .. ": " .. table.concat(entry.choices, ", ") end
  if entry.many or entry.collect then right = right .. "; may be repeated" end
  local default = entry.default or entry.initial ~= nil and tostring(entry.initial)
  if default then right = right .. (" (%s)"):format(default) end
  return #left < 34 and ("%-34s%s"):format(left, right) or ("%s\n%34s%s"):format(left, "", right)
end

-- The text of --help. program: what the user typed to get here.
function M.help(spec, program)
  spec = spec or {}
  local usage = { "usage: " .. program }
  for _, entry in ipairs(spec.positional or {}) do
    usage[#usage + 1] = entry.required and entry.name:upper() or "[" .. entry.name:upper() .. "]"
  end
  usage[#usage + 1] = "[options]"
  local lines = { table.concat(usage, " ") }
  if spec.summary then lines[#lines + 1] = "\n" .. spec.summary end
  for _, entry in ipairs(spec.positional or {}) do
    lines[#lines + 1] = ("\n  %-32s%s"):format(entry.name:upper(), entry.help or "")
  end
  for _, group in ipairs(groups_of(spec)) do
    if #group.entries > 0 then
      lines[#lines + 1] = "\n" .. group.title .. ":"
      for _, entry in ipairs(group.entries) do
        if not entry.only then lines[#lines + 1] = help_line(entry) end
      end
    end
  end
  return table.concat(lines, "\n") .. "\n"
end

-- llm.options: as parse, but --help prints and ends the script, and so does a mistake (exit code 2).
function M.options(argv, spec)
  local program = argv[0] or "llmlua"
  local opts, message = M.parse(argv, spec)
  if opts then return opts end
  if message then exit(2, ("%s: %s"):format(program:match("[^/]*$"), message)) end
  io.stdout:write(M.help(spec, "llmlua " .. program:match("[^/]*$")))
  exit(0)
end

return M
