-- A program that can be run as a script and served at a route: one function, and one table that says what it takes.
--
--   local function answer(engine, args, emit) … emit(text) … return { … } end
--   return llm.program({ summary = "…", { name = "prompt", type = "string", initial = "Hello" } }, answer)
--
-- As the script itself (llmlua FILE --model …) it takes its arguments from the command line, prints what it emits, and
-- its result as JSON. Loaded by another script it is an object, of which server:post(path, program:handler(engine))
-- makes a route: the body is a JSON object of arguments; the answer is { text, result }, or with "stream": true
-- server-sent events of { text } and a last one of { result }.

local embedded = require "llm.embedded"
local fs = require "llm.fs"
local http = require "llm.http"
local json = require "llm.json"
local options = require "llm.options"
local script = require "llm.script"
local sse = require "llm.openai.sse"
local suggest = require "llm.suggest"
local tasks = require "llm.task"
local values = require "llm.values"

local Servable = {}
Servable.__index = Servable

local M = { Servable = Servable }

-- ---- arguments -----------------------------------------------------------------------------------------------

local function entry_of(spec, name)
  local names = {}
  for i, entry in ipairs(spec) do
    if entry.name == name then return entry end
    names[i] = entry.name
  end
  return nil, ("there is no argument '%s'%s"):format(tostring(name), suggest.hint(tostring(name), names))
end

-- A table of arguments, checked and completed; nil and a message if one is wrong.
function Servable:arguments(given)
  local args = {}
  for _, entry in ipairs(self.spec) do args[entry.name] = entry.initial end
  for name, value in pairs(given) do
    local entry, message = entry_of(self.spec, name)
    if not entry then return nil, message end
    local checked
    checked, message = values.check(entry, value, name)
    if checked == nil then return nil, message end
    args[name] = checked
  end
  return args
end

-- ---- as a script ---------------------------------------------------------------------------------------------

local function is_the_script(f)
  local name = arg and arg[0]
  if not name or script.current then return false end
  local source = debug.getinfo(f, "S").source
  if source == "@" .. name then return true end
  local path = "@scripts/" .. name
  return source == path or source == path .. ".lua"
end

local function print_result(result)
  if result == nil then return end
  print(type(result) == "string" and result or json.encode(result, { indent = true }))
end

local function run_as_script(program)
  local llm = require "llm"
  local opts = options.options(arg, program.spec)
  local engine = llm.try(llm.engine, opts)
  local emitted = false
  local result = tasks.run(program.run, engine, opts, function(text)
    emitted = true
    io.write(text)
    io.flush()
  end)
  if emitted then print() end
  print_result(result)
  engine:close()
end

-- ---- at a route ----------------------------------------------------------------------------------------------

local function stream(res, program, engine, args)
  res:sse()
  local result = program.run(engine, args, function(text) res:event(json.encode { text = text }) end)
  res:event(json.encode { result = result == nil and json.null or result })
end

local function answer(program, engine, args)
  local texts = {}
  local result = program.run(engine, args, function(text) texts[#texts + 1] = text end)
  return { text = table.concat(texts), result = result }
end

-- A handler of server:post. The program is canceled when its client leaves.
function Servable:handler(engine)
  return function(req, res)
    local given = req.body ~= "" and req:json() or {}
    if type(given) ~= "table" then http.error(400, "the body must be a JSON object of arguments") end
    local streams = given.stream
    given.stream = nil
    local args, message = self:arguments(given)
    if not args then http.error(400, message) end
    if streams == true then return sse.stream(req, res, stream, self, engine, args) end
    res:json(answer(self, engine, args))
  end
end

-- What it takes, for a list of programs.
function Servable:describe()
  local args = json.array {}
  for i, entry in ipairs(self.spec) do
    args[i] = json.object({ name = entry.name, type = entry.type, initial = entry.initial, help = entry.help },
      { "name", "type", "initial", "help" })
  end
  return json.object({ summary = self.spec.summary, arguments = args }, { "summary", "arguments" })
end

-- spec: as of llm.options, entries with `initial` values. run(engine, args, emit): emit(text) shows text as it comes.
function M.new(spec, run)
  if type(spec) ~= "table" or type(run) ~= "function" then
    error("llm.program needs a table of arguments and a function(engine, args, emit)", 2)
  end
  local program = setmetatable({ spec = spec, run = run }, Servable)
  if is_the_script(run) then run_as_script(program) end
  return program
end

-- ---- loading several -----------------------------------------------------------------------------------------

local function sources(directory)
  local found = {}
  if directory then
    local names, message = fs.list(directory)
    if not names then error(message, 0) end
    for _, name in ipairs(names) do
      local stem = name:match "^([%w_%-]+)%.lua$"
      if stem then found[stem] = directory .. "/" .. name end
    end
  else
    for _, path in ipairs(embedded()) do
      local stem = path:match "^scripts/examples/([%w_%-]+)%.lua$"
      if stem then found[stem] = path end
    end
  end
  return found
end

-- The programs of a directory, {name = program}; nil: the bundled examples.
function M.load(directory)
  local programs = {}
  for name, path in pairs(sources(directory)) do
    local chunk, message
    if directory then
      chunk, message = loadfile(path)
    else
      chunk, message = loadstring(embedded(path), "@" .. path)
    end
    if not chunk then error(message, 0) end
    programs[name] = chunk()
    if getmetatable(programs[name]) ~= Servable then error(("%s does not return llm.program(…)"):format(path), 0) end
  end
  return programs
end

return M
