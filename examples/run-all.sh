#!/usr/bin/env bash
# Run every example on the toy town, as CI does.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
out="${1:-$(mktemp -d)}"
for example in "$here"/*.sh; do
  name="$(basename "$example" .sh)"
  [ "$name" = run-all ] && continue
  echo "=== $name" >&2
  bash "$example" "$out/$name"
done
