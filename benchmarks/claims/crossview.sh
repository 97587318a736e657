#!/usr/bin/env bash
# The rows of the claim tables in pipelines/systems/crossview/README.md, at the sizes of a CPU: aerial 64x64, street 32x128.
#
#   benchmarks/claims/crossview.sh town                   all rows on the toy town: embedders, the five generators, strengths
#   benchmarks/claims/crossview.sh town full:0 plain:0    these rows, as NAME:SEED
#   benchmarks/claims/crossview.sh real ../photos/crossview   five folds over real pairs, with towers that the town has trained
#   benchmarks/claims/crossview.sh --smoke                every row for two steps
#
# PLACES (4000) and UNSEEN (500) set the town, E_STEPS (4000), EQUAL_STEPS (1500) and G_STEPS (1000) the budgets of embedders and
# generators, FOLD_STEPS (120) that of a fold, OUT (out/claims) the folder, ARGS further options of every training.
# The generators train without the perceptual loss, whose weights are not everywhere to be had.
# Stop it and start it again as you like: what is finished stays, and a training goes on where it was. Then
#   python benchmarks/claims/crossview_table.py out/claims/crossview     merges the reports and writes the tables
set -euo pipefail
places="${PLACES:-4000}" unseen="${UNSEEN:-500}" e_steps="${E_STEPS:-4000}" equal_steps="${EQUAL_STEPS:-1500}"
g_steps="${G_STEPS:-1000}" fold_steps="${FOLD_STEPS:-120}" e_batch=64 g_batch=16 fold_batch=32 num=4 folds=5
seen=()
out="${OUT:-out/claims}" extra=(${ARGS:-})
smoke=
if [ "${1:-}" = --smoke ]; then
  smoke=1 out="${OUT:-$(mktemp -d)}" places=12 unseen=10 e_steps=2 equal_steps=2 g_steps=2 fold_steps=2
  e_batch=4 g_batch=4 fold_batch=4 num=2 folds=2
  seen=(--set allow_seen=true) # the smoke run has no other pairs than the town's
  set -- town
fi
what="$1" real="${2:-}"
shift
[ "$what" != real ] || real="$(realpath "$real")"
mkdir -p "$out/crossview"
home="$(realpath "$out/crossview")"
cd "$home"
mkdir -p embedders generators samples reports
finished() { [ -e "$1/manifest.json" ]; }

# town: panoramas and perspectives of places; the tables of the town are of its panoramas
[ -e town/pairs.csv ] || rgs data toy town --kind pairs --train "$places" --val "$unseen" --size 64 >/dev/null
train=pano-train.txt test=pano-val.txt
awk -F, '$2 == "toy_pano" && $4 == "train" { print $1 }' town/pairs.csv >"$train"
awk -F, '$2 == "toy_pano" && $4 == "val" { print $1 }' town/pairs.csv >"$test"

# embedder NAME STEPS [OPTION...]: train one, on the town's panoramas unless told otherwise
embedder() {
  local name="$1" steps="$2"
  shift 2
  rgs train embedder --kind crossview --preset small --batch "$e_batch" --steps "$steps" "${extra[@]}" "$@" \
    -o "embedders/$name" >/dev/null
}
on_town=(--data town --split "$train" --validation "$test")

# row NAME:SEED of the embedders: R@1 on places that nobody trained on
embedder_row() {
  local name="${1%%:*}" seed="${1##*:}"
  case "$name" in
    saig) embedder "saig-$seed" "$e_steps" "${on_town[@]}" --seed "$seed" ;;
    saig_short) embedder "saig_short-$seed" "$equal_steps" "${on_town[@]}" --seed "$seed" ;;
    resnet) embedder "resnet-$seed" "$equal_steps" "${on_town[@]}" --backbone torchvision:resnet18 --seed "$seed" ;;
  esac
  finished "reports/embedder-$name-$seed" ||
    rgs eval "embedders/$name-$seed" -r town --split "$test" -o "reports/embedder-$name-$seed" >/dev/null
}

