-- A progress bar on stderr, drawn at most ten times a second, and only if stderr is a terminal.

local core = require "llm.core"

local Bar = {}
Bar.__index = Bar

local M = {}

local STDERR, INTERVAL = 2, 0.1

local function clock_text(seconds)
  return ("%02d:%02d"):format(math.floor(seconds / 60), seconds % 60)
end

-- label: what goes on. total: the value of `done` at the end. enabled: false draws nothing; nil asks the terminal.
function M.new(label, total, enabled)
  if enabled == nil then enabled = core.isatty(STDERR) end
  return setmetatable({ label = label, total = total, enabled = enabled, start = core.now(), drawn = 0 }, Bar)
end

-- note: text after the bar (rates, say), or a function that makes it, called only when it is drawn.
function Bar:update(done, note)
  if not self.enabled then return end
  local now = core.now()
  if now - self.drawn < INTERVAL and done < self.total then return end
  self.drawn = now
  local share = self.total > 0 and math.min(done / self.total, 1) or 1
  if type(note) == "function" then note = note() end
  local left = ("%s %3d%% "):format(self.label, math.floor(share * 100))
  local right = (" %s%s"):format(clock_text(now - self.start), note and "  " .. note or "")
  local width = math.max(math.min(core.columns(STDERR) - #left - #right - 3, 40), 0)
  local full = math.floor(share * width)
  local picture = width > 2 and "[" .. ("#"):rep(full) .. ("."):rep(width - full) .. "]" or ""
  io.stderr:write("\r", left, picture, right, "\27[K")
end

-- Ends the line, so that what follows starts on a new one.
function Bar:finish(done, note)
  if not self.enabled then return end
  self.drawn = 0
  self:update(done or self.total, note)
  io.stderr:write("\n")
  self.enabled = false
end

return M
