-- The Lua half of a scheduler (lua/scheduler_host.c): what on_arrival, on_finish and on_preempt see, and what they may
-- change. Runs in the scheduler's own state.

local ffi = require "ffi"

-- The structs of core/llmlua.h.
ffi.cdef [[
struct llm_arrival {
  uint64_t id;
  const int32_t *prompt;
  const char *cache_salt;
  int32_t n_prompt, n, max_output;
  int32_t n_running, n_waiting, n_blocks, n_blocks_used;
  char tenant[64];
  int32_t priority;
  float weight;
  double timeout;
  int isolate;
  int32_t refusal;
  char message[256];
  void *own;
};
struct llm_victim {
  uint64_t id;
  int32_t index, priority;
  int32_t n_prompt, n_output, n_preemptions;
  const char *tenant;
  void *own;
};
]]

local M = { sizes = { llm_arrival = ffi.sizeof "struct llm_arrival", llm_victim = ffi.sizeof "struct llm_victim" } }

local FINISHES = { "stop", "length", "abort", "error" } -- of enum llm_finish_reason, from 1

-- ---- requests ------------------------------------------------------------------------------------------------

local Request = {}
Request.__index = Request

-- Ids of the prompt's tokens, the first n (all). In on_arrival only.
function Request:tokens(n)
  local arrival = rawget(self, "arrival")
  if not arrival then error("the prompt can be read in on_arrival only", 2) end
  local ids = {}
  for i = 1, math.min(n or arrival.n_prompt, arrival.n_prompt) do ids[i] = arrival.prompt[i - 1] end
  return ids
end

local function request_of(a)
  return setmetatable({
    arrival = a, id = tonumber(a.id), tenant = a.tenant[0] ~= 0 and ffi.string(a.tenant) or nil, priority = a.priority,
    weight = a.weight, timeout = a.timeout > 0 and a.timeout or nil, isolate = a.isolate ~= 0,
    cache_salt = a.cache_salt ~= nil and ffi.string(a.cache_salt) or nil, n_prompt = a.n_prompt, n = a.n,
    max_tokens = a.max_output, state = {}, engine = { running = a.n_running, waiting = a.n_waiting,
                                                      blocks = a.n_blocks, blocks_used = a.n_blocks_used } }, Request)
end

local function wrong(name, value, must) error(("req.%s is %s; it must be %s"):format(name, tostring(value), must), 0) end

local function is_number(value, least, most) return type(value) == "number" and value >= least and value <= most end

local function write_back(a, req)
  local tenant, timeout = req.tenant or "", req.timeout or 0
  if type(tenant) ~= "string" or #tenant > 63 or tenant:find "%z" then wrong("tenant", tenant, "text of at most 63 bytes") end
  if not is_number(req.priority, -2 ^ 31, 2 ^ 31 - 1) then wrong("priority", req.priority, "a whole number") end
  if not is_number(req.weight, 1e-6, 1e6) then wrong("weight", req.weight, "a number from 1e-6 to 1e6") end
  if not is_number(timeout, 0, 1e9) then wrong("timeout", timeout, "seconds, or nil for none") end
  ffi.copy(a.tenant, tenant)
  a.priority, a.weight, a.isolate = req.priority, req.weight, req.isolate and 1 or 0
  if timeout ~= (a.timeout > 0 and a.timeout or 0) then a.timeout = timeout end
end

local function write_refusal(a, status, message)
  if status == nil or status == true then return end
  if status == false then status = 503 end
  if not is_number(status, 400, 599) or status ~= math.floor(status) then
    error(("on_arrival returned %s; it must return nothing, or a status from 400 to 599 and a message")
      :format(tostring(status)), 0)
  end
  a.refusal = status
  ffi.copy(a.message, tostring(message or "the server refuses this request now"):sub(1, 255))
end

local requests, free = {}, {} -- number -> request; numbers that are free

