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
  echo "A server:   build/llmlua serve.lua --model $model --port 8000"
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
'

# The first prompt again, over HTTP.
log=$(mktemp)
build/llmlua serve.lua --model "$model" --host 127.0.0.1 --port 0 2>"$log" </dev/null &
server=$!
trap 'kill $server 2>/dev/null || true; rm -f "$log"' EXIT
for _ in $(seq 100); do
  url=$(sed -n 's/^Serving .* at //p' "$log")
  [ -n "$url" ] && break
  sleep 0.1
done
[ -n "$url" ] || { echo "quickstart: the server did not start:"; cat "$log"; exit 1; } >&2
curl -sS "$url/v1/completions" -H 'Content-Type: application/json' \
  -d '{"prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}' |
  python3 -c '
import json, sys
text = json.load(sys.stdin)["choices"][0]["text"]
print("over HTTP|" + text.replace("\n", "\\n"))
assert "Paris" in text, "the server did not answer Paris"'
echo "quickstart: ok"
