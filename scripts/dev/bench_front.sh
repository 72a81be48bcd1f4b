#!/usr/bin/env bash
# The front end alone: serve.lua over a model that computes nothing (load_format null), 64 streams, an event a token,
# beside a server of the same shape with FastAPI and uvicorn; the same load generator (tests/bench_front.c) reads both.
# Free running: as fast as it goes. Paced: 10,000 tokens/s, for the processor time that they cost.
#
#   scripts/dev/bench_front.sh [STREAMS]      needs python3 with venv, and PyPI once; build first
set -euo pipefail
cd "$(dirname "$0")/../.."

streams=${1:-64}
port=${BENCH_PORT:-18400}
venv=.cache/bench-front
build=${BUILD:-build}

if [ ! -x "$venv/bin/uvicorn" ]; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check fastapi==0.115.12 "uvicorn[standard]==0.34.2"
fi

server=0
stop() { [ "$server" = 0 ] || { kill -TERM "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; }; server=0; }
trap stop EXIT

# measure NAME TOKENS COMMAND…: tokens for each stream
measure() {
  local name=$1 tokens=$2
  shift 2
  "$@" >/dev/null 2>&1 &
  server=$!
  for _ in $(seq 200); do
    curl -fs -o /dev/null "http://127.0.0.1:$port/health" && break
    sleep 0.05
  done
  printf '%-28s' "$name"
  "$build/bench_front" "$port" "$server" "$streams" "$tokens" 1
  stop
}

ours() { # STEP_MS [option…]
  exec "$build/llmlua" serve.lua --load-format null --null-step-ms "$1" --host 127.0.0.1 --port "$port" \
    --disable-access-log "${@:2}"
}

theirs() { # STEP_MS
  NULL_STEP_MS=$1 exec "$venv/bin/uvicorn" --app-dir scripts/dev bench_front_peer:app --host 127.0.0.1 --port "$port" \
    --log-level warning --no-access-log
}

paced=$(awk "BEGIN { print $streams / 10000 * 1000 }")    # ms a step, for 10,000 tokens/s
fast=$(awk "BEGIN { print $streams / 600000 * 1000 }")    # for 600,000, less what timers and the engine take
measure "llmlua, free running" 15000 ours 0
measure "llmlua, a token each step" 15000 ours "$fast"
measure "llmlua, paced" 1000 ours "$paced"
measure "FastAPI, free running" 2000 theirs 0
measure "FastAPI, paced" 400 theirs "$paced"
