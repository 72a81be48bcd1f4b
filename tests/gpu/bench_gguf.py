#!/usr/bin/env python3
"""GGUF files beside llama.cpp on the same device, in one run.

usage: bench_gguf.py LLMLUA SHAPE [--peer DIR,…] [--type TYPE,…] [--rounds N] [--seconds N] [--dir DIR] [--device D]
       bench_gguf.py --write FILE SHAPE --type TYPE

Writes a file of SHAPE (a directory with a config.json) with random weights of TYPE, which both programs read, then lets
them take turns, round by round; a figure is the median of the rounds, a ratio the median of the rounds' ratios. TYPE:
Q4_K_M, which mixes types as llama.cpp's does, or F16, BF16, Q4_0, Q8_0, Q4_K, Q5_K, Q6_K for all matrices. DIR holds
llama-bench and llama-batched-bench; of several builds each row takes the fastest. No round begins after --seconds.
"""
import argparse
import json
import os
import random
import statistics
import struct
import subprocess
import sys
import time

SLAB = 64 << 20  # bytes of randomness, which all matrices of a type share, each from another place on

# Of a type: its number in files, elements and bytes of a block, and what of a random block must not be random, that
# weights be about 0.02: bytes of f16 scales, or for floats a mask and the bits of the byte that has the exponent.
TYPES = {
    "F16": (1, 1, 2, {1: (0x83, 0x20)}),
    "BF16": (30, 1, 2, {1: (0x80, 0x3C)}),
    "Q4_0": (2, 32, 18, {0: 0x00, 1: 0x1C}),
    "Q8_0": (8, 32, 34, {0: 0x00, 1: 0x0C}),
    "Q4_K": (12, 256, 144, {0: 0x00, 1: 0x04, 2: 0x00, 3: 0x10}),
    "Q5_K": (13, 256, 176, {0: 0x00, 1: 0x02, 2: 0x00, 3: 0x10}),
    "Q6_K": (14, 256, 210, {208: 0x00, 209: 0x01}),
}
F32 = 0

PROMPTS, DEPTHS, BATCHES, BATCH_DEPTH = (512, 1024, 8192), (0, 1024), (1, 8, 16, 32, 64), 1024
N_GEN, N_GEN_BATCH = 128, 64
MICROBATCHES = (512, 2048)  # llama.cpp's, for prompts: the better counts



# ---- the file --------------------------------------------------------------------------------------------------------

