-- Jinja templates compiled to Lua functions, rendering as Python's jinja2 does in the environment that transformers
-- gives to chat templates. See docs/templates.md; values are described in jinja/value.lua.

local budget = require "llm.jinja.budget"
local compiler = require "llm.jinja.compiler"
local errors = require "llm.jinja.errors"
local globals = require "llm.jinja.globals"
local parser = require "llm.jinja.parser"
local runtime = require "llm.jinja.runtime"

local M = {}

M.MAX_SOURCE = 2 ^ 20 -- bytes of one template

-- Compiled templates by source, the least recently made of them dropped when there are too many.
local CACHE_SIZE = 64
local cache, cache_order = {}, {}

local getinfo = debug and debug.getinfo
local chunks = 0

local Template = {}
Template.__index = Template

-- The template line that was running when an error was raised: the innermost frame of the generated code.
local function running_line(template)
  if not getinfo then return nil end
  for level = 3, 1000 do
    local info = getinfo(level, "Sl")
    if not info then return nil end
    if info.source == template.chunk then return template.map[info.currentline] end
  end
end

local function traceback(template)
  return function(err)
    if not errors.is(err) then
      local text = tostring(err)
      if text:find("stack overflow", 1, true) then
        err = errors.new("RecursionError", "maximum recursion depth exceeded")
      else
        -- Lua's own complaint about an operand: a filter was given a type of argument it does not take.
        err = errors.new("TypeError", "a filter or function has an argument of a wrong type")
        err.detail = text
      end
    end
    err.line = err.line or running_line(template)
    return err
  end
end

-- Renders with `context`, a table from variable name to value (jinja/value.lua). Options: max_steps, max_output (see
-- jinja/budget.lua), now (seconds since the epoch, for strftime_now). Returns the text; or nil, the message that
-- Python's exception would have, and the error itself: { type, message, line }.
function Template:render(context, options)
  options = options or {}
  local function lookup(name)
    local v = context[name]
    if v == nil then v = globals.table[name] end
    return v
  end
  local account = budget.start(options.max_steps, options.max_output)
  globals.set_now(options.now)
  local ok, result = xpcall(function() return self.fn(lookup) end, traceback(self))
  globals.set_now(nil)
  budget.finish(account)
  if ok then return result end
  return nil, result.message, result
end

local function compile(source)
  if #source > M.MAX_SOURCE then
    errors.raise("LimitError", "the template is longer than " .. M.MAX_SOURCE .. " bytes")
  end
  local code, map = compiler.generate(parser.parse(source))
  chunks = chunks + 1
  local chunk = "=template " .. chunks
  local make, message = loadstring(code, chunk)
  if not make then
    -- The generator keeps within Lua's limits but for nesting that the parser's own limits do not foresee.
    local line = tonumber(message:match(":(%d+):"))
    errors.raise("LimitError", "the template is too complex: " .. message:gsub("^.-:%d+: ", ""), map[line])
  end
  setfenv(make, {})
  local fn = make(runtime)
  setfenv(fn, {})
  return setmetatable({ fn = fn, map = map, chunk = chunk, source = source }, Template)
end

-- Compiles a template, or finds it among those compiled before. Returns it; or nil, the message, and the error.
function M.compile(source)
  local template = cache[source]
  if template then return template end
  local ok, result = pcall(compile, source)
  if not ok then
    if not errors.is(result) then result = errors.new("InternalError", tostring(result)) end
    return nil, result.message, result
  end
  if #cache_order >= CACHE_SIZE then cache[table.remove(cache_order, 1)] = nil end
  cache[source], cache_order[#cache_order + 1] = result, source
  return result
end

-- Compiles without looking at the cache: for benchmarks and tests.
function M.compile_afresh(source)
  return compile(source)
end

-- compile and render in one.
function M.render(source, context, options)
  local template, message, err = M.compile(source)
  if not template then return nil, message, err end
  return template:render(context, options)
end

return M
