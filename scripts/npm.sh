#!/usr/bin/env bash
# Makes sure of npm: on Debian, as root, it is installed where it is not there.
# Fails where it cannot be had.
set -euo pipefail
command -v npm >/dev/null && exit 0
if command -v apt-get >/dev/null && [ "$(id -u)" -eq 0 ]; then
  echo "installing npm"
  apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends npm >/dev/null && exit 0
fi
echo "npm is not on this machine" >&2
exit 1