def slab_of(kind):
    _, _, block, fixed = TYPES[kind]
    data = bytearray(random.Random(1).randbytes(SLAB // block * block))
    for at, byte in fixed.items():
        if isinstance(byte, tuple):
            keep, bits = byte
            data[at::block] = data[at::block].translate(bytes(b & keep | bits for b in range(256)))
        else:
            data[at::block] = bytes([byte]) * (len(data) // block)
    return memoryview(bytes(data))


def pieces(slab, block, start, n_bytes):
    """n_bytes of the slab as often as it takes, from block `start` on."""
    at = start * block % len(slab)
    while n_bytes > 0:
        piece = slab[at:at + n_bytes]
        yield piece
        n_bytes -= len(piece)
        at = 0


def matrices(config, kind):
    """Name, rows, columns and type of each, in the file's order."""
    hidden, ffn, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    q, kv = (config["head_dim"] * config[n] for n in ("num_attention_heads", "num_key_value_heads"))
    mixed = kind == "Q4_K_M"
    most = "Q4_K" if mixed else kind
    yield "token_embd.weight", config["vocab_size"], hidden, most
    yield "output.weight", config["vocab_size"], hidden, "Q6_K" if mixed else kind
    for i in range(layers):
        # The layers whose values and down projections llama.cpp's Q4_K_M gives more bits.
        more = mixed and (i < layers // 8 or i >= 7 * layers // 8 or (i - layers // 8) % 3 == 2)
        for name, rows, columns in (("attn_q", q, hidden), ("attn_k", kv, hidden), ("attn_v", kv, hidden),
                                    ("attn_output", hidden, q), ("ffn_gate", ffn, hidden), ("ffn_up", ffn, hidden),
                                    ("ffn_down", hidden, ffn)):
            yield "blk.%d.%s.weight" % (i, name), rows, columns, \
                "Q6_K" if more and name in ("attn_v", "ffn_down") else most


def text_of(s):
    s = s.encode()
    return struct.pack("<Q", len(s)) + s


def metadata(config):
    """The bytes of all keys and values, and how many there are. The vocabulary: bytes, and words nobody will write."""
    n = config["vocab_size"]
    special = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % b for b in range(256)]
    words = special + ["\u2581%x" % i for i in range(len(special), n)]
    kinds = [2, 3, 3] + [6] * 256 + [1] * (n - len(special))

    def array(kind, values):
        return struct.pack("<IQ", kind, n) + values

    heads = {"embedding_length": "hidden_size", "feed_forward_length": "intermediate_size",
             "block_count": "num_hidden_layers", "attention.head_count": "num_attention_heads",
             "attention.head_count_kv": "num_key_value_heads", "context_length": "max_position_embeddings",
             "vocab_size": "vocab_size", "rope.dimension_count": "head_dim"}
    kvs = [("general.architecture", 8, text_of("llama"))]
    kvs += [("llama." + key, 4, struct.pack("<I", config[name])) for key, name in heads.items()]
    kvs += [("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", config["rms_norm_eps"])),
            ("llama.rope.freq_base", 6, struct.pack("<f", config["rope_theta"])),
            ("tokenizer.ggml.model", 8, text_of("llama")),
            ("tokenizer.ggml.tokens", 9, array(8, b"".join(map(text_of, words)))),
            ("tokenizer.ggml.scores", 9, array(6, struct.pack("<%df" % n, *(-float(i) for i in range(n))))),
            ("tokenizer.ggml.token_type", 9, array(5, struct.pack("<%di" % n, *kinds)))]
    kvs += [("tokenizer.ggml.%s_token_id" % name, 4, struct.pack("<I", i))
            for i, name in enumerate(("unknown", "bos", "eos"))]
    return b"".join(text_of(key) + struct.pack("<I", kind) + value for key, kind, value in kvs), len(kvs)


def write_model(path, config, kind):
    rng = random.Random(2)
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    ones = struct.pack("<%df" % hidden, *(rng.uniform(0.7, 1.3) for _ in range(hidden)))
    norms = ["output_norm.weight"] + ["blk.%d.%s.weight" % (i, n) for i in range(layers) for n in ("attn_norm", "ffn_norm")]
    tensors = [(name, (hidden,), F32, [ones], len(ones)) for name in norms]
    slabs = {}
    for name, rows, columns, type_name in matrices(config, kind):
        number, elements, block, _ = TYPES[type_name]
        if type_name not in slabs:
            slabs[type_name] = slab_of(type_name)
        n_bytes = rows * columns // elements * block
        data = pieces(slabs[type_name], block, rng.randrange(1 << 20), n_bytes)
        tensors.append((name, (columns, rows), number, data, n_bytes))

    kvs, n_kvs = metadata(config)
    header, at = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), n_kvs), kvs], 0
    for name, dims, number, _, n_bytes in tensors:
        header.append(text_of(name) + struct.pack("<I%dQIQ" % len(dims), len(dims), *dims, number, at))
        at += n_bytes + -n_bytes % 32
    header = b"".join(header)
    with open(path, "wb", buffering=0) as file:
        file.write(header + bytes(-len(header) % 32))
        for _, _, _, data, n_bytes in tensors:
            for piece in data:
                while len(piece) > 0:
                    piece = piece[file.write(piece):]
            file.write(bytes(-n_bytes % 32))
    return os.path.getsize(path)


# ---- the programs ----------------------------------------------------------------------------------------------------

def rows_of(command, env=None):
    """The JSON objects that a program printed, a line each."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env={**os.environ, **(env or {})})
    if done.returncode != 0:
        raise RuntimeError("%s: exit %d\n%s" % (" ".join(command), done.returncode, done.stderr[-2000:]))
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def prefill_row(n):
    return "prompt of %d" % n


def decode_row(depth):
    return "decode at %d" % depth


def batch_row(n):
    return "batch %d at %d" % (n, BATCH_DEPTH)


def listed(numbers):
    return ",".join(map(str, numbers))


def ours(args, path):
    """A round of llmlua: row -> tokens a second, and the setting that gave it."""
    command = [args.llmlua, "bench.lua", "--model", path, "--device", args.device, "--skip-tokenizer-init",
               "--max-model-len", str(max(args.prompts + [BATCH_DEPTH]) + 256), "--max-num-seqs", str(max(BATCHES)),
               "--reps", "1", "--json"]
    figures = {}
    for row in rows_of(command + ["--mode", "prefill", "--n-prompt", listed(args.prompts), "--mode", "decode",
                                  "--n-gen", str(N_GEN), "--depth", listed(DEPTHS)]):
        name = prefill_row(row["n_prompt"]) if row["mode"] == "prefill" else decode_row(row["depth"])
        figures[name] = (row["tok_s"], "")
    for row in rows_of(command + ["--mode", "batch", "--batch", listed(BATCHES), "--n-gen", str(N_GEN_BATCH),
                                  "--depth", str(BATCH_DEPTH)]):
        figures[batch_row(row["batch"])] = (row["tok_s"], "")
    return figures


def alone(args, program, path):
    """llama-bench's figures, one sequence: row, tokens a second, setting."""
    common = [program, "-m", path, "-ngl", "99", "-fa", "1", "-b", str(max(MICROBATCHES)), "-r", "1", "-o", "jsonl"]
    for row in rows_of(common + ["-p", listed(args.prompts), "-n", "0", "-ub", listed(MICROBATCHES)]):
        yield prefill_row(row["n_prompt"]), row["avg_ts"], "-ub %d" % row["n_ubatch"]
    for row in rows_of(common + ["-p", "0", "-n", str(N_GEN), "-d", listed(DEPTHS)]):
        yield decode_row(row["n_depth"]), row["avg_ts"], ""


