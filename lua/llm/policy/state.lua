-- The Lua half of policy_host.c: runs a policy's file in a state of its own, checks and tests what it registers, and
-- makes requests of sequences. In such a state `require "llm"` is the small library below, not the program's.

local core = require "llm.core" -- knows the type of the tokenizer's handle
local ffi = require "ffi"
local scheduling = require "llm.policy.scheduling"
local suggest = require "llm.suggest"
local views = require "llm.policy.views"

local HOOKS = { "init", "logits", "candidates", "graph", "done", "test" }
local FIELDS = { "init", "logits", "candidates", "graph", "done", "test", "on_error", "max_candidates", "name",
                 "defaults", "ranges", "help" }
local MOST_CANDIDATES = 256

local registered -- the policy of this state

-- ---- the library ---------------------------------------------------------------------------------------------

local llm = {}

-- Makes the policy of this file. defaults: its parameters and what they are where a request gives none.
function llm.policy(name, defaults)
  if type(name) ~= "string" or #name > 63 or not name:find "^[%a_][%w_.-]*$" then
    error("the name of a policy must be letters, digits and _ . -, 63 at most, and begin with a letter", 2)
  end
  if registered then error(("a file makes one policy; this one has made '%s'"):format(registered.name), 2) end
  for key, value in pairs(defaults or {}) do
    if type(key) ~= "string" then error("the parameters of a policy have names", 2) end
    if not ({ number = 1, boolean = 1, string = 1, table = 1 })[type(value)] then
      error(("the default of %s is a %s; it must be a number, a boolean, a string or a table")
        :format(key, type(value)), 2)
    end
  end
  registered = { name = name, defaults = defaults or {} }
  return registered
end

-- Makes the scheduler of this file: { on_arrival = function(req), on_finish = function(req), on_preempt = function(list) }.
function llm.scheduler(functions)
  if registered then error("a file makes one policy or one scheduler", 2) end
  registered = { scheduler = scheduling.new(functions), name = functions.name }
  return registered
end

local function lazily(modules)
  return setmetatable(llm, { __index = function(t, name)
    local module = modules[name]
    if not module then error(("in a policy, llm has no '%s'"):format(tostring(name)), 2) end
    t[name] = require(module)
    return t[name]
  end })
end
lazily { json = "llm.json", table = "llm.table", graph = "llm.graph" }
function llm.now() return core.now() end
function llm.version() return core.version end

local function no_tokenizer() error("the model has no tokenizer", 2) end

local function open_library(seam)
  llm.vocab_size = seam.vocab_size
  if seam.tokenizer then
    local tokenizer = require("llm.tokenizer").over(seam.tokenizer, "the engine's")
    views.token_text = function(id) return tokenizer:token_text(id) end
    llm.tokenizer = function() return tokenizer end
    llm.token_text = views.text_of
  else
    llm.tokenizer, llm.token_text = no_tokenizer, no_tokenizer
  end
  package.loaded.llm = llm
end

-- ---- requests ------------------------------------------------------------------------------------------------

-- The parameters of a request: the defaults, and over them what was given.
local function params_of(policy, given)
  local params = {}
  for name, value in pairs(policy.defaults) do params[name] = value end
  for name, value in pairs(given) do
    local range = policy.ranges and policy.ranges[name]
    if range and not (value >= range[1] and value <= range[2]) then
      error(("policy_args: %s is %.14g; it must be from %.14g to %.14g"):format(name, value, range[1], range[2]), 0)
    end
    params[name] = value
  end
  return params
end

local requests, free = {}, {} -- id -> request; ids that are free

local function beginner(policy, args_of)
  return function(run, args)
    local req = views.request(run, params_of(policy, args_of(args)))
    if policy.init then policy.init(req) end
    local id = table.remove(free) or #requests + 1
    requests[id] = req
    return id, next(req.graph) ~= nil and req.graph or nil
  end
end

