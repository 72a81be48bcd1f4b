-- What an engine on a GPU says when it cannot: too little memory at open, and a device that fails while requests run.
-- Memory settings are looked up with nvidia-smi. Ends with one line; exit code 1: something was not as it should be.
local ffi = require "ffi"
local llm = require "llm"
local opts = llm.options(arg, {
  { name = "config", type = "path", help = "directory with a config.json" },
  { name = "large", type = "path", help = "another one, of a model that can use all of the memory" },
})
local GIB = 2 ^ 30

local wrong, n = 0, 0
local function expect(what, good, ...)
  n = n + 1
  if good then return end
  wrong = wrong + 1
  print("WRONG: " .. what, ...)
end

local function options(more)
  local o = { model = opts.config, device = "cuda", load_format = "dummy", skip_tokenizer_init = true,
    max_model_len = 512, max_num_seqs = 16 }
  for k, v in pairs(more or {}) do o[k] = v end
  return o
end

local function try(more)
  local ok, e = pcall(llm.engine, options(more))
  if ok then return e end
  return nil, tostring(e)
end

-- Bytes used of the device, by whomever, and in all.
local function device_memory()
  local pipe = io.popen "nvidia-smi --query-gpu=memory.used,memory.total --format=csv,noheader,nounits 2>/dev/null"
  local used, total = pipe:read("*a"):match "(%d+), *(%d+)"
  pipe:close()
  return used and used * 2 ^ 20, total and total * 2 ^ 20
end

-- ---- memory --------------------------------------------------------------------------------------------------------

local before, total = device_memory()
local e, message = try{ kv_cache_memory = "3GiB" }
expect("an engine with 3 GiB of KV memory", e, message)
local info = e:info()
local bytes = info.n_blocks * info.block_size * info.kv_bytes_per_token
expect("3 GiB of KV pages", bytes <= 3 * GIB and bytes > 3 * GIB - 2 * info.block_size * info.kv_bytes_per_token, bytes)
e:close()

for _, share in ipairs{ 0.25, 0.5 } do
  e, message = try{ model = opts.large, max_num_seqs = 256, max_model_len = 32768, gpu_memory_utilization = share }
  expect("an engine with a share of the memory", e, message)
  local used = device_memory()
  e:close()
  if used and total then
    expect("gpu_memory_utilization " .. share, used <= share * total * 1.01 and used >= share * total - 2 * GIB,
      used / total)
    print(("  gpu_memory_utilization %g: %.3f of the memory is used"):format(share, used / total))
  end
end
local after = device_memory()
if after then expect("memory comes back", after <= before + 2 * GIB, before, after) end

e, message = try{ kv_cache_memory = "400GiB" }
expect("400 GiB of KV pages are refused", not e and message:find "memory", message)
print("  " .. tostring(message))
e, message = try{ gpu_memory_utilization = 0.001 }
expect("no memory for KV pages", not e and message:find "gpu_memory_utilization", message)
print("  " .. tostring(message))

-- A model of some 700 GB: its first matrices do not fit.
local path = os.tmpname()
os.remove(path)
os.execute("mkdir " .. path)
local file = assert(io.open(path .. "/config.json", "w"))
file:write(llm.json.encode{ architectures = { "LlamaForCausalLM" }, model_type = "llama", vocab_size = 131072,
  hidden_size = 32768, intermediate_size = 131072, num_hidden_layers = 20, num_attention_heads = 256,
  num_key_value_heads = 256, head_dim = 128, hidden_act = "silu", max_position_embeddings = 4096, rms_norm_eps = 1e-5,
  torch_dtype = "bfloat16" })
file:close()
e, message = try{ model = path }
expect("a model that is too large is refused", not e and message:find "memory", message)
print("  " .. tostring(message))
os.remove(path .. "/config.json")
os.remove(path)

-- ---- a device that fails -------------------------------------------------------------------------------------------

e, message = try{ kv_cache_memory = "1GiB" }
expect("an engine after those", e, message)
local plugin
for line in io.lines "/proc/self/maps" do plugin = plugin or line:match "%S*libllmlua_cuda%.so" end
ffi.cdef "void cuda_plugin_fault_after(int steps);"
local library = ffi.load(plugin)

local streams, ended, cut, said = {}, 0, 0, nil
for i = 1, 8 do
  streams[i] = e:stream({ i, 2, 3 }, { max_tokens = 300, temperature = 0, ignore_eos = true, detokenize = false })
end
library.cuda_plugin_fault_after(50)
for _, stream in ipairs(streams) do
  local ok, err = pcall(function() for _ in stream do end end)
  ended = ended + 1
  if not ok then cut, said = cut + 1, tostring(err) end
end
expect("all requests end with the error", ended == 8 and cut == 8, ended, cut)
expect("the error says what happened", said and said:find "CUDA", said)
print("  " .. tostring(said))
local ok, refused = pcall(e.generate, e, { { 1, 2 } }, { max_tokens = 1, detokenize = false }, { progress = false })
expect("later requests are refused with the reason", not ok and tostring(refused):find "CUDA", refused)
print("  " .. tostring(refused))
e:close()
e, message = try{ kv_cache_memory = "1GiB" }
expect("a device that is lost is not opened again in this process", not e and message:find "CUDA", message)
print("  " .. tostring(message))
e, message = try{ device = "cpu", kv_cache_memory = "64MiB" }
expect("the process goes on", e, message)
e:close()

print(("failure: %d checks, %d wrong"):format(n, wrong))
os.exit(wrong == 0 and 0 or 1)
