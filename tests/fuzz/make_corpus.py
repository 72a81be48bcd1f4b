#!/usr/bin/env python3
"""Writes the seeds under corpus/ for the parsers of model files: small right files, near the interesting wrong
ones."""
import json
import pathlib
import struct

CORPUS = pathlib.Path(__file__).with_name("corpus")


def string(s):
    return struct.pack("<Q", len(s)) + s.encode()


def key(name, type_id, value):
    return string(name) + struct.pack("<I", type_id) + value


def u32(name, v):
    return key(name, 4, struct.pack("<I", v))


def f32(name, v):
    return key(name, 6, struct.pack("<f", v))


def tensor(name, dims, type_id, offset):
    return string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, type_id, offset)


def gguf(kvs, tensors, data, version=3):
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(kvs)) + b"".join(kvs) + b"".join(tensors)
    return head + b"\0" * (-len(head) % 32) + data


def gguf_seeds():
    model = [key("general.architecture", 8, string("llama")), u32("llama.vocab_size", 3),
             u32("llama.embedding_length", 8), u32("llama.feed_forward_length", 8), u32("llama.block_count", 1),
             u32("llama.attention.head_count", 2), u32("llama.context_length", 16),
             f32("llama.attention.layer_norm_rms_epsilon", 1e-5),
             key("llama.rope.scaling.type", 8, string("yarn")), f32("llama.rope.scaling.factor", 2)]
    words = string("<s>") + string("a") + string("")
    kinds = [key(f"k{t}", t, b"\1" * n) for t, n in enumerate([1, 1, 2, 2, 4, 4, 4, 1])]
    kinds += [key(f"k{t}", t, b"\1" * 8) for t in (10, 11, 12)]
    arrays = [key("words", 9, struct.pack("<IQ", 8, 3) + words),
              key("scores", 9, struct.pack("<IQ3f", 6, 3, 0, 1, 2)), u32("general.alignment", 32)]
    tensors = [tensor("a", [2, 3], 0, 0), tensor("b", [32], 3, 32), tensor("c", [256, 1], 12, 64),
               tensor("d", [], 1, 224)]
    return {"model": gguf(model, [], b""), "kinds": gguf(kinds, [], b""), "arrays": gguf(arrays, [], b"", 2),
            "tensors": gguf([], tensors, b"\0" * 256)}


def safetensors_seeds():
    def entry(dtype, shape, begin, end):
        return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}

    files = {"small": ({"a": entry("F32", [2, 3], 0, 24)}, 24),
             "kinds": ({"__metadata__": {"format": "pt"}, "x": entry("F16", [3], 1, 7),
                        "y": entry("BF16", [1, 1, 1, 1], 8, 10), "z": entry("I32", [], 10, 14),
                        "i": entry("I64", [1], 14, 22), "none": entry("F32", [0, 7], 22, 22)}, 22)}
    return {name: json.dumps(header).encode() + b"\0" + bytes(n) for name, (header, n) in files.items()}


def config_seeds():
    shape = {"vocab_size": 100, "hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 3,
             "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
             "rms_norm_eps": 1e-5, "hidden_act": "silu", "torch_dtype": "bfloat16"}
    scalings = {"linear": {"type": "linear", "factor": 2}, "dynamic": {"type": "dynamic", "factor": 2},
                "llama3": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                           "high_freq_factor": 4.0, "original_max_position_embeddings": 32},
                "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16,
                         "mscale": 1, "mscale_all_dim": 0.5, "beta_fast": 32, "truncate": False},
                "longrope": {"type": "longrope", "short_factor": [1, 1.1], "long_factor": [1, 2],
                             "original_max_position_embeddings": 16}}
    generation = {"eos_token_id": [2, 3], "temperature": 0.6, "top_p": 0.9, "top_k": 20, "min_p": 0.1}
    seeds = {name: dict(shape, model_type="llama", rope_scaling=s, rope_theta=5e5)
             for name, s in scalings.items()}
    seeds["mistral"] = dict(shape, model_type="mistral", head_dim=8, sliding_window=8)
    seeds["qwen2"] = dict(shape, model_type="qwen2", use_sliding_window=True, max_window_layers=1)
    seeds["qwen3"] = dict(shape, model_type="qwen3", rope_parameters={"rope_theta": 1e6}, attention_bias=True,
                          layer_types=["full_attention"] * 3)
    seeds["smollm3"] = dict(shape, model_type="smollm3", no_rope_layers=[1, 1, 0])
    texts = {name: json.dumps(config).encode() for name, config in seeds.items()}
    texts["generation"] = texts["qwen3"] + b"\0" + json.dumps(generation).encode()
    return texts


def main():
    for target, seeds in (("fuzz_gguf", gguf_seeds()), ("fuzz_safetensors", safetensors_seeds()),
                          ("fuzz_config", config_seeds())):
        (CORPUS / target).mkdir(parents=True, exist_ok=True)
        for name, data in seeds.items():
            (CORPUS / target / name).write_bytes(data)


if __name__ == "__main__":
    main()
