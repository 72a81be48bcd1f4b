#!/usr/bin/env python3
"""Write tokenizer.json files from GGUF vocabularies, set up as the model families' own files are.

Usage: make_json_vocabs.py VOCABS_DIR      reads ggml-vocab-*.gguf there, writes json-*.json beside them

The real files of these families are not in any package; vocabularies and merges are, in GGUF, and the rest of a
tokenizer.json is short. Needs nothing but Python.
"""

import json
import os
import struct
import sys

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
CONTROL, USER, BYTE, UNKNOWN = 3, 4, 6, 2

GPT2 = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
QWEN2 = ("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
         "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")
GPT4O = ("[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+"
         "(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+"
         "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|"
         "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")


def read_gguf(path):
    with open(path, "rb") as f:
        data = f.read()
    at = 24

    def string():
        nonlocal at
        n, = struct.unpack_from("<Q", data, at)
        at += 8 + n
        return data[at - n:at].decode("utf-8")

    def value(kind):
        nonlocal at
        if kind == STRING:
            return string()
        if kind == ARRAY:
            element, n = struct.unpack_from("<IQ", data, at)
            at += 12
            if element == STRING:
                return [string() for _ in range(n)]
            items = struct.unpack_from("<%d%s" % (n, SCALARS[element]), data, at)
            at += n * struct.calcsize("<" + SCALARS[element])
            return list(items)
        v, = struct.unpack_from("<" + SCALARS[kind], data, at)
        at += struct.calcsize("<" + SCALARS[kind])
        return v

    meta = {}
    for _ in range(struct.unpack_from("<Q", data, 16)[0]):
        key = string()
        kind, = struct.unpack_from("<I", data, at)
        at += 4
        meta[key] = value(kind)
    return meta


def byte_level(prefix=False, regex=True):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}


def split(regex, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}


def sequence(*items, key="pretokenizers"):
    return {"type": "Sequence", key: list(items)}


def template(before=(), after=()):
    parts = [{"SpecialToken": {"id": t, "type_id": 0}} for t, _ in before]
    parts.append({"Sequence": {"id": "A", "type_id": 0}})
    parts += [{"SpecialToken": {"id": t, "type_id": 0}} for t, _ in after]
    tokens = {t: {"id": t, "ids": [i], "tokens": [t]} for t, i in list(before) + list(after)}
    return {"type": "TemplateProcessing", "single": parts, "pair": parts, "special_tokens": tokens}


def replace(a, b):
    return {"type": "Replace", "pattern": {"String": a}, "content": b}


LLAMA_DECODER = sequence(replace("\u2581", " "), {"type": "ByteFallback"}, {"type": "Fuse"},
                         {"type": "Strip", "content": " ", "start": 1, "stop": 0}, key="decoders")


def merges_of_scores(tokens, scores, types):
    """The merges that make a SentencePiece BPE vocabulary's pieces, as transformers derives them."""
    ids = {t: i for i, t in enumerate(tokens)}
    merges = []
    for i, piece in enumerate(tokens):
        local = []
        for k in range(1, len(piece)):
            left, right = piece[:k], piece[k:]
            if left in ids and right in ids:
                local.append((ids[left], ids[right], left, right))
        local.sort()
        merges += [(left, right, scores[i]) for _, _, left, right in local]
    merges.sort(key=lambda m: -m[2])
    return [[left, right] for left, right, _ in merges]


def build(meta, pre_tokenizer, normalizer=None, post_processor=None, decoder=None, pairs=False, flags=None, **model):
    tokens, types = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    added = []
    for i, t in enumerate(tokens):
        if types[i] in (CONTROL, USER) or (types[i] == UNKNOWN and t == "<unk>"):
            one = {"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                   "special": types[i] != USER}
            one.update((flags or {}).get(t, {}))
            added.append(one)
    if "tokenizer.ggml.merges" in meta:
        merges = meta["tokenizer.ggml.merges"]
        if pairs:
            merges = [[m[:m.index(" ", 1)], m[m.index(" ", 1) + 1:]] for m in merges]
    else:
        merges = merges_of_scores(tokens, meta["tokenizer.ggml.scores"], types)
    bpe = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
           "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    bpe.update(model)
    bpe["vocab"] = {t: i for i, t in enumerate(tokens)}
    bpe["merges"] = merges
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer, "post_processor": post_processor, "decoder": decoder or byte_level(),
            "model": bpe}


def main():
    folder = sys.argv[1]

    def gguf(name):
        return read_gguf(os.path.join(folder, "ggml-vocab-%s.gguf" % name))

    def write(name, tokenizer):
        with open(os.path.join(folder, "json-%s.json" % name), "w", encoding="utf-8") as f:
            json.dump(tokenizer, f, ensure_ascii=name in ("gpt-2", "gemma"))

    m = gguf("gpt-2")
    write("gpt-2", build(m, byte_level(), post_processor=byte_level()))
    # OPT and RoBERTa: a space in front, </s> around; <mask> takes the space before it
    write("opt", build(m, byte_level(prefix=True), flags={"<|endoftext|>": {"lstrip": True, "rstrip": True}},
                       post_processor={"type": "RobertaProcessing", "sep": ["!", 0], "cls": ["<|endoftext|>", 50256],
                                       "trim_offsets": True, "add_prefix_space": True}))
    m = gguf("gpt-neox")
    write("gpt-neox", build(m, byte_level(), {"type": "NFC"}, byte_level()))
    m = gguf("qwen2")
    write("qwen2", build(m, sequence(split(QWEN2), byte_level(regex=False)), {"type": "NFC"}, byte_level(), pairs=True))
    m = gguf("llama-bpe")
    write("gpt-4o", build(m, sequence(split(GPT4O), byte_level(regex=False)), ignore_merges=True, post_processor=sequence(
        byte_level(), template([("<|begin_of_text|>", 128000)]), key="processors")))
    m = gguf("starcoder")
    write("starcoder", build(m, sequence({"type": "Digits", "individual_digits": True}, byte_level())))
    m = gguf("falcon")
    write("falcon", build(m, sequence({"type": "Punctuation", "behavior": "Contiguous"}, byte_level(),
                                      {"type": "Digits", "individual_digits": False}, split("[0-9][0-9][0-9]"))))
    m = gguf("llama-spm")
    bos = template([("<s>", 1)])
    write("llama-2", build(m, None, sequence({"type": "Prepend", "prepend": "\u2581"}, replace(" ", "\u2581"),
                                             key="normalizers"), bos, LLAMA_DECODER, unk_token="<unk>",
                           fuse_unk=True, byte_fallback=True))
    write("llama-2-metaspace", build(
        m, {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}, None,
        template([("<s>", 1)], [("</s>", 2)]), LLAMA_DECODER, unk_token="<unk>", fuse_unk=True, byte_fallback=True,
        flags={"</s>": {"rstrip": True}, "<s>": {"normalized": True}}))
    m = gguf("gemma-4")
    write("gemma", build(m, {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious",
                             "invert": False}, replace(" ", "\u2581"), template([("<bos>", 2)]),
                         sequence(replace("\u2581", " "), {"type": "ByteFallback"}, {"type": "Fuse"}, key="decoders"),
                         pairs=True, unk_token="<unk>", fuse_unk=True, byte_fallback=True))


main()
