-- Serves several servers as one: no model here, requests go where their prompt's beginning is known, or where there is
-- the least to do. Copy this file and change what you like.
--   llmlua router.lua --upstream http://10.0.0.1:8000 --upstream http://10.0.0.2:8000 --port 8080

local llm, openai = require "llm", require "llm.openai"

local opts = llm.options(arg, {
  summary = "Routes requests to servers with the OpenAI API: llmlua's, or others.",
  engine = false,
  { name = "upstream", type = "string", many = true, help = "address of a server; repeat for each" },
  { name = "upstream_api_key", type = "string", help = "the key they want", default = "the client's own" },
  { name = "balance", type = "string", choices = { "prefix", "least_load", "round_robin" }, initial = "prefix",
    help = "who gets a request" },
  { name = "attempts", type = "integer", min = 1, initial = 3, help = "servers that are asked before the first token" },
  { name = "check_interval", type = "number", min = 0, initial = 1, help = "seconds between two looks at a server" },
  { name = "host", type = "string", help = "address to listen on", default = "all" },
  { name = "port", type = "integer", initial = 8080, min = 0, max = 65535, help = "port to listen on; 0: any free one" },
  { name = "api_key", type = "string", many = true, help = "let in who brings this key" },
  { name = "api_key_file", type = "path", help = "keys, one a line" },
  { name = "request_timeout", type = "number", min = 0, help = "give a request up after so many seconds",
    default = "never" },
  { name = "disable_access_log", type = "boolean", initial = false, help = "no line for each request" },
})

if not opts.upstream then llm.exit(2, "give the servers: --upstream http://HOST:PORT, once for each") end
local upstreams = { balance = opts.balance, attempts = opts.attempts, interval = opts.check_interval }
for i, url in ipairs(opts.upstream) do upstreams[i] = { url = url, api_key = opts.upstream_api_key } end
local pool = llm.try(llm.upstreams, upstreams)
local server = llm.try(llm.server, openai.server_options(opts))
llm.try(openai.protect, server, opts) -- access log, request ids, CORS, API keys, deadlines

local pass = pool:handler()
for _, path in ipairs { "/v1/*path", "/tokenize", "/detokenize" } do
  server:get(path, pass)
  server:post(path, pass)
end
server:get("/health", openai.live())
server:get("/ready", pool:ready(server))
server:get("/version", openai.version())
server:get("/upstreams", function(_, res) res:json(llm.json.array(pool:stats())) end)
server:get("/metrics", llm.metrics)

llm.try(assert, server:listen())
server:run(function() io.stderr:write(("Serving %d upstreams at %s\n"):format(#opts.upstream, server:url())) end)
