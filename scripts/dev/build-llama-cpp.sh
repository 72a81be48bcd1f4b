#!/usr/bin/env bash
# Builds llama.cpp, the peer we measure against and the oracle for GGUF, from PyPI's source distribution of
# llama-cpp-python, with this machine's own instructions. Prints the directory of its programs.
# usage: scripts/dev/build-llama-cpp.sh [--cuda]    --cuda: for H100 and H200, to be taken to another machine; an hour
set -euo pipefail
cd "$(dirname "$0")/../.."

version=0.3.36
cache=.cache/llama.cpp
packages=.cache/packages # shared with fetch-vocabs.sh
build=$cache/build
flags=(-DGGML_NATIVE=ON)
if [ "${1:-}" = --cuda ]; then
  build=$cache/build-cuda
  flags=(-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=90-real
    -DGGML_CUDA_NCCL=OFF)
fi
bin=$PWD/$build/bin
programs=(llama-bench llama-batched-bench llama-completion llama-perplexity llama-tokenize)

if [ ! -x "$bin/llama-tokenize" ]; then
  mkdir -p "$cache" "$packages"
  if [ ! -d "$cache/llama_cpp_python-$version" ]; then
    [ -e "$packages/llama_cpp_python-$version.tar.gz" ] ||
      python3 -m pip download --disable-pip-version-check --no-deps --no-binary llama-cpp-python -d "$packages" \
        "llama-cpp-python==$version" >&2 ||
      { echo "build-llama-cpp: could not fetch llama-cpp-python $version from PyPI; check the network" >&2; exit 1; }
    tar -xf "$packages/llama_cpp_python-$version.tar.gz" -C "$cache"
  fi
  cmake -S "$cache/llama_cpp_python-$version/vendor/llama.cpp" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    "${flags[@]}" -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF >&2
  cmake --build "$build" --target "${programs[@]}" >&2
fi
echo "$bin"
