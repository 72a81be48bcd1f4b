-- The interactive prompt: reads, runs, prints what an expression is worth, goes on after an error.

local line = require "llm.line"
local pretty = require("llm.table").pretty

local M = {}

local PROMPT, CONTINUE = "> ", ">> "
local CHUNK = "=stdin"

-- Does the message of loadstring say that the text only lacks an end?
local function incomplete(message) return message and message:find("'?<eof>'?$") ~= nil end

-- A function for the text, as an expression if it can be one; or nil, message, incomplete.
local function compile(text)
  local body = text:gsub("^%s*=", "")
  local expression, why_not = loadstring("return " .. body, CHUNK)
  if expression then return expression end
  local chunk, message = loadstring(text, CHUNK)
  if chunk then return chunk end
  return nil, message, incomplete(message) or incomplete(why_not)
end

local function traceback(failure)
  if type(failure) == "table" and failure.exit_code then return failure end
  local text = debug.traceback(tostring(failure), 2)
  text = text:gsub("\n%s*%[C%]: in function 'xpcall'.*$", "")
  return (text:gsub("\n%s*%[builtin#%d+%]: at 0x%x+", "")) -- a tail call of a library function has no name
end

local function show(ok, ...)
  if not ok then
    local failure = ...
    if type(failure) == "table" and failure.message ~= "interrupted" then error(failure, 0) end
    io.stdout:flush()
    io.stderr:write(tostring(failure), "\n")
    return
  end
  local parts = {}
  for i = 1, select("#", ...) do parts[i] = pretty((select(i, ...))) end
  if #parts > 0 then print(table.concat(parts, "\t")) end
end

-- Candidates for the word under the cursor: globals, or fields and methods of what comes before the last dot or colon.
local function complete(word)
  local path, separator, start = word:match("^(.*)([.:])([%w_]*)$")
  local object = _G
  if path then
    for name in path:gmatch("[^.:]+") do
      local ok, value = pcall(function() return object[name] end)
      if not ok then return {} end
      object = value
    end
  else
    path, separator, start = "", "", word
  end
  local found, list = {}, {}
  for _ = 1, 8 do -- the value, then what __index leads to
    if type(object) == "string" then object = string end
    if type(object) ~= "table" then
      local meta = debug.getmetatable(object)
      object = meta and rawget(meta, "__index")
      if type(object) ~= "table" then break end
    end
    for key in next, object do
      local name = type(key) == "string" and key:match("^[%a_][%w_]*$")
      if name and name:sub(1, #start) == start and name:sub(1, 2) ~= "__" then
        found[path .. separator .. key] = true
      end
    end
    local meta = getmetatable(object)
    object = type(meta) == "table" and rawget(meta, "__index") or nil
    if object == nil then break end
  end
  for candidate in pairs(found) do list[#list + 1] = candidate end
  table.sort(list)
  return list
end
M.complete = complete

local function history_file()
  local home = os.getenv("HOME")
  return home and home .. "/.llmlua_history"
end

-- Lines from a terminal with editing, or from a pipe without a prompt. Returns a line, false (Ctrl-C), nil (end).
local function reader(interactive)
  if not interactive then
    return function() return io.read("*l") end
  end
  return function(continued) return line.read(continued and CONTINUE or PROMPT) end
end

-- Reads lines until they make a chunk. Returns the text, false (given up), or nil (end of input).
local function read_chunk(read)
  local text
  while true do
    local more = read(text ~= nil)
    if more == false then return false end
    if more == nil then return text end
    text = text and text .. "\n" .. more or more
    local _, _, unfinished = compile(text)
    if not unfinished then return text end
  end
end

local function loop(read, interactive)
  while true do
    local text = read_chunk(read)
    if text == nil then break end
    if text == false then
      print("")
    elseif text:find("%S") then
      if interactive then line.remember(text) end
      line.clear_interrupt()
      local chunk, message = compile(text)
      if chunk then
        jit.off(chunk, true) -- a compiled loop does not see Ctrl-C
        show(xpcall(chunk, traceback))
      else
        io.stderr:write(message, "\n")
      end
      line.clear_interrupt()
    end
  end
end

-- Until the end of input. The library is at hand as the global llm.
function M.run(interactive)
  local llm = require "llm"
  rawset(_G, "llm", llm)
  if interactive then
    print(("llmlua %s (%s). llm is loaded; Ctrl-D ends."):format(llm.version(), jit.version))
    line.set_completer(complete)
    local path = history_file()
    if path then line.load(path) end
    loop(reader(true), true)
    if path then line.save(path) end
    print("")
  else
    loop(reader(false), false)
  end
end

return M
