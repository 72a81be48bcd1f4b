-- A prompt in a running server, which has to allow it: llmlua serve.lua --allow-attach --api-key KEY …
--   LLMLUA_API_KEY=KEY llmlua attach localhost:8000
--   llmlua attach localhost:8000 --api-key KEY --execute "kv()"

local llm = require "llm"

local opts = llm.options(arg, {
  summary = "A prompt in a running server: inspect requests, KV memory, policies and scripts; change and reload them.",
  engine = false,
  positional = { { name = "address", type = "string", required = true, help = "HOST:PORT, a URL, or unix:PATH" } },
  { name = "api_key", type = "string", help = "the server's key", default = "$LLMLUA_API_KEY" },
  { name = "execute", type = "string", help = "run this there and print what it is worth, in place of a prompt" },
})

local key = opts.api_key or os.getenv "LLMLUA_API_KEY"
if not key then llm.exit(2, "attach needs the server's key: --api-key, or LLMLUA_API_KEY in the environment") end
local ok, message = require("llm.repl").attach(opts.address, key, opts.execute)
if not ok then llm.exit(1, message) end
