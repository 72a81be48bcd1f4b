#!/usr/bin/env python3
"""Write the tokenizers' test corpus: texts made from tests/golden/tokenizer/seed.txt by a fixed recipe.

Usage: make_corpus.py OUT     OUT: records of a 32-bit little-endian length and that many bytes (any bytes).

The recipe uses its own generator of random numbers and no Unicode tables, so that every Python makes the same
bytes. A text is a "line" of the corpus; some hold newlines.
"""

import os
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
N_LINES = 20500

SPACES = [" ", "  ", "   ", "    ", "        ", "\t", "\t\t", "\n", "\n\n", "\n\n\n", "\r\n", "\r\n\r\n", " \n", "\n ",
          "\n\n  ", " \t ", "\u00a0", "\u3000", "\u2003", "\u2009", "\u200b", "\u2028", "\u2029", "\u202f", "\u205f",
          "\u1680", "\u0085", "\v", "\f", "\u180e", "\ufeff", "\u2060", "\x1c", "\x1f", "\x00", "\x7f", "\u00ad"]
MARKS = ["\u0301", "\u0308", "\u0323", "\u20e3", "\ufe0f", "\u200d", "\u0bcd", "\u094d", "\u05b0", "\u064e", "\u0e34",
         "\u3099", "\u0338", "\u1dc4", "\u034f"]
BAD = [b"\xff", b"\xfe\xfe", b"\x80", b"\xbf\x80", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\xc0\xaf", b"\xe0\x80\xaf",
       b"\xed\xa0\x80", b"\xed\xb2\x80\xed\xa0\x81", b"\xf5", b"\xf8\x88\x80\x80\x80", b"\xe2\x28\xa1", b"\xf0\x28\x8c\xbc",
       b"\xc2\x20", b"\xe3\x80 ", b"\xf0\x90 x"]
SPECIALS = ["<s>", "</s>", "<unk>", "<pad>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>",
            "<|eot_id|>", "<|start_header_id|>", "<|end|>", "<|user|>", "<|assistant|>", "<bos>", "<eos>",
            "<start_of_turn>", "<end_of_turn>", "<fim_prefix>", "<fim_middle>", "[INST]", "[/INST]", "<|", "|>",
            "<|im_", "< s >", "<S>", "<0x0A>", "<0xE2>", "<0x", "<unused5>", "<mask>", "\u2581", "\u2581\u2581a", "\u0120the",
            "\u010a", "<table>", "<h1>", "</code>", "<n>", "<CLS>", "<EOP_TOKEN>", ">>TITLE<<", "<|reserved_123|>",
            "<\uff5cend\u2581of\u2581sentence\uff5c>", "<\uff5cUser\uff5c>", "<\u2581", "[PAD]", "<extra_id_0>", "<|fim_pad|>"]
CONTRACTIONS = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'T", "'RE", "'Ve", "'M", "'lL", "'D", "\u2019s", "\u2019ll",
                "'x", "'", "''", "'\u017f", "'n't", "n't", "'rest", "'LLama"]


class Random:
    """PCG-XSH-RR, 32 bits of output."""

    def __init__(self, seed):
        self.state = (seed * 2 + 1) & (2**64 - 1)
        for _ in range(4):
            self.next()

    def next(self):
        old = self.state
        self.state = (old * 6364136223846793005 + 1442695040888963407) & (2**64 - 1)
        x = ((old >> 18) ^ old) >> 27 & 0xFFFFFFFF
        rot = old >> 59
        return (x >> rot | x << (-rot & 31)) & 0xFFFFFFFF

    def below(self, n):
        return self.next() * n >> 32

    def pick(self, items):
        return items[self.below(len(items))]


def word(r, words):
    w = r.pick(words)
    kind = r.below(24)
    if kind == 0:
        return w.upper() if w.isascii() else w
    if kind == 1:
        return w.capitalize() if w.isascii() else w
    if kind == 2:
        return w + r.pick(CONTRACTIONS)
    if kind == 3:
        return "".join(str(r.below(10)) for _ in range(1 + r.below(14)))
    if kind == 4:
        return r.pick(SPECIALS)
    if kind == 5:
        i = r.below(len(w) + 1)
        return w[:i] + r.pick(MARKS) + w[i:]
    if kind == 6:
        return w[:1 + r.below(len(w))] + r.pick(words)
    if kind == 7:
        return w + r.pick(list(".,;:!?)]}>\"'`-_=+*/\\|&%$#@~^")) * (1 + r.below(4))
    if kind == 8:
        return r.pick(list("([{<\"'`-_=+*/\\|&%$#@~^")) * (1 + r.below(4)) + w
    return w


