"""A soak: strangers, broken connections and good clients on one server, for so long.

    python3 tests/clients/soak.py PROGRAM MODEL [--seconds 300]

The server runs with `--load-format null`, so that the engine costs little and the front end gets the load. PROGRAM is
best a build with sanitizers: what they report makes it fail, as does a wrong refusal, a good client that gets anything
but what it got at first, a KV page in use at the end, an exit code other than 0. Needs nothing but Python."""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import hostile

REPORTS = re.compile(r"ERROR: \w+Sanitizer|runtime error:|SUMMARY: \w+Sanitizer|assertion|stack traceback", re.I)


class Soak:
    def __init__(self, program: str, model: str, seconds: float):
        self.log = tempfile.NamedTemporaryFile("w+", prefix="llmlua-soak-")
        options = ["--load-format", "null", "--max-model-len", "2048", "--max-num-seqs", "32", "--max-body", "1MiB",
                   "--trust-request-chat-template", "--disable-access-log", "--host", "127.0.0.1", "--port", "0"]
        self.process = subprocess.Popen([program, "serve.lua", "--model", model, *options], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=self.log,
                                        env={"ASAN_OPTIONS": "detect_leaks=1:allocator_may_return_null=1", **os.environ})
        self.url = self.wait_for_url()
        self.end = time.monotonic() + seconds
        self.counts, self.bad, self.lock = {}, [], threading.Lock()

    def output(self) -> str:
        with open(self.log.name, encoding="utf-8", errors="replace") as file:
            return file.read()

    def wait_for_url(self) -> str:
        for _ in range(1200):
            found = re.search(r"^Serving .* at (\S+)$", self.output(), re.M)
            if found:
                return found.group(1)
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        sys.exit("the server did not start:\n" + self.output())

    def note(self, what: str, wrong: str | None = None):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + 1
            if wrong:
                self.bad.append(f"{what}: {wrong}")

    def repeat(self, what: str, step):
        """step() again and again; it returns what was wrong."""
        while time.monotonic() < self.end and self.process.poll() is None and len(self.bad) < 10:
            try:
                self.note(what, step())
            except Exception as failure:  # of a connection, by then
                self.note(what, repr(failure))

    def good(self) -> str:
        body = {"prompt": "Once upon a time", "max_tokens": 40, "temperature": 0, "stream": True, "ignore_eos": True}
        request = urllib.request.Request(self.url + "/v1/completions", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=hostile.PATIENCE) as reply:
            events = reply.read().split(b"\n\n")
        assert events[-2:] == [b"data: [DONE]", b""], events[-2:]
        return "".join(json.loads(event[6:])["choices"][0]["text"] for event in events[:-2])

    def run(self):
        expected = self.good()
        cases, chance = hostile.cases(), random.Random(1)

        def refusal():
            name, data, status = chance.choice(cases)
            wrong = hostile.refuse(self.url, data, status)
            return f"{name}: {wrong}" if wrong else None

        def good():
            text = self.good()
            return None if text == expected else f"another text: {text[:200]!r}"

        steps = [("refused", refusal), ("refused", refusal), ("mutated", lambda: hostile.ask_mutated(self.url, chance)),
                 ("mutated", lambda: hostile.ask_mutated(self.url, chance)),
                 ("misbehaved", lambda: hostile.misbehave(self.url, chance)),
                 ("misbehaved", lambda: hostile.misbehave(self.url, chance)), ("good", good), ("good", good)]
        threads = [threading.Thread(target=self.repeat, args=step) for step in steps]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def finish(self) -> list[str]:
        """Everything that is wrong."""
        load = {}
        for _ in range(600):
            if self.process.poll() is not None:
                break
            with urllib.request.urlopen(self.url + "/load", timeout=hostile.PATIENCE) as reply:
                load = json.load(reply)
            if load["running"] == load["waiting"] == load["kv_blocks_used"] == 0:
                break
            time.sleep(0.05)
        else:
            self.bad.append(f"something is left: {load}")
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(120)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = "none: it did not end"
        if code != 0:
            self.bad.append(f"exit code {code}")
        if REPORTS.search(self.output()) or code != 0:
            self.bad.append("the server's log:\n" + self.output()[-6000:])
        return self.bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--seconds", type=float, default=300)
    options = parser.parse_args()
    soak = Soak(options.program, options.model, options.seconds)
    soak.run()
    bad = soak.finish()
    print(", ".join(f"{n} {what}" for what, n in sorted(soak.counts.items())))
    for one in bad:
        print("WRONG:", one)
    return 1 if bad or len(soak.counts) < 4 else 0


sys.exit(main())
