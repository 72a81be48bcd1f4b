-- From a method and a path to a handler. Patterns: "/v1/models", "/v1/models/:id" (one segment), "/files/*path" (the
-- rest, slashes and all). Plain paths are found by one look-up; patterns in the order they were added.

local M = {}
M.__index = M

function M.new() return setmetatable({ plain = {}, patterns = {} }, M) end

-- "/a/:b/*c" -> a Lua pattern and the names of its captures.
local function compile(path)
  local names, parts = {}, {}
  for slash, segment in path:gmatch "(/)([^/]*)" do
    local kind, name = segment:match "^([:*])([%a_][%w_]*)$"
    parts[#parts + 1] = slash
    if kind then
      names[#names + 1] = name
      parts[#parts + 1] = kind == ":" and "([^/]+)" or "(.+)"
    else
      parts[#parts + 1] = segment:gsub("%p", "%%%0")
    end
  end
  return "^" .. table.concat(parts) .. "$", names
end

local function methods_of(router, path)
  if not path:find "/[:*]" then
    router.plain[path] = router.plain[path] or {}
    return router.plain[path]
  end
  for _, entry in ipairs(router.patterns) do
    if entry.path == path then return entry.methods end
  end
  local pattern, names = compile(path)
  local entry = { path = path, pattern = pattern, names = names, methods = {} }
  table.insert(router.patterns, entry)
  return entry.methods
end

-- Adds a handler. The same method and path again replaces it.
function M:add(method, path, handler)
  if type(path) ~= "string" or path:sub(1, 1) ~= "/" then error("a route's path begins with '/'", 3) end
  if type(handler) ~= "function" then
    error(("the handler of %s %s must be a function; it is a %s"):format(method, path, type(handler)), 3)
  end
  methods_of(self, path)[method] = { handler = handler, path = path, method = method }
end

local function captured(entry, ...)
  if not ... then return nil end
  local params = {}
  for i, name in ipairs(entry.names) do params[name] = (select(i, ...)) end
  return params
end

local function lookup(self, path)
  local methods = self.plain[path]
  if methods then return methods, {} end
  for _, entry in ipairs(self.patterns) do
    local params = captured(entry, path:match(entry.pattern))
    if params then return entry.methods, params end
  end
end

-- The route ({handler, path, method}) and its parameters. Nothing: no such path. false and the sorted list of
-- methods: the path has no such method. GET answers HEAD too.
function M:find(method, path)
  local methods, params = lookup(self, path)
  if not methods then return nil end
  local route = methods[method] or method == "HEAD" and methods.GET
  if route then return route, params end
  local allowed = { "OPTIONS" }
  for name in pairs(methods) do allowed[#allowed + 1] = name end
  if methods.GET and not methods.HEAD then allowed[#allowed + 1] = "HEAD" end
  table.sort(allowed)
  return false, allowed
end

return M
