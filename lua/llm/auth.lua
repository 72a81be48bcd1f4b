-- API keys, as a layer of the server: server:use(auth.layer{ keys = { "secret" } }).

local bit = require "bit"
local http = require "llm.http"

local M = {}

-- Does a equal b, in a time that depends on the length of a alone?
local function equal(a, b)
  local n, difference = #b, bit.bxor(#a, #b)
  for i = 1, #a do
    difference = bit.bor(difference, bit.bxor(a:byte(i), n > 0 and b:byte((i - 1) % n + 1) or 0))
  end
  return difference == 0
end
M.equal = equal

-- The key that fits, nil if none does. All are compared, whichever it is.
local function known(keys, given)
  local found
  for _, key in ipairs(keys) do
    if equal(given, key) then found = key end
  end
  return found
end

-- The keys in a file: one a line, after it, if it has one, the name of the tenant whose key it is; empty lines and those
-- that begin with # do not count. And {key = tenant}. Or nil and a message.
function M.read_keys(path)
  local file, message = io.open(path, "rb")
  if not file then return nil, "cannot read the API keys: " .. message end
  local keys, tenants = {}, {}
  for line in file:lines() do
    local key, tenant = line:match "^%s*(%S*)%s*(.-)%s*$"
    if key ~= "" and key:sub(1, 1) ~= "#" then
      keys[#keys + 1] = key
      if tenant ~= "" then tenants[key] = tenant end
    end
  end
  file:close()
  if #keys == 0 then return nil, ("there is no API key in %s"):format(path) end
  return keys, tenants
end

-- The key a request brings: "Authorization: Bearer KEY", or Anthropic's "x-api-key: KEY". "" if none.
local function key_of(req)
  local authorization = req:header "authorization"
  local key = authorization and authorization:match "^[Bb][Ee][Aa][Rr][Ee][Rr] +(.-) *$"
  return key or req:header "x-api-key" or ""
end

-- A layer that lets nobody in without a key, and notes whose it is in req.ctx.tenant. options: keys (a list), tenants
-- ({key = name}), open: set of paths that need none. The path is
-- the one the router goes by, so that no other spelling of it gets around.
function M.layer(options)
  local keys, open = options.keys, options.open or { ["/health"] = true, ["/ping"] = true }
  return function(req, res, next_layer)
    local key = known(keys, key_of(req))
    req.ctx.tenant = key and options.tenants and options.tenants[key]
    if not key and not open[req.path] then
      http.error(401, key_of(req) == "" and "this server needs an API key: send the header Authorization: Bearer KEY"
        or "the API key is not valid", { type = "AuthenticationError", headers = { ["WWW-Authenticate"] = "Bearer" } })
    end
    return next_layer(req, res)
  end
end

return M
