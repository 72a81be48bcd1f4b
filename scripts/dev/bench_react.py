#!/usr/bin/env python3
"""A ReAct loop with 8 tool calls in the engine, beside the same loop over HTTP on the same engine.

Both ask the same server: the loop inside is a program (tests/programs/react_8.lua, one request an agent), the loop
outside posts the growing text to /v1/completions for each thought, as agents do, with prefix caching on. Each client
keeps its connection. The outside loop runs twice: with the openai package (what agents are written with) and with bare
http.client (the least a client can cost). The loops take turns; figures are medians of rounds, ratios medians of
the rounds' ratios.

  scripts/dev/bench_react.py --program build/llmlua --model models/model.gguf
"""
import argparse, http.client, json, os, re, signal, statistics, subprocess, sys, threading, time

here = os.path.dirname(os.path.abspath(__file__))
root = os.path.dirname(os.path.dirname(here))

HEAD = 'Answer the question. Use the tools calculator[expression] and http[url] in lines that begin with "Action:".\n'
SHOT = """
Question: How much is %d * 14 + 1, and what does http://localhost/%d say?
Thought: I have to calculate %d * 14 + 1, then to read http://localhost/%d.
Action: calculator[%d * 14 + 1]
Observation: %d
Thought: I have the number, and have to read http://localhost/%d.
Action: http[http://localhost/%d]
Observation: 12:%d
Thought: I know both answers now.
Answer: %d, and 12:%d
"""


def prompt_of(shots, number):
    text = HEAD
    for i in range(10, 10 + shots):
        text += SHOT % (i, i, i, i, i, 14 * i + 1, i, i, i, 14 * i + 1, i)
    return text + "\nQuestion: How much is %d * 12 + 7, and half of that?\nThought:" % number


class Server:
    def __init__(self, args):
        command = [args.program, os.path.join(root, "scripts/serve_programs.lua"), "--model", args.model, "--port", "0",
                   "--programs", os.path.join(root, "tests/programs"), "--max-model-len", "2048"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
            if found:
                self.port = int(found.group(1))
                threading.Thread(target=self.process.stderr.read, daemon=True).start()
                return
        sys.exit("the server did not start")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


class Bare:
    def __init__(self, port, model):
        self.model = model
        self.connection = http.client.HTTPConnection("127.0.0.1", port)

    def post(self, path, body):
        self.connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        return json.loads(self.connection.getresponse().read())

    def complete(self, text, max_tokens):
        reply = self.post("/v1/completions", {"model": self.model, "prompt": text, "temperature": 0,
                                              "max_tokens": max_tokens, "min_tokens": max_tokens})
        return reply["choices"][0]["text"]


class Package(Bare):
    def __init__(self, port, model):
        import openai
        super().__init__(port, model)
        self.client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")

    def complete(self, text, max_tokens):
        reply = self.client.completions.create(model=self.model, prompt=text, temperature=0, max_tokens=max_tokens,
                                               extra_body={"min_tokens": max_tokens})
        return reply.choices[0].text


def inside(client, prompt, args):
    reply = client.post("/programs/react_8", {"prompt": prompt, "calls": args.calls, "max_tokens": args.max_tokens})
    return reply["result"]


def outside(client, prompt, args):
    text = prompt
    for call in range(1, args.calls + 1):
        said = client.complete(text, args.max_tokens)
        text += said + "\nObservation: %d\nThought:" % (7 * call + len(said.encode()))
    return (text + client.complete(text, args.max_tokens))[len(prompt):]


def round_of(loop, clients, first, args):
    """Seconds of each agent, and of all together."""
    times = [0.0] * len(clients)

    def agent(i):
        start = time.monotonic()
        loop(clients[i], prompt_of(args.shots, first + i), args)
        times[i] = time.monotonic() - start

    start = time.monotonic()
    threads = [threading.Thread(target=agent, args=(i,)) for i in range(len(clients))]
    for t in threads: t.start()
    for t in threads: t.join()
    return times, time.monotonic() - start


def rotated(items, by):
    by %= len(items)
    return items[by:] + items[:by]


def paired(a, b):
    """The median of the rounds' ratios."""
    return statistics.median(x / y for x, y in zip(a, b))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--program", default=os.path.join(root, "build/llmlua"))
    p.add_argument("--model", required=True)
    p.add_argument("--calls", type=int, default=8)
    p.add_argument("--max-tokens", type=int, default=16, help="of a thought")
    p.add_argument("--shots", type=int, default=6, help="examples in the prompt")
    p.add_argument("--agents", type=int, nargs="+", default=[1, 8], help="at once")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--json", action="store_true")
    args = p.parse_args()
    server = Server(args)
    model = json.loads(get(server.port, "/v1/models"))["data"][0]["id"]
    kinds = {"inside": (inside, lambda: Bare(server.port, model)), "http": (outside, lambda: Bare(server.port, model))}
    try:
        import openai  # noqa: F401
        kinds["openai"] = (outside, lambda: Package(server.port, model))
    except ImportError:
        pass
    rows, first = [], 1
    try:
        for n in args.agents:
            walls, latencies = {k: [] for k in kinds}, {k: [] for k in kinds}
            for r in range(args.rounds + 1):
                for kind in rotated(list(kinds), r):
                    # questions that no loop has seen; the examples before them are in the prefix cache for all
                    loop, make = kinds[kind]
                    times, wall = round_of(loop, [make() for _ in range(n)], first, args)
                    first += n
                    if r > 0:  # the first warms up
                        walls[kind].append(wall)
                        latencies[kind].append(statistics.mean(times))
            for kind in kinds:
                rows.append({"agents": n, "loop": kind, "latency_ms": 1e3 * statistics.median(latencies[kind]),
                             "agents_per_s": n / statistics.median(walls[kind]),
                             "latency_of_inside": paired(latencies["inside"], latencies[kind]),
                             "throughput_of_inside": paired(walls[kind], walls["inside"])})
    finally:
        server.stop()
    if args.json:
        print(json.dumps(rows))
        return
    print(f"{args.calls} tool calls, {args.shots} examples, {args.max_tokens} tokens a thought, medians of {args.rounds} rounds")
    print("agents  loop     latency ms  agents/s  inside's latency  inside's throughput")
    for r in rows:
        print(f"{r['agents']:6d}  {r['loop']:7s}  {r['latency_ms']:10.1f}  {r['agents_per_s']:8.2f}"
              f"  {100 * r['latency_of_inside']:14.0f} %  {r['throughput_of_inside']:17.2f} x")


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", path)
    return connection.getresponse().read()


if __name__ == "__main__":
    main()
