#!/usr/bin/env bash
# Runs every fuzz target of the module for a short while (FUZZTIME, 5s each).
set -euo pipefail
time=${FUZZTIME:-5s}
count=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# An input that covers something new is made smaller in a hundred runs; without
# that bound Go's fuzzer spends a minute on each, and runs little else.
fuzz() { # package target
  go test ${GOTAGS:+-tags "$GOTAGS"} "$1" -run '^$' -fuzz "^$2\$" -fuzztime "$time" -fuzzminimizetime 100x -parallel 2 >"$log" 2>&1
}

while IFS=: read -r file target; do
  pkg=./$(dirname "$file")
  printf 'fuzz %s %s\n' "$pkg" "$target"
  for try in 1 2 3; do
    fuzz "$pkg" "$target" && break
    # Go's fuzzer now and then reports its own time limit as the failure
    # (golang/go#75804): no input failed, so the target runs again.
    if [ "$try" = 3 ] || grep -q 'Failing input' "$log" || ! grep -qx '    context deadline exceeded' "$log"; then
      cat "$log"
      exit 1
    fi
  done
  count=$((count + 1))
done < <(grep -rnoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sed -E 's|^\./||; s|:[0-9]+:func |:|' | sort)
[ "$count" -gt 0 ] || { echo 'no fuzz target was found' >&2; exit 1; }
printf '%d fuzz targets ran %s each\n' "$count" "$time"