# score OUT SAMPLES: under the ResNet, which no generator learns from, and under the embedder that they lean on
score() {
  finished "$1" || rgs eval "$2" -r town --split "$test" --embedder "embedders/resnet-1" \
    --embedder "embedders/saig-0" --features "embedder:embedders/resnet-1" --allow-few -o "$1" >/dev/null
}

# row NAME:SEED of the generators, aerial to ground
generator_row() {
  local name="${1%%:*}" seed="${1##*:}" changed=()
  case "$name" in
    full) ;;
    encoder) changed=(--set model.encoder=trainable) ;;
    plain) changed=(--set model.modulation=plain) ;;
    undiverse) changed=(--set model.weights.diversity=0) ;;
    unconditional) changed=(--set model.alpha_d=0) ;;
  esac
  rgs train generator --system crossview --data town --split "$train" --with "embedder=embedders/saig-0" --preset small \
    --set model.weights.perceptual=0 --steps "$g_steps" --batch "$g_batch" --seed "$seed" "${extra[@]}" "${changed[@]}" \
    -o "generators/$name-$seed" >/dev/null
  local samples="samples/$name-$seed"
  finished "$samples" ||
    rgs synthesize "generators/$name-$seed" --data town --split "$test" --num "$num" --batch 32 -o "$samples" >/dev/null
  score "reports/$name-$seed" "$samples"
}

# the full row's generator under other conditioning strengths, without training
strength_row() {
  local name="${1%%:*}" strength
  strength="${name#strength}"
  local samples="samples/strength$strength-0"
  finished "$samples" || rgs synthesize "generators/full-0" --data town --split "$test" --num "$num" --batch 32 \
    --set "options.strength=$strength" -o "$samples" >/dev/null
  score "reports/strength$strength-0" "$samples"
}

# real pairs: the town's ResNet tuned on five folds by group; the same folds from scratch; the town's ResNet as it is
real() {
  local data="$1" fold
  embedder_row resnet:1
  [ -e folds/folds.json ] || rgs data split "$data" --by group --folds "$folds" -o folds >/dev/null
  finished reports/real-town || rgs eval embedders/resnet-1 -r "$data" --by source "${seen[@]}" -o reports/real-town >/dev/null
  for row in tuned scratch; do
    local runs=() start=()
    [ "$row" = tuned ] && start=(--init embedders/resnet-1)
    for fold in $(seq 0 $((folds - 1))); do
      embedder "$row-$fold" "$fold_steps" --data "$data" --split "folds/fold-$fold/train.txt" "${start[@]}" \
        --backbone torchvision:resnet18 --batch "$fold_batch" --set model.lr=3e-4 --set model.warmup=20 \
        --set model.negatives=source --set model.jitter=0.2
      runs+=("embedders/$row-$fold")
    done
    finished "reports/real-$row" ||
      rgs eval "${runs[@]}" -r "$data" --folds folds --by source "${seen[@]}" -o "reports/real-$row" >/dev/null
  done
}

row() {
  echo "$1" >&2
  case "${1%%:*}" in
    saig | saig_short | resnet) embedder_row "$1" ;;
    full | encoder | plain | undiverse | unconditional) generator_row "$1" ;;
    strength*) strength_row "$1" ;;
    *)
      echo "unknown row $1" >&2
      exit 2
      ;;
  esac
}

case "$what" in
  town)
    [ $# -gt 0 ] || set -- saig:0 resnet:1 saig_short:0 {full,encoder,plain,undiverse,unconditional}:0 strength{0,0.5,2} \
      {full,encoder,plain,undiverse,unconditional}:1
    for r in "$@"; do row "$r"; done
    [ -z "$smoke" ] || real "$home/town"
    ;;
  real) real "$real" ;;
  *)
    echo "what: town, real PAIRS, or --smoke" >&2
    exit 2
    ;;
esac
echo "$home"
