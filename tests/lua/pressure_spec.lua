-- Far more requests than the KV memory holds.
local llm = require "llm"
local support = require "support"

local model = support.root .. "/tests/golden/models/llama"

-- Random lengths and temperatures, the same each run.
local function workload(n, vocab_size)
  local state = 12345
  local function random(low, high)
    state = (state * 1103515245 + 12345) % 2 ^ 31
    return low + math.floor(state / 2 ^ 31 * (high - low + 1))
  end
  local prompts, params = {}, {}
  for i = 1, n do
    local ids = {}
    for k = 1, random(60, 180) do ids[k] = random(0, vocab_size - 1) end
    prompts[i] = ids
    params[i] = { max_tokens = random(8, 64), temperature = i % 2, seed = i, ignore_eos = true, detokenize = false }
  end
  return prompts, params
end

describe("an engine with KV memory for 20 of 256 requests", function()
  local roomy = llm.engine { model = model, enable_prefix_caching = false, max_num_seqs = 8 }
  local info = roomy:info()
  local prompts, params = workload(256, info.vocab_size)
  local total = 0
  for i, prompt in ipairs(prompts) do total = total + #prompt + params[i].max_tokens end

  it("finishes all, with the tokens they have alone, and leaves nothing behind", function()
    local room = math.ceil(20 * total / 256) * info.kv_bytes_per_token
    local engine = llm.engine { model = model, block_size = 8, kv_cache_memory = room }
    local outputs = engine:generate(prompts, params)
    local preemptions = 0
    for i, output in ipairs(outputs) do
      local sequence = output.outputs[1]
      assert.equal("length", sequence.finish_reason)
      assert.equal(params[i].max_tokens, #sequence.token_ids)
      assert.same(roomy:generate(prompts[i], params[i])[1].outputs[1].token_ids, sequence.token_ids)
      preemptions = preemptions + output.metrics.num_preemptions
    end
    local stats = engine:stats()
    assert.equal(0, stats.n_blocks_used)
    assert.equal(0, stats.n_running + stats.n_waiting)
    assert.equal(256, stats.n_finished)
    assert.truthy(stats.n_blocks_peak <= stats.n_blocks)
    assert.truthy(stats.n_blocks_peak > 0.9 * stats.n_blocks)
    assert.truthy(stats.kv_waste_peak < 0.04, stats.kv_waste_peak)
    assert.truthy(stats.n_preemptions > 0)
    assert.equal(stats.n_preemptions, preemptions)
    engine:close()
  end)

  it("waits where the queue is bounded", function()
    local engine = llm.engine { model = model, max_num_queued_reqs = 4, max_num_seqs = 4 }
    local few, their = { unpack(prompts, 1, 40) }, { unpack(params, 1, 40) }
    local outputs = engine:generate(few, their)
    assert.equal(40, #outputs)
    for i, output in ipairs(outputs) do assert.equal(their[i].max_tokens, #output.outputs[1].token_ids) end
    engine:close()
  end)
end)
