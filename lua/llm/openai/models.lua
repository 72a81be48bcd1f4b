-- GET /v1/models and /v1/models/:id

local json = require "llm.json"
local service_module = require "llm.openai.service"

local M = {}

local order = { "id", "object", "created", "owned_by", "root", "parent", "max_model_len" }

local function card(service, name)
  return json.object({ id = name, object = "model", created = service.created, owned_by = "llmlua",
                       root = service.engine.model, parent = json.null,
                       max_model_len = service.info.max_model_len }, order)
end

-- The list, or the one of the route's parameter "id".
function M.handler(engine, options)
  local service = service_module.of(engine, options)
  return function(req, res)
    local id = req.params.id
    if id then
      service:check_model(id)
      return res:json(card(service, id))
    end
    local data = json.array()
    for i, name in ipairs(service.names) do data[i] = card(service, name) end
    res:json(json.object({ object = "list", data = data }, { "object", "data" }))
  end
end

return M
