#!/usr/bin/env python3
"""How fast a model's weights get onto a GPU: from the start of the process to the open engine and to the first token,
beside a plain read of the same files, from the page cache and, as far as the system lets go of it, from the disk.

usage: bench_load.py LLMLUA CONFIG_DIR [LAYERS] [DIR]

A model of CONFIG_DIR's shape with LAYERS layers and random bfloat16 weights is written to DIR (a temporary directory) as
sharded safetensors. RssAnon says that there is no copy of the weights on the host.
"""
import concurrent.futures, json, os, shutil, struct, subprocess, sys, tempfile, threading, time
import numpy

llmlua, config = sys.argv[1:3]
layers = int(sys.argv[3]) if len(sys.argv) > 3 else 0
where = sys.argv[4] if len(sys.argv) > 4 else tempfile.mkdtemp(prefix="llmlua-load-")
device = os.environ.get("LLMLUA_DEVICE", "cuda")
SHARD, BLOCK = 4 << 30, 64 << 20


def shapes(c):
    hidden, ffn, vocab = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    head = c.get("head_dim") or hidden // c["num_attention_heads"]
    q, kv = head * c["num_attention_heads"], head * c["num_key_value_heads"]
    yield "model.embed_tokens.weight", (vocab, hidden)
    for i in range(c["num_hidden_layers"]):
        p = "model.layers.%d." % i
        yield p + "input_layernorm.weight", (hidden,)
        yield p + "self_attn.q_proj.weight", (q, hidden)
        yield p + "self_attn.k_proj.weight", (kv, hidden)
        yield p + "self_attn.v_proj.weight", (kv, hidden)
        yield p + "self_attn.o_proj.weight", (hidden, q)
        yield p + "post_attention_layernorm.weight", (hidden,)
        yield p + "mlp.gate_proj.weight", (ffn, hidden)
        yield p + "mlp.up_proj.weight", (ffn, hidden)
        yield p + "mlp.down_proj.weight", (hidden, ffn)
    yield "model.norm.weight", (hidden,)
    if not c.get("tie_word_embeddings"):
        yield "lm_head.weight", (vocab, hidden)


def write_model():
    c = json.load(open(os.path.join(config, "config.json")))
    if layers:
        c["num_hidden_layers"] = layers
    json.dump(c, open(os.path.join(where, "config.json"), "w"))
    shards = [[]]
    for name, shape in shapes(c):
        size = 2 * int(numpy.prod(shape))
        if sum(s for _, _, s in shards[-1]) + size > SHARD and shards[-1]:
            shards.append([])
        shards[-1].append((name, shape, size))
    # bfloat16 is the upper half of float32.
    noise = (numpy.random.default_rng(1).standard_normal(BLOCK // 2, numpy.float32) * 0.02).view(numpy.uint32)
    noise = memoryview((noise >> 16).astype(numpy.uint16)).cast("B")
    index = {}

    def write(i):
        name = "model-%05d-of-%05d.safetensors" % (i + 1, len(shards))
        header, at = {}, 0
        for tensor, shape, size in shards[i]:
            header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
            index[tensor] = name
            at += size
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(os.path.join(where, name), "wb", buffering=0) as f:
            f.write(struct.pack("<Q", len(text)) + text)
            while at > 0:
                at -= f.write(noise[:min(at, BLOCK)])
            os.fsync(f.fileno())
        return os.path.join(where, name)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        files = list(pool.map(write, range(len(shards))))
    json.dump({"metadata": {}, "weight_map": index}, open(os.path.join(where, "model.safetensors.index.json"), "w"))
    return files


def read_all(files, n_threads):
    """Seconds to read all files into buffers, which are used again."""
    local = threading.local()

    def read(piece):
        fd, offset = piece
        if not hasattr(local, "buffer"):
            local.buffer = bytearray(16 << 20)
        os.preadv(fd, [local.buffer], offset)

    fds = [os.open(f, os.O_RDONLY) for f in files]
    pieces = [(fd, at) for fd, f in zip(fds, files) for at in range(0, os.path.getsize(f), 16 << 20)]
    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(read, pieces))
    seconds = time.perf_counter() - start
    for fd in fds:
        os.close(fd)
    return seconds


def forget(files):
    for f in files:
        fd = os.open(f, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def memory(pid):
    """Kilobytes of memory by kind."""
    try:
        return {k: int(v.split()[0]) for k, v in (line.split(":", 1) for line in open("/proc/%d/status" % pid))
                if k in ("RssAnon", "RssFile", "VmHWM", "VmRSS")}
    except (OSError, ValueError):
        return {}


CODE = """
local llm = require "llm"
local engine = llm.engine{ model = %r, device = %r, load_format = %r, skip_tokenizer_init = true, max_model_len = 4096 }
print("opened") io.flush()
engine:generate({ { 1, 2, 3 } }, { max_tokens = 1, temperature = 0, detokenize = false, ignore_eos = true },
  { progress = false })
print("token") io.flush()
"""


def run(label, total, load_format="auto", idle=0):
    """idle: seconds that an open takes where nothing is read. Returns its own seconds."""
    start, seen, peak = time.perf_counter(), {}, {}
    child = subprocess.Popen([llmlua, "-e", CODE % (where, device, load_format)], stdout=subprocess.PIPE, text=True)

    def watch():
        while child.poll() is None:
            for k, v in memory(child.pid).items():
                peak[k] = max(peak.get(k, 0), v)
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for line in child.stdout:
        seen[line.strip()] = time.perf_counter() - start
    watcher.join()
    if child.returncode or "token" not in seen:
        raise SystemExit("%s: exit %d" % (label, child.returncode))
    more = seen["opened"] - idle
    rate = "%.2f s more (%.1f GB/s)" % (more, total / more / 1e9) if idle and more > 0 else "no weights read"
    print("%-12s open after %5.2f s, %s; first token after %5.2f s; peak memory: %s" %
          (label, seen["opened"], rate, seen["token"],
           ", ".join("%s %d MB" % (k, v // 1024) for k, v in sorted(peak.items()))), flush=True)
    return seen["opened"]


start = time.perf_counter()
files = write_model()
total = sum(os.path.getsize(f) for f in files)
print("%.1f GB in %d files, written in %.1f s" % (total / 1e9, len(files), time.perf_counter() - start), flush=True)
try:
    for n in (1, 8):
        print("read warm, %d threads: %.1f GB/s" % (n, total / read_all(files, n) / 1e9), flush=True)
    run("dummy", total, "dummy")
    idle = run("dummy", total, "dummy")
    run("load warm", total, idle=idle)
    run("load warm", total, idle=idle)
    forget(files)
    print("read cold, 8 threads: %.1f GB/s" % (total / read_all(files, 8) / 1e9), flush=True)
    forget(files)
    run("load cold", total, idle=idle)
finally:
    shutil.rmtree(where)
