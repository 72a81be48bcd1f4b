-- The files of the server's script over HTTP: read them, write them and load what was written, for an editor in a
-- browser. Only files that the script consists of, only with an API key, which here is a key to the machine.

local auth = require "llm.auth"
local etag = require "llm.etag"
local fs = require "llm.fs"
local http = require "llm.http"
local read_file = require("llm.file").read

local M = {}

-- The path the request names, if it is a file of the script as it is or as it was last tried.
local function path_of(manager, req)
  local path = req:args().path
  if not path then http.error(400, "the query must name a file: ?path=FILE", { param = "path" }) end
  if not manager.active.files[path] and not manager.tried[path] then
    http.error(404, ("%s is no file of the server's script; GET /admin/scripts lists them"):format(path))
  end
  return path
end

local function text_of(path)
  local text, message = read_file(path)
  if not text then http.error(404, "cannot read the file: " .. message) end
  return text
end

local function get(manager, req, res)
  local text = text_of(path_of(manager, req))
  res:header("ETag", etag(text)):header("Cache-Control", "no-store"):send(text)
end

-- If-Match names the text that was changed: a change that somebody else made is not lost.
local function put(manager, req, res)
  local path = path_of(manager, req)
  local tag = req:header "if-match"
  if not tag then http.error(428, "the header If-Match must be the ETag of the text that was changed") end
  if tag ~= etag(text_of(path)) then http.error(412, ("%s has changed meanwhile; read it again"):format(path)) end
  local ok, message = fs.replace(path, req.body)
  if not ok then http.error(500, message) end
  res:header("ETag", etag(req.body))
  manager:answer(res, manager:reload())
end

local function handler(server, f)
  return function(req, res)
    local manager = server.main.manager
    if not manager or not manager.script then
      http.error(409, "there is no script file to edit: a bundled script must be copied to a file first")
    end
    local keys = server.main.active.admin_keys
    if #keys == 0 then http.error(403, "scripts are edited with an API key: start the server with --api-key") end
    return auth.layer { keys = keys, open = {} }(req, res, function() return f(manager, req, res) end)
  end
end

-- Adds GET and PUT /admin/file?path=FILE. PUT writes the file and loads the script: it answers as POST /admin/reload.
function M.mount(server)
  server:get("/admin/file", handler(server, get))
  server:put("/admin/file", handler(server, put))
end

return M
