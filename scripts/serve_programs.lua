-- Serves programs over HTTP: each at POST /programs/NAME with its arguments as JSON.
--   llmlua serve_programs.lua --model models/model.gguf --port 8000
--   curl localhost:8000/programs/best_of_n -d '{"prompt": "The sea is", "n": 8}'

local llm, openai, servable = require "llm", require "llm.openai", require "llm.servable"

local opts = llm.options(arg, {
  summary = "Serves programs over HTTP: each at POST /programs/NAME, a list of them at GET /programs.",
  { name = "host", type = "string", initial = "127.0.0.1", help = "address to listen at" },
  { name = "port", type = "integer", initial = 8000, min = 0, max = 65535, help = "0: any" },
  { name = "programs", type = "path", help = "directory of programs", default = "the bundled examples" },
})
local engine = llm.try(llm.engine, opts)
local server = llm.try(llm.server, { host = opts.host, port = opts.port })
local programs = llm.try(servable.load, opts.programs)

local list = {}
for name, program in pairs(programs) do
  server:post("/programs/" .. name, program:handler(engine))
  list[name] = program:describe()
end
server:get("/programs", function(_, res) res:json(llm.json.object(list)) end)
server:post("/v1/completions", openai.completions(engine, opts)) -- beside them, the API that agents outside use
server:post("/v1/chat/completions", openai.chat(engine, opts))
server:get("/v1/models", openai.models(engine, opts))
server:get("/health", openai.live())
server:get("/metrics", llm.metrics)

llm.try(assert, server:listen())
io.stderr:write(("Serving programs on %s at %s\n"):format(engine.model, server:url()))
server:run()
engine:close()
