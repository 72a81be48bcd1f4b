-- The interactive prompt: reads, runs, prints what an expression is worth, goes on after an error. It runs lines here,
-- or in the server that it is attached to.

local json = require "llm.json"
local line = require "llm.line"
local reference = require "llm.reference"
local session = require "llm.session"
local tasks = require "llm.task"

local M = {}

local PROMPT, CONTINUE = "> ", ">> "

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
    local _, _, unfinished = session.compile(text)
    if not unfinished then return text end
  end
end

-- evaluate(text) -> what to print (nil: nothing), or nil and an error.
local function loop(read, interactive, evaluate)
  while true do
    local text = read_chunk(read)
    if text == nil then break end
    if text == false then
      print("")
    elseif text:find("%S") then
      if interactive then line.remember(text) end
      line.clear_interrupt()
      local shown, failure = evaluate(text)
      if shown then print(shown) end
      if failure then
        io.stdout:flush()
        io.stderr:write(failure, "\n")
      end
      line.clear_interrupt()
    end
  end
end

local function session_loop(interactive, greeting, completer, evaluate)
  if not interactive then return loop(reader(false), false, evaluate) end
  print(greeting)
  line.set_completer(completer)
  local path = history_file()
  if path then line.load(path) end
  loop(reader(true), true, evaluate)
  if path then line.save(path) end
  print("")
end

-- ---- here ----------------------------------------------------------------------------------------------------

local function traceback(failure)
  if type(failure) == "table" and failure.exit_code then return failure end
  return session.trim_traceback(debug.traceback(tostring(failure), 2))
end

local function show(ok, ...)
  if ok then return session.format(...) end
  local failure = ...
  if type(failure) == "table" and failure.message ~= "interrupted" then error(failure, 0) end
  return nil, tostring(failure)
end

local function evaluate_here(text)
  local chunk, message = session.compile(text)
  if not chunk then return nil, message end
  jit.off(chunk, true) -- a compiled loop does not see Ctrl-C
  return show(xpcall(chunk, traceback))
end

function M.complete(word) return session.complete(word, _G) end

-- Until the end of input. The library is at hand as the global llm, its reference as help.
function M.run(interactive)
  local llm = require "llm"
  rawset(_G, "llm", llm)
  rawset(_G, "help", reference.help)
  session_loop(interactive, ("llmlua %s (%s). llm is loaded, help() helps; Ctrl-D ends."):format(llm.version(),
    jit.version), M.complete, evaluate_here)
end

-- ---- in a server ---------------------------------------------------------------------------------------------

-- The server's answer to a call; or nil and a message. Ctrl-C gives it up.
local function post(remote, path, body)
  local llm = require "llm"
  return tasks.run(function()
    local me = tasks.running()
    local watch = tasks.loop():signal("INT", function() tasks.cancel(me, "interrupted") end)
    local ok, reply, message = pcall(llm.fetch, remote.url .. path, { method = "POST", body = json.encode(body), unix = remote.unix,
      headers = { ["Content-Type"] = "application/json", Authorization = "Bearer " .. remote.key } })
    if watch then watch:close() end
    if not ok then
      if tasks.is_canceled(reply) then return nil, reply.reason end
      error(reply, 0)
    end
    if not reply then return nil, ("%s: %s"):format(remote.url, message) end
    local value = json.decode(reply.body)
    if reply.status == 200 and type(value) == "table" then return value end
    local failure = type(value) == "table" and type(value.error) == "table" and value.error.message
    return nil, ("%s: %s (HTTP %d)"):format(remote.url, failure or "this is no llmlua server", reply.status)
  end)
end

local function evaluate_there(remote, text)
  local answer, message = post(remote, "/admin/eval", { code = text })
  if not answer then return nil, message end
  io.write(answer.output)
  return answer.values, answer.error
end

local function complete_there(remote, word)
  local answer = post(remote, "/admin/complete", { word = word })
  return answer and answer.names or {}
end

-- A prompt in the server at this address (HOST:PORT, a URL, unix:PATH), or code to run there in place of one. True; or
-- nil and a message if the server does not let it, or the code fails.
function M.attach(address, key, code)
  local unix = address:match "^unix:(.+)$"
  local url = unix and "http://localhost" or address:find "://" and address:gsub("/+$", "") or "http://" .. address
  local remote = { url = url, unix = unix, key = key }
  if code then
    local shown, failure = evaluate_there(remote, code)
    if shown then print(shown) end
    return not failure, failure
  end
  local hello, message = post(remote, "/admin/eval", { code = "return llm.version()" })
  if not hello then return nil, message end
  local interactive = require("llm").isatty "stdin" and require("llm").isatty "stdout"
  session_loop(interactive, ("Attached to %s (llmlua %s). help() says what is at hand; Ctrl-D ends."):format(address,
    hello.values:gsub('"', "")), function(word) return complete_there(remote, word) end,
    function(text) return evaluate_there(remote, text) end)
  return true
end

return M
