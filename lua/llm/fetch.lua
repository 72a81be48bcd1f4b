-- llm.fetch: HTTP requests to others, without blocking the loop.

local net = require "llm.net"
local tasks = require "llm.task"

local M = {}

local Reply = {}
Reply.__index = Reply

-- Wakes the task that reads the reply.
local function notify(reply)
  local task = reply.reader
  if task then
    reply.reader = nil
    tasks.wake(task)
  end
end

local PAUSE_PIECES = 64 -- pieces of the body that wait for a slow reader before the server is made to wait

local function on_data(reply, text)
  local queue = reply.queue
  queue[#queue + 1] = text
  reply.bytes = reply.bytes + #text
  if reply.limit and reply.bytes > reply.limit then
    reply.call:cancel()
    reply.failure, reply.finished = ("the body is larger than max_body, %d bytes"):format(reply.limit), true
  elseif #queue - reply.taken >= PAUSE_PIECES and not reply.paused then
    reply.paused = true
    reply.call:pause(true)
  end
  notify(reply)
end

local function wait(reply)
  reply.reader = tasks.running()
  tasks.wait()
  reply.reader = nil
end

-- The next piece of the body, nil at its end; nil and a message when it broke off.
function Reply:read()
  while true do
    if self.taken < #self.queue then
      self.taken = self.taken + 1
      local text = self.queue[self.taken]
      if self.taken == #self.queue then self.queue, self.taken = {}, 0 end
      if self.paused and self.taken == 0 then
        self.paused = false
        self.call:pause(false)
      end
      return text
    end
    if self.finished then return nil, self.failure end
    wait(self)
  end
end

-- The whole body, or what is left of it; nil and a message when it broke off.
function Reply:text()
  local parts = {}
  while true do
    local text, message = self:read()
    if not text then
      if message then return nil, message end
      return table.concat(parts)
    end
    parts[#parts + 1] = text
  end
end

-- Gives the rest up. Done by itself when the task ends.
function Reply:close()
  self.call:cancel()
  self.finished = true
  tasks.disown(self)
end

local function start(url, options)
  local reply = setmetatable({ queue = {}, taken = 0, bytes = 0, limit = options.max_body }, Reply)
  local request = {}
  for name, value in pairs(options) do request[name] = value end
  request.url = url
  local call, message = net.fetch(tasks.loop(), request, function(status, headers)
    reply.status, reply.headers = status, headers
    notify(reply)
  end, function(text) on_data(reply, text) end, function(failure)
    reply.finished, reply.failure = true, failure
    notify(reply)
  end)
  if not call then return nil, message end
  reply.call = call
  return tasks.own(reply, Reply.close)
end

local function fetch(url, options)
  local reply, message = start(url, options)
  if not reply then return nil, message end
  while not reply.status and not reply.finished do wait(reply) end
  if not reply.status then return nil, reply.failure end
  if options.stream then return reply end
  reply.body, message = reply:text()
  tasks.disown(reply)
  if not reply.body then return nil, message end
  return reply
end

-- Sends a request and waits for the answer: in a task the others run meanwhile, in the main program it blocks.
-- options: method, headers, body, timeout (seconds for all of it), connect_timeout, idle_timeout, max_body (bytes),
-- unix (path of a socket), tls (of llm.net.tls), stream (true: return when the headers are there, and read the body
-- with reply:read()). Returns a reply with status, headers and body; or nil and a message. Any status is an answer.
function M.fetch(url, options)
  if type(url) ~= "string" then error("llm.fetch needs a URL; it got a " .. type(url), 2) end
  options = options or {}
  if options.stream and not tasks.running() then error("a streamed reply can only be read in a task", 2) end
  return tasks.run(fetch, url, options)
end

return M
