#!/usr/bin/env python3
"""Keep the metadata of a GGUF file and drop its tensors: what is left opens as a vocabulary.

Usage: cut_vocab.py IN OUT      IN may be cut off anywhere behind the metadata.
"""

import struct
import sys

SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9


def u32(data, at):
    return struct.unpack_from("<I", data, at)[0]


def u64(data, at):
    return struct.unpack_from("<Q", data, at)[0]


def skip_value(data, at, kind):
    if kind == STRING:
        return at + 8 + u64(data, at)
    if kind == ARRAY:
        element, n = u32(data, at), u64(data, at + 4)
        at += 12
        if element in SIZES:
            return at + n * SIZES[element]
        for _ in range(n):
            at = skip_value(data, at, element)
        return at
    return at + SIZES[kind]


def main():
    with open(sys.argv[1], "rb") as f:
        data = f.read()
    if data[:4] != b"GGUF" or u32(data, 4) != 3:
        sys.exit("not a GGUF file of version 3")
    at = 24
    for _ in range(u64(data, 16)):
        at += 8 + u64(data, at)
        at = skip_value(data, at + 4, u32(data, at))
    if at > len(data):
        sys.exit("the metadata is cut off")
    with open(sys.argv[2], "wb") as f:
        f.write(data[:8] + struct.pack("<Q", 0) + data[16:at])


main()
