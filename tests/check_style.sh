#!/usr/bin/env bash
# Formatting by .clang-format, files that fit in the head, nothing left open, nothing of a particular machine.
set -euo pipefail
cd "$(dirname "$0")/.."
bad=0

sources=$(git ls-files '*.c' '*.h' '*.cc' '*.cu' '*.cuh')
for f in $sources; do
  if ! clang-format --style=file "$f" | cmp -s - "$f"; then echo "$f: run clang-format -i on it"; bad=1; fi
done
for f in $(git ls-files 'core/*' 'kernels/*' 'lua/*' 'scripts/*'); do
  lines=$(wc -l <"$f")
  [ "$lines" -le 900 ] || { echo "$f: $lines lines; split it"; bad=1; }
done
if git grep -nE '\b(TODO|FIXME|XXX)\b' -- core kernels lua scripts; then echo "left open: see above"; bad=1; fi
if git grep -nIE '(^|[^.[:alnum:]])/(work|root)/' -- . ':!tests/check_style.sh'; then echo "paths of one machine: see above"; bad=1; fi
for f in $(git ls-files); do
  [ "$(stat -c %s "$f")" -le 1048576 ] || { echo "$f: over 1 MB"; bad=1; }
done
[ $bad = 0 ] && echo "style: ok"
exit $bad
