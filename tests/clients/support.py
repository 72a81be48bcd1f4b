"""Servers for the tests: one for each set of options, started when first asked for."""

import json
import os
import re
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

import openai

MODEL = os.environ["LLMLUA_MODEL"]
NAME = "smol"
START_SECONDS = 60

_servers: dict[tuple, "Server"] = {}


class Server:
    def __init__(self, *options: str, script: str = "serve.lua"):
        self.log = tempfile.NamedTemporaryFile("w+", prefix="llmlua-", suffix=".log", delete=False)
        command = [os.environ["LLMLUA"], script, "--model", MODEL, "--host", "127.0.0.1", "--port", "0",
                   "--served-model-name", NAME, "--max-model-len", "2048", *options]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.log)
        self.url = self._wait_for_url()

    def output(self) -> str:
        with open(self.log.name, encoding="utf-8", errors="replace") as file:
            return file.read()

    def _wait_for_url(self) -> str:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            found = re.search(r"^Serving .* at (\S+)$", self.output(), re.M)
            if found:
                return found.group(1)
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        self.process.kill()
        raise RuntimeError("the server did not start:\n" + self.output())

    def client(self, **options) -> openai.OpenAI:
        return openai.OpenAI(**{"base_url": self.url + "/v1", "api_key": "none", "max_retries": 0, **options})

    def async_client(self, **options) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(**{"base_url": self.url + "/v1", "api_key": "none", "max_retries": 0, **options})

    def request(self, method: str, path: str, body=None, headers=None) -> tuple[int, dict, bytes]:
        """(status, headers in lower case, body); body: bytes, or what is to be sent as JSON."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        fields = {"Content-Type": "application/json", **(headers or {})}
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=fields)
        try:
            with urllib.request.urlopen(request, timeout=120) as reply:
                return reply.status, {k.lower(): v for k, v in reply.headers.items()}, reply.read()
        except urllib.error.HTTPError as reply:
            return reply.code, {k.lower(): v for k, v in reply.headers.items()}, reply.read()

    def load(self, headers=None) -> dict:
        return json.loads(self.request("GET", "/load", headers=headers)[2])

    def wait_until_idle(self, seconds: float = 30, headers=None) -> dict:
        """The load, once nothing runs and no page of KV memory is in use; or what it is after so many seconds."""
        end = time.monotonic() + seconds
        while True:
            load = self.load(headers)
            if load["running"] == 0 and load["waiting"] == 0 and load["kv_blocks_used"] == 0:
                return load
            if time.monotonic() > end:
                return load
            time.sleep(0.02)

    def stop(self, how=signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            code = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.log.close()
        if os.path.exists(self.log.name):
            os.unlink(self.log.name)
        return code


def server(*options: str) -> Server:
    """The server with these options, shared by all tests that want the same."""
    if options not in _servers or _servers[options].process.poll() is not None:
        _servers[options] = Server(*options)
    return _servers[options]


def stop_all() -> None:
    for one in _servers.values():
        one.stop()
    _servers.clear()
