-- Small models with random quantized weights, written as GGUF files here, on a device and exactly: the distributions of
-- every token, in prompts (kernels for many rows) and decoded in batches (kernels for few). With --dtype float32 the
-- judge is the scalar reference, which is slow and reads few tokens; else it is the device in float32. Prints a row a
-- model; exit code 1: one is not close.
local ffi = require "ffi"
local llm = require "llm"
local opts = llm.options(arg, { { name = "type", type = "string", many = true, help = "of weights, such as Q4_K; all" } })
local only = opts.type
opts.type = nil
opts.device = opts.device or "cuda"
opts.max_logprobs, opts.skip_tokenizer_init = -1, true
opts.max_model_len, opts.kv_cache_memory = 1024, "256MiB"
local F32 = opts.dtype == "float32"
local MOST = F32 and 1e-6 or 1e-3 -- nats a token, on average
local LENGTHS, BATCHES = { 9, 65, 300 }, { 1, 6, 20, 40 }
if F32 then LENGTHS, BATCHES = { 9, 65 }, { 1, 6, 20 } end

local VOCAB, HIDDEN, FFN, HEADS, KV_HEADS, HEAD_DIM, LAYERS = 1000, 512, 1024, 8, 2, 64, 2

-- Name of a type: its number in files, elements and bytes of a block, and where its f16 scales lie, with the exponents
-- of powers of two that make weights about 1/16; a negative scale is that of an offset that is added.
local types = {
  Q4_0 = { 2, 32, 18, { [0] = -6 } }, Q4_1 = { 3, 32, 20, { [0] = -6, [2] = -3 }, true },
  Q5_0 = { 6, 32, 22, { [0] = -7 } }, Q5_1 = { 7, 32, 24, { [0] = -7, [2] = -3 }, true },
  Q8_0 = { 8, 32, 34, { [0] = -11 } }, Q2_K = { 10, 256, 84, { [80] = -8, [82] = -8 } },
  Q3_K = { 11, 256, 110, { [108] = -10 } }, Q4_K = { 12, 256, 144, { [0] = -12, [2] = -9 } },
  Q5_K = { 13, 256, 176, { [0] = -13, [2] = -9 } }, Q6_K = { 14, 256, 210, { [208] = -15 } },
  IQ4_NL = { 20, 32, 18, { [0] = -10 } }, IQ4_XS = { 23, 256, 136, { [0] = -15 } },
}
local order = { "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS" }

-- ---- writing a model ---------------------------------------------------------------------------------------------

local u32, u64, f32 = ffi.typeof "uint32_t[1]", ffi.typeof "uint64_t[1]", ffi.typeof "float[1]"
local function bytes_of(ctype, value)
  local box = ctype(value)
  return ffi.string(box, ffi.sizeof(box))
