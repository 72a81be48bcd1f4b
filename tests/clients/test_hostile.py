"""Bad input against the real server: each has its status and a nested error, and a client beside it notices nothing."""

import json
import os
import random
import tempfile
import threading
import time
import unittest

import hostile
from support import Server

OPTIONS = ["--max-body", "1MiB", "--trust-request-chat-template"]


def script_with(options: str) -> str:
    """The path of a serve.lua with more options of the transport."""
    path = os.path.join(os.path.dirname(__file__), "../../scripts/serve.lua")
    with open(path, encoding="utf-8") as file:
        text = file.read()
    call = "openai.server_options(opts)"
    assert text.count(call) == 1
    text = text.replace(call, f"(function() local o = {call} {options} return o end)()")
    with tempfile.NamedTemporaryFile("w", suffix=".lua", delete=False) as made:
        made.write(text)
    return made.name


class Hostile(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.script = script_with("o.head_timeout, o.body_timeout, o.idle_timeout = 1, 1, 2")
        cls.addClassCleanup(os.unlink, cls.script)
        cls.server = Server(*OPTIONS, script=cls.script)
        cls.addClassCleanup(cls.server.stop)

    def setUp(self):
        """A client that goes on asking, and gets the same each time."""
        self.stop, self.n, self.bad = False, 0, []
        self.expected = self.ask()
        self.client = threading.Thread(target=self.go_on)
        self.client.start()

    def tearDown(self):
        self.stop = True
        self.client.join()
        self.assertEqual(self.bad, [])
        self.assertGreater(self.n, 0)
        self.assertEqual(self.server.wait_until_idle()["kv_blocks_used"], 0)

    def ask(self) -> str:
        body = {"prompt": "Once upon a time", "max_tokens": 16, "temperature": 0}
        status, _, reply = self.server.request("POST", "/v1/completions", body)
        return json.loads(reply)["choices"][0]["text"] if status == 200 else f"{status} {reply}"

    def go_on(self):
        while not self.stop:
            text = self.ask()
            self.n += 1
            if text != self.expected:
                self.bad.append(text)

    def test_refusals(self):
        for name, data, status in hostile.cases():
            with self.subTest(name):
                self.assertIsNone(hostile.refuse(self.server.url, data, status))

    def test_nothing_follows_a_smuggled_request(self):
        """What comes after a request whose end is in doubt is not taken for another."""
        for head, _ in hostile.SMUGGLED[:4]:
            with hostile.connect(self.server.url) as connection:
                hostile.send(connection, b"POST /v1/completions HTTP/1.1\r\n" + hostile.HEAD + head + hostile.get(b"Host: x"))
                data = b""
                while more := connection.recv(65536):
                    data += more
                self.assertEqual(data.count(b"HTTP/1.1 "), 1, data)

    def test_slow_heads_and_bodies(self):
        """Heads and bodies that come too slowly are given up, however many: 200 at once."""
        whole = hostile.completion()
        connections = [hostile.connect(self.server.url) for _ in range(200)]
        end = time.monotonic() + 30
        for i, connection in enumerate(connections):
            hostile.send(connection, whole[:40] if i % 2 else whole[:-5])
        while connections and time.monotonic() < end:
            for i, connection in enumerate(list(connections)):
                connection.settimeout(0.001)
                try:
                    data = connection.recv(65536)
                except TimeoutError:
                    continue
                except ConnectionResetError:
                    data = b""
                self.assertTrue(data == b"" or data.startswith(b"HTTP/1.1 408 "), data)
                if not data:
                    connection.close()
                    connections.remove(connection)
        self.assertEqual(connections, [])

    def test_misbehaving_connections(self):
        chance = random.Random(4711)
        for _ in range(60):
            hostile.misbehave(self.server.url, chance)

    def test_mutated_requests(self):
        chance = random.Random(4712)
        for _ in range(300):
            self.assertIsNone(hostile.ask_mutated(self.server.url, chance))
