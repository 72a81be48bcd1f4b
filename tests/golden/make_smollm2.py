#!/usr/bin/env python3
"""Greedy output of the default model by llama.cpp: writes tests/golden/smollm2_greedy.json for test_smollm2.c.

  make_smollm2.py --source LLAMA_CPP_SOURCE --build LLAMA_CPP_BUILD --model SmolLM2-135M-Instruct.Q4_1.gguf

Of every step the two best tokens and the margin between their logits are kept. Steps with a margin below
NEAR_TIE are near-ties, listed in the file: there an implementation that rounds otherwise may pick the other
token. llama.cpp rounds activations to 8 bits; against exact arithmetic its margins on this model are off by 0.16
(standard deviation; 0.9 at most), and NEAR_TIE is three times that. Exact arithmetic itself takes another token
at 36 of the 1280 steps, with margins up to 0.48.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

N_TOKENS = 64
NEAR_TIE = 0.5

CHAT = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n" \
       "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "Water boils at",
    "The first three laws of motion state that",
    "def fibonacci(n):\n    ",
    "#include <stdio.h>\n\nint main(void)\n{\n",
    "1, 1, 2, 3, 5, 8, 13,",
    "The quick brown fox",
    "In 1969, the United States",
    "A good cup of coffee starts with",
    "Les trois couleurs du drapeau français sont",
    "SELECT name, COUNT(*) FROM users",
    CHAT.format("What is gravity?"),
    CHAT.format("Write a haiku about autumn."),
    CHAT.format("List five fruits that are red."),
    CHAT.format("Explain how a bicycle stays upright, in two sentences."),
    CHAT.format("Translate 'good morning' to Spanish, German and Italian."),
    CHAT.format("What is 17 + 25?"),
    CHAT.format("Give me a recipe for pancakes."),
    CHAT.format("Who wrote Romeo and Juliet, and when?"),
]


def compile_greedy(source, build, directory):
    program = directory / "llama_greedy"
    libraries = build / "bin"
    subprocess.run(
        ["c++", "-O2", "-std=c++17", pathlib.Path(__file__).parent / "llama_greedy.cpp", "-o", program,
         "-I", source / "include", "-I", source / "ggml" / "include", "-L", libraries, "-lllama", "-lggml",
         "-lggml-base", f"-Wl,-rpath,{libraries.resolve()}"], check=True)
    return program


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=pathlib.Path, required=True)
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "smollm2_greedy.json")
    args = parser.parse_args()
    lines = "".join(p.replace("\n", "\\n") + "\n" for p in PROMPTS)
    with tempfile.TemporaryDirectory() as directory:
        program = compile_greedy(args.source, args.build, pathlib.Path(directory))
        run = subprocess.run([program, args.model, str(N_TOKENS)], input=lines, text=True, check=True,
                             stdout=subprocess.PIPE)
    prompts = []
    for text, line in zip(PROMPTS, run.stdout.splitlines(), strict=True):
        prompt_ids, ids, seconds, margins = (part.split() for part in line.split("|"))
        margins = [float(m) for m in margins]
        prompts.append(dict(text=text, prompt_ids=[int(i) for i in prompt_ids], ids=[int(i) for i in ids],
                            seconds=[int(i) for i in seconds], margins=[round(m, 3) for m in margins],
                            near_ties=[[i, m] for i, m in enumerate(margins) if m < NEAR_TIE]))
    rows = ",\n".join("  " + json.dumps(p, ensure_ascii=False) for p in prompts)
    args.out.write_text(f'{{"model": "{args.model.name}", "near_tie": {NEAR_TIE}, "prompts": [\n{rows}\n]}}\n')
    n = sum(len(p["near_ties"]) for p in prompts)
    print(f"{len(prompts)} prompts of {N_TOKENS} tokens, {n} steps are near-ties (margin below {NEAR_TIE})")


if __name__ == "__main__":
    main()
