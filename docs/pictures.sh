#!/usr/bin/env bash
# The pictures of the README, from the toy town of the quickstart: docs/pictures.sh [QUICKSTART [RUN]]
# RUN is a generator trained on QUICKSTART/town; by default one is trained there for longer than the quickstart's, about
# an hour on two CPU cores. Stop it and start it again as you like.
set -euo pipefail
docs="$(cd "$(dirname "$0")" && pwd)"
here="${1:-out/quickstart}"
run="${2:-$here/generator-pictures}"
[ -n "${2:-}" ] || rgs train generator --system resail --data "$here/town" --bank "$here/bank" --index "$here/index" \
  --with "segmenter=$here/segmenter" --preset toy --size 128 --steps 1000 -o "$run" >/dev/null
samples="$here/samples-$(basename "$run")"
[ -e "$samples/manifest.json" ] ||
  rgs synthesize "$run" --data "$here/town" --split val --size layout -o "$samples" >/dev/null
python "$docs/pictures.py" "$samples" "$here/town/val/img" 00240 00241
rgs show "$samples" --output 00247 --picture "$docs/images/provenance.jpg" >/dev/null
echo "$docs/images"
