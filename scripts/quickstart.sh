#!/usr/bin/env bash
# From a fresh clone to text: installs what is missing, builds, fetches the default model, answers four prompts.
# usage: scripts/quickstart.sh [--check]    --check: no terminal needed; exit 0 only if real text came out
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/dev/setup.sh
[ -f build/build.ninja ] || cmake --preset release >/dev/null
cmake --build build --target llmlua -- --quiet
model=$(scripts/dev/download.sh)

prompts=(--prompt "The capital of France is" --prompt "Water boils at a temperature of"
         --prompt "def fibonacci(n):" --prompt "The three primary colors are")

if [ "${1:-}" != --check ]; then
  build/llmlua generate.lua --model "$model" --temperature 0 --max-tokens 32 "${prompts[@]}"
  echo
  echo "Your turn:  build/llmlua generate.lua --model $model --prompt 'Once upon a time' --stream"
  exit 0
fi

build/llmlua generate.lua --model "$model" --temperature 0 --max-tokens 32 --json "${prompts[@]}" </dev/null |
  python3 -c '
import json, sys
rows = [json.loads(line) for line in sys.stdin]
assert len(rows) == 4, "%d answers for 4 prompts" % len(rows)
for row in rows:
    out = row["outputs"][0]
    print("%s|%s" % (row["prompt"], out["text"].replace("\n", "\\n")))
    assert len(out["token_ids"]) > 0 and out["text"].strip(), "no text for: " + row["prompt"]
assert "Paris" in rows[0]["outputs"][0]["text"], "the capital of France did not come out as Paris"
assert "red" in rows[3]["outputs"][0]["text"].lower(), "the primary colors did not come out"
print("quickstart: ok")'
