#!/usr/bin/env bash
# Every benchmark and every claim table for seconds, as CI does: shows that they run, measures nothing.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
export PYTHONPATH="$here/.."
town="$(mktemp -d)/town"
rgs data toy "$town" --train 8 --val 2 --size 128 >/dev/null
for script in $(grep -l "__main__" "$here"/*.py); do
  echo "=== $(basename "$script")" >&2
  data=()
  case "$script" in */train_step.py | */synthesize.py) data=(--data "$town") ;; esac
  python "$script" --smoke "${data[@]}"
done
for script in "$here"/claims/*.sh; do
  echo "=== $(basename "$script")" >&2
  bash "$script" --smoke
done
