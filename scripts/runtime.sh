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
if ! command -v npm >/dev/null && command -v apt-get >/dev/null && [ "$(id -u)" -eq 0 ]; then
  echo "installing npm, the other way to get ONNX Runtime"
  apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends npm >/dev/null
  exec "$likeness" runtime pull
fi
exit 1
