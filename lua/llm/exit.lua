-- How a script ends itself: an error value that the llmlua program reports without a traceback. Unlike os.exit it
-- unwinds, so engines are closed, and a test can catch it.

local Exit = {}
Exit.__index = Exit
function Exit:__tostring() return self.message or ("exit code " .. self.exit_code) end

-- Ends the script. code: the process's exit code; message, if given, goes to stderr.
return function(code, message)
  error(setmetatable({ exit_code = code or 0, message = message }, Exit), 0)
end
