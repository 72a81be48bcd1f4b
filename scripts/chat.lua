-- A chat in the terminal. Ctrl-C stops a reply, Ctrl-D or /exit ends.
--   llmlua chat.lua --model models/model.gguf

local llm = require "llm"
local line = require "llm.line"
local messages = require "llm.openai.messages"
local services = require "llm.openai.service"
local template = require "llm.template"

local opts = llm.options(arg, {
  summary = "Talks with a model in the terminal. Sampling options that are not given are the model's own.\n"
    .. "Commands: /reset (begin anew), /system TEXT, /retry, /undo, /save FILE, /exit. Ctrl-C stops a reply.",
  sampling = true,
  { name = "system", type = "string", help = "the system message" },
  { name = "chat_template", type = "path", help = "a Jinja file in place of the model's own template" },
  { name = "history", type = "path", help = "where the lines you type are kept", default = "~/.llmlua_chat" },
})

local engine = llm.try(llm.engine, opts)
local service = llm.try(services.of, engine, opts)
if not service.template then llm.exit(1, "the model has no chat template; give --chat-template") end
local params = engine:default_params()
params.max_tokens = -1
for name, value in pairs(opts.sampling) do params[name] = value end

local terminal = llm.isatty "stdin" and llm.isatty "stdout"
local conversation = {}

local function begin()
  conversation = opts.system and { { role = "system", content = opts.system } } or {}
end

local function say(text) io.stderr:write(text, "\n") end

-- Streams the answer to the conversation and adds it. What a Ctrl-C has cut off stays as far as it came.
local function answer()
  local prompt = messages.render(service, { messages = template.from_lua(conversation) })
  local parts = {}
  local ok, failure = pcall(function()
    for delta in engine:stream(prompt, params, { add_special_tokens = false }) do
      parts[#parts + 1] = delta.text
      io.write(delta.text)
      io.flush()
    end
  end)
  io.write "\n"
  local interrupted = type(failure) == "table" and failure.exit_code ~= nil
  if not ok and not (interrupted and terminal) then error(failure, 0) end
  if interrupted then line.clear_interrupt() end
  conversation[#conversation + 1] = { role = "assistant", content = table.concat(parts) }
end

-- Takes the last messages off, down to and with the last one of this role. Whether there was one.
local function drop(role)
  for i = #conversation, 1, -1 do
    if conversation[i].role == role then
      while #conversation >= i do table.remove(conversation) end
      return true
    end
  end
  return false
end

local commands = {}

function commands.reset() begin() end

function commands.system(text)
  opts.system = text ~= "" and text or nil
  begin()
end

function commands.retry()
  if drop "assistant" then answer() else say "there is no answer yet" end
end

function commands.undo()
  if not drop "user" then say "there is nothing to take back" end
end

function commands.save(path)
  local file, message = io.open(path, "w")
  if not file then return say(message) end
  file:write(llm.json.encode(llm.json.array(conversation), { indent = true }), "\n")
  file:close()
end

local function run_command(name, rest)
  local command = commands[name]
  if command then return command(rest) end
  say("there is no command /" .. name .. "; there are /reset, /system, /retry, /undo, /save and /exit")
end

-- A whole question: lines that end in \ go on. "" after a Ctrl-C, nil at the end.
local function read(ask)
  local lines = {}
  while true do
    local text = ask(#lines == 0 and "> " or ". ")
    if text == false then
      io.write "\n"
      return ""
    elseif not text then
      return #lines > 0 and table.concat(lines, "\n") or nil
    end
    lines[#lines + 1] = (text:gsub("\\$", ""))
    if text:sub(-1) ~= "\\" then return table.concat(lines, "\n") end
  end
end

local function history_path()
  local home = os.getenv "HOME"
  return opts.history or home and home .. "/.llmlua_chat"
end

-- A function that asks for a line.
local function asker()
  if not terminal then return function() return (io.read "*l") end end
  local path = history_path()
  if path then line.load(path) end
  return function(prompt)
    local text = line.read(prompt)
    if text and text:find "%S" then
      line.remember(text)
      if path then line.save(path) end
    end
    return text
  end
end

begin()
local ask = asker()
while true do
  local text = read(ask)
  if not text or text == "/exit" then break end
  local name, rest = text:match "^/(%a+)%s*(.-)%s*$"
  local ok, failure = pcall(function()
    if name then return run_command(name, rest) end
    if text:find "%S" then
      conversation[#conversation + 1] = { role = "user", content = text }
      answer()
    end
  end)
  if not ok then
    if not terminal or type(failure) == "table" and failure.exit_code then error(failure, 0) end
    say((tostring(failure):gsub("^HTTP %d+: ", "")))
    drop "user"
  end
end
if terminal then io.write "\n" end
engine:close()
