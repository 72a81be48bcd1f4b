"""The bytes of a stream, as curl -N prints them."""

import json
import re
import subprocess
import unittest

from support import NAME, server


def curl(url: str, body: dict, *options: str) -> bytes:
    return subprocess.run(["curl", "-sSN", "--max-time", "120", *options, url, "-H", "Content-Type: application/json",
                           "-d", json.dumps(body)], check=True, stdout=subprocess.PIPE).stdout


def pieces(stream: str, key: str) -> list[str]:
    """The JSON strings under a key, as they are spelled. Tokens that wait for a slow machine leave in one piece."""
    return re.findall(rf'"{key}":("(?:[^"\\]|\\.)*")', stream)


class Bytes(unittest.TestCase):
    def setUp(self):
        self.server = server()

    def test_completions(self):
        body = {"prompt": "The capital of France is", "max_tokens": 4, "temperature": 0, "stream": True,
                "ignore_eos": True, "stream_options": {"include_usage": True}, "request_id": "abc"}
        got = curl(self.server.url + "/v1/completions", body).decode()
        created = re.search(r'"created":(\d+)', got).group(1)
        texts = pieces(got, "text")
        self.assertEqual("".join(map(json.loads, texts)), " Paris.\n\n")
        head = f'data: {{"id":"cmpl-abc","object":"text_completion","created":{created},"model":"{NAME}","choices":['
        end = ["null"] * (len(texts) - 1) + ['"length"']
        expected = "".join(f'{head}{{"index":0,"text":{t},"logprobs":null,"finish_reason":{e},"stop_reason":null}}]}}'
                           '\n\n' for t, e in zip(texts, end))
        expected += head + '],"usage":{"prompt_tokens":5,"total_tokens":9,"completion_tokens":4}}\n\ndata: [DONE]\n\n'
        self.assertEqual(got, expected)

    def test_chat(self):
        body = {"messages": [{"role": "user", "content": "Say \"hi\"\n\\"}], "max_tokens": 6, "temperature": 0,
                "stream": True, "request_id": "abc"}
        whole = json.loads(curl(self.server.url + "/v1/chat/completions",
                                {**body, "stream": False, "logprobs": True}))
        text = whole["choices"][0]["message"]["content"]
        self.assertEqual("".join(t["token"] for t in whole["choices"][0]["logprobs"]["content"]), text)
        got = curl(self.server.url + "/v1/chat/completions", body).decode()
        texts = pieces(got, "content")[1:]
        self.assertEqual("".join(map(json.loads, texts)), text)
        created = re.search(r'"created":(\d+)', got).group(1)
        head = (f'data: {{"id":"chatcmpl-abc","object":"chat.completion.chunk","created":{created},"model":"{NAME}",'
                '"choices":[{"index":0,"delta":{')
        plain = '},"logprobs":null,"finish_reason":null}]}\n\n'
        expected = head + '"role":"assistant","content":""' + plain
        for piece in texts:
            self.assertEqual(piece, json.dumps(json.loads(piece), ensure_ascii=False))
            expected += head + '"content":' + piece + plain
        reason = whole["choices"][0]["finish_reason"]
        expected += head + f'}},"logprobs":null,"finish_reason":"{reason}","stop_reason":null}}]}}\n\ndata: [DONE]\n\n'
        self.assertEqual(got, expected)

    def test_headers(self):
        got = curl(self.server.url + "/v1/completions", {"prompt": "x", "max_tokens": 1, "stream": True}, "-i").decode()
        head = got.split("\r\n\r\n")[0].lower()
        self.assertTrue(head.startswith("http/1.1 200"))
        self.assertIn("content-type: text/event-stream", head)
        self.assertIn("cache-control: no-cache", head)
        self.assertIn("transfer-encoding: chunked", head)
        self.assertNotRegex(got, r"(?m)^id:")

    def test_every_chunk_is_one_event(self):
        raw = curl(self.server.url + "/v1/completions", {"prompt": "x", "max_tokens": 8, "stream": True}, "--raw")
        chunks = []
        while raw:
            size, raw = raw.split(b"\r\n", 1)
            n = int(size, 16)
            chunks.append(raw[:n])
            raw = raw[n + 2:]
        self.assertEqual(chunks.pop(), b"")
        for chunk in chunks:
            self.assertRegex(chunk, rb"^data: [^\n]+\n\n$")
