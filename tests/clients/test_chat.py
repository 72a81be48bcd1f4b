"""/v1/chat/completions, /v1/responses and /v1/models through the openai client, sync and async."""

import asyncio
import tempfile
import unittest

import openai

from support import NAME, server

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
TOOL = {"type": "function", "function": {"name": "weather", "description": "Weather of a city",
                                         "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}
# Shows what a template gets, so that tests see it in the prompt.
TEMPLATE = ("{%- for m in messages %}{{ m.role }}:{{ m.content }}"
            "{%- for c in m.tool_calls or [] %}[{{ c.function.name }} {{ c.function.arguments | tojson }}]{% endfor %}"
            "{{ '\n' }}"
            "{%- endfor %}{% if tools %}TOOLS {{ tools | tojson }}{% endif %}{{ extra or '' }}"
            "{% if add_generation_prompt %}assistant:{% endif %}")


class Chat(unittest.TestCase):
    def setUp(self):
        self.server = server()
        self.api = self.server.client()

    def ask(self, messages=QUESTION, **options):
        return self.api.chat.completions.create(**{"model": NAME, "messages": messages, "max_tokens": 12,
                                                   "temperature": 0, **options})

    def test_answer(self):
        reply = self.ask()
        self.assertEqual(reply.object, "chat.completion")
        self.assertTrue(reply.id.startswith("chatcmpl-"))
        self.assertEqual(reply.choices[0].message.role, "assistant")
        self.assertTrue(reply.choices[0].message.content)
        self.assertFalse(reply.choices[0].message.tool_calls)
        self.assertEqual(reply.usage.completion_tokens, 12)

    def test_max_completion_tokens_wins(self):
        self.assertEqual(self.ask(max_completion_tokens=3, max_tokens=9).usage.completion_tokens, 3)

    def test_ends_by_itself(self):
        reply = self.ask([{"role": "user", "content": "Hi!"}], max_tokens=None)
        self.assertEqual(reply.choices[0].finish_reason, "stop")

    def test_stream(self):
        whole = self.ask(max_tokens=24)
        chunks = list(self.ask(max_tokens=24, stream=True, stream_options={"include_usage": True}))
        first, last = chunks[0].choices[0].delta, chunks[-2].choices[0]
        self.assertEqual((first.role, first.content), ("assistant", ""))
        self.assertEqual(last.finish_reason, whole.choices[0].finish_reason)
        self.assertIsNone(last.delta.content)
        for chunk in chunks[1:-2]:
            self.assertTrue(chunk.choices[0].delta.content)
            self.assertIsNone(chunk.choices[0].delta.role)
            self.assertIsNone(chunk.choices[0].finish_reason)
        self.assertEqual("".join(c.choices[0].delta.content or "" for c in chunks if c.choices),
                         whole.choices[0].message.content)
        self.assertEqual(chunks[-1].choices, [])
        self.assertEqual(chunks[-1].usage, whole.usage)
        self.assertEqual({c.id for c in chunks}, {chunks[0].id})

    def test_logprobs(self):
        reply = self.ask(logprobs=True, top_logprobs=3)
        content = reply.choices[0].logprobs.content
        self.assertEqual("".join(t.token for t in content), reply.choices[0].message.content)
        for entry in content:
            self.assertEqual(bytes(entry.bytes).decode(), entry.token)
            self.assertEqual(len(entry.top_logprobs), 3)
            self.assertEqual(entry.top_logprobs[0].token, entry.token)
            values = [t.logprob for t in entry.top_logprobs]
            self.assertEqual(values, sorted(values, reverse=True))
        plain = self.ask(logprobs=True)
        self.assertEqual(plain.choices[0].logprobs.content[0].top_logprobs, [])
        streamed = [t for c in self.ask(logprobs=True, top_logprobs=3, stream=True)
                    for t in (c.choices[0].logprobs.content if c.choices[0].logprobs else [])]
        self.assertEqual([t.token for t in streamed], [t.token for t in content])

    def test_n(self):
        reply = self.ask(n=3, temperature=1, seed=2)
        self.assertEqual([c.index for c in reply.choices], [0, 1, 2])
        roles, texts = [], [""] * 3
        for chunk in self.ask(n=3, temperature=1, seed=2, stream=True):
            for choice in chunk.choices:
                if choice.delta.role:
                    roles.append(choice.index)
                texts[choice.index] += choice.delta.content or ""
        self.assertEqual(sorted(roles), [0, 1, 2])
        self.assertEqual(texts, [c.message.content for c in reply.choices])

    def test_content_parts_are_text(self):
        parts = [{"role": "user", "content": [{"type": "text", "text": QUESTION[0]["content"]}]}]
        self.assertEqual(self.ask(parts).choices[0].message.content, self.ask().choices[0].message.content)
        with self.assertRaises(openai.BadRequestError) as caught:
            self.ask([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/"}}]}])
        self.assertIn("text only", caught.exception.body["message"])

    def test_continuing_the_last_message(self):
        messages = QUESTION + [{"role": "assistant", "content": "The capital of France is"}]
        options = {"continue_final_message": True, "add_generation_prompt": False}
        reply = self.ask(messages, extra_body=options)
        self.assertIn("Paris", reply.choices[0].message.content)
        echoed = self.ask(messages, extra_body={**options, "echo": True})
        self.assertEqual(echoed.choices[0].message.content,
                         "The capital of France is" + reply.choices[0].message.content)

    def test_refusals(self):
        for options, param in [({"messages": []}, "messages"), ({"messages": [{"content": "x"}]}, "messages"),
                               ({"top_logprobs": 2}, "top_logprobs"), ({"tool_choice": "required"}, "tool_choice"),
                               ({"response_format": {"type": "json_object"}}, "response_format"),
                               ({"extra_body": {"chat_template": "{{ 1 }}"}}, "chat_template"),
                               ({"max_tokens": 0}, "max_tokens"), ({"temperature": "hot"}, "temperature")]:
            with self.subTest(options=str(options)):
                with self.assertRaises(openai.BadRequestError) as caught:
                    self.ask(**options)
                self.assertEqual(caught.exception.body["param"], param)

    def test_64_streams_at_once(self):
        async def one(api, i):
            texts, ends = [], []
            stream = await api.chat.completions.create(
                model=NAME, messages=[{"role": "user", "content": f"Count from {i}."}], max_tokens=16, temperature=0,
                stream=True)
            async for chunk in stream:
                texts.append(chunk.choices[0].delta.content or "")
                if chunk.choices[0].finish_reason:
                    ends.append(chunk.choices[0].finish_reason)
            return "".join(texts), ends

        async def everybody():
            async with self.server.async_client(timeout=300) as api:
                return await asyncio.gather(*(one(api, i) for i in range(64)))

        results = asyncio.run(everybody())
        self.assertTrue(all(text and len(ends) == 1 for text, ends in results))
        self.assertEqual(self.server.wait_until_idle()["kv_blocks_used"], 0)

    def test_cached_tokens(self):
        detailed = server("--enable-prompt-tokens-details", "--enable-force-include-usage")
        messages = [{"role": "user", "content": "Remember these words: " + "apple pear plum " * 20}]
        options = {"model": NAME, "messages": messages, "max_tokens": 1, "temperature": 0}
        first = detailed.client().chat.completions.create(**options).usage
        second = detailed.client().chat.completions.create(**options).usage
        self.assertEqual(first.prompt_tokens_details.cached_tokens, 0)
        self.assertGreater(second.prompt_tokens_details.cached_tokens, second.prompt_tokens // 2)
        salted = detailed.client().chat.completions.create(**options, extra_body={"cache_salt": "mine"}).usage
        self.assertEqual(salted.prompt_tokens_details.cached_tokens, 0)
        chunks = list(detailed.client().chat.completions.create(**options, stream=True))
        self.assertEqual(chunks[-1].usage.prompt_tokens, second.prompt_tokens)
        self.assertIsNone(self.ask().usage.prompt_tokens_details)

    def test_models(self):
        models = self.api.models.list()
        self.assertEqual([m.id for m in models], [NAME])
        self.assertEqual(self.api.models.retrieve(NAME).max_model_len, 2048)
        with self.assertRaises(openai.NotFoundError):
            self.api.models.retrieve("nope")


class Templates(unittest.TestCase):
    """What templates get, seen through /tokenize and /detokenize."""

    @classmethod
    def setUpClass(cls):
        cls.file = tempfile.NamedTemporaryFile("w", suffix=".jinja")
        cls.file.write(TEMPLATE)
        cls.file.flush()
        cls.server = server("--chat-template", cls.file.name, "--trust-request-chat-template")

    def prompt_of(self, **options) -> str:
        reply = self.server.client().chat.completions.create(
            **{"model": NAME, "max_tokens": 1, "messages": QUESTION, "extra_body": {}, **options,
               "extra_body": {"return_token_ids": True, **options.get("extra_body", {})}})
        text = self.server.client().post("/../detokenize", cast_to=object, body={"tokens": reply.prompt_token_ids})
        return text["prompt"]

    def test_tools(self):
        prompt = self.prompt_of(tools=[TOOL])
        self.assertIn('TOOLS [{"type": "function", "function": {"name": "weather", "description":', prompt)
        self.assertNotIn("TOOLS", self.prompt_of(tools=[TOOL], tool_choice="none"))
        self.assertIn("TOOLS", self.prompt_of(tools=[TOOL], tool_choice="auto"))

    def test_calls_of_tools_are_objects(self):
        prompt = self.prompt_of(messages=QUESTION + [
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}]},
            {"role": "tool", "tool_call_id": "1", "content": "rain"}])
        self.assertIn('assistant:[weather {"city": "Oslo"}]\ntool:rain\n', prompt)

    def test_variables_and_templates_of_the_request(self):
        self.assertIn("EXTRA", self.prompt_of(extra_body={"chat_template_kwargs": {"extra": "EXTRA"}}))
        self.assertEqual(self.prompt_of(extra_body={"chat_template": "only {{ messages | length }}"}), "only 1")

    def test_no_generation_prompt(self):
        self.assertTrue(self.prompt_of().endswith("assistant:"))
        self.assertFalse(self.prompt_of(extra_body={"add_generation_prompt": False}).endswith("assistant:"))


class Responses(unittest.TestCase):
    def setUp(self):
        self.api = server().client()

    def test_whole(self):
        reply = self.api.responses.create(model=NAME, input="What is the capital of France?", temperature=0,
                                          max_output_tokens=12)
        self.assertEqual(reply.object, "response")
        self.assertEqual(reply.status, "incomplete")
        self.assertEqual(reply.incomplete_details.reason, "max_output_tokens")
        self.assertEqual(reply.usage.output_tokens, 12)
        chat = self.api.chat.completions.create(model=NAME, messages=QUESTION, temperature=0, max_tokens=12)
        self.assertEqual(reply.output_text, chat.choices[0].message.content)

    def test_conversation_and_instructions(self):
        reply = self.api.responses.create(model=NAME, instructions="Be short.", temperature=0, input=[
            {"role": "user", "content": [{"type": "input_text", "text": "Say hello."}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello."}]},
            {"role": "user", "content": "And now?"}])
        self.assertEqual(reply.status, "completed")
        self.assertTrue(reply.output_text)

    def test_stream(self):
        events = list(self.api.responses.create(model=NAME, input="Hi", temperature=0, max_output_tokens=8,
                                                stream=True))
        self.assertEqual([e.sequence_number for e in events], list(range(len(events))))
        kinds = [e.type for e in events]
        self.assertEqual(kinds[:4], ["response.created", "response.in_progress", "response.output_item.added",
                                     "response.content_part.added"])
        self.assertEqual(kinds[-4:], ["response.output_text.done", "response.content_part.done",
                                      "response.output_item.done", "response.incomplete"])
        text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
        self.assertEqual(events[-1].response.output_text, text)
        self.assertEqual(events[-4].text, text)

    def test_refusals(self):
        for options in [{"previous_response_id": "resp_1"}, {"tools": [{"type": "web_search"}]}, {"background": True},
                        {"text": {"format": {"type": "json_object"}}}, {"input": 5}]:
            with self.subTest(options=options), self.assertRaises(openai.BadRequestError):
                self.api.responses.create(**{"model": NAME, "input": "x", **options})
