-- Programs: functions that run beside one another, each in a task of its own, while the engine batches what they ask
-- for. They are structured: what a program has spawned ends with it, and an error or a cancellation of one branch of
-- llm.parallel ends the others.
--
-- In the main program, outside the event loop, llm.parallel and wait() run the loop until they have their answer.

local tasks = require "llm.task"

local Program = {}
Program.__index = Program

local M = { Program = Program }

-- A branch of parallel has ended.
local function settle(group, program)
  if program.ok then
    group.results[program.index] = program.results[1]
  elseif not group.failed then
    group.failed, group.failure = true, program.results[1]
  end
  group.n_done = group.n_done + 1
  tasks.wake(group.parent)
end

local function on_end(task, ok, ...)
  local program = task.program
  program.ok, program.results, program.done = ok, { n = select("#", ...), ... }, true
  local parent, waiters = program.parent, program.waiters
  if parent and parent.owned then parent.owned[program] = nil end
  program.parent, program.waiters = nil, nil
  if program.group then settle(program.group, program) end
  for _, waiter in ipairs(waiters or {}) do tasks.wake(waiter) end
end

-- Starts f(...) as a program of its own; it runs until its first wait before this returns. What a program opens is
-- closed when it ends, and so is what it spawns; sequences stay with the outermost.
function M.spawn(f, ...)
  if type(f) ~= "function" then error("llm.spawn needs a function; it got a " .. type(f), 2) end
  local parent = tasks.running()
  local program = setmetatable({ parent = parent }, Program)
  if parent then
    parent.owned = parent.owned or {}
    parent.owned[program] = Program.cancel
  end
  program.task = tasks.spawn(f, on_end, { program = program, root = parent and (parent.root or parent) }, ...)
  return program
end

-- Waits until the program has ended; returns what its function returned, or raises its error.
function Program:wait()
  if not self.done then
    if not tasks.running() then
      tasks.run(function() return pcall(self.wait, self) end)
    else
      local me = tasks.running()
      while not self.done do
        self.waiters = self.waiters or {}
        table.insert(self.waiters, me)
        tasks.wait()
      end
    end
  end
  if not self.ok then error(self.results[1], 0) end
  return unpack(self.results, 1, self.results.n)
end

-- Makes its present and later waits raise a cancellation, which ends it unless it catches that.
function Program:cancel(reason)
  if not self.done and self.task then tasks.cancel(self.task, type(reason) == "string" and reason or nil) end
end

local function start_branch(group, item, i)
  local branch = group.f and M.spawn(group.f, item, i) or M.spawn(item)
  branch.index, group.branches[i] = i, branch
  if branch.done then
    settle(group, branch)
  else
    branch.group = group
  end
end

local function run_branches(group, list, limit)
  local n, started = #list, 0
  while group.n_done < n and not group.failed do
    while started < n and started - group.n_done < limit and not group.failed do
      started = started + 1
      start_branch(group, list[started], started)
    end
    if group.n_done < n and not group.failed and (started == n or started - group.n_done >= limit) then tasks.wait() end
  end
end

local function parallel(list, f, limit)
  local group = { f = f, parent = tasks.running(), branches = {}, results = {}, n_done = 0 }
  local ok, why = pcall(run_branches, group, list, limit or #list)
  if ok and not group.failed then return group.results end
  for _, branch in pairs(group.branches) do branch:cancel("another branch has failed") end
  error(ok and group.failure or why, 0)
end

local function parallel_of_main(...)
  tasks.running().keeps_sequences = true -- the main program may be given them
  return parallel(...)
end

-- llm.parallel{ f, g, … } or llm.parallel(list, f [, { limit = n }]): runs the functions, or f(item, i) for each item,
-- beside one another, at most `limit` at a time; returns the list of their (first) results. If one raises, the others
-- are canceled and its error is raised.
function M.parallel(list, f, options)
  if type(list) ~= "table" then error("llm.parallel needs a list; it got a " .. type(list), 2) end
  if f ~= nil and type(f) ~= "function" then error("llm.parallel needs a function; it got a " .. type(f), 2) end
  local limit = options and options.limit
  if tasks.running() then return parallel(list, f, limit) end
  return tasks.run(parallel_of_main, list, f, limit)
end

return M
