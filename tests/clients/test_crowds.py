"""Many clients at once, over a model that computes nothing: connections that idle, streams that are left."""

import os
import re
import resource
import selectors
import socket
import time
import unittest

from support import Server
from test_operations import raw_request

N_IDLE = 10_000
IDLE_BYTES = 200 << 20
N_LEAVING = 500


def resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return int(re.search(r"VmRSS:\s+(\d+) kB", file.read()).group(1)) << 10


def read_until(connections: list[socket.socket], enough) -> None:
    """Reads from each until enough(what it has sent so far)."""
    selector, texts = selectors.DefaultSelector(), {}
    for connection in connections:
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ)
        texts[connection] = b""
    end = time.monotonic() + 60
    while texts and time.monotonic() < end:
        for key, _ in selector.select(1):
            piece = key.fileobj.recv(65536)
            texts[key.fileobj] += piece
            if enough(texts[key.fileobj]) or not piece:
                selector.unregister(key.fileobj)
                if not enough(texts.pop(key.fileobj)):
                    raise AssertionError("a connection was closed")
    selector.close()
    if texts:
        raise AssertionError(f"{len(texts)} connections have nothing to read")


class Idle(unittest.TestCase):
    def test_ten_thousand_connections(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard < N_IDLE + 500:
            self.skipTest(f"the system lets a process have {hard} files")
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))  # the server has to raise its own
        own = Server("--load-format", "null", "--disable-access-log")
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        host, port = own.url.removeprefix("http://").split(":")
        before, connections = resident_bytes(own.process.pid), []
        try:
            for _ in range(N_IDLE // 500):  # as many as wait to be accepted
                some = [socket.create_connection((host, int(port))) for _ in range(500)]
                connections += some
                for connection in some:
                    connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                read_until(some, lambda text: text.endswith(b"\r\n\r\n"))
            self.assertGreaterEqual(len(os.listdir(f"/proc/{own.process.pid}/fd")), N_IDLE)
            resident = resident_bytes(own.process.pid)
            print(f"{N_IDLE} idle connections: {resident >> 20} MiB, {(resident - before) // N_IDLE} bytes each ... ",
                  end="")
            self.assertLess(resident, IDLE_BYTES)
            for connection in connections[:: N_IDLE // 10]:  # they are alive
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            read_until(connections[:: N_IDLE // 10], lambda text: text.startswith(b"HTTP/1.1 200"))
        finally:
            for connection in connections:
                connection.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        self.assertEqual(own.stop(), 0)


class Leaving(unittest.TestCase):
    def check(self, *options: str):
        own = Server("--load-format", "null", "--null-step-ms", "2", "--max-num-seqs", "512", *options)
        body = {"prompt": "Once upon a time", "max_tokens": 2000, "ignore_eos": True, "stream": True}
        connections = [raw_request(own.url, body) for _ in range(N_LEAVING)]
        read_until(connections, lambda text: b"data: " in text)
        self.assertGreater(own.load()["kv_blocks_used"], N_LEAVING)
        for connection in connections:
            connection.close()
        load = own.wait_until_idle()
        self.assertEqual((load["kv_blocks_used"], load["running"], load["waiting"]), (0, 0, 0))
        end = time.monotonic() + 10
        while load["server_load"] and time.monotonic() < end:
            load = own.load()
        self.assertEqual(load["server_load"], 0)
        aborted = re.search(r'request_success_total{finished_reason="abort"[^}]*} (\d+)',
                            own.request("GET", "/metrics")[2].decode())
        self.assertEqual(int(aborted.group(1)), N_LEAVING)
        self.assertEqual(own.stop(), 0)

    def test_five_hundred_streams(self):
        self.check()

    def test_of_several_workers(self):
        self.check("--workers", "3")
