#!/usr/bin/env bash
# Everything that needs a GPU: parity of kernels, of models with transformers, a soak beside the CPU, memory checks, the
# paths of earlier GPUs, a timeline, and the benchmark table, as text and, a JSON object a line, in OUT/gpu-check.json.
# Prints a line a check, what a failed check said, and a summary; logs are OUT/NAME.log. Runs in a bundle
# (scripts/dev/bundle.sh --tests) or in a built tree.
# usage: scripts/dev/gpu-check.sh [--quick] [PART…]
#   parts: tests models gguf greedy soak failure sanitizer baseline kernels bench load trace serve peer; default: all
#   MODEL: a GGUF file for greedy; default: models/SmolLM2-135M-Instruct.Q4_1.gguf
#   LLAMA_CPP: directories, a comma between two, with llama.cpp's programs for peer, built with CUDA
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
out=${OUT:-.}
quick=0
if [ "${1:-}" = --quick ]; then quick=1; shift; fi
parts=("$@"); [ $# -gt 0 ] || parts=(tests models gguf greedy soak failure sanitizer baseline kernels bench load trace serve peer)

if [ -d "$root/bin" ]; then bin=$root/bin; tests=$root/tests; gpu=$bin; bench=$bin; lib=$root/lib; else
  bin=$root/build; tests=$root/tests/gpu; gpu=$bin/gpu; bench=$bin; lib=$gpu; fi
reason=$("$gpu/test_cuda_rows" embeddings* 2>&1); [ $? = 77 ] && { echo "gpu-check.sh: $reason"; exit 77; }
command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
passed=0; failed=0; skipped=0
export JSON=$out/gpu-check.json
rm -f "$JSON"

# Who ends this script, or its process group, ends all that it runs: what is left behind would have the device, and
# spoil the figures of others. (timeout alone makes a group of its own.)
limit() { timeout --foreground "$@"; }
run() { "$@" & wait $!; }
trap 'trap - TERM; kill 0; exit 143' TERM INT HUP

# Prints "NAME: ok (SECONDS s) LAST", where LAST is the log's last line.
check() { # name command…
  local name=$1 start=$SECONDS status; shift
  run "$@" >"$out/$name.log" 2>&1; status=$?
  if [ $status = 0 ]; then
    passed=$((passed + 1)); echo "$name: ok ($((SECONDS - start)) s)  $(tail -n 1 "$out/$name.log" | cut -c1-200)"
  elif [ $status = 77 ]; then skip "$name" "$(tail -n 1 "$out/$name.log")"; else
    failed=$((failed + 1)); echo "$name: FAILED (exit $status)"; tail -n 25 "$out/$name.log" | sed 's/^/    /'; fi
}
skip() { skipped=$((skipped + 1)); echo "$1: skipped, $2"; } # name reason

models() { limit 300 python3 "$tests/check_models.py" "$bin/llmlua" "$tests/logits.lua" "$@"; }
gguf() { limit 200 "$bin/llmlua" "$tests/gguf.lua" --device cuda "$@"; }
soak() { limit 120 "$bin/llmlua" "$tests/soak.lua" --config "$tests/shapes/tiny" --device cuda "$@"; }

# A tool of compute-sanitizer over a small run of a test. Some virtual machines do not let it at the device.
sanitize() { # tool program argument…
  local tool=$1 log=$out/$1-$(basename "$2").log status; shift
  limit 200 compute-sanitizer --tool "$tool" --print-limit 20 --error-exitcode 9 "$@"; status=$?
  grep -q "Device not supported" "$log" && { echo "compute-sanitizer does not support this machine's device"; return 77; }
  return $status
}

sanitizer() {
  command -v compute-sanitizer >/dev/null || { skip sanitizer "compute-sanitizer is not installed"; return; }
  for t in "$gpu"/test_cuda_*; do
    check "memcheck-$(basename "$t")" sanitize memcheck "$t" --small
    # Without a device the rest would say the same.
    grep -q "does not support this" "$out/memcheck-$(basename "$t").log" && return
    check "synccheck-$(basename "$t")" sanitize synccheck "$t" --small
  done
  check memcheck-llmlua sanitize memcheck "$bin/llmlua" bench.lua --config "$tests/shapes/tiny" --device cuda \
    --kv-cache-memory 1GiB --mode batch --batch 5 --n-gen 8 --reps 1
  # Shared memory alone, and slow: one test of most.
  check racecheck-test_cuda_attention sanitize racecheck "$gpu/test_cuda_attention" --small "*page*"
  check racecheck-test_cuda_linear sanitize racecheck "$gpu/test_cuda_linear" --small "*replays*"
  check racecheck-test_cuda_rows sanitize racecheck "$gpu/test_cuda_rows" --small "*rotations*"
  check racecheck-test_cuda_sampling sanitize racecheck "$gpu/test_cuda_sampling" --small
}

greedy() {
  local model=${MODEL:-$root/models/SmolLM2-135M-Instruct.Q4_1.gguf} dtype
  [ -f "$model" ] || { skip greedy "there is no $model"; return; }
  for dtype in auto float16 float32; do
    check "greedy-$dtype" limit 100 "$bin/llmlua" "$tests/greedy.lua" --model "$model" --device cuda --dtype $dtype
  done
}

# Kernels for compute capability 8.0, on whatever is there.
baseline() {
  local t
  for t in "$gpu"/test_cuda_*; do LLMLUA_CUDA_COMPUTE=8.0 check "8.0-$(basename "$t")" limit 200 "$t"; done
  LLMLUA_CUDA_COMPUTE=8.0 check 8.0-models models
  LLMLUA_CUDA_COMPUTE=8.0 check 8.0-gguf gguf
  LLMLUA_CUDA_COMPUTE=8.0 check 8.0-soak soak --seconds 10
}

# What the device does in a step, by CUPTI, which comes with the CUDA toolkit and with PyTorch.
timeline() {
  local library=$lib/libllmlua_trace.so how cupti
  [ -f "$library" ] || { skip trace "libllmlua_trace.so was not built"; return; }
  cupti=$(ls -d /usr/local/cuda/lib64/libcupti.so* /usr/local/cuda/extras/CUPTI/lib64/libcupti.so* 2>/dev/null | head -n 1)
  [ -n "$cupti" ] || cupti=$(python3 -c 'import glob, site; print((glob.glob(site.getsitepackages()[0] + "/nvidia/**/libcupti.so*", recursive=True) + [""])[0])' 2>/dev/null)
  [ -n "$cupti" ] || { skip trace "CUPTI was not found"; return; }
  for how in steps kernels; do
    rm -f "$out/trace-$how.txt"
    check "trace-$how" limit 200 env LD_LIBRARY_PATH="$(dirname "$cupti")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" \
      CUDA_INJECTION64_PATH="$library" LLMLUA_TRACE=$how LLMLUA_TRACE_FILE="$out/trace-$how.txt" \
      "$bin/llmlua" "$tests/bench_engine.lua" --config "$tests/shapes/llama-3.1-8b" --device cuda \
      --rows decode --rows prefill --batch 1 --batch 64 --length 8192
    cat "$out/trace-$how.txt"
  done
}

# llama.cpp on the same files; they are some 30 GB in all, one at a time.
peer() {
  [ -n "${LLAMA_CPP:-}" ] || { skip peer "LLAMA_CPP does not name llama.cpp's programs"; return; }
  check peer limit 600 python3 "$tests/bench_gguf.py" "$bin/llmlua" "$tests/shapes/llama-3.1-8b" --peer "$LLAMA_CPP" \
    --dir "$out" $([ $quick = 1 ] && echo --type Q4_K_M --rounds 1)
  cat "$out/peer.log"
}

for part in "${parts[@]}"; do
  case $part in
    tests) for t in "$gpu"/test_cuda_*; do check "$(basename "$t")" limit 200 "$t"; done ;;
    models) check models models; cat "$out/models.log" ;;
    gguf) check gguf gguf; check gguf-float32 gguf --dtype float32 ;;
    greedy) greedy ;;
    soak) check soak soak ;;
    failure) check failure limit 100 "$bin/llmlua" "$tests/failure.lua" --config "$tests/shapes/tiny" \
               --large "$tests/shapes/llama-3.1-8b" ;;
    sanitizer) sanitizer ;;
    baseline) baseline ;;
    kernels) for b in "$bench"/bench_cuda_*; do run limit 200 "$b"; done ;;
    bench) run "$bin/llmlua" "$tests/bench_engine.lua" --config "$tests/shapes/llama-3.1-8b" --device cuda \
             --json-file "$JSON" $([ $quick = 1 ] && echo --quick) ;;
    load) check load limit 300 python3 "$tests/bench_load.py" "$bin/llmlua" "$tests/shapes/llama-3.1-8b" 8; cat "$out/load.log" ;;
    trace) timeline ;;
    serve) run python3 "$tests/bench_serve.py" "$bin/llmlua" "$root/scripts/serve.lua" "$tests/shapes/llama-3.1-8b" ;;
    peer) peer ;;
    *) echo "gpu-check.sh: no part $part"; exit 2 ;;
  esac
done
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
