-- A router in front of the engine: tenants share it fairly (the one that has used the fewest tokens goes next, however
-- many jobs it has sent), and a job whose prompt begins as an earlier one's did goes on from that one's sequence.
--   llmlua examples/router.lua --model models/model.gguf --jobs '[{"tenant": "a", "prompt": "The sea is"}]'

local llm = require "llm"

local example_jobs = [==[[
  {"tenant": "a", "prompt": "You are a poet. A verse about the sea:"}, {"tenant": "a", "prompt": "You are a poet. A verse about rain:"},
  {"tenant": "a", "prompt": "You are a poet. A verse about snow:"}, {"tenant": "b", "prompt": "You are a cook. How to make soup:"},
  {"tenant": "b", "prompt": "You are a cook. How to make bread:"}]]==]

-- Queues by tenant, in the order of arrival.
local function queues_of(jobs)
  local queues, tenants = {}, {}
  for i, job in ipairs(jobs) do
    if type(job.tenant) ~= "string" or type(job.prompt) ~= "string" then
      error(("job %d needs a tenant and a prompt, both text"):format(i), 0)
    end
    if not queues[job.tenant] then
      queues[job.tenant] = {}
      tenants[#tenants + 1] = job.tenant
    end
    table.insert(queues[job.tenant], job)
  end
  return queues, tenants
end

local function next_job(queues, tenants, used)
  local poorest
  for _, tenant in ipairs(tenants) do
    if #queues[tenant] > 0 and (not poorest or (used[tenant] or 0) < (used[poorest] or 0)) then poorest = tenant end
  end
  return poorest and table.remove(queues[poorest], 1)
end

-- A sequence of the prompt: a fork of the kept one that begins like it for longest. Tenants do not see one another's.
local function sequence_for(engine, kept, job)
  local ids, best, shared = engine:tokenize(job.prompt), nil, 0
  for _, one in ipairs(kept[job.tenant] or {}) do
    local n, tokens = 0, one:tokens()
    while n < #ids and tokens[n + 1] == ids[n + 1] do n = n + 1 end
    if n > shared then best, shared = one, n end
  end
  local seq = best and best:fork():rewind_to(shared) or engine:sequence({}, { cache_salt = job.tenant })
  seq:feed { unpack(ids, shared + 1) }
  kept[job.tenant] = kept[job.tenant] or {}
  table.insert(kept[job.tenant], seq:fork())
  return seq, shared
end

local function router(engine, args, emit)
  local jobs, message = llm.json.decode(args.jobs)
  if type(jobs) ~= "table" then error(message or "jobs must be a JSON list", 0) end
  local queues, tenants = queues_of(jobs)
  local used, kept, order = {}, {}, {}
  local workers = {}
  for i = 1, args.workers do workers[i] = i end
  llm.parallel(workers, function()
    for job in function() return next_job(queues, tenants, used) end do
      used[job.tenant] = (used[job.tenant] or 0) + args.max_tokens -- a reservation: others must see it now
      local seq, shared = sequence_for(engine, kept, job)
      local out = seq:generate{ temperature = 0, max_tokens = args.max_tokens }
      used[job.tenant] = used[job.tenant] - args.max_tokens + #out.token_ids
      order[#order + 1] = { tenant = job.tenant, prompt = job.prompt, text = out.text, shared_tokens = shared }
      emit(("%s: %s%s\n"):format(job.tenant, job.prompt, out.text))
      seq:close()
    end
  end)
  return { jobs = order, used = llm.json.object(used) }
end

return llm.program({
  summary = "Runs jobs of several tenants fairly, reusing what they have in common.",
  { name = "jobs", type = "string", initial = example_jobs, help = "JSON list of {tenant, prompt}" },
  { name = "workers", type = "integer", initial = 2, min = 1, max = 64, help = "jobs at a time" },
  { name = "max_tokens", type = "integer", initial = 16, min = 1, help = "of an answer" },
}, router)
