"""LangChain's ChatOpenAI and OpenAI, unchanged."""

import unittest

from langchain_openai import ChatOpenAI, OpenAI

from support import NAME, server


class LangChain(unittest.TestCase):
    def setUp(self):
        self.options = {"base_url": server().url + "/v1", "api_key": "none", "model": NAME, "temperature": 0,
                        "max_tokens": 16}

    def test_chat(self):
        chat = ChatOpenAI(**self.options)
        whole = chat.invoke("What is the capital of France?")
        self.assertTrue(whole.content)
        self.assertEqual(whole.response_metadata["finish_reason"], "length")
        self.assertEqual(whole.usage_metadata["output_tokens"], 16)
        pieces = list(ChatOpenAI(**self.options, stream_usage=True).stream("What is the capital of France?"))
        self.assertEqual("".join(p.content for p in pieces), whole.content)
        total = pieces[0]
        for piece in pieces[1:]:
            total = total + piece
        self.assertEqual(total.usage_metadata["output_tokens"], 16)

    def test_batch(self):
        replies = ChatOpenAI(**self.options).batch([f"Count to {i}." for i in range(8)])
        self.assertEqual(len(replies), 8)
        self.assertTrue(all(reply.content for reply in replies))

    def test_completion(self):
        text = OpenAI(**self.options).invoke("The capital of France is")
        self.assertIn("Paris", text)
