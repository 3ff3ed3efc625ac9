#!/usr/bin/env bash
# Runs every fuzz target of the module for a short while (FUZZTIME, 5s each).
set -euo pipefail
time=${FUZZTIME:-5s}
count=0
while IFS=: read -r file target; do
  pkg=./$(dirname "$file")
  printf 'fuzz %s %s\n' "$pkg" "$target"
  go test ${GOTAGS:+-tags "$GOTAGS"} "$pkg" -run '^$' -fuzz "^$target\$" -fuzztime "$time" -parallel 2 >/tmp/likeness-fuzz.$$ 2>&1 ||
    { cat /tmp/likeness-fuzz.$$; rm -f /tmp/likeness-fuzz.$$; exit 1; }
  count=$((count + 1))
done < <(grep -rnoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sed -E 's|^\./||; s|:[0-9]+:func |:|' | sort)
rm -f /tmp/likeness-fuzz.$$
[ "$count" -gt 0 ] || { echo 'no fuzz target was found' >&2; exit 1; }
printf '%d fuzz targets ran %s each\n' "$count" "$time"
