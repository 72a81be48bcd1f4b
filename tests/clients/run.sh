#!/usr/bin/env bash
# The server against the clients that people use, from PyPI: openai, LangChain, curl, Prometheus' parser.
# usage: tests/clients/run.sh [PROGRAM] [unittest names…]     the last line is "N passed, N failed"
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
venv=$root/.cache/clients

export LLMLUA=${1:-$root/build/llmlua}
export LLMLUA_MODEL=${LLMLUA_MODEL:-$root/models/SmolLM2-135M-Instruct.Q4_1.gguf}
shift || true
stamp=$venv/requirements.txt
if ! cmp -s "$here/requirements.txt" "$stamp"; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
  cp "$here/requirements.txt" "$stamp"
fi
cd "$here"
exec "$venv/bin/python" run.py "$@"