local function finisher(policy)
  return function(id)
    local req = requests[id]
    requests[id] = false -- no hole, so that # stays true
    free[#free + 1] = id
    local ok, message = true, nil
    if policy.done then ok, message = pcall(policy.done, req) end
    views.close(req)
    if not ok then error(message, 0) end
  end
end

-- ---- loading -------------------------------------------------------------------------------------------------

local function check(policy)
  for name, value in pairs(policy) do
    local known = false
    for _, field in ipairs(FIELDS) do known = known or field == name end
    if not known then
      error(("policy '%s' has a field '%s'%s; its own data belongs in locals or in req.state"):format(policy.name,
        tostring(name), type(name) == "string" and suggest.hint(name, FIELDS) or ""), 0)
    end
    if name == "on_error" and value ~= "fail" and value ~= "ignore" then
      error(("policy '%s': on_error must be \"fail\" or \"ignore\""):format(policy.name), 0)
    end
  end
  for _, hook in ipairs(HOOKS) do
    local kind = type(policy[hook])
    if kind ~= "nil" and kind ~= "function" then
      error(("policy '%s': %s is a %s; it must be a function"):format(policy.name, hook, kind), 0)
    end
  end
  if not (policy.logits or policy.candidates or policy.graph or policy.init) then
    error(("policy '%s' has no hook: give it logits, candidates or graph"):format(policy.name), 0)
  end
  for name, range in pairs(policy.ranges or {}) do
    if type(policy.defaults[name]) ~= "number" or type(range) ~= "table" or not (range[1] <= range[2]) then
      error(("policy '%s': ranges.%s must be {least, greatest} of a parameter that is a number"):format(policy.name,
        tostring(name)), 0)
    end
  end
  local k = policy.max_candidates
  if k ~= nil and not (type(k) == "number" and k >= 1 and k <= MOST_CANDIDATES and k == math.floor(k)) then
    error(("policy '%s': max_candidates must be 1 to %d"):format(policy.name, MOST_CANDIDATES), 0)
  end
end

local function compare_sizes(sizes)
  for name, size in pairs(sizes) do
    local ours = views.sizes[name] or scheduling.sizes[name]
    if size ~= ours then error(("struct %s has %d bytes in C and %d here"):format(name, size, ours), 0) end
  end
end

local M = {}

-- seam: of policy_host.c. chunk: the file. Returns the views of the row and of the candidates, the table of requests,
-- the hooks logits and candidates, the functions that begin and finish a request, and a description; of a scheduler, in
-- their places, the functions that preempt, and that let a request come and end.
function M.load(seam, chunk)
  compare_sizes(seam.sizes)
  local draw = ffi.cast("double (*)(struct policy_sequence *)", seam.draw)
  views.draw = function(sequence) return draw(sequence) end
  open_library(seam)
  local returned = chunk()
  local policy = registered
  if not policy then
    error("the file makes no policy: it has to call llm.policy(name, defaults), or llm.scheduler{…}", 0)
  end
  if returned ~= nil and returned ~= policy then
    error(("the file returns a %s; it should return the policy, or nothing"):format(type(returned)), 0)
  end
  if policy.scheduler then
    local arrive, ended, preempt = scheduling.open(policy.scheduler)
    return nil, nil, requests, nil, preempt, arrive, ended, { name = policy.name, params = {}, scheduler = true }
  end
  check(policy)
  local graph, message
  if policy.graph then
    graph, message = require("llm.graph").trace(policy.graph, policy.defaults, policy.ranges)
    if not graph then error(message, 0) end
  end
  if policy.test then policy.test(require("llm.policy.trial").new(policy, params_of, graph)) end
  return ffi.cast("struct policy_row *", seam.row)[0], ffi.cast("struct policy_best *", seam.best)[0], requests,
    policy.logits, policy.candidates, beginner(policy, seam.args_of), finisher(policy),
    { name = policy.name, params = policy.defaults, graph = graph, ignore_errors = policy.on_error == "ignore",
      max_candidates = policy.max_candidates or 0, help = policy.help }
end

return M
