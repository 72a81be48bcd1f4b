-- What policy.test(t) gets: a policy tried without an engine. t:run{…} makes a sequence, whose hooks are called with
-- rows and candidates made up by the test.
--
--   function policy.test(t)
--     local run = t:run{ prompt = { 5, 6 }, args = { n = 2 } }
--     run:push(5)                                              -- a token of the output
--     assert(run:logits{ 0, 1, 2 }[1] == -math.huge)           -- a row from token 0 on; the row afterwards, from 0 on
--     assert(run:candidates{ { 7, 0.9 }, { 3, 0.1 } } == 7)     -- { token, prob }; what the hook chose
--   end

local ffi = require "ffi"
local views = require "llm.policy.views"

local MOST_TOKENS = 4096

local Trial, Run = {}, {}
Trial.__index, Run.__index = Trial, Run

local function copy_ids(to, ids)
  if #ids > MOST_TOKENS then error(("a trial takes %d tokens at most"):format(MOST_TOKENS), 3) end
  for i, id in ipairs(ids) do to[i - 1] = id end
  return #ids
end

-- options: prompt, output (lists of ids), args, seed, index.
function Trial:run(options)
  options = options or {}
  local c = ffi.new "struct llm_policy_run"
  local prompt = ffi.new("int32_t[?]", MOST_TOKENS)
  local output = ffi.new("int32_t[?]", MOST_TOKENS)
  c.prompt, c.output = prompt, output
  c.n_prompt, c.n_output = copy_ids(prompt, options.prompt or {}), copy_ids(output, options.output or {})
  c.seed, c.index = options.seed or 0, options.index or 0
  for name in pairs(options.args or {}) do
    if self.policy.defaults[name] == nil then error(("the policy has no parameter '%s'"):format(name), 2) end
  end
  local req = views.request(c, self.params_of(self.policy, options.args or {}))
  local run = setmetatable({ policy = self.policy, c = c, memory = { prompt, output }, ids = output, req = req,
                             graph_text = self.graph_text }, Run)
  if self.policy.init then self.policy.init(req) end
  return run
end

-- Adds a token to the output.
function Run:push(token)
  if self.c.n_output >= MOST_TOKENS then error("the output of a trial is full", 2) end
  self.ids[self.c.n_output] = token
  self.c.n_output = self.c.n_output + 1
end

-- The hook on a row, whose list begins with token 0 at 1. Returns {[id] = logit}.
function Run:logits(list)
  local data = ffi.new("float[?]", #list)
  for i, logit in ipairs(list) do data[i - 1] = logit end
  local row = ffi.new "struct policy_row"
  row.data, row.n, row.from = data, #list, #list
  local result = self.policy.logits(row, self.req)
  if result ~= nil then error("logits must return nothing", 2) end
  row.n = -1
  local after = {}
  for id = 0, #list - 1 do after[id] = data[id] end
  return after
end

-- The hook on candidates, a list of {token, prob}, likeliest first. Returns its choice, nil for none.
function Run:candidates(list)
  local data = ffi.new("struct llm_candidate[?]", #list)
  for i, c in ipairs(list) do
    local candidate = ffi.new("struct llm_candidate", c[1], c[2], math.log(c[2]))
    ffi.copy(ffi.cast("char *", data) + (i - 1) * ffi.sizeof(candidate), candidate, ffi.sizeof(candidate))
  end
  local best = ffi.new "struct policy_best"
  best.list, best.n = data, #list
  local token = self.policy.candidates(best, self.req)
  best.n = -1
  return token
end

-- The graph on a row, whose list begins with token 0 at 1, with the parameters of init. options: temperature, top_k,
-- top_p, min_p. Returns a token; or the row afterwards, from 0 on.
function Run:graph(list, options)
  local graph = self.traced
  if not graph then
    graph = assert(require("llm.core").graph(self.graph_text, #list))
    for name, value in pairs(self.req.params) do
      if self.graph_text:find("\nparam " .. name .. " ", 1, true) then assert(graph:set(name, value)) end
    end
    for name, value in pairs(self.req.graph) do assert(graph:set(name, value)) end
    self.traced = graph
  end
  local call = { logits = list, prompt = {}, output = {}, seed = tonumber(self.c.seed), stream = self.c.index }
  for i = 1, self.c.n_prompt do call.prompt[i] = self.c.prompt[i - 1] end
  for i = 1, self.c.n_output do call.output[i] = self.c.output[i - 1] end
  for name, value in pairs(options or {}) do call[name] = value end
  local result = assert(graph:run(call))
  if type(result) == "number" then return result end
  local after = {}
  for i, logit in ipairs(result) do after[i - 1] = logit end
  return after
end

function Run:done()
  if self.policy.done then self.policy.done(self.req) end
  views.close(self.req)
end

local M = {}

function M.new(policy, params_of, graph_text)
  return setmetatable({ policy = policy, params_of = params_of, graph_text = graph_text }, Trial)
end

return M
