#!/usr/bin/env python3
"""Our speed beside llama.cpp's: same file, same threads, same run.

usage: scripts/dev/bench_peer.py [--threads 2] [--rounds 5] [--model PATH] [--text FILE] [--json]

The two programs take turns, round by round, so that a machine whose speed drifts is fair to both; figures are medians
of the rounds, and the ratio is the median of the rounds' ratios. llama.cpp is built by scripts/dev/build-llama-cpp.sh;
it gets the better of its two attention paths (-fa 0 and 1). --text adds the perplexity of both on that file.
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROMPT = "The capital of France is"


def run(command):
    """Output, wall seconds and peak resident MiB of a finished command."""
    start = time.monotonic()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    out = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit("failed: " + " ".join(command))
    return out, time.monotonic() - start, usage.ru_maxrss / 1024


class Ours:
    name = "llmlua"

    def __init__(self, args):
        self.binary, self.model, self.threads = os.path.join(ROOT, "build/llmlua"), args.model, str(args.threads)

    def bench(self, *options):
        out, _, _ = run([self.binary, "bench.lua", "--model", self.model, "--threads", self.threads, "--reps", "1",
                         "--json", *options])
        return json.loads(out.splitlines()[-1])["tok_s"]

    def prefill(self):
        return self.bench("--mode", "prefill", "--n-prompt", "512")

    def decode(self):
        return self.bench("--mode", "decode", "--n-gen", "128")

    def decode_4k(self):
        return self.bench("--mode", "decode", "--n-gen", "32", "--depth", "4096")

    def batch(self, n):
        return self.bench("--mode", "batch", "--batch", str(n), "--n-gen", "64", "--depth", "64")

    def first_token(self):
        _, seconds, mib = run([self.binary, "generate.lua", "--model", self.model, "--threads", self.threads,
                               "--temperature", "0", "--max-tokens", "1", "--prompt", PROMPT])
        return seconds, mib

    def perplexity(self, text):
        out, _, _ = run([self.binary, "perplexity.lua", text, "--model", self.model, "--threads", self.threads,
                         "--ctx", "512", "--json"])
        return json.loads(out.splitlines()[-1])["perplexity"]


class Peer:
    name = "llama.cpp"

    def __init__(self, args):
        out, _, _ = run([os.path.join(ROOT, "scripts/dev/build-llama-cpp.sh")])
        self.bin, self.model, self.threads = out.strip().splitlines()[-1], args.model, str(args.threads)

    def bench(self, *options):
        out, _, _ = run([os.path.join(self.bin, "llama-bench"), "-m", self.model, "-t", self.threads, "-fa", "0,1",
                         "-r", "1", "-o", "json", *options])
        return max(row["avg_ts"] for row in json.loads(out))

    def prefill(self):
        return self.bench("-p", "512", "-n", "0")

    def decode(self):
        return self.bench("-p", "0", "-n", "128")

    def decode_4k(self):
        return self.bench("-p", "0", "-n", "32", "-d", "4096")

    def batch(self, n):
        best = 0
        for flash in ("off", "on"):
            out, _, _ = run([os.path.join(self.bin, "llama-batched-bench"), "-m", self.model, "-t", self.threads, "-fa", flash,
                             "-npp", "64", "-ntg", "64", "-npl", str(n), "-c", str(n * 128 + 256), "--output-format", "jsonl"])
            rows = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
            best = max(best, rows[-1]["speed_tg"])
        return best

    def first_token(self):
        _, seconds, mib = run([os.path.join(self.bin, "llama-completion"), "-m", self.model, "-t", self.threads, "-c", "8192",
                               "--temp", "0", "-n", "1", "-no-cnv", "--no-warmup", "-p", PROMPT])
        return seconds, mib

    def perplexity(self, text):
        command = [os.path.join(self.bin, "llama-perplexity"), "-m", self.model, "-t", self.threads, "-c", "512", "-f", text]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=True)
        return float(re.search(r"Final estimate: PPL = ([0-9.]+)", done.stdout + done.stderr).group(1))


ROWS = [  # name, unit, measure, goal of the ratio ours / theirs
    ("prefill 512", "tok/s", lambda e: e.prefill(), 2.0),
    ("decode 128", "tok/s", lambda e: e.decode(), 1.1),
    ("decode at 4k context", "tok/s", lambda e: e.decode_4k(), 1.5),
    ("batch 8 decode", "tok/s", lambda e: e.batch(8), 2.0),
    ("batch 32 decode", "tok/s", lambda e: e.batch(32), 2.5),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=os.path.join(ROOT, "models/SmolLM2-135M-Instruct.Q4_1.gguf"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--text", help="also the perplexity of both on this file")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    ours, peer = Ours(args), Peer(args)

    results = []
    for name, unit, measure, goal in ROWS:
        a, b = zip(*[(measure(ours), measure(peer)) for _ in range(args.rounds)])
        results.append((name, unit, a, b, "at least %.1f" % goal))
    a, b = zip(*[(ours.first_token(), peer.first_token()) for _ in range(args.rounds)])
    results.append(("start to first token", "s", [x[0] for x in a], [x[0] for x in b], "at most 1"))
    results.append(("peak memory", "MiB", [x[1] for x in a], [x[1] for x in b], "at most 1"))
    if args.text:
        results.append(("perplexity", "", [ours.perplexity(args.text)], [peer.perplexity(args.text)], "within 0.005 of 1"))

    if not args.json:
        print("| | unit | llmlua | llama.cpp | ratio (min–max) | goal |\n|---|---|---|---|---|---|")
    for name, unit, a, b, goal in results:
        ratios = [x / y for x, y in zip(a, b)]
        row = dict(name=name, unit=unit, ours=statistics.median(a), peer=statistics.median(b),
                   ratio=statistics.median(ratios), ratio_min=min(ratios), ratio_max=max(ratios), goal=goal)
        if args.json:
            print(json.dumps(row))
        else:
            print("| {name} | {unit} | {ours:.4g} | {peer:.4g} | {ratio:.2f} ({ratio_min:.2f}–{ratio_max:.2f}) | {goal} |".format(**row))


if __name__ == "__main__":
    main()
