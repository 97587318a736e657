#!/usr/bin/env bash
# The same chain on your own photos: photos.sh DIR [DATASET [SIZE [STEPS]]], for instance on a folder in the layout of
# the README, or COCO, ADE20K or Cityscapes. Stop it and start it again as you like: every stage goes on where it was.
#   examples/photos.sh out/facades  ../photos/cmp_facades  64 1500
#   examples/photos.sh out/camvid   ../photos/camvid      128 3000
# Without a dataset it takes a tiny toy town and trains just long enough to show that it runs.
set -euo pipefail
out="${1:-out/photos}"
data="${2:-}"
size="${3:-64}"
steps="${4:-8}"
mkdir -p "$out"
if [ -z "$data" ]; then
  data="$out/town"
  [ -e "$data/classes.json" ] || rgs data toy "$data" --train 16 --val 4 --size 64 >/dev/null
fi
done_already() { [ -e "$out/$1/manifest.json" ]; }

rgs data check "$data" >/dev/null || echo "some files have faults; build-bank lists and leaves out up to ten" >&2
done_already bank || rgs build-bank "$data" --jobs 2 -o "$out/bank" >/dev/null
done_already index || rgs train index --bank "$out/bank" --exclude group -o "$out/index" >/dev/null
rgs train segmenter --data "$data" --preset small --size "$size" --steps "$steps" -o "$out/segmenter" >/dev/null
rgs train segmenter --data "$data" --preset judge --size "$size" --steps "$steps" -o "$out/judge" >/dev/null
rgs train generator --system resail --data "$data" --bank "$out/bank" --index "$out/index" \
  --with "segmenter=$out/segmenter" --preset toy --size "$size" --steps "$steps" -o "$out/generator" >/dev/null
done_already samples || rgs synthesize "$out/generator" --data "$data" --split val --size run -o "$out/samples" >/dev/null
done_already report ||
  rgs eval "$out/samples" -r "$data" --split val --judge "$out/judge" -o "$out/report" >/dev/null
echo "$out/report/report.html"
