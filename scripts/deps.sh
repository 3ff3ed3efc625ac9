#!/usr/bin/env bash
# Makes sure of what the build needs beside Go: a C compiler (ONNX Runtime is
# reached through cgo), pkg-config, and libjpeg-turbo's header (optional: without
# it photos are decoded in pure Go). On Debian, as root or with sudo that asks
# for no password, it installs what is missing; elsewhere it names it.
set -euo pipefail

cc=${CC:-gcc}
cc=${cc%% *} # CC may carry flags
missing=()
command -v "$cc" >/dev/null || missing+=(gcc libc6-dev)
command -v pkg-config >/dev/null || missing+=(pkg-config)
if ! command -v pkg-config >/dev/null || ! pkg-config --exists libjpeg; then
  missing+=(libjpeg62-turbo-dev)
fi
[ ${#missing[@]} -eq 0 ] && exit 0

root=()
if [ "$(id -u)" -ne 0 ]; then root=(sudo -n); fi
if command -v apt-get >/dev/null && { [ ${#root[@]} -eq 0 ] || "${root[@]}" true 2>/dev/null; }; then
  echo "installing: ${missing[*]}"
  if { "${root[@]}" apt-get -qq update && "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
       apt-get -qq install -y --no-install-recommends "${missing[@]}"; } >/dev/null; then
    exit 0
  fi
fi

if ! command -v "$cc" >/dev/null; then
  echo "a C compiler is needed: install ${missing[*]}" >&2
  exit 1
fi
echo "not there, and not needed: ${missing[*]} (photos are decoded in pure Go, which is slower)" >&2
