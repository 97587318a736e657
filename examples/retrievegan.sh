#!/usr/bin/env bash
# From a scene graph to an image by learned retrieval: retrievegan.sh [DIR [PHOTOS [STEPS]]]. Cuts patches out of annotated
# photos, learns to find candidates for the objects of a graph, and trains a generator that chooses among them which go together.
#   examples/retrievegan.sh out/mine ../photos/cmp_facades 2000    photos of your own: boxes or label maps
# Without photos it takes a tiny toy town and trains just long enough to show that it runs.
set -euo pipefail
out="${1:-out/retrievegan}"
data="${2:-}"
steps="${3:-4}"
mkdir -p "$out"
text=()
if [ -z "$data" ]; then
  data="$out/town"
  [ -e "$data/classes.json" ] || rgs data toy "$data" --train 32 --val 8 --size 64 >/dev/null
  text=("sky; road below sky; car inside road; building above road" "sky; tree#1 below sky; tree#2 right of tree#1")
fi
done_already() { [ -e "$out/$1/manifest.json" ]; }

# patches of every object of more than a hundredth of its photo, and the graphs of their scenes, of at most 8 objects
done_already bank || rgs build-bank "$data" --kind patches --set graph.min_area=0.01 --set graph.max_objects=8 \
  --set graph.overflow=sample -o "$out/bank" >/dev/null

# what finds candidates for an object of a graph, and what says which patches occur together; a second one judges
rgs train embedder --kind graph --bank "$out/bank" --preset toy --steps "$steps" -o "$out/graph" >/dev/null
done_already index || rgs train index --kind embedding --bank "$out/bank" --embedder "$out/graph" -o "$out/index" >/dev/null
rgs train embedder --kind cooccurrence --bank "$out/bank" --preset toy --steps "$steps" -o "$out/cooccurrence" >/dev/null
done_already bank-val || rgs build-bank "$data" --kind patches --split val --set graph.min_area=0.01 --set graph.max_objects=8 \
  --set graph.overflow=sample -o "$out/bank-val" >/dev/null
rgs train embedder --kind cooccurrence --bank "$out/bank-val" --preset toy --steps "$steps" --seed 1 -o "$out/judge" >/dev/null
rgs train classifier --bank "$out/bank" --preset toy --steps "$steps" -o "$out/classifier" >/dev/null

rgs train generator --system retrievegan --data "$data" --bank "$out/bank" --index "$out/index" \
  --with "cooccurrence=$out/cooccurrence" --preset toy --steps "$steps" -o "$out/generator" >/dev/null

# the graphs of held-out scenes, in their own boxes and in predicted ones, twice each
for boxes in given predicted; do
  done_already "$boxes" || rgs synthesize "$out/generator" --data "$data" --split val --num 2 \
    --set "options.boxes=$boxes" -o "$out/$boxes" >/dev/null
  done_already "report-$boxes" || rgs eval "$out/$boxes" -r "$data" --split val --classifier "$out/classifier" \
    --cooccurrence "$out/judge" --allow-few -o "$out/report-$boxes" >/dev/null
done

# graphs in words
if [ ${#text[@]} -gt 0 ] && ! done_already words; then
  rgs synthesize "$out/generator" --graph "${text[0]}" --graph "${text[1]}" -o "$out/words" >/dev/null
  rgs show "$out/words" --sources >&2
fi
echo "$out/report-given/report.html"
