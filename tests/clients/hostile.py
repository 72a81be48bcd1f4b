"""What strangers send: requests that must be refused, each with its status, and connections that misbehave."""

import json
import random
import re
import socket
import struct
import time

HEAD = b"Host: x\r\nContent-Type: application/json\r\n"
PATIENCE = 60  # seconds for an answer


def post(body: bytes, path: bytes = b"/v1/completions", more: bytes = b"") -> bytes:
    return b"POST %s HTTP/1.1\r\n%s%sContent-Length: %d\r\n\r\n%s" % (path, HEAD, more, len(body), body)


def completion(**fields) -> bytes:
    return post(json.dumps({"prompt": "x", "max_tokens": 1, **fields}).encode())


def chat(**fields) -> bytes:
    messages = [{"role": "user", "content": "Hi"}]
    return post(json.dumps({"messages": messages, "max_tokens": 1, **fields}).encode(), b"/v1/chat/completions")


def get(*lines: bytes, target: bytes = b"/health", version: bytes = b"HTTP/1.1") -> bytes:
    return b"GET %s %s\r\n" % (target, version) + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


MALFORMED = [b"", b"{", b"}", b"null", b"[]", b'"x"', b"\x00", b'{"prompt":}', b'{"prompt":"x"}}', b'{"prompt":"x",}',
             b"{'prompt':'x'}", b'{"prompt":"x\n"}', b'{"prompt":"\\x"}', b'{"prompt":"\\u12"}', b'{"prompt":tru}',
             b'{"prompt":01}', b'{"prompt":NaN}', b'{"prompt" "x"}', b'{"prompt":"x"', b"\xef\xbb\xbf{", b'{"prompt":1e999}']
WRONG_TYPES = [{"prompt": {"a": 1}}, {"prompt": True}, {"prompt": [1, "a"]}, {"prompt": []},
               {"prompt": [-1]}, {"prompt": [10**9]}, {"prompt": [1.5]}, {"max_tokens": "x"}, {"max_tokens": -1},
               {"max_tokens": 1.5}, {"max_tokens": 10**30}, {"temperature": []}, {"temperature": -1}, {"top_p": 2},
               {"n": 0}, {"n": 10**6}, {"stop": {"a": 1}}, {"stop": [1]}, {"stream": "yes"}, {"seed": "s"},
               {"logit_bias": []}, {"logit_bias": {"x": 1}}, {"logit_bias": {"1": 1000}}, {"logprobs": 10**6},
               {"model": 5}, {"stream_options": 1, "stream": True}, {"allowed_token_ids": [10**9]}, {"bad_words": [1]},
               {"stop_token_ids": "1"}, {"response_format": {"type": "json_object"}}, {"best_of": 4}, {"suffix": "x"}]
WRONG_CHATS = [{"messages": "x"}, {"messages": []}, {"messages": [1]}, {"messages": [{"role": "user", "content": 5}]},
               {"messages": [{"content": "x"}]}, {"messages": None}, {"tools": 5}, {"tool_choice": "required"},
               {"top_logprobs": 5}, {"chat_template_kwargs": []}]
BOMBS = ["{% for i in range(1000000000) %}x{% endfor %}", "{{ 'x' * 1000000000 }}",
         "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
         "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "{% if %}", "{{ raise_exception('no') }}",
         "{% set x = namespace(s='x') %}{% for i in range(64) %}{% set x.s = x.s ~ x.s %}{% endfor %}{{ x.s }}",
         "{{ " + "(" * 20000 + "1" + ")" * 20000 + " }}", "{{ 9 ** 999999999 }}", "{{ '%1000000000d' % 1 }}"]
