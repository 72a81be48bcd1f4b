#!/usr/bin/env python3
"""serve.lua on a GPU under a closed loop of streaming clients: output tokens a second, time to the first token, and the
gaps between tokens, a row for each number of clients.

usage: bench_serve.py LLMLUA SERVE_LUA CONFIG_DIR [CLIENTS,CLIENTS...] [PROMPT_TOKENS] [OUTPUT_TOKENS]

The model has random weights and a made-up vocabulary, so that every token is a word of text and gets an event of its own.
"""
import asyncio, json, os, random, re, shutil, signal, subprocess, sys, tempfile, threading, time
import aiohttp

llmlua, serve, config = sys.argv[1:4]
levels = [int(n) for n in (sys.argv[4] if len(sys.argv) > 4 else "1,64").split(",")]
n_in = int(sys.argv[5]) if len(sys.argv) > 5 else 1024
n_out = int(sys.argv[6]) if len(sys.argv) > 6 else 128
device = os.environ.get("LLMLUA_DEVICE", "cuda")
vocab_size = json.load(open(os.path.join(config, "config.json")))["vocab_size"]


def byte_names():
    """GPT-2's names of bytes: itself where it is visible, else a code point from 256 on."""
    names, others = [], 0
    for b in range(256):
        if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174:
            names.append(chr(b))
        else:
            names.append(chr(256 + others))
            others += 1
    return names


def make_model(path):
    shutil.copy(os.path.join(config, "config.json"), path)
    vocab = {name: i for i, name in enumerate(byte_names())}
    for i in range(256, vocab_size):
        vocab["\u0120w%d" % i] = i
    tokenizer = {"added_tokens": [], "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
                 "decoder": {"type": "ByteLevel"}, "model": {"type": "BPE", "merges": [], "vocab": vocab}}
    json.dump(tokenizer, open(os.path.join(path, "tokenizer.json"), "w"))


def percentile(values, p):
    values = sorted(values)
    return 1e3 * values[min(len(values) - 1, int(len(values) * p))] if values else float("nan")


async def request(session, url, rng, first, gaps):
    body = {"model": "m", "prompt": [rng.randrange(300, vocab_size) for _ in range(n_in)], "max_tokens": n_out,
            "temperature": 0, "ignore_eos": True, "stream": True}
    start, last, n = time.perf_counter(), None, 0
    async with session.post(url + "/v1/completions", json=body) as response:
        if response.status != 200:
            raise SystemExit("%d %s" % (response.status, await response.text()))
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            now, n = time.perf_counter(), n + 1
            if last is None:
                first.append(now - start)
            else:
                gaps.append(now - last)
            last = now
    return n


async def level(url, clients):
    total, rng, first, gaps = max(8, 3 * clients), random.Random(clients), [], []
    turn = asyncio.Semaphore(clients)
    timeout = aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        async def one():
            async with turn:
                return await request(session, url, rng, first, gaps)
        await asyncio.gather(*[request(session, url, rng, [], []) for _ in range(min(clients, 4))])
        start = time.perf_counter()
        events = await asyncio.gather(*[one() for _ in range(total)])
        seconds = time.perf_counter() - start
    row = {"clients": clients, "requests": total, "events": sum(events), "out_tok_s": total * n_out / seconds,
           "ttft_p50_ms": percentile(first, 0.5), "ttft_p99_ms": percentile(first, 0.99),
           "gap_p50_ms": percentile(gaps, 0.5), "gap_p99_ms": percentile(gaps, 0.99)}
    print("serve %3d clients of (%d, %d): %7.0f tok/s  TTFT p50 %.0f p99 %.0f ms  gap p50 %.1f p99 %.1f ms  %d events" % (
        clients, n_in, n_out, row["out_tok_s"], row["ttft_p50_ms"], row["ttft_p99_ms"], row["gap_p50_ms"],
        row["gap_p99_ms"], row["events"]), flush=True)
    return row


signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ended, it ends the server too, which has the device

with tempfile.TemporaryDirectory() as path:
    make_model(path)
    server = subprocess.Popen([llmlua, serve, "--model", path, "--load-format", "dummy", "--device", device,
                               "--served-model-name", "m", "--host", "127.0.0.1", "--port", "0", "--max-model-len", "4096",
                               *os.environ.get("SERVE_OPTIONS", "").split()],
                              stderr=subprocess.PIPE, text=True)
    url = None
    for line in server.stderr:
        found = re.match(r"Serving .* at (\S+)", line)
        if found:
            url = found.group(1)
            break
        print(line, end="")
    if not url:
        server.kill()
        raise SystemExit("the server did not start")
    # The server's log of requests: unread, it fills the pipe, and the server waits.
    threading.Thread(target=lambda: [None for _ in server.stderr], daemon=True).start()
    try:
        rows = [asyncio.run(level(url, n)) for n in levels]
    finally:
        server.terminate()
        server.wait()
    if os.environ.get("JSON"):
        with open(os.environ["JSON"], "a") as out:
            for row in rows:
                out.write(json.dumps({"name": "serve", **row}) + "\n")
