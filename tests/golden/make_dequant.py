#!/usr/bin/env python3
"""Makes dequant.bin: random blocks of every stored type and their values according to the `gguf` package.

    pip install gguf numpy; python make_dequant.py

A record is: u32 GGUF type id, u32 elements, u32 bytes, the bytes, the elements as f32. Little-endian.
"""
import os
import struct

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.quants import GGML_QUANT_SIZES, dequantize

# type: offsets of the f16 fields in a block; they get finite values, everything else any bytes
HALVES = {
    T.F16: [0], T.BF16: [], T.F32: [],
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.IQ4_NL: [0],
    T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208], T.IQ4_XS: [0],
}
N = 1024

rng = np.random.default_rng(20261123)
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "dequant.bin"), "wb") as f:
    for kind, halves in HALVES.items():
        block, size = GGML_QUANT_SIZES[kind]
        data = rng.integers(0, 256, (N // block, size), dtype=np.uint8)
        if kind == T.BF16:
            data = (rng.standard_normal(N).astype(np.float32).view(np.uint32) >> 16).astype("<u2").view(np.uint8)
        elif kind == T.F32:
            data = rng.standard_normal(N).astype("<f4").view(np.uint8)
        else:
            for at in halves:
                h = rng.standard_normal(N // block).astype("<f2")
                h[0] = 6e-8  # a subnormal
                data[:, at:at + 2] = h.view(np.uint8).reshape(-1, 2)
        data = data.reshape(1, -1)
        values = dequantize(data, kind).astype("<f4").reshape(-1)
        assert values.size == N and np.isfinite(values).all()
        f.write(struct.pack("<III", int(kind), N, data.size) + data.tobytes() + values.tobytes())
