-- A server in a process of its own, for tests that watch it from outside.

local llm = require "llm"
local support = require "support"

local Process = {}
Process.__index = Process

local M = {}

local START_SECONDS = 60

-- Starts llmlua with these arguments and waits for its line "Serving … at URL"; in a task. Fields: pid, url. Raises with
-- its log if it does not come up.
function M.start(args)
  local words = { support.quote(support.program) }
  for _, word in ipairs(args) do words[#words + 1] = support.quote(word) end
  local log = os.tmpname()
  local pipe = io.popen(("%s >%s 2>&1 </dev/null & echo $!"):format(table.concat(words, " "), log))
  local process = setmetatable({ pid = pipe:read "*n", log = log }, Process)
  pipe:close()
  local till = llm.now() + START_SECONDS
  while llm.now() < till and process:status() do
    process.url = process:output():match "Serving [^\n]* at (%S+)\n"
    if process.url then return process end
    llm.sleep(0.02)
  end
  error("the server did not start:\n" .. process:output(), 2)
end

-- All it has printed.
function Process:output() return support.slurp(self.log) end

-- {rss (KiB), threads} as the system counts them; nil when the process has ended.
function Process:status()
  local file = io.open(("/proc/%d/status"):format(self.pid))
  local text = file and file:read "*a"
  if file then file:close() end
  local rss = text and text:match "VmRSS:%s*(%d+)" -- a process that has ended and waits to be buried has none
  return rss and { rss = tonumber(rss), threads = tonumber(text:match "Threads:%s*(%d+)") }
end

function Process:signal(name) os.execute(("kill -%s %d 2>/dev/null"):format(name, self.pid)) end

-- Ends it; in a task.
function Process:stop()
  self:signal "TERM"
  for i = 1, 1000 do
    if not self:status() then break end
    if i == 500 then self:signal "KILL" end
    llm.sleep(0.02)
  end
  os.remove(self.log)
end

return M