end
local function text_of(s) return bytes_of(u64, #s) .. s end

local function random_bytes(n)
  local words = ffi.new("uint32_t[?]", math.floor(n / 4) + 1)
  for i = 0, math.floor(n / 4) do words[i] = math.random(0, 4294967295) end
  return ffi.cast("uint8_t *", words), words
end

local function quantized(name, rows, columns)
  local kind = types[name]
  local n = rows * columns / kind[2]
  local data, keep = random_bytes(n * kind[3])
  for offset, exponent in pairs(kind[4]) do
    local sign = kind[5] and offset == 2 and 0x80 or 0
    for block = 0, n - 1 do
      data[block * kind[3] + offset] = 0
      data[block * kind[3] + offset + 1] = sign + (exponent >= -14 and (15 + exponent) * 4 or 2 ^ (exponent + 16))
    end
  end
  return ffi.string(data, n * kind[3]), keep
end

local function floats(n, mean, deviation)
  local values = ffi.new("float[?]", n)
  for i = 0, n - 1 do values[i] = mean + deviation * (math.random() + math.random() - 1) end
  return ffi.string(values, 4 * n)
end

-- arch: "llama" or "qwen2", which has biases and rotates otherwise. of(i): the type of the i-th matrix.
local function write_model(path, arch, of)
  local tensors, kvs, n_matrices = {}, {}, 0
  local function add(name, dims, type, data) tensors[#tensors + 1] = { name, dims, type, data } end
  local function matrix(name, rows, columns)
    n_matrices = n_matrices + 1
    local kind = of(n_matrices)
    add(name, { columns, rows }, types[kind][1], (quantized(kind, rows, columns)))
  end
  local function vector(name, n, mean) add(name, { n }, 0, floats(n, mean, 0.3)) end
  local function kv(key, type, value) kvs[#kvs + 1] = text_of(key) .. bytes_of(u32, type) .. value end

  kv("general.architecture", 8, text_of(arch))
  for key, value in pairs{ vocab_size = VOCAB, embedding_length = HIDDEN, feed_forward_length = FFN, block_count = LAYERS,
    ["attention.head_count"] = HEADS, ["attention.head_count_kv"] = KV_HEADS, context_length = 1024 } do
    kv(arch .. "." .. key, 4, bytes_of(u32, value))
  end
  kv(arch .. ".attention.layer_norm_rms_epsilon", 6, bytes_of(f32, 1e-5))
  matrix("token_embd.weight", VOCAB, HIDDEN)
  matrix("output.weight", VOCAB, HIDDEN)
  vector("output_norm.weight", HIDDEN, 1)
  for i = 0, LAYERS - 1 do
    local function name(what) return ("blk.%d.%s"):format(i, what) end
    vector(name "attn_norm.weight", HIDDEN, 1)
    vector(name "ffn_norm.weight", HIDDEN, 1)
    for _, part in ipairs{ { "q", HEADS }, { "k", KV_HEADS }, { "v", KV_HEADS } } do
      matrix(name("attn_" .. part[1] .. ".weight"), part[2] * HEAD_DIM, HIDDEN)
      if arch == "qwen2" then vector(name("attn_" .. part[1] .. ".bias"), part[2] * HEAD_DIM, 0) end
    end
    matrix(name "attn_output.weight", HIDDEN, HEADS * HEAD_DIM)
    matrix(name "ffn_gate.weight", FFN, HIDDEN)
    matrix(name "ffn_up.weight", FFN, HIDDEN)
    matrix(name "ffn_down.weight", HIDDEN, FFN)
  end

  local head, data, at = {}, {}, 0
  for i, t in ipairs(tensors) do
    local dims = {}
    for k, n in ipairs(t[2]) do dims[k] = bytes_of(u64, n) end
    head[i] = text_of(t[1]) .. bytes_of(u32, #dims) .. table.concat(dims) .. bytes_of(u32, t[3]) .. bytes_of(u64, at)
    data[i] = t[4] .. ("\0"):rep(-#t[4] % 32)
    at = at + #data[i]
  end
  local header = "GGUF" .. bytes_of(u32, 3) .. bytes_of(u64, #tensors) .. bytes_of(u64, #kvs) .. table.concat(kvs)
    .. table.concat(head)
  local file = assert(io.open(path, "wb"))
  assert(file:write(header, ("\0"):rep(-#header % 32), table.concat(data)))
  assert(file:close())
end

-- ---- comparing ---------------------------------------------------------------------------------------------------

local function random_ids(n)
  local ids = {}
  for i = 1, n do ids[i] = math.random(0, VOCAB - 1) end
  return ids
end

local function generate(e, prompts, params)
  params.temperature, params.ignore_eos, params.detokenize = 0, true, false
  return e:generate(prompts, params, { progress = false })
end

local function divergence(want, got)
  local sum = 0
  for id = 0, VOCAB - 1 do sum = sum + math.exp(want[id].logprob) * (want[id].logprob - got[id].logprob) end
  return sum
end

-- Nats a token, on average, over prompts of several lengths.
local function of_prompts(device, exact)
  local prompts, sum, n = {}, 0, 0
  for i, length in ipairs(LENGTHS) do prompts[i] = random_ids(length) end
  local params = { max_tokens = 1, prompt_logprobs = -1 }
  local got, want = generate(device, prompts, params), generate(exact, prompts, params)
  for i, ids in ipairs(prompts) do
    for k = 2, #ids do
      sum, n = sum + divergence(want[i].prompt_logprobs[k], got[i].prompt_logprobs[k]), n + 1
    end
  end
  return sum / n
end

-- The same over tokens decoded in batches of several sizes; the judge reads them as prompts.
local function of_steps(device, exact)
  local sum, n = 0, 0
  for _, batch in ipairs(BATCHES) do
    local prompts, texts = {}, {}
    for i = 1, batch do prompts[i] = random_ids(i % 7 + 1) end
    local outputs = generate(device, prompts, { max_tokens = F32 and 2 or 6, logprobs = -1 })
    for i, output in ipairs(outputs) do
      texts[i] = { unpack(prompts[i]) }
      for _, id in ipairs(output.outputs[1].token_ids) do texts[i][#texts[i] + 1] = id end
    end
    local want = generate(exact, texts, { max_tokens = 1, prompt_logprobs = -1 })
    for i, output in ipairs(outputs) do
      for step, row in ipairs(output.outputs[1].logprobs) do
        sum, n = sum + divergence(want[i].prompt_logprobs[#prompts[i] + step], row), n + 1
      end
    end
  end
  return sum / n
end

local function engine_on(path, device, dtype, isa)
  local o = {}
  for k, v in pairs(opts) do o[k] = v end
  o.model, o.device, o.dtype, o.cpu_isa = path, device, dtype, isa
  return llm.engine(o)
end

local all_good, n_models = true, 0
local function check(name, arch, of)
  local path = os.tmpname()
  os.remove(path)
  path = path .. ".gguf"
  write_model(path, arch, of)
  local device = engine_on(path, opts.device, opts.dtype)
  local exact = engine_on(path, F32 and "cpu" or opts.device, "float32", F32 and "ref" or nil)
  local prompts, steps = of_prompts(device, exact), of_steps(device, exact)
  device:close()
  exact:close()
  os.remove(path)
  local good = prompts <= MOST and steps <= MOST
  all_good, n_models = all_good and good, n_models + 1
  print(("%-6s %-12s mean KL %.1e in prompts, %.1e decoded  %s"):format(arch, name, prompts, steps,
    good and "ok" or "NOT CLOSE"))
end

math.randomseed(1)
for i, name in ipairs(only or order) do check(name, i % 2 == 1 and "llama" or "qwen2", function() return name end) end
if not only then
  local mixes = { { "Q4_K", "Q6_K", "Q4_K", "Q5_K" }, { "Q8_0", "Q4_0", "Q2_K" } }
  for _, mix in ipairs(mixes) do
    check(table.concat(mix, " "), "llama", function(i) return mix[i % #mix + 1] end)
  end
end
print(("gguf: %d models, %s"):format(n_models, all_good and "ok" or "FAILED"))
os.exit(all_good and 0 or 1)
