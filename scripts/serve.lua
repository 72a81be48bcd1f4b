-- Serves a model with the OpenAI API. Copy this file and change what you like.
--   llmlua serve.lua --model models/model.gguf --port 8000

local llm, openai = require "llm", require "llm.openai"

local opts = llm.options(arg, openai.options)
local engine = llm.try(llm.engine, opts)
local server = llm.try(llm.server, openai.server_options(opts))
llm.try(openai.policies, engine, opts) -- --policy, --policy-dir, --default-policy
llm.try(openai.protect, server, opts) -- access log, request ids, CORS, API keys, deadlines

server:post("/v1/completions", llm.try(openai.completions, engine, opts))
server:post("/v1/chat/completions", openai.chat(engine, opts))
server:post("/v1/responses", openai.responses(engine, opts))
server:post("/v1/messages", openai.messages(engine, opts))
server:post("/v1/messages/count_tokens", openai.count_tokens(engine, opts))
server:get("/v1/models", openai.models(engine, opts))
server:get("/v1/models/*id", openai.models(engine, opts))
server:post("/tokenize", openai.tokenize(engine, opts))
server:post("/detokenize", openai.detokenize(engine, opts))

server:get("/health", openai.live()) -- the process is alive
server:get("/ping", openai.live())
server:get("/ready", openai.ready(engine, server)) -- it should get requests
server:get("/version", openai.version())
server:get("/load", openai.load(engine, server))
server:get("/metrics", llm.metrics)
openai.page(server, engine, opts) -- a chat page at /

llm.try(assert, server:listen())
server:run(function() io.stderr:write(("Serving %s at %s\n"):format(engine.model, server:url())) end)
engine:close()
