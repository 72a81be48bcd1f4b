#!/usr/bin/env python3
"""Tiny random models of every family, and the logits that transformers computes for them.

Writes tests/golden/models/<name>/ (config.json, model.safetensors) and <name>/logits.bin, which is
int32 n_tokens, int32 vocab_size, int32 ids[n_tokens], float32 logits[n_tokens][vocab_size], little-endian.
Weights are stored in the type named below; transformers computes in float32 with the stored values.
test_decoder.c compares. Some are written as GGUF too, <name>/model.gguf, with the names, the order of rows and
the rotation factors that llama.cpp's converter gives them. Needs torch, transformers (5 or later) and gguf.
Deterministic: a run reproduces the files.
"""

import argparse
import copy
import json
import pathlib
import struct

import gguf
import numpy
import torch
import transformers

VOCAB = 192
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
    "llama-bias": ("LlamaConfig", "bfloat16", dict(attention_bias=True, mlp_bias=True, head_dim=32)),
    "llama3": ("LlamaConfig", "bfloat16", rope("llama3", 5000.0, factor=8.0, low_freq_factor=1.0,
                                               high_freq_factor=4.0, original_max_position_embeddings=32)),
    "llama-linear": ("LlamaConfig", "float16", rope("linear", factor=4.0)),
    # Longer than the trained context, else nothing is scaled.
    "llama-dynamic": ("LlamaConfig", "bfloat16", rope("dynamic", factor=4.0) | dict(max_position_embeddings=40)),
    "llama-yarn": ("LlamaConfig", "float16", rope("yarn", factor=4.0, original_max_position_embeddings=64)),
    "mistral": ("MistralConfig", "bfloat16", dict(sliding_window=24, head_dim=24)),
    "qwen2": ("Qwen2Config", "float16", dict(tie_word_embeddings=True)),
    "qwen3": ("Qwen3Config", "float32", dict(head_dim=32, num_hidden_layers=3, hidden_size=48)),
    "smollm3": ("SmolLM3Config", "bfloat16", dict(num_hidden_layers=3, no_rope_layer_interval=2)),
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


GGUF_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}


def gguf_name(name):
    module, suffix = name.rsplit(".", 1)
    if module.startswith("model.layers."):
        _, _, layer, module = module.split(".", 3)
        return f"blk.{layer}.{GGUF_NAMES[module]}.{suffix}"
    return f"{GGUF_NAMES[module]}.{suffix}"


def interleave(w, n_heads):
    """Rows of a head from halves (i, i + d/2) to neighbours (2i, 2i + 1)."""
    return w.reshape(n_heads, 2, w.shape[0] // n_heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def write_gguf(directory, arch):
    """The model of a directory as GGUF. Matrices keep their stored type, vectors become float32."""
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype="auto")
    c = model.config
    writer = gguf.GGUFWriter(directory / "model.gguf", arch)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_freq_base(c.rope_parameters["rope_theta"])
    writer.add_vocab_size(c.vocab_size)
    head_dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    writer.add_rope_dimension_count(head_dim)
    if c.rope_parameters["rope_type"] == "llama3":
        plain = c.rope_parameters["rope_theta"] ** -(torch.arange(0, head_dim, 2).double() / head_dim)
        writer.add_tensor("rope_freqs.weight", (plain / model.model.rotary_emb.inv_freq.double()).float().numpy())
    for name, p in model.state_dict().items():
        if name == "lm_head.weight" and c.tie_word_embeddings:
            continue
        if arch == "llama" and "q_proj" in name:
            p = interleave(p, c.num_attention_heads)
        if arch == "llama" and "k_proj" in name:
            p = interleave(p, c.num_key_value_heads)
        if p.dim() == 1 or p.dtype == torch.float32:
            writer.add_tensor(gguf_name(name), p.float().numpy())
        elif p.dtype == torch.float16:
            writer.add_tensor(gguf_name(name), p.numpy())
        else:
            writer.add_tensor(gguf_name(name), p.contiguous().view(torch.int16).numpy().view(numpy.uint8),
                              raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "models")
    out = parser.parse_args().out
    torch.manual_seed(0)
    for i, (name, (kind, dtype, extra)) in enumerate(MODELS.items()):
        make(name, kind, dtype, extra, out, 100 * (i + 1))
    write_gguf(out / "llama3", "llama")
    write_gguf(out / "qwen2", "qwen2")
    for name in ("llama3", "mistral"):
        path = out / name / "config.json"
        old = old_names(json.loads(path.read_text()))
        (out / name / "config.old.json").write_text(json.dumps(old, indent=2) + "\n")


if __name__ == "__main__":
    main()
