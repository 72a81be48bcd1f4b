#!/usr/bin/env bash
# Builds the fuzz targets with clang and runs each from its seeds over a bounded number of inputs.
# usage: tests/fuzz/run.sh [inputs a target, 20000] [target ...]
# The last lines say how each target fared; a crash leaves its input in build-fuzz/ and makes the exit status 1.
set -euo pipefail
cd "$(dirname "$0")/../.."
inputs=${1:-20000}
[ $# -gt 0 ] && shift
targets=("$@")
if [ ${#targets[@]} = 0 ]; then
  for f in tests/fuzz/fuzz_*.c; do targets+=("$(basename "$f" .c)"); done
fi
build=build-fuzz
log=$build/build.log
mkdir -p $build
if ! { cmake -S . -B $build -G Ninja -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ \
         -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_FLAGS_DEBUG="-O1 -g" -DCMAKE_CXX_FLAGS_DEBUG="-O1 -g" \
         -DLLMLUA_FUZZ=ON -DLLMLUA_TESTS=OFF -DLLMLUA_WERROR=OFF &&
       cmake --build $build --target "${targets[@]}"; } >$log 2>&1; then
  tail -40 $log
  echo "fuzz: the build failed; all of it is in $log"
  exit 1
fi

corpus=$(mktemp -d)  # what libFuzzer finds goes here, not among the seeds
trap 'rm -rf "$corpus"' EXIT
failed=0
summary=()
for t in "${targets[@]}"; do
  mkdir -p "$corpus/$t"
  seeds=()
  if [ -d "tests/fuzz/corpus/$t" ]; then seeds=("tests/fuzz/corpus/$t"); fi
  # A fixed seed: a failure comes again. The library's leaks count; malloc may refuse what a file asks for.
  if UBSAN_OPTIONS=print_stacktrace=1 ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1 \
     "$build/$t" -runs="$inputs" -seed=1 -max_len=4096 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 \
     -artifact_prefix="$build/$t-" "$corpus/$t" "${seeds[@]}" >"$build/$t.log" 2>&1; then
    n=$(sed -n 's/^stat::number_of_executed_units: *//p' "$build/$t.log")
    cover=$(grep -o 'cov: [0-9]*' "$build/$t.log" | tail -1)
    summary+=("$t: ok, $n inputs, $cover")
  else
    tail -60 "$build/$t.log"
    summary+=("$t: FAILED, see $build/$t.log")
    failed=1
  fi
done
printf '%s\n' "${summary[@]}"
exit $failed
