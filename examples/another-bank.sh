#!/usr/bin/env bash
# One generator, other pieces: leave a source out of the bank, or guide by a bank that the generator never saw.
# Usage: another-bank.sh [DIR]
set -euo pipefail
out="${1:-out/another-bank}"
here="$(cd "$(dirname "$0")" && pwd)"
bash "$here/photos.sh" "$out" >/dev/null

# someone wants their photo out: no pixel of it is left, and nothing is trained again
source_id="$(head -n 1 "$out/samples/provenance.jsonl" | python3 -c 'import json, sys
print(next(p["source"] for p in json.load(sys.stdin)["pieces"]))')"
echo "leaving out $source_id" >&2
rgs build-bank --from "$out/bank" --remove-source "$source_id" -o "$out/bank-without" >/dev/null
rgs train index --bank "$out/bank-without" --exclude group -o "$out/index-without" >/dev/null
rgs synthesize "$out/generator" --data "$out/town" --split val \
  --bank "$out/bank-without" --index "$out/index-without" -o "$out/samples-without" >/dev/null
if grep -q "\"$source_id\"" "$out/samples-without/provenance.jsonl"; then
  echo "the source is still used" >&2
  exit 1
fi

# another town altogether, three images of each layout by retrieval rank
rgs data toy "$out/other-town" --train 16 --val 0 --size 64 --seed 7 >/dev/null
rgs build-bank "$out/other-town" -o "$out/other-bank" >/dev/null
rgs train index --bank "$out/other-bank" -o "$out/other-index" >/dev/null
find "$out/town/val/label" -name '*.png' | sort | head -n 2 |
  rgs synthesize "$out/generator" -i - --num 3 --bank "$out/other-bank" --index "$out/other-index" -o "$out/other-samples"
