-- Traces the graphs of scripts/policies, and some of docs/graph.md's functions, into tests/golden/graphs: what devices
-- compile is tested on these.
-- usage: build/llmlua tests/golden/make_graphs.lua [DIR]     DIR: tests/golden/graphs

local graph = require "llm.graph"

local dir = arg[1] or "tests/golden/graphs"

local function write(name, text)
  local file = assert(io.open(dir .. "/" .. name .. ".graph", "w"))
  file:write(text)
  file:close()
end

-- What policies ask of a tokenizer when they are loaded; the graphs do not depend on it.
local digits = { [0] = "-" }
for i = 0, 9 do digits[#digits + 1] = tostring(i) end
local tokenizer = {
  info = function() return { vocab_size = 12 } end,
  token_bytes = function(_, id) return digits[id] or "x" end,
  end_tokens = function() return { 11 } end,
  encode = function() return { 0 } end,
}

for _, name in ipairs{ "allow_list", "cool_down", "dry", "dynamic_temperature", "epsilon", "eta", "green_list_watermark",
                       "gumbel_watermark", "min_p", "mirostat_v2", "quadratic_smoothing", "regex_constrained", "top_a",
                       "typical", "xtc" } do
  local library = { tokenizer = function() return tokenizer end, vocab_size = 12 }
  write(name, graph.load("scripts/policies/" .. name .. ".lua", library).text)
end

local functions = {
  ban_token = function(g, x) return g.mask(x, g.lnot(g.set{ 5 })) end,
  default = function(g, x) return g.default(x) end,
  penalize = function(g, x)
    return g.penalize(x, { repetition = 1.1, frequency = 0.2, presence = 0.1 }) - g.where(g.gt(g.recent(20), 2), 1, 0)
  end,
  no_repeat = function(g, x) return g.sample(g.mask(x, g.lnot(g.ge(g.repeats(), 3)))) end,
  top_k_top_p = function(g, x) return g.sample(g.top_p(g.top_k(x / 0.8, 40), 0.9)) end,
}
for name, f in pairs(functions) do write(name, (graph.trace(f))) end
