-- What several specs need, and what measures a server from outside: the program, the default model, files, running
-- commands.

local M = {}

local function absolute(path) return path:sub(1, 1) == "/" and path or os.getenv "PWD" .. "/" .. path end
M.program = absolute(arg[-1])
M.root = absolute(debug.getinfo(1, "S").source:match "^@(.*)/" .. "/../..")

local function quote(word) return "'" .. tostring(word):gsub("'", "'\\''") .. "'" end

local function slurp(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end
M.slurp = slurp

function M.write(path, text)
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
end

-- A new file with this text; who asked for it removes it.
function M.file(text, suffix)
  local path = os.tmpname()
  if suffix then
    os.remove(path)
    path = path .. suffix
  end
  M.write(path, text)
  return path
end

-- A new directory; likewise.
function M.directory()
  local path = os.tmpname()
  os.remove(path)
  assert(os.execute("mkdir " .. path) == 0)
  return path
end

function M.model() return M.root .. "/models/SmolLM2-135M-Instruct.Q4_1.gguf" end

-- Runs a shell command. Returns {out, err, code}; stdin is text or empty.
function M.shell(command, stdin)
  local input, out, err = M.file(stdin or ""), os.tmpname(), os.tmpname()
  local pipe = io.popen(("{ %s\n} < %s > %s 2> %s; echo $?"):format(command, input, out, err))
  local code = tonumber(pipe:read("*a"))
  pipe:close()
  local result = { out = slurp(out), err = slurp(err), code = code }
  os.remove(input)
  os.remove(out)
  os.remove(err)
  return result
end

-- Runs llmlua with these arguments.
function M.run(args, stdin)
  local words = { quote(M.program) }
  for _, word in ipairs(args) do words[#words + 1] = quote(word) end
  return M.shell(table.concat(words, " "), stdin)
end
M.quote = quote

-- One engine on the default model for all specs, opened when first asked for.
local engine
function M.engine()
  engine = engine or require("llm").engine { model = M.model(), max_model_len = 2048, max_num_seqs = 32 }
  return engine
end

return M