def mixture(r, words, spaces_often):
    out = []
    if r.below(6) == 0:
        out.append(r.pick(SPACES))
    for _ in range(1 + r.below(10)):
        out.append(word(r, words))
        out.append(r.pick(SPACES) if r.below(3 if spaces_often else 12) == 0 else r.pick(["", " ", " ", " ", " "]))
    text = "".join(out)
    return text if r.below(3) else text.rstrip(" ")


def code_points(r):
    """Runs of neighbouring characters from blocks that have been full for long."""
    blocks = [(0x21, 94), (0xA1, 94), (0x100, 0x148), (0x391, 17), (0x3B1, 25), (0x410, 64), (0x5D0, 27), (0x621, 26),
              (0x641, 10), (0x660, 10), (0x905, 50), (0x995, 20), (0xE01, 58), (0x10D0, 33), (0x1E00, 150), (0x2010, 24),
              (0x2030, 46), (0x2190, 112), (0x2200, 256), (0x2500, 128), (0x25A0, 96), (0x2600, 100), (0x3041, 86),
              (0x30A1, 90), (0x4E00, 20000), (0xAC00, 11172), (0xFF01, 94), (0x10330, 26), (0x1D400, 85), (0x1F300, 32),
              (0x1F600, 64), (0x20000, 40000), (0xE000, 6400)]
    first, n = r.pick(blocks)
    return "".join(chr(first + r.below(n)) + r.pick(["", "", "", " ", "\n"]) for _ in range(1 + r.below(24)))


def long_word(r, words):
    kind = r.below(6)
    n = 40 + r.below(400)
    if kind == 0:
        return r.pick(list("aAe=-_ .\n\t0\u4e00\u00e9")) * n
    if kind == 1:
        return "".join(chr(97 + r.below(26)) for _ in range(n))
    if kind == 2:
        return "".join(r.pick(words) for _ in range(n // 8))
    if kind == 3:
        return "".join(str(r.below(10)) for _ in range(n))
    if kind == 4:
        return r.pick(["ab", "xyz", "=-", "\n ", "\u3042\u3044", "\U0001f600", "'s", "ha", "()", "<|"]) * (n // 2)
    return "".join("0123456789abcdef"[r.below(16)] for _ in range(n))


def main():
    with open(os.path.join(HERE, "tokenizer", "seed.txt"), encoding="utf-8") as f:
        lines = f.read().split("\n")[:-1]
    words = [w for line in lines for w in line.split(" ") if w]
    r = Random(20260101)
    texts = ["", " ", "\n", "a", "\u00e9"] + SPACES + MARKS + SPECIALS + CONTRACTIONS + lines
    texts = [t.encode("utf-8") for t in texts] + BAD + [b"a" + b + b"z" for b in BAD]
    texts.append("\n".join(lines).encode("utf-8"))
    while len(texts) < N_LINES:
        kind = r.below(20)
        if kind < 9:
            text = mixture(r, words, False).encode("utf-8")
        elif kind < 14:
            text = mixture(r, words, True).encode("utf-8")
        elif kind < 16:
            text = code_points(r).encode("utf-8")
        elif kind == 16:
            text = long_word(r, words).encode("utf-8")
        elif kind == 17:
            line = r.pick(lines)
            text = line[r.below(len(line)):][:1 + r.below(120)].encode("utf-8")
        elif kind == 18:
            text = "".join(r.pick(SPECIALS) + r.pick(["", " ", "\n", "x"]) for _ in range(1 + r.below(6))).encode("utf-8")
        else:
            text = mixture(r, words, False).encode("utf-8")
            for _ in range(1 + r.below(3)):
                i = r.below(len(text) + 1)
                text = text[:i] + r.pick(BAD) + text[i + r.below(3):]
        texts.append(text)
    with open(sys.argv[1], "wb") as f:
        for text in texts:
            f.write(struct.pack("<I", len(text)) + text)


main()
