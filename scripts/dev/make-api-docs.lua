-- Writes docs/api.md from lua/meta/llm.d.lua, as it was when the program was built.
--   build/llmlua scripts/dev/make-api-docs.lua >docs/api.md
io.write(require("llm.reference").markdown())
