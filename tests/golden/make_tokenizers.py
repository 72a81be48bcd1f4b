#!/usr/bin/env python3
"""Write tests/golden/tokenizer/*.hash: what the original tokenizers make of the test corpus.

Usage: make_tokenizers.py LLAMA_CPP_SOURCE LLAMA_CPP_LIB_DIR

Needs models/vocabs/ (scripts/dev/fetch-vocabs.sh), a C++ compiler, llama.cpp as shared libraries
(scripts/dev/build-llama-cpp.sh), and the Python packages tokenizers and sentencepiece. For each vocabulary a file
of 64-bit hashes, one a line for each 50 texts: FNV-1a over the texts' ids, each as one 32-bit unit, with 0xffffffff
after each text. Even blocks are plain text; in odd blocks special tokens are added and parsed.
"""

import glob
import os
import struct
import subprocess
import sys
import tempfile

import sentencepiece
import tokenizers

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
VOCABS = os.path.join(ROOT, "models", "vocabs")
BLOCK = 50


def read_corpus(path):
    with open(path, "rb") as f:
        data = f.read()
    texts, at = [], 0
    while at < len(data):
        n, = struct.unpack_from("<I", data, at)
        texts.append(data[at + 4:at + 4 + n])
        at += 4 + n
    return texts


def fnv(ids_of_texts):
    h = 0xCBF29CE484222325
    for ids in ids_of_texts:
        for i in list(ids) + [0xFFFFFFFF]:
            h = (h ^ i) * 0x100000001B3 & (2**64 - 1)
    return h


def write(name, all_ids):
    with open(os.path.join(HERE, "tokenizer", name + ".hash"), "w", encoding="ascii") as f:
        for i in range(0, len(all_ids), BLOCK):
            f.write("%016x\n" % fnv(all_ids[i:i + BLOCK]))
    print(name, sum(map(len, all_ids)), "ids", flush=True)


def is_special(i):
    return i // BLOCK % 2 == 1


def by_tokenizers(path, texts):
    tokenizer = tokenizers.Tokenizer.from_file(path)
    out = []
    for i, text in enumerate(texts):
        tokenizer.encode_special_tokens = not is_special(i)
        out.append(tokenizer.encode(text.decode("utf-8", "replace"), add_special_tokens=is_special(i)).ids)
    return out


def by_sentencepiece(path, texts):
    """The library alone: what it is given as text never becomes a control token; BOS goes in front."""
    sp = sentencepiece.SentencePieceProcessor(model_file=path)
    return [[sp.bos_id()] * is_special(i) + sp.encode(text) for i, text in enumerate(texts)]


def main():
    source, libs = sys.argv[1:]
    corpus = os.path.join(VOCABS, "corpus.bin")
    texts = read_corpus(corpus)
    with tempfile.TemporaryDirectory() as tmp:
        llama_ids = os.path.join(tmp, "llama_ids")
        subprocess.run(["c++", "-std=c++17", "-O1", "-I%s/include" % source, "-I%s/ggml/include" % source,
                        os.path.join(HERE, "llama_ids.cpp"), "-o", llama_ids, "-L" + libs, "-lllama", "-lggml",
                        "-lggml-base", "-Wl,-rpath," + os.path.abspath(libs)], check=True)
        for path in sorted(glob.glob(os.path.join(VOCABS, "*.gguf"))):
            out = subprocess.run([llama_ids, path, corpus], check=True, stdout=subprocess.PIPE, text=True).stdout
            write(os.path.basename(path), [list(map(int, line.split())) for line in out.split("\n")[:-1]])
    for path in sorted(glob.glob(os.path.join(VOCABS, "*.model*"))):
        write(os.path.basename(path), by_sentencepiece(path, texts))
    for path in sorted(glob.glob(os.path.join(VOCABS, "*.json"))):
        write(os.path.basename(path), by_tokenizers(path, texts))


main()
