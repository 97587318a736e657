#!/usr/bin/env bash
# From above to the street: crossview.sh [DIR [PAIRS [STEPS]]]. Learns an embedding in which an aerial and a street photo
# of one place meet, indexes the aerial photos, finds places by a street photo, and paints the street from above.
#   examples/crossview.sh out/mine ../photos/crossview 2000       pairs of your own: pairs.csv, CVUSA, CVACT or VIGOR
# Without pairs it takes a tiny toy town and trains just long enough to show that it runs.
set -euo pipefail
out="${1:-out/crossview}"
data="${2:-}"
steps="${3:-8}"
mkdir -p "$out"
if [ -z "$data" ]; then
  data="$out/pairs"
  [ -e "$data/pairs.csv" ] || rgs data toy "$data" --kind pairs --train 24 --val 8 --size 64 >/dev/null
fi
done_already() { [ -e "$out/$1/manifest.json" ]; }
rgs data check "$data" >/dev/null || echo "some pairs have faults; trainings leave out up to ten and list them" >&2

# what is held out shares no place with what is trained on
[ -e "$out/folds/folds.json" ] || rgs data split "$data" --by group --folds 4 -o "$out/folds" >/dev/null
train="$out/folds/fold-0/train.txt" test="$out/folds/fold-0/val.txt"

# two towers, and another pair of another family: a judge that the generator never learns from
rgs train embedder --kind crossview --data "$data" --split "$train" --validation "$test" --preset small \
  --steps "$steps" --batch 16 -o "$out/embedder" >/dev/null
rgs train embedder --kind crossview --data "$data" --split "$train" --preset small --backbone torchvision:resnet18 --seed 1 \
  --steps "$steps" --batch 16 -o "$out/judge" >/dev/null
done_already recall || rgs eval "$out/embedder" -r "$data" --split "$test" --by source -o "$out/recall" >/dev/null

# a bank of whole aerial photos, their vectors in faiss, and the places that street photos are nearest to
done_already bank || rgs build-bank "$data" --kind images --view aerial --split "$train" -o "$out/bank" >/dev/null
done_already index ||
  rgs train index --kind embedding --bank "$out/bank" --embedder "$out/embedder" --exclude group -o "$out/index" >/dev/null
rgs search "$out/index" "$(find "$data/street" -type f | sort | head -n 1)" --sheet "$out/found.png" >&2

# the street as it may look from below each held-out aerial photo, three times over
rgs train generator --system crossview --data "$data" --split "$train" --with "embedder=$out/embedder" --preset toy \
  --steps "$steps" --batch 8 -o "$out/generator" >/dev/null
done_already samples || rgs synthesize "$out/generator" --data "$data" --split "$test" --num 3 -o "$out/samples" >/dev/null
done_already report ||
  rgs eval "$out/samples" -r "$data" --split "$test" --embedder "$out/judge" --embedder "$out/embedder" -o "$out/report" >/dev/null

# one place is to be forgotten: it leaves the bank and the index, and nothing is trained again
if ! done_already index-less; then
  gone="$(rgs show "$out/bank" --sources --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["sources"][0]["source"])')"
  rgs build-bank --from "$out/bank" --remove-source "$gone" -o "$out/bank-less" >/dev/null
  rgs train index --update "$out/index" --bank "$out/bank-less" -o "$out/index-less" >/dev/null
fi
echo "$out/report/report.html"
