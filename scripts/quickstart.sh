#!/usr/bin/env bash
# From a fresh clone to a server: installs what is missing, builds, fetches the default model, answers four prompts, then
# serves the model at http://127.0.0.1:8000 until Ctrl-C.
# usage: scripts/quickstart.sh [--check]    PORT=8080 scripts/quickstart.sh: another port
#   --check   ends when the server has answered too; exit 0 only if real text came out of all of it
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/dev/setup.sh
[ -f build/build.ninja ] || cmake --preset release >/dev/null
cmake --build build --target llmlua -- --quiet
model=$(scripts/dev/download.sh)

prompts=(--prompt "The capital of France is" --prompt "Water boils at a temperature of"
         --prompt "def fibonacci(n):" --prompt "The three primary colors are")

question='{"prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}'
curl_line() { echo "curl -sS $1/v1/completions -H 'Content-Type: application/json' -d '$question'"; } # url

if [ "${1:-}" != --check ]; then
  build/llmlua generate.lua --model "$model" --temperature 0 --max-tokens 32 "${prompts[@]}" </dev/null
  url=http://127.0.0.1:${PORT:-8000}
  # Beside the server, which takes this process over so that signals are its own.
  ( ( while sleep 0.1 && kill -0 $$ 2>/dev/null; do
        curl -s -o /dev/null "$url/ready" || continue
        echo
        echo "Ask it:       $(curl_line "$url")"
        echo "Or open       $url/ in a browser; Ctrl-C ends the server."
        break
      done ) & )
  exec build/llmlua serve.lua --model "$model" --host 127.0.0.1 --port "${PORT:-8000}"
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

# A server, and the line that it is asked with.
log=$(mktemp)
build/llmlua serve.lua --model "$model" --host 127.0.0.1 --port 0 2>"$log" </dev/null &
server=$!
trap 'kill $server 2>/dev/null || true; rm -f "$log"' EXIT
url=
for _ in $(seq 300); do
  url=$(sed -n 's/^Serving .* at //p' "$log")
  [ -n "$url" ] && break
  kill -0 $server 2>/dev/null || break
  sleep 0.1
done
[ -n "$url" ] || { echo "quickstart: the server did not start:"; cat "$log"; exit 1; } >&2
bash -c "$(curl_line "$url")" | python3 -c '
import json, sys
text = json.load(sys.stdin)["choices"][0]["text"]
print("over HTTP|" + text.replace("\n", "\\n"))
assert "Paris" in text, "the server did not answer Paris"'
echo "quickstart: ok"
