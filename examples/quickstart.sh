#!/usr/bin/env bash
# The whole main job on the toy town: photos -> bank -> index -> generator -> images -> report.
# Usage: quickstart.sh [DIR]   (about 7 minutes on two CPU cores; stop and start it again as you like)
set -euo pipefail
out="${1:-out/quickstart}"
mkdir -p "$out"
cd "$out"

step() { # step WHAT OUTPUT COMMAND…: skip what is finished already
  local what="$1" output="$2"
  shift 2
  echo "== $what" >&2
  [ -e "$output/manifest.json" ] || [ -e "$output/classes.json" ] || "$@" >/dev/null
}

step "draw a town to take photos of" town rgs data toy town --train 240 --val 24 --size 128 --jobs 2
step "cut the photos into a bank of segments" bank rgs build-bank town -o bank --jobs 2
step "index the shapes of the segments" index rgs train index --bank bank --exclude group -o index
# a run is resumed by its own command, so these two are always asked; a finished one answers at once
echo "== train a segmenter that teaches the generator, and another one that judges it" >&2
rgs train segmenter --data town --arch unet --size 64 --preset toy -o segmenter >/dev/null
rgs train segmenter --data town --arch lraspp --size 64 --preset judge -o judge >/dev/null
echo "== train RESAIL, guided by retrieved segments" >&2
rgs train generator --system resail --data town --bank bank --index index --with segmenter=segmenter \
  --preset toy -o generator >/dev/null
step "make images of layouts that the generator has not seen" samples \
  rgs synthesize generator --data town --split val --size run -o samples
step "measure them" report rgs eval samples --reference town --split val --judge judge -o report

echo "report: $PWD/report/report.html" >&2
echo "$PWD/report/report.html"
