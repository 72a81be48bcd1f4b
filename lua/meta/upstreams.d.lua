---@meta llm.upstreams

---@class llm
local llm = {}

---Several servers, or engines of this process, behind one handler.
---@class llm.Upstreams
local Upstreams = {}

---The handler of a route.
---@param make? fun(engine: llm.Engine, options?: table): function makes an engine's own, such as openai.chat; needed if there are engines
---@param options? table for make
---@return function handler
function Upstreams:handler(make, options) end

---The handler of GET /ready: 200 if some upstream is up.
---@param server? llm.Server
---@return function handler
function Upstreams:ready(server) end

---@return {name: string, up: boolean, load: number, in_flight: integer, requests: integer, failures: integer, known: integer}[]
function Upstreams:stats() end

---Who would get a request with this prompt now, and the bytes of its beginning that are known there.
---@param text? string
---@return string? name, integer bytes
function Upstreams:route(text) end

---Ends the looks at the servers; requests under way go on.
function Upstreams:close() end

---Makes a pool of upstreams: a list of engines, URLs, or tables of them with name, api_key, weight, unix, tls.
---@param options {balance?: "prefix"|"least_load"|"round_robin", attempts?: integer, interval?: number, health_path?: string, check_timeout?: number, connect_timeout?: number, idle_timeout?: number, slack?: number, [integer]: string|llm.Engine|table}
---@return llm.Upstreams
function llm.upstreams(options) end
