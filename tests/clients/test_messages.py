"""/v1/messages through the anthropic client."""

import unittest

import anthropic

from support import NAME, server

GREEDY = {"temperature": 0}  # no argument of the newest client
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


class Messages(unittest.TestCase):
    def setUp(self):
        self.server = server()
        self.api = anthropic.Anthropic(base_url=self.server.url, api_key="none", max_retries=0)
        self.addCleanup(self.api.close)

    def test_whole(self):
        reply = self.api.messages.create(model=NAME, max_tokens=12, messages=QUESTION, extra_body=GREEDY)
        chat = self.server.client().chat.completions.create(model=NAME, messages=QUESTION, temperature=0, max_tokens=12)
        self.assertEqual((reply.type, reply.role, reply.model, reply.stop_reason), ("message", "assistant", NAME, "max_tokens"))
        self.assertEqual(reply.content[0].text, chat.choices[0].message.content)
        self.assertEqual((reply.usage.input_tokens, reply.usage.output_tokens), (chat.usage.prompt_tokens, 12))
        self.assertTrue(reply.id.startswith("msg_"))

    def test_system_and_blocks(self):
        plain = self.api.messages.create(model=NAME, max_tokens=20, extra_body=GREEDY, system="Be short.", messages=[
            {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "And now?"}])
        blocks = self.api.messages.create(model=NAME, max_tokens=20, extra_body=GREEDY, messages=[
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "Hello."}]},
            {"role": "user", "content": [{"type": "text", "text": "And now?", "cache_control": {"type": "ephemeral"}}]}],
            system=[{"type": "text", "text": "Be short."}])
        self.assertEqual(plain.content[0].text, blocks.content[0].text)

    def test_stop_sequence(self):
        text = self.api.messages.create(model=NAME, max_tokens=20, messages=QUESTION, extra_body=GREEDY).content[0].text
        word = text.split()[2]
        reply = self.api.messages.create(model=NAME, max_tokens=20, messages=QUESTION, extra_body=GREEDY,
                                         stop_sequences=[word, "never"])
        self.assertEqual((reply.stop_reason, reply.stop_sequence), ("stop_sequence", word))
        self.assertEqual(reply.content[0].text, text[:text.index(word)])

    def test_stream(self):
        whole = self.api.messages.create(model=NAME, max_tokens=30, messages=QUESTION, extra_body=GREEDY)
        with self.api.messages.stream(model=NAME, max_tokens=30, messages=QUESTION, extra_body=GREEDY) as stream:
            kinds = [event.type for event in stream if event.type != "text"]
            final = stream.get_final_message()
        self.assertEqual(final.content[0].text, whole.content[0].text)
        self.assertEqual((final.stop_reason, final.usage.output_tokens), (whole.stop_reason, whole.usage.output_tokens))
        self.assertEqual(kinds[:2] + kinds[-3:], ["message_start", "content_block_start", "content_block_stop",
                                                  "message_delta", "message_stop"])
        self.assertEqual(set(kinds[2:-3]), {"content_block_delta"})

    def test_count(self):
        reply = self.api.messages.create(model=NAME, max_tokens=1, messages=QUESTION, system="Be short.")
        counted = self.api.messages.count_tokens(model=NAME, messages=QUESTION, system="Be short.")
        self.assertEqual(counted.input_tokens, reply.usage.input_tokens)

    def test_refusals(self):
        tool = {"name": "f", "description": "", "input_schema": {"type": "object", "properties": {}}}
        image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
        for options in [{"tools": [tool]}, {"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"max_tokens": 0},
                        {"messages": []}, {"messages": [{"role": "tool", "content": "x"}]}, {"system": 5},
                        {"messages": [{"role": "user", "content": [image]}]}, {"extra_body": {"temperature": -1}}]:
            with self.subTest(options=options), self.assertRaises(anthropic.BadRequestError) as caught:
                self.api.messages.create(**{"model": NAME, "max_tokens": 5, "messages": QUESTION, **options})
            self.assertEqual(caught.exception.body["error"]["code"], 400)
        with self.assertRaises(anthropic.NotFoundError):
            self.api.messages.create(model="none", max_tokens=5, messages=QUESTION)
        self.assertEqual(self.server.request("POST", "/v1/messages", {"messages": QUESTION})[0], 400)

    def test_keys(self):
        locked = server("--api-key", "k")
        for key, status in [("k", 200), ("wrong", 401)]:
            found = locked.request("POST", "/v1/messages", {"messages": QUESTION, "max_tokens": 1}, {"x-api-key": key})[0]
            self.assertEqual(found, status)
