#!/usr/bin/env bash
# Makes the secrets that are not there yet, in deploy/secrets. The folder is
# yours alone. The files in it are readable, for each container reads its own
# as a user of its own.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p secrets
chmod 700 secrets
for name in postgres_password database_password grafana_password; do
  [ -s "secrets/$name" ] || od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >"secrets/$name"
done
[ -e secrets/metrics_key ] || : >secrets/metrics_key # filled once the server can make a key
chmod 644 secrets/*
