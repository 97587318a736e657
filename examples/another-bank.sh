#!/usr/bin/env bash
# One generator, other pieces: images guided by a bank that the generator never saw. To take single photos out of a bank,
# see provenance.sh. Usage: another-bank.sh [DIR]
set -euo pipefail
out="${1:-out/another-bank}"
here="$(cd "$(dirname "$0")" && pwd)"
bash "$here/photos.sh" "$out" >/dev/null

# another town altogether, three images of each layout by retrieval rank
rgs data toy "$out/other-town" --train 16 --val 0 --size 64 --seed 7 >/dev/null
rgs build-bank "$out/other-town" -o "$out/other-bank" >/dev/null
rgs train index --bank "$out/other-bank" -o "$out/other-index" >/dev/null
find "$out/town/val/label" -name '*.png' | sort | head -n 2 |
  rgs synthesize "$out/generator" -i - --num 3 --bank "$out/other-bank" --index "$out/other-index" -o "$out/other-samples"
