#!/usr/bin/env python3
"""Writes the seeds under corpus/fuzz_tokenizer: small vocabularies of every kind, near the interesting wrong
ones."""

import json
import pathlib
import struct

CORPUS = pathlib.Path(__file__).with_name("corpus") / "fuzz_tokenizer"


def string(s):
    data = s.encode()
    return struct.pack("<Q", len(data)) + data


def text(name, value):
    return string(name) + struct.pack("<I", 8) + string(value)


def strings(name, values):
    return string(name) + struct.pack("<IIQ", 9, 8, len(values)) + b"".join(map(string, values))


def numbers(name, kind, code, values):
    return string(name) + struct.pack("<IIQ%d%s" % (len(values), code), 9, kind, len(values), *values)


def gguf(*kvs):
    data = b"GGUF" + struct.pack("<IQQ", 3, 0, len(kvs)) + b"".join(kvs)
    return data + b"\0" * (-len(data) % 32)


def varint(v):
    out = b""
    while v >= 128:
        out += bytes([v & 127 | 128])
        v >>= 7
    return out + bytes([v])


def field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def proto(pieces, kind, charsmap=b""):
    out = b"".join(field(1, field(1, p.encode()) + b"\x15" + struct.pack("<f", s) + b"\x18" + varint(t))
                   for p, s, t in pieces)
    return out + field(2, b"\x18" + varint(kind)) + field(3, field(2, charsmap) if charsmap else b"")


def tokenizer_json(pre, normalizer=None, decoder=None, post=None, **model):
    vocab = {"<unk>": 0, "a": 1, "b": 2, "\u2581": 3, "ab": 4, "\u0120": 5, "<0xC3>": 6, "<0xA9>": 7, "<s>": 8}
    bpe = {"type": "BPE", "unk_token": "<unk>", "vocab": vocab, "merges": ["a b", ["\u2581", "ab"]]}
    bpe.update(model)
    added = [{"id": 8, "content": "<s>", "special": True, "lstrip": True, "normalized": True},
             {"id": 9, "content": "new", "special": False, "rstrip": True, "single_word": True}]
    return json.dumps({"added_tokens": added, "normalizer": normalizer, "pre_tokenizer": pre, "decoder": decoder,
                       "post_processor": post, "model": bpe}).encode() + b"\n" * 3


def main():
    words = ["<s>", "</s>", "a", "b", "ab", "\u0120", "\u0120ab", "1", "\u00c3", "\u00a9", "<|im_end|>", "\u2581", "\u2581a"]
    types = [3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 4, 1, 1]
    gpt2 = [text("tokenizer.ggml.model", "gpt2"), strings("tokenizer.ggml.tokens", words),
            numbers("tokenizer.ggml.token_type", 5, "i", types),
            strings("tokenizer.ggml.merges", ["a b", "\u0120 ab", "b b"])]
    llama = [text("tokenizer.ggml.model", "llama"), strings("tokenizer.ggml.tokens", words),
             numbers("tokenizer.ggml.scores", 6, "f", [-float(i) for i in range(len(words))]),
             numbers("tokenizer.ggml.token_type", 5, "i", types)]
    seeds = {"default.gguf": gguf(*gpt2)}
    for pre in ("llama-bpe", "deepseek-llm", "falcon", "tekken", "superbpe", "tiny_aya"):
        seeds[pre + ".gguf"] = gguf(text("tokenizer.ggml.pre", pre), *gpt2)
    seeds["llama.gguf"] = gguf(*llama)
    seeds["gemma4.gguf"] = gguf(text("tokenizer.ggml.model", "gemma4"), *gpt2[1:])
    pieces = [("<unk>", 0, 2), ("<s>", 0, 3), ("a", -1, 1), ("b", -2, 1), ("ab", -0.5, 1), ("\u2581", -3, 4)]
    trie = struct.pack("<I", 1024) + struct.pack("<256I", *([0] * 256)) + b"x\0"
    seeds["unigram.model"] = proto(pieces, 1)
    seeds["bpe.model"] = proto(pieces, 2)
    seeds["charsmap.model"] = proto(pieces, 1, trie)
    byte_level = {"type": "ByteLevel", "add_prefix_space": True}
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": True}
    split = {"type": "Split", "pattern": {"Regex": "\\s+(?!\\S)|[^\\s[a]]+"}, "behavior": "MergedWithNext", "invert": True}
    prepend = {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Prepend", "prepend": "\u2581"}]}
    strip = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Strip", "content": " ", "start": 1}]}
    bert = {"type": "BertProcessing", "cls": ["<s>", 8], "sep": ["a", 1]}
    seeds["bytes.json"] = tokenizer_json(byte_level, decoder=byte_level, ignore_merges=True)
    seeds["metaspace.json"] = tokenizer_json(metaspace, None, strip, bert, byte_fallback=True, fuse_unk=True)
    seeds["split.json"] = tokenizer_json({"type": "Sequence", "pretokenizers": [split, byte_level, {"type": "Digits"}]},
                                         prepend)
    CORPUS.mkdir(parents=True, exist_ok=True)
    for name, data in seeds.items():
        (CORPUS / name).write_bytes(data)


main()
