-- Runs the Lua tests in the program they test: build/llmlua tests/lua/run.lua [spec files or busted options].
-- The last line it prints is "lua: N passed, N failed, N skipped".

local llm = require "llm"

local here = arg[0]:match("^(.*)/") or "."
package.path = here .. "/?.lua;" .. package.path
require "support" -- sees arg as it is now

local given = { unpack(arg) }
if not (given[1] and given[1]:sub(1, 1) ~= "-") then table.insert(given, 1, here) end
rawset(_G, "arg", { [0] = arg[0], "--pattern=_spec%.lua$", "--output=" .. here .. "/report.lua", unpack(given) })

local ok, failure = pcall(require "busted.runner", { standalone = false })
if not ok then
  if failure ~= nil then error(failure, 0) end
  llm.exit(1)
end
