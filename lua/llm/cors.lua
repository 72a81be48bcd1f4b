-- Cross-origin requests, as a layer of the server: what a page of another origin may ask for.

local M = {}

local METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
local EXPOSED = "X-Request-Id, x-llmlua-warning, Retry-After"
local MAX_AGE = "600"

-- options: origins: list of origins, or { "*" }. Comes before auth: a preflight brings no key.
function M.layer(options)
  local any, known = false, {}
  for _, origin in ipairs(options.origins) do
    if origin == "*" then any = true else known[origin:gsub("/$", "")] = true end
  end
  return function(req, res, next_layer)
    local origin = req:header "origin"
    if not origin then return next_layer(req, res) end
    if not any then res:header("Vary", "Origin") end
    if any or known[origin] then
      res:header("Access-Control-Allow-Origin", any and "*" or origin)
      res:header("Access-Control-Expose-Headers", EXPOSED)
      if req.method == "OPTIONS" and req:header "access-control-request-method" then
        res:header("Access-Control-Allow-Methods", METHODS)
        res:header("Access-Control-Allow-Headers", req:header "access-control-request-headers" or "*")
        res:header("Access-Control-Max-Age", MAX_AGE)
        return res:status(204):finish()
      end
    end
    return next_layer(req, res)
  end
end

return M
