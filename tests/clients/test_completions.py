"""/v1/completions through the openai client."""

import unittest

import openai

from support import NAME, server

FRANCE = "The capital of France is"


class Completions(unittest.TestCase):
    def setUp(self):
        self.server = server()
        self.api = self.server.client()

    def ask(self, prompt=FRANCE, **options):
        return self.api.completions.create(**{"model": NAME, "prompt": prompt, "max_tokens": 8, "temperature": 0,
                                              **options})

    def ids(self, text):
        return self.api.post("/../tokenize", cast_to=object, body={"prompt": text})["tokens"]

    def test_text(self):
        reply = self.ask()
        self.assertEqual(reply.object, "text_completion")
        self.assertTrue(reply.id.startswith("cmpl-"))
        self.assertEqual(reply.model, NAME)
        self.assertIn("Paris", reply.choices[0].text)
        self.assertEqual(reply.choices[0].finish_reason, "length")
        self.assertEqual(reply.usage.prompt_tokens, 5)
        self.assertEqual(reply.usage.completion_tokens, 8)
        self.assertEqual(reply.usage.total_tokens, 13)

    def test_default_of_max_tokens_is_16(self):
        reply = self.api.completions.create(model=NAME, prompt=FRANCE, temperature=0, extra_body={"ignore_eos": True})
        self.assertEqual(reply.usage.completion_tokens, 16)

    def test_every_shape_of_prompt(self):
        ids = self.ids(FRANCE)
        text = self.ask().choices[0].text
        self.assertEqual(self.ask(ids).choices[0].text, text)
        several = self.ask([FRANCE, "Once upon a time"])
        self.assertEqual([c.index for c in several.choices], [0, 1])
        self.assertEqual(several.choices[0].text, text)
        lists = self.ask([ids, self.ids("Once upon a time")])
        self.assertEqual([c.text for c in lists.choices], [c.text for c in several.choices])
        self.assertEqual(lists.usage.completion_tokens, 16)

    def test_n(self):
        reply = self.ask(["One", "Two"], n=3, temperature=1, seed=7)
        self.assertEqual([c.index for c in reply.choices], list(range(6)))
        self.assertGreater(len({c.text for c in reply.choices}), 2)
        again = self.ask(["One", "Two"], n=3, temperature=1, seed=7)
        self.assertEqual([c.text for c in again.choices], [c.text for c in reply.choices])

    def test_stop(self):
        reply = self.ask("1, 2, 3, 4,", max_tokens=32, stop=[" 7"])
        self.assertEqual(reply.choices[0].finish_reason, "stop")
        self.assertEqual(reply.choices[0].stop_reason, " 7")
        self.assertTrue(reply.choices[0].text.endswith("6,"), reply.choices[0].text)
        kept = self.ask("1, 2, 3, 4,", max_tokens=32, stop=" 7", extra_body={"include_stop_str_in_output": True})
        self.assertTrue(kept.choices[0].text.endswith(" 7"))

    def test_logprobs(self):
        reply = self.ask(logprobs=3)
        choice, found = reply.choices[0], reply.choices[0].logprobs
        self.assertEqual("".join(found.tokens), choice.text)
        self.assertEqual(len(found.token_logprobs), 8)
        for i, token in enumerate(found.tokens):
            self.assertEqual(choice.text[found.text_offset[i]:found.text_offset[i] + len(token)], token)
            self.assertEqual(len(found.top_logprobs[i]), 3)
            self.assertEqual(max(found.top_logprobs[i].values()), found.token_logprobs[i])  # greedy

    def test_scoring_a_text_as_evaluation_harnesses_do(self):
        generated = self.ask(logprobs=1)
        text = FRANCE + generated.choices[0].text
        scored = self.ask(text, max_tokens=0, echo=True, logprobs=1)
        choice = scored.choices[0]
        self.assertEqual(choice.text, text)
        self.assertEqual("".join(choice.logprobs.tokens), text)
        self.assertIsNone(choice.logprobs.token_logprobs[0])
        self.assertIsNone(choice.logprobs.top_logprobs[0])
        self.assertEqual(scored.usage.completion_tokens, 0)
        self.assertEqual(scored.usage.prompt_tokens, len(choice.logprobs.tokens))
        for a, b in zip(choice.logprobs.token_logprobs[-8:], generated.choices[0].logprobs.token_logprobs):
            self.assertAlmostEqual(a, b, delta=0.05)
        for token, value, top in list(zip(choice.logprobs.tokens, choice.logprobs.token_logprobs,
                                          choice.logprobs.top_logprobs))[1:]:
            self.assertEqual(top[token], value)

    def test_echo_with_output(self):
        reply = self.ask(echo=True, logprobs=0, max_tokens=2)
        self.assertTrue(reply.choices[0].text.startswith(FRANCE))
        self.assertEqual("".join(reply.choices[0].logprobs.tokens), reply.choices[0].text)

    def test_stream_gives_the_same_text(self):
        whole = self.ask(max_tokens=24)
        chunks = list(self.ask(max_tokens=24, stream=True, stream_options={"include_usage": True}))
        self.assertEqual("".join(c.choices[0].text for c in chunks if c.choices), whole.choices[0].text)
        self.assertEqual(len({c.id for c in chunks}), 1)
        self.assertEqual([c.choices[0].finish_reason for c in chunks if c.choices][-1],
                         whole.choices[0].finish_reason)
        self.assertEqual(chunks[-1].choices, [])
        self.assertEqual(chunks[-1].usage, whole.usage)
        self.assertTrue(all(c.usage is None for c in chunks[:-1]))

    def test_stream_of_several_prompts_and_choices(self):
        prompts = ["One", "Two", "Three"]
        texts = [""] * 6
        ends = []
        for chunk in self.ask(prompts, n=2, temperature=1, seed=3, stream=True):
            for choice in chunk.choices:
                texts[choice.index] += choice.text
                if choice.finish_reason:
                    ends.append(choice.index)
        self.assertEqual(sorted(ends), list(range(6)))
        whole = self.ask(prompts, n=2, temperature=1, seed=3)
        self.assertEqual([c.text for c in whole.choices], texts)

    def test_stream_with_usage_in_each_chunk(self):
        options = {"include_usage": True, "continuous_usage_stats": True}
        counts = [c.usage.completion_tokens for c in self.ask(stream=True, stream_options=options)]
        self.assertEqual(counts, sorted(counts))
        self.assertEqual(counts[-1], 8)

    def test_stream_with_echo_and_logprobs(self):
        chunks = list(self.ask(echo=True, logprobs=1, max_tokens=4, stream=True))
        text = "".join(c.choices[0].text for c in chunks)
        tokens = [t for c in chunks for t in c.choices[0].logprobs.tokens]
        offsets = [o for c in chunks for o in c.choices[0].logprobs.text_offset]
        self.assertTrue(text.startswith(FRANCE))
        self.assertEqual("".join(tokens), text)
        self.assertTrue(all(text[o:o + len(t)] == t for o, t in zip(offsets, tokens)))

    def test_extras_of_vllm(self):
        ids = self.ids(FRANCE)
        reply = self.ask(extra_body={"return_token_ids": True, "prompt_logprobs": 1, "truncate_prompt_tokens": 3})
        choice = reply.choices[0]
        self.assertEqual(choice.prompt_token_ids, ids[-3:])
        self.assertEqual(len(choice.token_ids), 8)
        self.assertIsNone(choice.prompt_logprobs[0])
        self.assertIn(str(ids[-2]), choice.prompt_logprobs[1])
        allowed = self.ask(extra_body={"allowed_token_ids": [ids[0], ids[1]], "return_token_ids": True})
        self.assertLessEqual(set(allowed.choices[0].token_ids), {ids[0], ids[1]})
        named = self.ask(logprobs=0, extra_body={"return_tokens_as_token_ids": True})
        self.assertTrue(all(t.startswith("token_id:") for t in named.choices[0].logprobs.tokens))
        banned = self.ask(extra_body={"bad_words": ["Paris"]})
        self.assertNotIn("Paris", banned.choices[0].text)
        biased = self.ask(logit_bias={str(self.ids(" London")[0]): 100}, max_tokens=1)
        self.assertEqual(biased.choices[0].text, " London")

    def test_text_that_is_not_ascii(self):
        ids = self.ids("日本 😀 é")
        banned = {"allowed_token_ids": sorted(set(ids)), "ignore_eos": True}
        chunks = self.ask("日本 😀 é", max_tokens=40, temperature=1, seed=5, stream=True, extra_body=banned)
        text = "".join(c.choices[0].text for c in chunks)
        whole = self.ask("日本 😀 é", max_tokens=40, temperature=1, seed=5, extra_body=banned)
        self.assertEqual(text, whole.choices[0].text)
        text.encode("utf-8")

    def test_refusals(self):
        for options, param in [({"temperature": -1}, "temperature"), ({"max_tokens": "many"}, "max_tokens"),
                               ({"max_tokens": 0}, "max_tokens"), ({"suffix": "x"}, "suffix"), ({"n": 0}, "n"),
                               ({"prompt": []}, "prompt"), ({"prompt": [1, "a"]}, "prompt"), ({"prompt": [-5]}, None),
                               ({"prompt": "word " * 3000}, None), ({"logprobs": 10000}, "logprobs"),
                               ({"extra_body": {"response_format": {"type": "json_object"}}}, "response_format"),
                               ({"stop": 5}, "stop"), ({"extra_body": {"guided_json": {}}}, "guided_json"),
                               ({"extra_body": {"use_beam_search": True}}, "use_beam_search"),
                               ({"extra_body": {"allowed_token_ids": [10**6]}}, "allowed_token_ids")]:
            with self.subTest(options=str(options)[:60]):
                with self.assertRaises(openai.BadRequestError) as caught:
                    self.ask(**options)
                self.assertEqual(caught.exception.body["code"], 400)
                self.assertEqual(caught.exception.body["type"], "BadRequestError")
                if param:
                    self.assertEqual(caught.exception.body["param"], param)

    def test_unknown_model(self):
        with self.assertRaises(openai.NotFoundError) as caught:
            self.ask(model="gpt-9")
        self.assertEqual(caught.exception.body["param"], "model")
