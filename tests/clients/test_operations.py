"""Keys, limits, deadlines, disconnects, shutting down: what keeps a server up among strangers."""

import json
import os
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
from prometheus_client.parser import text_string_to_metric_families

from support import NAME, Server, server

LONG = {"model": NAME, "prompt": "Once upon a time", "max_tokens": 1500, "temperature": 1,
        "extra_body": {"ignore_eos": True}}


def raw_request(url: str, body: dict) -> socket.socket:
    """A connection on which a request has been sent and nothing read."""
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    data = json.dumps(body).encode()
    connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                       b"Content-Length: %d\r\n\r\n%s" % (len(data), data))
    return connection


class Keys(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.file = tempfile.NamedTemporaryFile("w", suffix=".keys")
        cls.file.write("# of the team\n\n  key-three \n")
        cls.file.flush()
        cls.server = server("--api-key", "key-one", "--api-key", "key-two", "--api-key-file", cls.file.name)

    def test_every_key_opens(self):
        for key in ["key-one", "key-two", "key-three"]:
            self.assertEqual(self.server.client(api_key=key).models.list().data[0].id, NAME)
        self.assertEqual(self.server.request("GET", "/v1/models", headers={"x-api-key": "key-one"})[0], 200)

    def test_no_other_does(self):
        for key in ["key-on", "key-one2", "key-four", "KEY-ONE", "#", "# of the team"]:
            with self.subTest(key=key), self.assertRaises(openai.AuthenticationError) as caught:
                self.server.client(api_key=key).models.list()
            self.assertEqual(caught.exception.body["code"], 401)
        status, headers, body = self.server.request("GET", "/v1/models")
        self.assertEqual(status, 401)
        self.assertEqual(headers["www-authenticate"], "Bearer")
        self.assertEqual(json.loads(body)["error"]["type"], "AuthenticationError")

    def test_only_liveness_is_open(self):
        for path in ["/health", "/ping"]:
            self.assertEqual(self.server.request("GET", path)[0], 200)
        for path in ["/metrics", "/version", "/load", "/ready", "/nothing", "/v1//models", "/%68ealth/x", "/health/"]:
            self.assertEqual(self.server.request("GET", path)[0], 401, path)
        for path in ["/tokenize", "/detokenize", "/v1/responses"]:
            self.assertEqual(self.server.request("POST", path, {})[0], 401, path)
        for host in ["health", "x/health", "x?/health"]:
            self.assertIn(self.server.request("GET", "/v1/models", headers={"Host": host})[0], [400, 401])


class Routes(unittest.TestCase):
    def setUp(self):
        self.server = server()

    def test_what_probes_ask(self):
        for path in ["/health", "/ping", "/ready", "/version", "/load"]:
            self.assertEqual(self.server.request("GET", path)[0], 200, path)

    def test_cross_origin(self):
        status, headers, _ = self.server.request("OPTIONS", "/v1/chat/completions", headers={
            "Origin": "https://page.example", "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization, content-type"})
        self.assertEqual(status, 204)
        self.assertEqual(headers["access-control-allow-origin"], "*")
        self.assertIn("POST", headers["access-control-allow-methods"])
        self.assertEqual(headers["access-control-allow-headers"], "authorization, content-type")
        self.assertEqual(self.server.request("POST", "/v1/completions", {"temperature": "x"},
                                             {"Origin": "https://page.example"})[1]["access-control-allow-origin"], "*")

    def test_request_ids(self):
        status, headers, body = self.server.request("POST", "/v1/completions", {"prompt": "x", "max_tokens": 1},
                                                    {"X-Request-Id": "mine-1"})
        self.assertEqual((status, headers["x-request-id"]), (200, "mine-1"))
        self.assertEqual(json.loads(body)["id"], "cmpl-mine-1")
        first = self.server.request("GET", "/version", headers={"X-Request-Id": "a b"})[1]["x-request-id"]
        second = self.server.request("GET", "/version")[1]["x-request-id"]
        self.assertNotEqual(first, second)
        self.assertNotEqual(first, "a b")

    def test_unknown_fields_are_named(self):
        body = {"prompt": "x", "max_tokens": 1, "temprature": 0, "foo": None}
        status, headers, _ = self.server.request("POST", "/v1/completions", body)
        self.assertEqual(status, 200)
        self.assertEqual(headers["x-llmlua-warning"], "unknown field 'foo', unknown field 'temprature'")
        status, _, reply = server("--strict").request("POST", "/v1/completions", body)
        self.assertEqual(status, 400)
        self.assertEqual(json.loads(reply)["error"]["param"], "foo")

    def test_bad_bodies(self):
        for body, status in [(b"", 400), (b"{", 400), (b"[1]", 400), (b"null", 400), (b'{"prompt":"\xff"}', 400),
                             (b'{"prompt":' + b"[" * 100000, 400), (b'{"prompt":"x"} x', 400),
                             (b'{"prompt":"x","max_tokens":1e999}', 400),
                             (b'{"prompt":"x","seed":99999999999999999999}', 400),
                             (b'{"prompt":"x","max_tokens":1.5}', 400), (b'{"prompt":{"a":1}}', 400)]:
            with self.subTest(body=body[:40]):
                code, _, reply = self.server.request("POST", "/v1/completions", body)
                error = json.loads(reply)["error"]
                self.assertEqual((code, error["code"]), (status, status))
                self.assertTrue(error["message"])
                self.assertNotIn(".lua", error["message"])
        code, _, reply = self.server.request("POST", "/v1/completions", b"{}", {"Content-Type": "text/plain"})
        self.assertEqual((code, json.loads(reply)["error"]["code"]), (415, 415))

    def test_wrong_routes(self):
        for method, path, status in [("GET", "/v1/nothing", 404), ("GET", "/v1/completions", 405),
                                     ("DELETE", "/v1/models", 405)]:
            code, _, reply = self.server.request(method, path)
            self.assertEqual((code, json.loads(reply)["error"]["code"]), (status, status))

    def test_large_bodies(self):
        small = server("--max-body", "64KiB")
        code, _, reply = small.request("POST", "/v1/completions", {"prompt": "x" * 100000})
        self.assertEqual((code, json.loads(reply)["error"]["code"]), (413, 413))

    def test_tokenize(self):
        text = "Hello, wörld 😀"
        _, _, body = self.server.request("POST", "/tokenize", {"model": NAME, "prompt": text,
                                                               "return_token_strs": True})
        reply = json.loads(body)
        self.assertEqual(reply["count"], len(reply["tokens"]))
        self.assertEqual(reply["max_model_len"], 2048)
        self.assertEqual(reply["token_strs"][0], "Hello")
        _, _, body = self.server.request("POST", "/detokenize", {"tokens": reply["tokens"]})
        self.assertEqual(json.loads(body), {"prompt": text})
        _, _, body = self.server.request("POST", "/tokenize", {"messages": [{"role": "user", "content": "Hi"}]})
        _, _, chat = self.server.request("POST", "/v1/chat/completions", {
            "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "return_token_ids": True})
        self.assertEqual(json.loads(body)["tokens"], json.loads(chat)["prompt_token_ids"])
        for path, bad in [("/tokenize", {}), ("/detokenize", {"tokens": [10**7]}), ("/detokenize", {})]:
            self.assertEqual(self.server.request("POST", path, bad)[0], 400)

    def test_metrics(self):
        self.server.client().completions.create(model=NAME, prompt="x", max_tokens=3, extra_body={"ignore_eos": True})
        list(self.server.client().completions.create(model=NAME, prompt="x", max_tokens=3, stream=True))
        text = self.server.request("GET", "/metrics")[2].decode()
        families = {f.name: f for f in text_string_to_metric_families(text)}
        seconds = ["kv_block_lifetime_seconds", "kv_block_idle_before_evict_seconds", "kv_block_reuse_gap_seconds"]
        for name, kind in [*[("vllm:" + name, "histogram") for name in seconds],
                           ("vllm:iteration_tokens_total", "histogram"), ("vllm:prompt_tokens_by_source", "counter"),
                           ("vllm:engine_sleep_state", "gauge"), ("vllm:lora_requests_info", "gauge"),
                           ("vllm:num_requests_waiting_by_reason", "gauge"), ("vllm:prompt_tokens_cached", "counter"),
                           ("vllm:external_prefix_cache_hits", "counter"), ("vllm:mm_cache_queries", "counter"),
                           ("vllm:num_requests_running", "gauge"), ("vllm:num_requests_waiting", "gauge"),
                           ("vllm:kv_cache_usage_perc", "gauge"), ("vllm:prompt_tokens", "counter"),
                           ("vllm:generation_tokens", "counter"), ("vllm:request_success", "counter"),
                           ("vllm:num_preemptions", "counter"), ("vllm:prefix_cache_hits", "counter"),
                           ("vllm:time_to_first_token_seconds", "histogram"), ("vllm:cache_config_info", "gauge"),
                           ("vllm:inter_token_latency_seconds", "histogram"), ("http_requests", "counter"),
                           ("vllm:e2e_request_latency_seconds", "histogram"), ("process_cpu_seconds", "counter"),
                           ("vllm:request_prompt_tokens", "histogram")]:
            self.assertEqual(families[name].type, kind, name)
        for family in families.values():
            if family.name.startswith("vllm:") and family.name != "vllm:cache_config_info":
                for sample in family.samples:
                    self.assertEqual((sample.labels["model_name"], sample.labels["engine"]), (NAME, "0"))
        bounds = [s.labels["le"] for s in families["vllm:time_to_first_token_seconds"].samples if "le" in s.labels]
        self.assertEqual([float(b) for b in bounds], [
            .001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
            float("inf")])
        self.assertIn('le="0.005"', text)
        self.assertGreaterEqual(self.total(families, "vllm:e2e_request_latency_seconds_count"), 2)
        for name, bounds in [
                ("vllm:iteration_tokens_total", [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384]),
                ("vllm:inter_token_latency_seconds", [.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5,
                                                      10, 20, 40, 80]),
                *[("vllm:" + name, [.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600,
                                    1200, 1800]) for name in seconds]]:
            given = [float(s.labels["le"]) for s in families[name].samples if "le" in s.labels]
            self.assertEqual(given, [*bounds, float("inf")], name)

    @staticmethod
    def total(families, name: str, **labels) -> float:
        return sum(sample.value for family in families.values() for sample in family.samples
                   if sample.name == name and labels.items() <= sample.labels.items())

    def test_metrics_add_up(self):
        """What one request adds, streamed and not."""
        own = server("--block-size", "16", "--enable-prompt-tokens-details")

        def read():
            text = own.request("GET", "/metrics")[2].decode()
            return {f.name: f for f in text_string_to_metric_families(text)}

        prompt = "one two three four five six seven eight nine ten " * 5
        before = read()
        usages = []
        for stream in [False, True, False]:
            body = {"prompt": prompt, "max_tokens": 5, "ignore_eos": True, "stream": stream}
            if not stream:
                usages.append(json.loads(own.request("POST", "/v1/completions", body)[2])["usage"])
            else:
                own.request("POST", "/v1/completions", body)
        after = read()

        def grown(name, **labels):
            return self.total(after, name, **labels) - self.total(before, name, **labels)

        n_prompt, cached = usages[0]["prompt_tokens"], usages[1]["prompt_tokens_details"]["cached_tokens"]
        self.assertGreater(cached, 0)
        self.assertEqual(grown("vllm:prompt_tokens_total"), 3 * n_prompt)
        self.assertEqual(grown("vllm:prompt_tokens_cached_total"), 2 * cached)
        self.assertEqual(grown("vllm:prompt_tokens_by_source_total", source="local_cache_hit"), 2 * cached)
        self.assertEqual(grown("vllm:prompt_tokens_by_source_total", source="local_compute"), 3 * n_prompt - 2 * cached)
        self.assertEqual(grown("vllm:prompt_tokens_by_source_total", source="external_kv_transfer"), 0)
        self.assertEqual(grown("vllm:generation_tokens_total"), 15)
        self.assertEqual(grown("vllm:inter_token_latency_seconds_count"), 12)
        self.assertEqual(grown("vllm:iteration_tokens_total_sum"), 3 * n_prompt - 2 * cached + 12)
        self.assertGreater(grown("vllm:kv_block_reuse_gap_seconds_count"), 0)
        self.assertEqual(grown("vllm:request_success_total", finished_reason="length"), 3)
        states = {s.labels["sleep_state"]: s.value for s in after["vllm:engine_sleep_state"].samples}
        self.assertEqual(states, {"awake": 1, "weights_offloaded": 0, "discard_all": 0})
        lora = after["vllm:lora_requests_info"].samples[0]
        self.assertEqual((lora.labels["max_lora"], lora.labels["running_lora_adapters"]), ("0", ""))
        self.assertAlmostEqual(lora.value, time.time(), delta=60)


class Limits(unittest.TestCase):
    def test_full_queue_and_retries(self):
        small = server("--max-num-seqs", "1", "--max-num-queued-reqs", "1")

        def ask(retries):
            try:
                with small.client(max_retries=retries, timeout=120) as api:
                    return api.completions.create(model=NAME, prompt="Once", max_tokens=200,
                                                  extra_body={"ignore_eos": True}).usage.completion_tokens
            except openai.InternalServerError as error:
                self.assertEqual(error.status_code, 503)
                self.assertTrue(1 <= int(error.response.headers["retry-after"]) <= 60)
                self.assertEqual(error.body["code"], 503)
                return 0

        with ThreadPoolExecutor(8) as pool:
            impatient = list(pool.map(ask, [0] * 8))
            self.assertIn(0, impatient)
            self.assertIn(200, impatient)
            self.assertEqual(list(pool.map(ask, [50] * 4)), [200] * 4)
        self.assertEqual(small.wait_until_idle()["kv_blocks_used"], 0)

    def test_queue_of_tokens(self):
        small = server("--max-num-seqs", "1", "--max-num-queued-tokens", "300")
        running = raw_request(small.url, {"prompt": "Once", "max_tokens": 2000, "ignore_eos": True, "stream": True})
        self.assertTrue(running.recv(10))
        waiting = raw_request(small.url, {"prompt": "x" * 1000, "max_tokens": 1})
        end = time.monotonic() + 30
        while small.load()["waiting"] == 0 and time.monotonic() < end:
            time.sleep(0.01)
        code, headers, body = small.request("POST", "/v1/completions", {"prompt": "y" * 1000, "max_tokens": 1})
        self.assertEqual((code, json.loads(body)["error"]["code"]), (503, 503))
        self.assertIn("retry-after", headers)
        running.close()
        waiting.close()
        self.assertEqual(small.wait_until_idle()["kv_blocks_used"], 0)

    def test_request_timeout(self):
        hasty = server("--request-timeout", "0.5")
        with self.assertRaises(openai.InternalServerError) as caught:
            hasty.client().completions.create(**LONG)
        self.assertEqual(caught.exception.status_code, 504)
        with self.assertRaises(openai.APIError) as caught:
            list(hasty.client().completions.create(**LONG, stream=True))
        self.assertIn("longer than 0.5 s", caught.exception.message)
        body = json.dumps({"prompt": "x", "max_tokens": 1500, "ignore_eos": True, "stream": True})
        raw = subprocess.run(["curl", "-sSN", hasty.url + "/v1/completions", "-H", "Content-Type: application/json",
                              "-d", body], check=True, stdout=subprocess.PIPE).stdout
        self.assertTrue(raw.endswith(b'"code":504}}\n\ndata: [DONE]\n\n'), raw[-200:])
        self.assertEqual(hasty.wait_until_idle()["kv_blocks_used"], 0)

    def test_timeout_of_the_client(self):
        shared = server()
        with self.assertRaises(openai.APITimeoutError):
            shared.client(timeout=0.3).completions.create(**LONG)
        self.assertEqual(shared.wait_until_idle()["kv_blocks_used"], 0)


class Disconnects(unittest.TestCase):
    def test_clients_that_leave(self):
        """Streaming or not, before the first byte or in the midst: afterwards no page is in use."""
        shared = server()
        for stream in [True, False]:
            body = {"prompt": "Once upon a time", "max_tokens": 1500, "ignore_eos": True, "stream": stream}
            connections = [raw_request(shared.url, body) for _ in range(100)]
            end = time.monotonic() + 60
            while shared.load()["running"] < 50 and time.monotonic() < end:
                time.sleep(0.02)
            self.assertGreater(shared.load()["kv_blocks_used"], 0)
            for i, connection in enumerate(connections):
                if stream and i % 2:
                    connection.recv(100)
                connection.close()
            self.assertEqual(shared.wait_until_idle()["kv_blocks_used"], 0)
        self.assertTrue(shared.client().completions.create(model=NAME, prompt="x", max_tokens=1).choices)

    def test_leaving_a_stream_of_the_client(self):
        shared = server()
        with shared.client() as api:
            stream = api.completions.create(**LONG, stream=True)
            next(iter(stream))
            stream.close()
            self.assertEqual(shared.wait_until_idle()["kv_blocks_used"], 0)


class Ends(unittest.TestCase):
    def test_sigterm_lets_streams_finish(self):
        own = Server()
        parts, begun = [], threading.Event()

        def read():
            for chunk in own.client().completions.create(**{**LONG, "max_tokens": 300}, stream=True):
                parts.append(chunk)
                begun.set()

        reader = threading.Thread(target=read)
        reader.start()
        self.assertTrue(begun.wait(60))
        own.process.send_signal(signal.SIGTERM)
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                if own.request("GET", "/ready")[0] != 200:
                    break
            except OSError:
                break
            time.sleep(0.01)
        else:
            self.fail("it still takes requests")
        reader.join(120)
        self.assertEqual(parts[-1].choices[0].finish_reason, "length")
        self.assertEqual(own.process.wait(60), 0)
        own.stop()

    def test_shutdown_timeout(self):
        own = Server("--shutdown-timeout", "0.3")
        connection = raw_request(own.url, {"prompt": "x", "max_tokens": 2000, "ignore_eos": True, "stream": True})
        self.assertTrue(connection.recv(10))
        self.assertEqual(own.stop(), 0)
        received = b""
        while piece := connection.recv(65536):
            received += piece
        self.assertNotIn(b"[DONE]", received)
        connection.close()

    def test_a_port_that_is_taken(self):
        shared = server()
        port = shared.url.rsplit(":", 1)[1]
        result = subprocess.run([os.environ["LLMLUA"], "serve.lua", "--model", os.environ["LLMLUA_MODEL"], "--host",
                                 "127.0.0.1", "--port", port], stderr=subprocess.PIPE, timeout=60)
        self.assertEqual(result.returncode, 1)
        self.assertIn(b"in use", result.stderr)


class Sockets(unittest.TestCase):
    def test_tls(self):
        with tempfile.TemporaryDirectory() as folder:
            key, certificate = folder + "/key.pem", folder + "/cert.pem"
            subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out",
                            certificate, "-days", "2", "-subj", "/CN=localhost", "-addext",
                            "subjectAltName=IP:127.0.0.1"], check=True, stderr=subprocess.DEVNULL)
            own = Server("--ssl-certfile", certificate, "--ssl-keyfile", key)
            try:
                self.assertTrue(own.url.startswith("https://"))
                trusting = httpx.Client(verify=ssl.create_default_context(cafile=certificate))
                reply = own.client(http_client=trusting).completions.create(
                    model=NAME, prompt="The capital of France is", max_tokens=2, temperature=0)
                self.assertIn("Paris", reply.choices[0].text)
                with self.assertRaises(OSError):
                    urllib.request.urlopen(own.url + "/health")
            finally:
                own.stop()

    def test_unix_socket(self):
        with tempfile.TemporaryDirectory() as folder:
            path = folder + "/llm.sock"
            own = Server("--uds", path)
            try:
                local = httpx.Client(transport=httpx.HTTPTransport(uds=path))
                api = openai.OpenAI(base_url="http://local/v1", api_key="none", http_client=local)
                self.assertEqual(api.models.list().data[0].id, NAME)
            finally:
                own.stop()
            self.assertFalse(os.path.exists(path))