def together(args, program, path):
    """llama-batched-bench's. One prompt is read, and copied for each sequence: all have as much KV to read as ours."""
    context = max(BATCHES) * (BATCH_DEPTH + N_GEN_BATCH)
    command = [program, "-m", path, "-ngl", "99", "-fa", "on", "-c", str(context), "-pps", "-npp", str(BATCH_DEPTH),
               "-ntg", str(N_GEN_BATCH), "-npl", listed(BATCHES), "--output-format", "jsonl"]
    for row in rows_of(command):
        yield batch_row(row["pl"]), row["speed_tg"], ""


PEER_PROGRAMS = {"llama-bench": alone, "llama-batched-bench": together}


def peer(args, path):
    """A round of llama.cpp, as ours(): the best of its builds and settings."""
    figures = {}
    for build in args.peer:
        for name, measure in PEER_PROGRAMS.items():
            program = os.path.join(build, name)
            for row, value, setting in measure(args, program, path) if os.access(program, os.X_OK) else ():
                setting = " ".join(filter(None, (os.path.basename(build) if len(args.peer) > 1 else "", setting)))
                print("# %s: %.4g tok/s %s" % (row, value, setting))
                if value > figures.get(row, (0, ""))[0]:
                    figures[row] = (value, setting)
    return figures


# ---- the table -------------------------------------------------------------------------------------------------------

def compare(args, kind, path, began):
    rounds = []
    while len(rounds) < args.rounds and (not rounds or time.monotonic() - began < args.seconds):
        programs = [ours, peer] if len(rounds) % 2 == 0 else [peer, ours]
        results = {}
        for program in programs:
            start = time.monotonic()
            results[program] = program(args, path)
            print("# %s, round %d, %s: %.1f s" % (kind, len(rounds) + 1, program.__name__, time.monotonic() - start), flush=True)
        rounds.append((results[ours], results[peer]))
    print("\n| %s, rounds: %d, tok/s | llmlua | llama.cpp | ratio (min–max) | its settings |\n|---|---|---|---|---|" % (kind, len(rounds)))
    for name in rounds[0][0]:
        a = [r[0][name][0] for r in rounds]
        b = [r[1][name][0] for r in rounds if name in r[1]]
        if len(b) < len(a):
            print("| %s | %.4g | – | – | |" % (name, statistics.median(a)))
            continue
        ratios = [x / y for x, y in zip(a, b)]
        settings = ", ".join(sorted({r[1][name][1] for r in rounds} - {""}))
        print("| %s | %.4g | %.4g | %.2f (%.2f–%.2f) | %s |" % (name, statistics.median(a), statistics.median(b),
              statistics.median(ratios), min(ratios), max(ratios), settings), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("llmlua", nargs="?")
    parser.add_argument("shape")
    parser.add_argument("--write", metavar="FILE", help="only write the file")
    parser.add_argument("--peer", metavar="DIR,…", default=[], type=lambda s: s.split(","), help="llama.cpp's programs")
    parser.add_argument("--type", default="Q4_K_M,Q8_0,BF16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--dir", default=".", help="where to write the files")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--prompts", type=lambda s: [int(n) for n in s.split(",")], default=list(PROMPTS))
    args = parser.parse_args()
    with open(os.path.join(args.shape, "config.json")) as file:
        config = json.load(file)
    began = time.monotonic()
    if args.write:
        print("%s: %d bytes" % (args.write, write_model(args.write, config, args.type)))
        return
    for program in PEER_PROGRAMS:
        if not any(os.access(os.path.join(build, program), os.X_OK) for build in args.peer):
            print("%s: skipped, it is not in %s" % (program, ", ".join(args.peer) or "any --peer DIR"))
    for kind in args.type.split(","):
        path = os.path.join(args.dir, "bench-%s.gguf" % kind)
        start = time.monotonic()
        size = write_model(path, config, kind)
        print("# %s: %.2f GB written in %.1f s" % (path, size / 1e9, time.monotonic() - start), flush=True)
        try:
            compare(args, kind, path, began)
        finally:
            os.remove(path)


if __name__ == "__main__":
    sys.exit(main())