SMUGGLED = [
    (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
    (b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ", 400), (b"Content-Length: +2\r\n\r\n{}", 400),
    (b"Content-Length: 2, 2\r\n\r\n{}", 400), (b"Content-Length: 0x2\r\n\r\n{}", 400),
    (b"Content-Length: -1\r\n\r\n", 400), (b"Content-Length : 2\r\n\r\n{}", 400),
    (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501), (b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    (b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400), (b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", 400),
    (b"Transfer-Encoding: chunked\r\n\r\n10000000000000000000\r\n", 400),
    (b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}x\r\n0\r\n\r\n", 400), (b"X: a\nContent-Length: 2\r\n\r\n{}", 400),
    (b"X: a\r\n Content-Length: 2\r\n\r\n{}", 400), (b"Host: y\r\nContent-Length: 2\r\n\r\n{}", 400),
    (b"X\x00: a\r\n\r\n", 400), (b"X: a\x00b\r\n\r\n", 400)]


def cases() -> list[tuple[str, bytes, int]]:
    """(name, what is sent, the status it must get). For a server with --max-model-len 2048, --max-body 1MiB and
    --trust-request-chat-template."""
    found = [(f"malformed {body[:20]!r}", post(body), 400) for body in MALFORMED]
    found += [(f"wrong {fields}", completion(**fields), 400) for fields in WRONG_TYPES]
    found += [(f"wrong chat {fields}", chat(**fields), 400) for fields in WRONG_CHATS]
    found += [(f"bomb {text[:30]}", chat(chat_template=text), 400) for text in BOMBS]
    found += [(f"smuggled {head[:50]!r}", b"POST /v1/completions HTTP/1.1\r\n" + HEAD + head, status)
              for head, status in SMUGGLED]
    deep = [b"[" * 100000, b'{"a":' * 50000, b"[" * 50000 + b"]" * 50000, b'{"a":[' * 3000 + b"]}" * 3000]
    found += [(f"deep {i}", post(b'{"prompt":' + body + b"}"), 400) for i, body in enumerate(deep)]
    found += [(f"not UTF-8 {text!r}", post(b'{"prompt":"' + text + b'"}'), 400)
              for text in [b"\xff", b"\xc3", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"a\x80b"]]
    found += [
        ("too large", b"POST /v1/completions HTTP/1.1\r\n" + HEAD + b"Content-Length: 99999999999\r\n\r\n", 413),
        ("too large in chunks", b"POST /v1/completions HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
         + b"40000\r\n" + b" " * 0x40000 + b"\r\n" + (b"40000\r\n" + b" " * 0x40000 + b"\r\n") * 4, 413),
        ("unknown model", completion(model="none"), 404), ("unknown model of a chat", chat(model="none"), 404),
        ("context overflow", completion(prompt="word " * 4000), 400),
        ("context overflow in ids", completion(prompt=[5] * 4000), 400),
        ("context overflow of a chat", chat(messages=[{"role": "user", "content": "word " * 4000}]), 400),
        ("empty prompt of ids", completion(prompt=[[]]), 400),
        ("no JSON", post(b"{}", more=b"").replace(b"application/json", b"text/plain"), 415),
        ("many fields", get(b"Host: x", *[b"X-%d: 1" % i for i in range(5000)]), 431),
        ("a long field", get(b"Host: x", b"X: " + b"a" * 100000), 431),
        ("a long target", get(b"Host: x", target=b"/" + b"a" * 20000), 414),
        ("no host", get(), 400), ("a strange host", get(b"Host: a/health"), 400),
        ("another version", get(b"Host: x", version=b"HTTP/3.0"), 505), ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03", 400),
        ("no such route", get(b"Host: x", target=b"/v1/../etc/passwd"), 404), ("no such method", post(b"{}", b"/health"), 405),
    ]
    return found


def connect(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=PATIENCE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def send(connection: socket.socket, data: bytes):
    """A server that has refused a request need not take the rest of it."""
    try:
        connection.sendall(data)
    except (BrokenPipeError, ConnectionResetError):
        pass


def answer(connection: socket.socket) -> tuple[int, bytes]:
    """(status, body) of the first response; 0 if the server closed without one."""
    data = b""
    while True:
        head, found, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: (\d+)", head, re.I)
        if found and length and len(body) >= int(length[1]):
            return int(head.split()[1]), body[:int(length[1])]
        try:
            more = connection.recv(65536)
        except ConnectionResetError:
            more = b""
        if not more:
            return (int(head.split()[1]), body) if found else (0, b"")
        data += more


def wrong_with(status: int, body: bytes, expected: int) -> str | None:
    """What is wrong with a refusal."""
    if status != expected:
        return f"status {status}, not {expected}: {body[:300]!r}"
    try:
        error = json.loads(body)["error"]
        whole = sorted(error) == ["code", "message", "param", "type"] and error["code"] == status and error["message"]
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        return f"not the shape of an error: {body[:300]!r}"
    if ".lua:" in error["message"] or "/core/" in error["message"]:
        return f"tells of our code: {error['message']}"
    return None


def refuse(url: str, data: bytes, expected: int) -> str | None:
    """What is wrong with the answer to a case; None if all is well."""
    with connect(url) as connection:
        send(connection, data)
        return wrong_with(*answer(connection), expected)


VALID = [completion(), completion(stream=True, max_tokens=4), completion(logprobs=2, n=2), chat(), chat(stream=True),
         get(b"Host: x"), get(b"Host: x", target=b"/v1/models"), post(b'{"prompt":"Hi"}', b"/tokenize"),
         post(b'{"tokens":[1,2]}', b"/detokenize"), get(b"Host: x", target=b"/metrics")]


def mutate(data: bytes, chance: random.Random) -> bytes:
    """A valid request with some bytes changed, cut out, doubled or swapped."""
    text = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(text) + 1)
        what = chance.randrange(5)
        if what == 0 and at < len(text):
            text[at] = chance.randrange(256)
        elif what == 1:
            text[at:at] = bytes(chance.choices(b'{}[]",:\r\n\x00\xff0123456789eE-+\\u', k=chance.randint(1, 8)))
        elif what == 2:
            del text[at:at + chance.randint(1, 20)]
        elif what == 3:
            text[at:at] = text[at:at + chance.randint(1, 200)]
        else:
            text = text[:at]
            break
    return bytes(text)


def ask_mutated(url: str, chance: random.Random) -> str | None:
    """What is wrong with the answer to a mutated request: any will do but a 5xx that blames the server, or none if the
    request has no end."""
    data = mutate(chance.choice(VALID), chance)
    with connect(url) as connection:
        send(connection, data)
        try:
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has been closed at the other end
        status, body = answer(connection)
    return f"{status} {body[:300]!r} to {data!r}" if status in (500, 502, 503) else None


def misbehave(url: str, chance: random.Random):
    """A connection that does not end as it should: left half open, reset, or sent a byte at a time for a while."""
    with connect(url) as connection:
        connection.settimeout(5)
        data = chance.choice(VALID)
        how = chance.randrange(5)
        try:
            if how == 0:
                connection.sendall(data[:chance.randrange(len(data))])
                connection.shutdown(socket.SHUT_WR)
                connection.recv(1000)
            elif how == 1:
                for byte in data[:20]:
                    connection.sendall(bytes([byte]))
                    time.sleep(0.01)
            elif how == 2:
                connection.sendall(completion(stream=True, max_tokens=1000, ignore_eos=True))
                connection.recv(chance.choice([1, 100, 5000]))
            elif how == 3:
                connection.sendall(completion(max_tokens=1000, ignore_eos=True))
                time.sleep(chance.random() * 0.05)
            else:
                connection.sendall(data * 20)
        except OSError:
            return
        if chance.random() < 0.5:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close by RST
