-- ReAct (Yao and others, 2022): the model thinks, names an action, and reads what came of it. The sequence stays in the
-- engine: a tool's answer is fed, and only that is computed.
--   llmlua examples/react.lua --model models/model.gguf --question "What is 12 * 34 + 5?"

local llm = require "llm"

local tools = {}

-- Arithmetic only: no names, so nothing but operators can be called.
function tools.calculator(expression)
  if expression:find "[^%d%s%.%+%-%*/%(%)%%%^]" or #expression > 200 then return "not an expression" end
  local f = loadstring("return " .. expression)
  local ok, value = pcall(f or error)
  return ok and tostring(value) or "not an expression"
end

-- GET, for the hosts that were allowed.
function tools.http(url, args)
  local host = url:match "^https?://([^/:]+)"
  for _, allowed in ipairs(args.hosts) do
    if host == allowed then
      local reply, message = llm.fetch(url, { timeout = 10, max_body = 1e6 })
      return reply and reply.body:sub(1, args.max_observation) or message
    end
  end
  return "this host is not allowed"
end

local shots = [[
Question: How much is 3 * 14 + 1?
Thought: I have to calculate 3 * 14 + 1.
Action: calculator[3 * 14 + 1]
Observation: 43
Thought: I know the answer now.
Answer: 43

Question: What does http://localhost/time say?
Thought: I have to read http://localhost/time.
Action: http[http://localhost/time]
Observation: 12:30
Thought: I know the answer now.
Answer: 12:30

Question: ]]

-- What the model writes up to the end of the line, or up to the bracket that closes an action.
local function write(seq, args, stop)
  return seq:generate{ temperature = 0, max_tokens = args.max_tokens, stop = { "\n", stop } }.text
end

-- The one of these texts that the model finds the likeliest now.
local function choose(seq, texts)
  local best, best_total
  for _, text in ipairs(texts) do
    local total = seq:score(text).total
    if not best or total > best_total then best, best_total = text, total end
  end
  return best
end

local function react(engine, args, emit)
  local seq = engine:sequence(shots .. args.question)
  local calls = {}
  local function put(text)
    seq:feed(text)
    emit(text)
  end
  for _ = 1, args.max_steps do
    put "\nThought:"
    emit(write(seq, args))
    -- The form is ours, the choices are the model's: whether it acts, with which tool, on what.
    if choose(seq, { "\nAction:", "\nAnswer:" }) == "\nAnswer:" then
      put "\nAnswer:"
      local answer = write(seq, args)
      emit(answer)
      return { answer = answer:match "^%s*(.-)%s*$", calls = calls }
    end
    put "\nAction:"
    local tool = choose(seq, { " calculator[", " http[" })
    put(tool)
    local argument = write(seq, args, "]")
    emit(argument)
    local observation = tools[tool:match "%a+"](argument, args)
    calls[#calls + 1] = { tool = tool:match "%a+", argument = argument, observation = observation }
    put("]\nObservation: " .. observation)
  end
  return { calls = calls }
end

return llm.program({
  summary = "Answers a question with tools, by thinking and acting in turn.",
  { name = "question", type = "string", initial = "What is 12 * 34 + 5?", help = "what to answer" },
  { name = "max_steps", type = "integer", initial = 8, min = 1, max = 64, help = "thoughts" },
  { name = "max_tokens", type = "integer", initial = 32, min = 1, help = "of a line" },
  { name = "hosts", type = "strings", many = true, initial = {}, help = "hosts that the http tool may ask" },
  { name = "max_observation", type = "integer", initial = 500, help = "bytes of an answer that are read" },
}, react)
