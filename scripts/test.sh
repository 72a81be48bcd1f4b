#!/usr/bin/env bash
# Installs what the tests need, builds, runs all tests; the last line is "N passed, N failed".
# usage: scripts/test.sh [--ci] [NAME…]
#   --ci   also style and layer checks, the tests under sanitizers, and the fuzzers for a bounded number of inputs
#   NAME   only tests whose name contains one of these
set -uo pipefail
cd "$(dirname "$0")/.."
ci=0
if [ "${1:-}" = --ci ]; then ci=1; shift; fi
names=("$@")

passed=0
failed=0
failures=()
logs=build/test-logs

fatal() { echo "test.sh: $*" >&2; echo "0 passed, 1 failed"; exit 1; }

wanted() {
  [ ${#names[@]} -eq 0 ] && return 0
  local n
  for n in "${names[@]}"; do [[ $1 == *$n* ]] && return 0; done
  return 1
}

count() { # passed failed what
  passed=$((passed + $1)); failed=$((failed + $2))
  if [ "$2" -gt 0 ]; then failures+=("$3"); fi
}

# Runs a command as one test.
check() { # name command…
  local name=$1; shift
  wanted "$name" || return 0
  local start=$SECONDS
  if "$@" >"$logs/$name.log" 2>&1 </dev/null; then
    count 1 0 "$name"; printf '%-34s ok (%d s)\n' "$name" $((SECONDS - start))
  else
    count 0 1 "$name"; printf '%-34s FAILED; %s:\n' "$name" "$logs/$name.log"; tail -n 30 "$logs/$name.log" | sed 's/^/    /'
  fi
}

# Runs a cmocka program and adds up what it says it ran; a crash or a silent end is a failure. One that skips
# all its tests says why in a line "skipped: …".
cmocka() { # name program [option of env]
  wanted "$1" || return 0
  local log="$logs/$1.log" start=$SECONDS status=0 ok bad
  timeout 900 env ${3:+$3 $4} "$2" >"$log" 2>&1 </dev/null || status=$?
  ok=$(sed -n 's/^\[  PASSED  \] \([0-9]*\) test(s).*/\1/p' "$log" | awk '{n += $1} END {print n + 0}')
  bad=$(sed -n 's/^\[  FAILED  \] .*: \([0-9]*\) test(s), .*/\1/p; s/^ *\([0-9]*\) FAILED TEST(S)$/\1/p' "$log" |
        awk '$1 > n {n = $1} END {print n + 0}')
  if [ $status -eq 0 ] && [ "$ok" -eq 0 ] && grep -q '^skipped: ' "$log"; then
    printf '%-34s %s\n' "$1" "$(grep -m 1 '^skipped: ' "$log")"; return 0
  fi
  if [ $status -ne 0 ] && [ "$bad" -eq 0 ]; then bad=1; fi
  if [ $status -eq 0 ] && [ "$ok" -eq 0 ]; then bad=1; fi
  count "$ok" "$bad" "$1"
  if [ "$bad" -eq 0 ]; then
    printf '%-34s %4d passed (%d s)\n' "$1" "$ok" $((SECONDS - start))
  else
    printf '%-34s %4d passed, %d FAILED (exit %d); %s:\n' "$1" "$ok" "$bad" $status "$log"
    grep -vE '^\[( RUN|       OK|==========)' "$log" | tail -n 40 | sed 's/^/    /'
  fi
}

# A Lua spec, in a process of its own; ends in busted's "N successes / N failures / N errors / N pending".
lua_spec() { # file
  local name=lua_$(basename "$1" .lua)
  wanted "$name" || return 0
  local log=$logs/$name.log start=$SECONDS line ok bad
  timeout 600 build/llmlua tests/lua/run.lua "$1" >"$log" 2>&1 </dev/null
  line=$(grep -E '^[0-9]+ success(es)? / [0-9]+ failures? / [0-9]+ errors? / [0-9]+ pending' "$log" | tail -n 1)
  if [ -z "$line" ]; then ok=0; bad=1; else
    read -r ok bad < <(echo "$line" | awk '{print $1, $4 + $7 + $10}')  # a pending spec is one that did not run
    if [ "$ok" -eq 0 ]; then bad=1; fi
  fi
  count "$ok" "$bad" "$name"
  if [ "$bad" -eq 0 ]; then printf '%-34s %4d passed (%d s)\n' "$name" "$ok" $((SECONDS - start)); else
    printf '%-34s %4d passed, %d FAILED; %s:\n' "$name" "$ok" "$bad" "$log"; tail -n 60 "$log" | sed 's/^/    /'
  fi
}

# Where there is no GPU its tests are built, linked and skipped, with the reason.
gpu_test() { # program
  local name status=0; name=$(basename "$1")
  wanted "$name" || return 0
  timeout 300 env -u LLMLUA_PLUGINS "$1" >"$logs/$name.log" 2>&1 </dev/null || status=$?
  if [ $status -eq 77 ]; then printf '%-34s %s\n' "$name" "$(head -n 1 "$logs/$name.log")"; else cmocka "$name" "$1" -u LLMLUA_PLUGINS; fi
}

# The server under real clients; ends in a line "N passed, N failed".
clients() {
  wanted clients || return 0
  # Only systems that package no Chromium go without it (setup.sh says so).
  command -v chromedriver >/dev/null || grep -q '^ID=debian' /etc/os-release || export LLMLUA_NO_BROWSER=1
  local log=$logs/clients.log start=$SECONDS line ok=0 bad=1
  timeout 900 tests/clients/run.sh >"$log" 2>&1 </dev/null
  line=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$log" | tail -n 1)
  if [ -n "$line" ]; then read -r ok bad < <(echo "$line" | awk '{print $1, $3}'); fi
  if [ "$ok" -eq 0 ] && [ "$bad" -eq 0 ]; then bad=1; fi
  count "$ok" "$bad" clients
  if [ "$bad" -eq 0 ]; then printf '%-34s %4d passed (%d s)\n' clients "$ok" $((SECONDS - start)); else
    printf '%-34s %4d passed, %d FAILED; %s:\n' clients "$ok" "$bad" "$log"; tail -n 60 "$log" | sed 's/^/    /'
  fi
}

build() { # preset directory
  [ -f "$2/build.ninja" ] || cmake --preset "$1" >"$logs/cmake-$1.log" 2>&1 || { tail -n 20 "$logs/cmake-$1.log"; return 1; }
  cmake --build "$2" -- --quiet >"$logs/build-$1.log" 2>&1 || { tail -n 40 "$logs/build-$1.log"; return 1; }
}

mkdir -p "$logs"
scripts/dev/setup.sh --browser $([ $ci = 1 ] && echo --check-tools) || fatal "set-up failed"
build release build || fatal "the build failed"
scripts/dev/download.sh >/dev/null || fatal "the default model could not be fetched"
scripts/dev/fetch-vocabs.sh >/dev/null || fatal "the vocabularies could not be fetched"

if [ $ci = 1 ]; then
  check layers tests/check_layers.sh
  check style tests/check_style.sh
fi
export LLMLUA_VOCABS_REQUIRED=1
export LLMLUA_PLUGINS=build/no-plugins # what is tested is the CPU backend, on a machine with a GPU too
for program in build/test_*; do
  [ -x "$program" ] && [ -f "$program" ] && cmocka "$(basename "$program")" "$program"
done
for program in build/gpu/test_*; do
  [ -x "$program" ] && gpu_test "$program"
done
[ -f build/libllmlua_cuda.so ] || echo "the CUDA plug-in was not built: nvcc is not installed"
for spec in tests/lua/*_spec.lua; do lua_spec "$spec"; done
clients
check reload-soak build/llmlua tests/soak_reload.lua --reloads 200
check quickstart scripts/quickstart.sh --check

if [ $ci = 1 ]; then
  export ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1
  build asan build-asan || fatal "the sanitizer build failed"
  for program in build-asan/test_*; do
    [ -x "$program" ] && [ -f "$program" ] && cmocka "asan-$(basename "$program")" "$program"
  done
  check asan-soak python3 tests/clients/soak.py build-asan/llmlua "$(scripts/dev/download.sh)" --seconds 25
  build tsan build-tsan || fatal "the thread-sanitizer build failed"
  for t in test_base test_pool test_mailbox test_engine test_engine_model test_policy test_device_steps test_device_sampling test_device_model test_oom \
           test_net_server test_net_client; do
    [ -x build-tsan/$t ] && cmocka "tsan-$t" build-tsan/$t
  done
  check fuzz tests/fuzz/run.sh 20000
fi

if [ ${#failures[@]} -gt 0 ]; then echo "failed: ${failures[*]}"; fi
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
