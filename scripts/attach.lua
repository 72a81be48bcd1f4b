-- A prompt in a running server, which has to allow it: llmlua serve.lua --allow-attach --api-key KEY …
--   LLMLUA_API_KEY=KEY llmlua attach localhost:8000
--   llmlua attach localhost:8000 --api-key KEY --execute "kv()"

local llm = require "llm"

local opts = llm.options(arg, {
  summary = "A prompt in a running server: inspect requests, KV memory, policies and scripts; change and reload them.",
  engine = false,
  positional = { { name = "address", type = "string", required = true, help = "HOST:PORT, or a URL" } },
  { name = "api_key", type = "string", help = "the server's key", default = "$LLMLUA_API_KEY" },
  { name = "execute", type = "string", help = "run this there and print what it is worth, in place of a prompt" },
})

local url = opts.address:find "://" and opts.address or "http://" .. opts.address
local key = opts.api_key or os.getenv "LLMLUA_API_KEY"
if not key then llm.exit(2, "attach needs the server's key: --api-key, or LLMLUA_API_KEY in the environment") end
url = url:gsub("/+$", "")
local ok, message = require("llm.repl").attach(url, key, opts.execute)
if not ok then llm.exit(1, message) end
