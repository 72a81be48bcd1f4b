-- Limits for each tenant: requests at a time, tokens a minute, and a share of the engine; a timeout for all.
--   llmlua serve.lua --model MODEL --scheduler scripts/schedulers/tenant_limits.lua --api-key-file keys
-- A tenant is the name beside the key in the file of keys, else the header X-Tenant.

local llm = require "llm"

local DEFAULT = { at_once = 8, tokens_a_minute = 60000, weight = 1 }
local LIMITS = {
  batch = { at_once = 64, tokens_a_minute = math.huge, weight = 0.25, priority = 10 },
}
local TIMEOUT = 600 -- seconds

local used = {} -- tenant -> { running, tokens (what is left in the bucket), time }

-- A bucket that fills up with tokens_a_minute.
local function bucket_of(tenant, limits, now)
  local one = used[tenant]
  if not one then
    one = { running = 0, tokens = limits.tokens_a_minute, time = now }
    used[tenant] = one
  end
  one.tokens = math.min(limits.tokens_a_minute, one.tokens + (now - one.time) * limits.tokens_a_minute / 60)
  one.time = now
  return one
end

return llm.scheduler {
  name = "tenant_limits",

  on_arrival = function(req)
    local tenant = req.tenant or "anonymous"
    local limits = LIMITS[tenant] or DEFAULT
    local one = bucket_of(tenant, limits, llm.now())
    if one.running >= limits.at_once then
      return 429, ("%s has %d requests under way, which is the limit"):format(tenant, one.running)
    end
    if one.tokens < req.n_prompt then
      return 429, ("%s has used its %d tokens a minute"):format(tenant, limits.tokens_a_minute)
    end
    one.running, one.tokens = one.running + 1, one.tokens - req.n_prompt
    req.state.bucket = one
    req.weight, req.priority = limits.weight, limits.priority or req.priority
    req.timeout = math.min(req.timeout or TIMEOUT, TIMEOUT)
    req.isolate = true -- nobody can tell by the time it takes what others have asked
  end,

  on_finish = function(req)
    local one = req.state.bucket -- nil: it was refused
    if one then one.running, one.tokens = one.running - 1, one.tokens - req.n_output end
  end,

  test = function(try)
    local ends = {}
    for i = 1, DEFAULT.at_once do
      local status, finish = try { tenant = "self-test", n_prompt = 10 }
      assert(status == nil)
      ends[i] = finish
    end
    assert(try { tenant = "self-test" } == 429)
    ends[1](50)
    assert(try { tenant = "self-test", n_prompt = 10 } == nil)
    assert(try { tenant = "greedy", n_prompt = 70000 } == 429)
    used = {}
  end,
}
