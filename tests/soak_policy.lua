-- Reloads a policy while the engine is busy: each request's tokens must be those of the one generation that was active
-- when it was submitted; a file that does not load changes nothing.
--   llmlua tests/soak_policy.lua [--reloads 1000] [--batch 32] [--model MODEL]

local llm = require "llm"

local opts = llm.options(arg, {
  summary = "Reloads a policy at full load.",
  { name = "reloads", type = "integer", initial = 1000, help = "of which every tenth does not load" },
  { name = "batch", type = "integer", initial = 32, help = "requests at once" },
  { name = "tokens", type = "integer", initial = 12, help = "a request" },
})
opts.model = opts.model or "models/SmolLM2-135M-Instruct.Q4_1.gguf"
opts.max_model_len = opts.max_model_len or 256
local engine = llm.engine(opts)

-- Generation k writes the token 100 + k and nothing else, by one hook or the other, or by a graph.
local bodies = {
  "function policy.candidates(c, req) return %d end",
  "function policy.logits(row, req) row:keep{ %d } end",
  "function policy.graph(g, x) return g.mask(x, g.set{ %d }) end",
}

local function text_of(k)
  return ('local policy = require "llm".policy "stamp"\n' .. bodies[k % #bodies + 1] .. "\n%s"):format(100 + k,
    k % 10 == 0 and "error 'on purpose'" or "")
end

local active, failures, wrong, n_requests, n_tokens = nil, 0, 0, 0, 0
local times = {}

local function reload(k)
  local start = llm.now()
  local ok = pcall(engine.load_policy, engine, "stamp", text_of(k))
  times[#times + 1] = llm.now() - start
  if ok == (k % 10 == 0) then failures = failures + 1 end
  if ok then active = k end
end

local streams = {}

local function top_up()
  while #streams < opts.batch do
    streams[#streams + 1] = { engine:stream("Once upon a time", { policy = "stamp", max_tokens = opts.tokens,
      ignore_eos = true, detokenize = false, temperature = n_requests % 2 }), 100 + active, 0 }
    n_requests = n_requests + 1
  end
end

local function check(stream)
  while true do
    local ok, delta = pcall(stream[1].poll, stream[1])
    if not ok then
      failures = failures + 1
      io.stderr:write(tostring(delta), "\n")
      return
    end
    if not delta then return end
    for _, token in ipairs(delta.token_ids) do
      n_tokens, stream[3] = n_tokens + 1, stream[3] + 1
      if token ~= stream[2] then wrong = wrong + 1 end
    end
  end
end

local start = llm.now()
reload(1)
local k = 1
while k < opts.reloads or #streams > 0 do
  if k < opts.reloads then
    top_up()
    k = k + 1
    reload(k)
  end
  engine:wait(0.05)
  for i = #streams, 1, -1 do
    check(streams[i])
    if streams[i][1].done then
      if streams[i][3] ~= opts.tokens then failures = failures + 1 end
      table.remove(streams, i)
    end
  end
end

table.sort(times)
local alive = #engine:policies()
print(("%d reloads, %d requests, %d tokens in %.1f s; %d failures, %d tokens of another generation"):format(#times,
  n_requests, n_tokens, llm.now() - start, failures, wrong))
print(("a reload: %.2f ms (median), %.2f ms (longest); %d generations left"):format(times[math.ceil(#times / 2)] * 1e3,
  times[#times] * 1e3, alive))
engine:close()
if failures + wrong > 0 or alive > 4 then llm.exit(1) end
