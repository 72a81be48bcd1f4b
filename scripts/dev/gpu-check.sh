#!/usr/bin/env bash
# Everything that needs a GPU: parity of kernels, of models with transformers, a soak beside the CPU, memory checks, and
# the benchmark table, as text and, a JSON object a line, in OUT/gpu-check.json. Runs in a bundle
# (scripts/dev/bundle.sh --tests) or in a built tree.
# usage: scripts/dev/gpu-check.sh [--quick] [PART…]   parts: tests models soak sanitizer kernels bench serve; default: all
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
out=${OUT:-.}
quick=0
if [ "${1:-}" = --quick ]; then quick=1; shift; fi
parts=("$@"); [ $# -gt 0 ] || parts=(tests models soak sanitizer kernels bench serve)

if [ -d "$root/bin" ]; then bin=$root/bin; tests=$root/tests; gpu=$bin; bench=$bin; else
  bin=$root/build; tests=$root/tests/gpu; gpu=$bin/gpu; bench=$bin; fi
command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
passed=0; failed=0
export JSON=$out/gpu-check.json
rm -f "$JSON"

check() { # name command…
  local name=$1 start=$SECONDS; shift
  if "$@" >"$out/$name.log" 2>&1; then passed=$((passed + 1)); echo "$name: ok ($((SECONDS - start)) s)"; else
    failed=$((failed + 1)); echo "$name: FAILED (exit $?)"; tail -n 25 "$out/$name.log" | sed 's/^/    /'; fi
}

for part in "${parts[@]}"; do
  case $part in
    tests) for t in "$gpu"/test_cuda_*; do check "$(basename "$t")" timeout 200 "$t"; done ;;
    models) check models timeout 300 python3 "$tests/check_models.py" "$bin/llmlua" "$tests/logits.lua"
            cat "$out/models.log" ;;
    soak) check soak timeout 120 "$bin/llmlua" "$tests/soak.lua" --config "$tests/shapes/tiny" --device cuda
          tail -n 1 "$out/soak.log" ;;
    sanitizer)
      if command -v compute-sanitizer >/dev/null; then
        check memcheck timeout 300 compute-sanitizer --tool memcheck --error-exitcode 9 \
          "$bin/llmlua" bench.lua --config "$tests/shapes/tiny" --device cuda --mode batch --batch 5 --n-gen 8 --reps 1
      else echo "sanitizer: skipped, compute-sanitizer is not installed"; fi ;;
    kernels) for b in "$bench"/bench_cuda_*; do timeout 200 "$b"; done ;;
    bench) "$bin/llmlua" "$tests/bench_engine.lua" --config "$tests/shapes/llama-3.1-8b" --device cuda \
             --json-file "$JSON" $([ $quick = 1 ] && echo --quick) ;;
    serve) python3 "$tests/bench_serve.py" "$bin/llmlua" "$root/scripts/serve.lua" "$tests/shapes/llama-3.1-8b" ;;
    *) echo "gpu-check.sh: no part $part"; exit 2 ;;
  esac
done
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
