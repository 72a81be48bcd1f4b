#!/usr/bin/env bash
# Makes a directory that runs llmlua on a machine with a GPU and little else: the program, the CUDA plug-in, the
# scripts, and the shared libraries that a bare Ubuntu 24.04 with CUDA 13 lacks. Nothing in it refers to where it was
# made: it can be moved anywhere.
# usage: scripts/dev/bundle.sh [--tests] [DIR]    DIR: build/bundle; --tests: with what gpu-check.sh runs
set -euo pipefail
cd "$(dirname "$0")/../.."
tests=0
if [ "${1:-}" = --tests ]; then tests=1; shift; fi
dir=${1:-build/bundle}

command -v patchelf >/dev/null || { echo "bundle.sh: patchelf is missing: apt-get install patchelf" >&2; exit 1; }
[ -f build/libllmlua_cuda.so ] || { echo "bundle.sh: build/libllmlua_cuda.so is missing: build where nvcc is installed" >&2; exit 1; }

rm -rf "$dir"
mkdir -p "$dir/bin" "$dir/lib" "$dir/scripts/dev"
cp build/llmlua "$dir/bin/"
cp build/libllmlua_cuda.so "$dir/lib/"
cp -r scripts/*.lua "$dir/scripts/"
for d in scripts/policies scripts/examples; do [ -d $d ] && cp -r $d "$dir/scripts/"; done
cp scripts/dev/gpu-check.sh "$dir/scripts/dev/"
if [ $tests = 1 ]; then
  mkdir -p "$dir/tests"
  cp build/gpu/test_* build/bench_cuda_* "$dir/bin/"
  [ -f build/gpu/libllmlua_trace.so ] && cp build/gpu/libllmlua_trace.so "$dir/lib/"
  cp -r tests/gpu/*.py tests/gpu/*.lua tests/gpu/shapes tests/golden/graphs "$dir/tests/"
fi

# Lua modules of the distribution that the library needs.
mkdir -p "$dir/share/lua/5.1"
for module in dkjson; do
  cp "$(build/llmlua -e "print(assert(package.searchpath('$module', package.path)))")" "$dir/share/lua/5.1/"
done

# Of what the programs load, the C and C++ run-time libraries and the driver's and CUDA's stay behind.
needed() { ldd "$@" 2>/dev/null | sed -n 's/.* => \(\/[^ ]*\) .*/\1/p' | sort -u |
  grep -vE '/(ld-linux|libc|libm|libdl|librt|libpthread|libgcc_s|libstdc\+\+|libcublas|libcublasLt|libcuda|libcupti|libnvrtc|libnccl)[-.0-9]*\.so'; }
for lib in $(needed "$dir"/bin/*); do cp -L "$lib" "$dir/lib/"; done
for f in "$dir"/bin/*; do strip --strip-debug "$f"; patchelf --set-rpath '$ORIGIN/../lib' "$f"; done
for f in "$dir"/lib/*.so*; do
  strip --strip-debug "$f"
  case $f in
    *llmlua_*) patchelf --set-rpath '$ORIGIN:/usr/local/cuda/lib64:/usr/lib/x86_64-linux-gnu' "$f" ;;
    *) patchelf --set-rpath '$ORIGIN' "$f" ;;
  esac
done
du -sh "$dir"