local function arriver(on_arrival, keep)
  return function(address)
    local a = ffi.cast("struct llm_arrival *", address)
    local req = request_of(a)
    if on_arrival then
      local status, message = on_arrival(req)
      write_back(a, req)
      write_refusal(a, status, message)
    end
    req.arrival = nil
    if not keep then return 0 end
    local number = table.remove(free) or #requests + 1
    requests[number] = req
    return number
  end
end

local function ender(on_finish)
  return function(number, finish, n_output)
    local req = requests[number]
    requests[number] = false -- no hole, so that # stays true
    free[#free + 1] = number
    if not on_finish then return end
    req.finish_reason, req.n_output = FINISHES[finish], n_output
    on_finish(req)
  end
end

local function preempter(on_preempt)
  return function(address, n)
    local victims, list = ffi.cast("const struct llm_victim *", address), {}
    for i = 1, n do
      local v = victims[i - 1]
      list[i] = { id = tonumber(v.id), index = v.index, priority = v.priority, n_prompt = v.n_prompt,
                  n_output = v.n_output, n_preemptions = v.n_preemptions,
                  tenant = v.tenant[0] ~= 0 and ffi.string(v.tenant) or nil,
                  req = requests[tonumber(ffi.cast("intptr_t", v.own))] or nil }
    end
    local choice = on_preempt(list)
    if choice == nil then return n end
    for i = 1, n do
      if choice == i or choice == list[i] then return i end
    end
    error(("on_preempt returned %s; it must return one of the list, its place, or nil"):format(tostring(choice)), 0)
  end
end

-- ---- loading -------------------------------------------------------------------------------------------------

local FIELDS = { name = "string", on_arrival = "function", on_finish = "function", on_preempt = "function",
                 test = "function" }

-- The scheduler that llm.scheduler makes of a table.
function M.new(given)
  if type(given) ~= "table" then error("llm.scheduler needs a table of functions", 3) end
  for name, value in pairs(given) do
    if not FIELDS[name] then
      error(("a scheduler has no '%s'; it has on_arrival, on_finish, on_preempt, test and name"):format(tostring(name)), 3)
    end
    if type(value) ~= FIELDS[name] then
      error(("the scheduler's %s is a %s; it must be a %s"):format(name, type(value), FIELDS[name]), 3)
    end
  end
  if not (given.on_arrival or given.on_finish or given.on_preempt) then
    error("the scheduler has neither on_arrival nor on_finish nor on_preempt", 3)
  end
  given.name = given.name or "scheduler"
  if not given.name:find "^[%w_%-]+$" or #given.name > 63 then error("the scheduler's name must be letters, digits, _ and -", 3) end
  return given
end

-- What test(try) is given: try{ tenant = …, priority = …, n_prompt = … } is a request that comes. Returns the status and
-- the message with which it is refused, or nil; and the request.
local function trial(scheduler)
  return function(fields)
    local a = ffi.new "struct llm_arrival"
    a.n, a.weight, a.n_prompt, a.max_output = 1, 1, 0, 16
    local req = request_of(a)
    for name, value in pairs(fields or {}) do req[name] = value end
    if scheduler.on_arrival then
      local status, message = scheduler.on_arrival(req)
      write_back(a, req)
      write_refusal(a, status, message)
    end
    local function finish(n_output)
      req.finish_reason, req.n_output = "stop", n_output or 0
      if scheduler.on_finish then scheduler.on_finish(req) end
    end
    if a.refusal ~= 0 then
      finish(0)
      return a.refusal, ffi.string(a.message), req
    end
    return nil, finish, req
  end
end

-- The functions for the C side, and a description.
function M.open(scheduler)
  if scheduler.test then scheduler.test(trial(scheduler)) end
  local keep = scheduler.on_finish ~= nil or scheduler.on_preempt ~= nil
  return arriver(scheduler.on_arrival, keep), keep and ender(scheduler.on_finish) or nil,
    scheduler.on_preempt and preempter(scheduler.on_preempt) or nil
end

return M
