#!/usr/bin/env python3
"""Tiny random models of every family, and the logits that transformers computes for them.

Writes tests/golden/models/<name>/ (config.json, model.safetensors) and <name>/logits.bin, which is
int32 n_tokens, int32 vocab_size, int32 ids[n_tokens], float32 logits[n_tokens][vocab_size], little-endian.
Weights are stored in the type named below; transformers computes in float32 with the stored values.
test_decoder.c compares. Needs torch and transformers (5 or later). Deterministic: a run reproduces the files.
"""

import argparse
import copy
import json
import pathlib
import struct

import torch
import transformers

VOCAB = 256
N_TOKENS = 64
SMALL = dict(vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-5, bos_token_id=1,
             eos_token_id=2, pad_token_id=0)


def rope(kind, theta=10000.0, **rest):
    return dict(rope_parameters=dict(rope_type=kind, rope_theta=theta, **rest))


# name: configuration class, stored type, what differs from SMALL. Every feature is in at least one.
MODELS = {
    "llama": ("LlamaConfig", "float32", {}),
    "llama-mha-tied": ("LlamaConfig", "bfloat16", dict(num_key_value_heads=4, tie_word_embeddings=True)),
    "llama-bias": ("LlamaConfig", "float32", dict(attention_bias=True, mlp_bias=True, head_dim=32)),
    "llama3": ("LlamaConfig", "bfloat16", rope("llama3", 5000.0, factor=8.0, low_freq_factor=1.0,
                                               high_freq_factor=4.0, original_max_position_embeddings=32)),
    "llama-linear": ("LlamaConfig", "float16", rope("linear", factor=4.0)),
    # Longer than the trained context, else nothing is scaled.
    "llama-dynamic": ("LlamaConfig", "bfloat16", rope("dynamic", factor=4.0) | dict(max_position_embeddings=40)),
    "llama-yarn": ("LlamaConfig", "float16", rope("yarn", factor=4.0, original_max_position_embeddings=64)),
    "mistral": ("MistralConfig", "bfloat16", dict(sliding_window=24, head_dim=24)),
    "qwen2": ("Qwen2Config", "float16", dict(tie_word_embeddings=True)),
    "qwen3": ("Qwen3Config", "float32", dict(head_dim=32, num_hidden_layers=3, hidden_size=48)),
}


def randomize(model, seed):
    """Weights large enough that logits are far from flat, norms and biases away from their neutral values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if "norm" in name:
                p.copy_(1 + 0.2 * noise)
            elif p.dim() == 1:
                p.copy_(0.3 * noise)
            elif "embed" in name:
                p.copy_(noise)
            else:
                p.copy_(1.5 * noise / p.shape[1] ** 0.5)


def old_names(config):
    """The field names of transformers 4: torch_dtype, rope_theta, rope_scaling."""
    config = dict(config)
    parameters = dict(config.pop("rope_parameters"))
    config["torch_dtype"] = config.pop("dtype")
    config["rope_theta"] = parameters.pop("rope_theta")
    config["rope_scaling"] = parameters if parameters["rope_type"] != "default" else None
    config["transformers_version"] = "4.46.0"
    return config


def make(name, kind, dtype, extra, out, seed):
    directory = out / name
    dtype = getattr(torch, dtype)
    config = getattr(transformers, kind)(**(SMALL | extra))
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    randomize(model, seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.to(dtype))
    copy.deepcopy(model).to(dtype).save_pretrained(directory)  # a copy: its rotary buffers are rounded too
    (directory / "generation_config.json").unlink(missing_ok=True)
    generator = torch.Generator().manual_seed(seed + 1)
    ids = torch.randint(0, VOCAB, (1, N_TOKENS), generator=generator)
    with torch.no_grad():
        logits = model(ids).logits[0].float().contiguous()
    header = struct.pack("<2i", N_TOKENS, VOCAB) + struct.pack(f"<{N_TOKENS}i", *ids[0].tolist())
    (directory / "logits.bin").write_bytes(header + logits.numpy().astype("<f4").tobytes())
    print(f"{name}: logits of standard deviation {logits.std():.2f}, largest {logits.abs().max():.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "models")
    out = parser.parse_args().out
    torch.manual_seed(0)
    for i, (name, (kind, dtype, extra)) in enumerate(MODELS.items()):
        make(name, kind, dtype, extra, out, 100 * (i + 1))
    for name in ("llama3", "mistral"):
        path = out / name / "config.json"
        old = old_names(json.loads(path.read_text()))
        (out / name / "config.old.json").write_text(json.dumps(old, indent=2) + "\n")


if __name__ == "__main__":
    main()
