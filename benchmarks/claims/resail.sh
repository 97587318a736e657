#!/usr/bin/env bash
# The rows of the claim table in pipelines/systems/resail/README.md. Each row trains one generator with the same number of
# G updates and the same batch, paints the test layouts with its last averaged weights and scores them under one judge.
#
#   benchmarks/claims/resail.sh facades ../photos/cmp_facades                     rows of all seeds, the main ones first
#   benchmarks/claims/resail.sh camvid  ../photos/camvid resail:0 spade:0         these rows, as NAME:SEED
#   benchmarks/claims/resail.sh --smoke                                           every row for two steps on the toy town
#
# STEPS (400), BATCH (8) and SIZE (64) set the budget, OUT (out/claims) the folder, ARGS further options of every training.
# Stop it and start it again as you like: what is finished stays, and a training goes on where it was. Then
#   python benchmarks/claims/table.py out/claims      merges the reports into benchmarks/results/ and writes the table
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
steps="${STEPS:-400}" batch="${BATCH:-8}" size="${SIZE:-64}" out="${OUT:-out/claims}" extra=(${ARGS:-})
segmenter_steps=700 judge_steps=500

if [ "${1:-}" = --smoke ]; then
  out="${OUT:-$(mktemp -d)}" steps=2 batch=2 segmenter_steps=2 judge_steps=2
  [ -e "$out/town/classes.json" ] || rgs data toy "$out/town" --train 6 --val 4 --size 64 >/dev/null
  set -- smoke "$out/town" spade:0 oasis:0 resail:0 random:0 undistorted:0 unsegmented:0 spade_guided:0 pix2pixhd_plus:0 sean_plus:0
fi
name="$1" data="$2"
shift 2
home="$out/$name"
mkdir -p "$home"

# what is trained on, and what is tested: lists of scenes where the dataset's own splits share a sequence
train=train test=val
if [ "$name" = camvid ]; then
  train="$home/train.txt"
  awk -F, '$1 == "train" && ($3 == "0001TP" || $3 == "0006R0") { print $1 "/" $2 }' "$data/domains.csv" >"$train"
fi

finished() { [ -e "$1/manifest.json" ]; }

# shared by all rows: bank, index, the loss network, and a judge of another family and seed
prepare() {
  finished "$home/bank" || rgs build-bank "$data" --split "$train" -o "$home/bank" >/dev/null
  finished "$home/index" || rgs train index --bank "$home/bank" --exclude group -o "$home/index" >/dev/null
  rgs train segmenter --data "$data" --split "$train" --preset small --size "$size" --steps "$segmenter_steps" -o "$home/segmenter" >/dev/null
  rgs train segmenter --data "$data" --split "$train" --preset judge --size "$size" --steps "$judge_steps" --seed 1 -o "$home/judge" >/dev/null
}

# score OUT SAMPLES [OPTION...]: the report that the table reads
score() {
  local report="$1" samples="$2"
  shift 2
  finished "$report" || rgs eval "$samples" -r "$data" --split "$test" --judge "$home/judge" "$@" -o "$report" >/dev/null
}

# train ROW SEED SYSTEM [OPTION...]
train() {
  local row="$1" seed="$2" system="$3"
  shift 3
  rgs train generator --system "$system" --data "$data" --split "$train" --preset small --perceptual random --size "$size" \
    --steps "$steps" --batch "$batch" --seed "$seed" "${extra[@]}" "$@" -o "$home/runs/$row-$seed" >/dev/null
}

# row NAME:SEED
row() {
  local name="${1%%:*}" seed="${1##*:}" retrieval=() copies=(--training "$data" --training-split "$train")
  local pieces=(--bank "$home/bank" --index "$home/index") teacher=(--with "segmenter=$home/segmenter")
  case "$name" in
    spade) train "$name" "$seed" spade ;;
    oasis) train "$name" "$seed" oasis ;;
    resail) train "$name" "$seed" resail "${pieces[@]}" "${teacher[@]}" ;;
    random)
      retrieval=(--retrieval random)
      train "$name" "$seed" resail "${pieces[@]}" "${teacher[@]}" --set model.retrieval=random
      ;;
    undistorted) train "$name" "$seed" resail "${pieces[@]}" "${teacher[@]}" --set model.distorted=false ;;
    unsegmented) train "$name" "$seed" resail "${pieces[@]}" --set model.weights.segmentation=0 ;;
    spade_guided | pix2pixhd_plus | sean_plus)
      train "$name" "$seed" resail "${pieces[@]}" "${teacher[@]}" --set "model.variant=$name"
      ;;
    *)
      echo "unknown row $name" >&2
      exit 2
      ;;
  esac
  local samples="$home/samples/$name-$seed"
  finished "$samples" || rgs synthesize "$home/runs/$name-$seed" --data "$data" --split "$test" --size run "${retrieval[@]}" -o "$samples" >/dev/null
  case "$name" in spade | oasis) ;; *) copies+=(--bank "$home/bank") ;; esac
  score "$home/reports/$name-$seed" "$samples" "${copies[@]}"
  # rows without training: what the outputs of RESAIL's first seed stand between
  if [ "$name:$seed" = resail:0 ]; then
    for subject in guidance shuffled; do
      score "$home/reports/$subject-0" "$samples" --subject "$subject"
    done
  fi
}

prepare
if [ $# = 0 ]; then
  main=(resail spade random oasis)
  set --
  for seed in 0 1 2; do for r in "${main[@]}"; do set -- "$@" "$r:$seed"; done; done
  for r in undistorted unsegmented spade_guided sean_plus pix2pixhd_plus; do set -- "$@" "$r:0"; done
fi
mkdir -p "$home/runs" "$home/samples" "$home/reports"
for r in "$@"; do
  echo "$home: $r" >&2
  row "$r"
done
echo "$home"
