#!/usr/bin/env python3
"""Writes rope.json: rotation frequencies and cosines that transformers gives for every kind of scaling.

Needs torch and transformers. Each case is a config.json, the length of the longest text, the frequencies and
attention factor at that length, and the cosines and sines of a few positions of such a text.
"""
import json
import pathlib

import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}
LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}
LONG = {"rope_type": "longrope", "original_max_position_embeddings": 512,
        "short_factor": [1 + 0.05 * i for i in range(8)], "long_factor": [1 + 0.9 * i for i in range(8)]}

# name, head_dim, theta, context of the config, scaling, longest text
CASES = [
    ("default", 64, 10000.0, 4096, None, 4096),
    ("default, other theta", 128, 1000000.0, 4096, None, 4096),
    ("linear", 16, 10000.0, 2048, {"rope_type": "linear", "factor": 8.0}, 2048),
    ("dynamic within the context", 16, 10000.0, 2048, {"rope_type": "dynamic", "factor": 2.0}, 2048),
    ("dynamic beyond it", 16, 10000.0, 2048, {"rope_type": "dynamic", "factor": 2.0}, 4096),
    ("llama3 of 1B", 64, 500000.0, 131072, LLAMA3, 8192),
    ("llama3 of 8B", 128, 500000.0, 131072, LLAMA3 | {"factor": 8.0}, 8192),
    ("yarn", 64, 10000.0, 8192, YARN, 8192),
    ("yarn, large theta", 128, 1000000.0, 8192, YARN, 8192),
    ("yarn, attention factor", 16, 10000.0, 8192, YARN | {"attention_factor": 1.25}, 4096),
    ("yarn, mscales", 16, 10000.0, 8192, YARN | {"mscale": 0.7, "mscale_all_dim": 1.0}, 4096),
    ("yarn, betas", 32, 10000.0, 8192, YARN | {"beta_fast": 16.0, "beta_slow": 2.0}, 4096),
    ("yarn, not truncated", 32, 10000.0, 8192, YARN | {"truncate": False}, 4096),
    ("yarn, factor from the contexts", 16, 10000.0, 8192, YARN | {"factor": None}, 4096),
    ("longrope, short", 16, 10000.0, 4096, LONG, 512),
    ("longrope, long", 16, 10000.0, 4096, LONG, 4096),
    ("longrope, factors given", 16, 10000.0, 4096, LONG | {"factor": 2.0, "attention_factor": 1.1}, 600),
]


def numbers(tensor):
    return [float(f"{x:.9g}") for x in tensor.flatten().tolist()]


def make(name, head_dim, theta, context, scaling, n_positions):
    shape = {"vocab_size": 100, "hidden_size": head_dim * 2, "intermediate_size": 8, "num_hidden_layers": 1,
             "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": head_dim,
             "max_position_embeddings": context}
    rope = dict(scaling or {"rope_type": "default"}, rope_theta=theta)
    config = LlamaConfig(**shape, rope_parameters=dict(rope))
    embedding = LlamaRotaryEmbedding(config)
    positions = torch.tensor([[0, 1, 7, 100, n_positions - 1]])
    cos, sin = embedding(torch.zeros(1), positions)  # makes it choose the frequencies for this length
    if rope["rope_type"] == "default":
        frequencies, factor = embedding.inv_freq, embedding.attention_scaling
    else:
        frequencies, factor = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, None, seq_len=n_positions)
    half = head_dim // 2
    return {"name": name, "n_positions": n_positions,
            "config": dict(shape, model_type="llama", rope_parameters=rope),
            "frequencies": numbers(frequencies), "attention_factor": float(factor),
            "positions": positions[0].tolist(),
            "cos": [numbers(row[:half]) for row in cos[0]], "sin": [numbers(row[:half]) for row in sin[0]]}


def main():
    cases = [make(*case) for case in CASES]
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    pathlib.Path(__file__).with_name("rope.json").write_text("[\n" + lines + "\n]\n")


if __name__ == "__main__":
    main()
