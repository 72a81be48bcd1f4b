-- What one rendering may cost. Templates can come from clients, so every loop turn, call and string that the
-- runtime makes is charged here, and a rendering that asks for too much ends with an error.
--
-- A step is about the work of one small operation; BYTES_PER_STEP bytes of text produced count as one too. The
-- state is one per Lua state, because a rendering never yields.

local errors = require "llm.jinja.errors"

local M = {
  DEFAULT_STEPS = 3e6,          -- at most about a second of work; a 10,000-message chat needs about a tenth
  DEFAULT_OUTPUT = 16 * 2 ^ 20, -- bytes of one rendering, and of any one string inside it
  MAX_CALL_DEPTH = 200,         -- macros inside macros
  MAX_VALUE_DEPTH = 200,        -- lists inside lists, when printed, compared or serialized
}

local BYTES_PER_STEP = 64

local steps_left, output_left, output_limit, call_depth = 0, 0, 0, 0

local function out_of_steps()
  errors.raise("LimitError", "the template takes too many steps")
end

local function out_of_room()
  errors.raise("LimitError", "the template makes more than " .. output_limit .. " bytes of text")
end

-- Starts a new account; returns a token that `finish` takes to restore the one before (renderings may nest).
function M.start(max_steps, max_output)
  local saved = { steps_left, output_left, output_limit, call_depth }
  steps_left = max_steps or M.DEFAULT_STEPS
  output_limit = max_output or M.DEFAULT_OUTPUT
  output_left, call_depth = output_limit, 0
  return saved
end

function M.finish(saved)
  steps_left, output_left, output_limit, call_depth = saved[1], saved[2], saved[3], saved[4]
end

function M.spend(n)
  steps_left = steps_left - n
  if steps_left < 0 then out_of_steps() end
end

-- Charges a string of `bytes` that is about to be made.
function M.text(bytes)
  if bytes > output_limit then out_of_room() end
  steps_left = steps_left - 1 - bytes / BYTES_PER_STEP
  if steps_left < 0 then out_of_steps() end
end

-- Charges `bytes` that go into an output buffer.
function M.output(bytes)
  output_left = output_left - bytes
  if output_left < 0 then out_of_room() end
  steps_left = steps_left - 1
  if steps_left < 0 then out_of_steps() end
end

-- Bytes written to a buffer that was captured by a macro or a block come back as a value: not output yet.
function M.refund_output(bytes)
  output_left = output_left + bytes
end

function M.enter_call()
  call_depth = call_depth + 1
  if call_depth > M.MAX_CALL_DEPTH then
    errors.raise("RecursionError", "maximum recursion depth exceeded")
  end
end

function M.leave_call()
  call_depth = call_depth - 1
end

return M
