#!/usr/bin/env bash
# Starts `admin-site` (the first argument) with a database of its own, and lets schemathesis (the command `st`, the second
# argument) test it against its OpenAPI description. `/events` is left out, because its answer does not end. The seed makes a
# failure repeatable.
set -euo pipefail
site=$1
st=$2
directory=$(mktemp -d)
# A pipe, so that this script knows when the program is ready.
mkfifo "$directory/output"
env -u ADMIN_TOKEN ADMIN_ADDR=127.0.0.1:0 ADMIN_SITE_DATABASE="sqlite:$directory/site.db" "$site" 12 >"$directory/output" 2>/dev/null &
program=$!
trap 'kill "$program" 2>/dev/null; rm -rf "$directory"' EXIT
exec 3<"$directory/output"
read -r -t 60 base <&3
cd "$(dirname "$0")"
"$st" --config-file schemathesis.toml run "${base}openapi.json" --exclude-path /events --max-examples 20 --request-timeout 30 \
    --seed 1 --no-color
