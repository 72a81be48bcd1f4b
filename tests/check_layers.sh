#!/usr/bin/env bash
# Includes point down only. Prints each include that points up; exits 1 if there is one.
set -euo pipefail
cd "$(dirname "$0")/.."

# A directory and the include prefixes it may use. llmlua.h is the engine's own interface.
allowed() {
  case $1 in
    core/base)   echo 'base/' ;;
    core/graph)  echo 'base/|graph/' ;;
    kernels*)    echo 'base/|graph/|kernels/' ;;
    core/model)  echo 'base/|graph/|kernels/|model/' ;;
    core/engine) echo 'base/|graph/|kernels/|model/|engine/|llmlua\.h' ;;
    core/net)    echo 'base/|net/' ;;
    lua)         echo 'base/|graph/|kernels/|model/|engine/|net/|llmlua\.h|[a-z_]+\.h' ;;
    core)        echo 'base/' ;;
  esac
}

bad=0
while IFS= read -r file; do
  dir=$(dirname "$file")
  rule=$(allowed "$dir")
  [ -n "$rule" ] || { echo "$file: its directory has no rule in tests/check_layers.sh"; bad=1; continue; }
  if grep -nE '^ *# *include "' "$file" | grep -vE "include \"($rule)" | sed "s|^|$file:|" | grep .; then bad=1; fi
  if [ "$dir" != lua ] && grep -nE '^ *# *include <(lua|luajit|lauxlib|lualib)' "$file" | sed "s|^|$file:|" | grep .; then bad=1; fi
done < <(git ls-files 'core/*.[ch]' 'core/*.cc' 'kernels/*.[ch]' 'kernels/*.cu' 'kernels/*.cuh' 'lua/*.[ch]')
[ $bad = 0 ] && echo "layers: ok"
exit $bad
