#!/usr/bin/env python3
"""Logits of small random models of every family against transformers on the same GPU.

usage: check_models.py LLMLUA LOGITS_LUA [NAME...]      prints a row a model; the exit code says whether all are close
"""
import json, os, subprocess, sys, tempfile
import torch, transformers

llmlua, script = sys.argv[1:3]
names = sys.argv[3:]
VOCAB = 512
DEVICE = os.environ.get("LLMLUA_DEVICE", "cuda")  # "cpu" checks this script where there is no GPU
torch.manual_seed(0)
transformers.utils.logging.disable_progress_bar()
torch.backends.cuda.matmul.allow_tf32 = False


def config(cls, **more):
    base = dict(vocab_size=VOCAB, hidden_size=256, intermediate_size=704, num_hidden_layers=3, num_attention_heads=8,
                num_key_value_heads=2, max_position_embeddings=32768, bos_token_id=1, eos_token_id=2,
                initializer_range=0.05)
    base.update(more)
    return cls(**base)


T = transformers
MODELS = {
    "llama": lambda: config(T.LlamaConfig, head_dim=32),
    "llama3": lambda: config(T.LlamaConfig, head_dim=128, num_attention_heads=4, num_key_value_heads=1, rope_theta=5e5,
                             tie_word_embeddings=True),
    "llama_mha": lambda: config(T.LlamaConfig, head_dim=80, num_attention_heads=4, num_key_value_heads=4),
    "llama_bias": lambda: config(T.LlamaConfig, head_dim=64, attention_bias=True, mlp_bias=True),
    "mistral": lambda: config(T.MistralConfig, head_dim=64, sliding_window=100),
    "qwen2": lambda: config(T.Qwen2Config),
    "qwen3": lambda: config(T.Qwen3Config, head_dim=96),
}


def randomize(model):
    """Biases and norms that are all zeros or ones would hide a mistake."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("bias"):
                p.normal_(0, 0.1)
            elif "norm" in name:
                p.normal_(1, 0.1)


def ours(path, dtype, requests):
    text = "".join(json.dumps(r) + "\n" for r in requests)
    run = subprocess.run([llmlua, script, "--model", path, "--device", DEVICE, "--dtype", dtype, "--max-model-len", "32768",
                          "--max-num-seqs", "16", "--kv-cache-memory", "2GiB"], input=text, capture_output=True,
                         text=True)
    if run.returncode:
        raise SystemExit("%s: %s" % (path, run.stderr[-2000:]))
    return [torch.tensor([float(x) for x in line.split()]) for line in run.stdout.splitlines()]


def log_probs(model, request):
    out = model(torch.tensor([request["ids"]]).to(DEVICE), logits_to_keep=0 if request["all"] else 1).logits[0]
    return torch.log_softmax(out.float(), -1).cpu()


def compare(name, dtype, model, path):
    """Theirs and ours round in their own ways: what a tie is, their model in float32 says. Two tokens are as good as
    equal if they are closer there than 0.1, or than six times theirs is off."""
    model = model.to(DEVICE).eval()
    generator = torch.Generator().manual_seed(1)
    lengths = [(1, True), (2, True), (63, True), (65, True), (300, True), (2000, False), (30000, False)][:4 if DEVICE == "cpu" else None]
    requests = [dict(ids=torch.randint(3, VOCAB, (n,), generator=generator).tolist(), all=everything)
                for n, everything in lengths]
    torch.cuda.empty_cache()  # ours needs memory too
    got = torch.stack(ours(path, dtype, requests))
    with torch.no_grad():
        want = torch.cat([log_probs(model, r) for r in requests])
        model = model.float()
        truth = torch.cat([log_probs(model, r) for r in requests]) if dtype != "float32" else want
    kl = (want.exp() * (want - got)).sum(-1).mean().item()
    own = (truth.exp() * (truth - got)).sum(-1).mean().item()
    theirs = (truth.exp() * (truth - want)).sum(-1).mean().item()
    worst = ((want - got).abs().amax(-1) / want.abs().amax(-1)).max().item()
    top = truth.topk(10).indices
    noise = (want.gather(1, top) - truth.gather(1, top)).square().mean().sqrt().item()
    tokens = torch.stack([want.argmax(-1), got.argmax(-1)], 1)
    apart = truth.gather(1, tokens)
    apart = (apart[:, 0] - apart[:, 1]).abs()
    near = 1e-3 if dtype == "float32" else max(0.1, 6 * noise)
    flips = int((apart >= near).sum())
    good = flips == 0 and (worst <= 1e-3 if dtype == "float32" else kl <= 1e-3)
    print("%-12s %-9s %5d positions  mean KL %.1e (from float32: ours %.1e, theirs %.1e)  relative %.1e  "
          "top-1 differs at %d, %d of them no near-ties  %s" %
          (name, dtype, len(want), kl, own, theirs, worst, int((tokens[:, 0] != tokens[:, 1]).sum()), flips,
           "ok" if good else "NOT CLOSE"), flush=True)
    return good


good = True
for name, make in MODELS.items():
    if names and name not in names:
        continue
    for dtype in ("float32", "bfloat16"):
        with tempfile.TemporaryDirectory() as path:
            cfg = make()
            cfg._attn_implementation = "sdpa"
            model = T.AutoModelForCausalLM.from_config(cfg)
            randomize(model)
            model.to(getattr(torch, dtype)).save_pretrained(path)
            # Read again: `to` has rounded the frequencies of rotation too, which loading leaves in float32.
            model = T.AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype), attn_implementation="sdpa")
            good = compare(name, dtype, model, path) and good
print("models: %s" % ("ok" if good else "FAILED"))
sys.exit(0 if good else 1)
