#!/usr/bin/env bash
# The rows of the claim tables in pipelines/systems/retrievegan/README.md, at the sizes of a CPU: images 64x64, patches 16x16.
#
#   benchmarks/claims/retrievegan.sh town                          all rows on the toy town
#   benchmarks/claims/retrievegan.sh town both:0 random:0          these rows, as NAME:SEED
#   benchmarks/claims/retrievegan.sh ../photos/cmp_facades         all rows on photos with labels or boxes
#   benchmarks/claims/retrievegan.sh --smoke                       a row of each kind for two steps
#
# SCENES (4000) and UNSEEN (400) set the town; G_STEPS (600), E_STEPS (2000), C_STEPS (1500) and J_STEPS (1000) the budgets of
# generators, graph embedder, co-occurrence embedders and judges; OUT (out/claims) the folder, ARGS further options of every
# training. The generators train without the two perceptual losses, whose weights are not everywhere to be had.
# Stop it and start it again as you like: what is finished stays, and a training goes on where it was. Then
#   python benchmarks/claims/retrievegan_table.py out/claims/retrievegan     merges the reports and writes the tables
set -euo pipefail
scenes="${SCENES:-4000}" unseen="${UNSEEN:-400}" g_steps="${G_STEPS:-600}" e_steps="${E_STEPS:-2000}"
c_steps="${C_STEPS:-1500}" j_steps="${J_STEPS:-1000}" batch=8 e_batch=32 c_batch=64 num=2
out="${OUT:-out/claims}" extra=(${ARGS:-}) preset=small few=()
if [ "${1:-}" = --smoke ]; then
  out="${OUT:-$(mktemp -d)}" scenes=16 unseen=8 g_steps=2 e_steps=2 c_steps=2 j_steps=2 batch=4 e_batch=4 c_batch=8
  preset=toy few=(--allow-few)
  set -- town {both,random,sg2im,bank}:0
fi
what="$1"
shift
if [ "$what" != town ]; then what="$(realpath "$what")"; fi
name="$(basename "$what")"
mkdir -p "$out/retrievegan/$name"
home="$(realpath "$out/retrievegan")"
cd "$home/$name"
mkdir -p runs samples reports
finished() { [ -e "$1/manifest.json" ]; }

data="$what"
if [ "$what" = town ]; then
  data=data
  finished_town() { [ -e data/classes.json ]; }
  finished_town || rgs data toy data --train "$scenes" --val "$unseen" --size 128 >/dev/null
  graph=(--set graph.min_area=0.01 --set graph.max_objects=8 --set graph.overflow=sample)
else
  graph=(--set graph.min_area=0.002 --set graph.max_objects=8 --set graph.overflow=sample)
fi

# patches to retrieve, the graph embedder that finds candidates, and the co-occurrence embedder of the penalty
finished bank || rgs build-bank "$data" --kind patches --split train "${graph[@]}" --set patch=32 -o bank >/dev/null
rgs train embedder --kind graph --bank bank --preset small --steps "$e_steps" --batch "$e_batch" "${extra[@]}" \
  -o runs/graph >/dev/null
rgs train embedder --kind cooccurrence --bank bank --preset small --steps "$c_steps" --batch "$c_batch" "${extra[@]}" \
  -o runs/cooccurrence >/dev/null
finished index || rgs train index --kind embedding --bank bank --embedder runs/graph -o index >/dev/null

# judges: a co-occurrence embedder of other images and another seed, and a classifier of objects, whose features stand in
# for Inception's
finished bank-val || rgs build-bank "$data" --kind patches --split val "${graph[@]}" --set patch=32 -o bank-val >/dev/null
rgs train embedder --kind cooccurrence --bank bank-val --preset small --steps "$c_steps" --batch "$c_batch" --seed 1 \
  "${extra[@]}" -o runs/compatibility >/dev/null
rgs train classifier --bank bank --preset small --steps "$j_steps" --batch "$c_batch" --seed 2 "${extra[@]}" \
  -o runs/classifier >/dev/null

# row NAME:SEED; the row «parts» is all that the others lean on
row() {
  local row="${1%%:*}" seed="${1##*:}" changed=() given=(--bank bank --index index --with cooccurrence=runs/cooccurrence)
  local alone=(--bank bank --index index)
  echo "$name $1" >&2
  case "$row" in
    parts) return ;;
    both) ;;
    neither) changed=(--set model.weights.sel_gt=0 --set model.weights.sel_occur=0) given=("${alone[@]}") ;;
    gt) changed=(--set model.weights.sel_occur=0) given=("${alone[@]}") ;;
    occur) changed=(--set model.weights.sel_gt=0) ;;
    random) changed=(--set model.pieces=random) given=("${alone[@]}") ;;
    sg2im) changed=(--set model.pieces=none) given=(--bank bank) ;;
    bank) changed=(--set model.pool=bank) given=(--bank bank --with cooccurrence=runs/cooccurrence) ;;
    *)
      echo "unknown row $row" >&2
      exit 2
      ;;
  esac
  local run="runs/$row-$seed" pieces=(--cooccurrence runs/compatibility)
  [ "$row" != sg2im ] || pieces=()
  rgs train generator --system retrievegan --data "$data" "${given[@]}" --preset "$preset" --set model.weights.p_img=0 \
    --set model.weights.p_obj=0 --steps "$g_steps" --batch "$batch" --seed "$seed" "${extra[@]}" "${changed[@]}" \
    -o "$run" >/dev/null
  local boxes
  for boxes in predicted given; do
    local made="samples/$row-$seed-$boxes" report="reports/$row-$seed-$boxes"
    finished "$made" || rgs synthesize "$run" --data "$data" --split val --num "$num" --batch 16 \
      --set "options.boxes=$boxes" --no-pictures -o "$made" >/dev/null
    finished "$report" || rgs eval "$made" -r "$data" --split val --classifier runs/classifier \
      "${pieces[@]}" "${few[@]}" -o "$report" >/dev/null
  done
}

[ $# -gt 0 ] || set -- {both,neither,gt,occur,random,sg2im,bank}:0 {both,neither,gt,occur,random,sg2im,bank}:1
for one in "$@"; do row "$one"; done
echo "$home"
