#!/usr/bin/env bash
# Makes sure that ONNX Runtime can be loaded: the one that is there, else the
# pinned one, fetched and checked by `likeness runtime pull`. When the release
# pages cannot be reached, the fallback is an npm package; npm is installed
# for it where that is possible.
set -euo pipefail
likeness=${1:?usage: runtime.sh path/to/likeness}

# What LIKENESS_ORT_LIBRARY names is used and nothing else, so fetching would not help.
if [ -n "${LIKENESS_ORT_LIBRARY:-}" ]; then
  "$likeness" runtime path >/dev/null
  exit
fi
"$likeness" runtime path >/dev/null 2>&1 && exit 0
"$likeness" runtime pull && exit 0
command -v npm >/dev/null && exit 1
"$(dirname "$0")/npm.sh" && exec "$likeness" runtime pull
