#!/usr/bin/env bash
# Whose photos are in these images, under which licences; and what to do when someone wants theirs out.
# Usage: provenance.sh [DIR]
set -euo pipefail
out="${1:-out/provenance}"
here="$(cd "$(dirname "$0")" && pwd)"
bash "$here/photos.sh" "$out" >/dev/null

# every source with its share of the pixels; samples/provenance.jsonl has the pieces, samples/attribution the pictures
rgs show "$out/samples" --sources >&2
source_id="$(rgs show "$out/samples" --sources --json |
  python3 -c 'import json, sys; print(json.load(sys.stdin)["sources"][0]["source"])')"
rgs show "$out/samples" --source "$source_id" >&2
name="$(head -n 1 "$out/samples/provenance.jsonl" | python3 -c 'import json, sys; print(json.load(sys.stdin)["name"])')"
rgs show "$out/samples" --output "$name" --picture "$out/pieces.png" | head -n 12 >&2

# its owner wants it out: no pixel of it stays in the bank, and nothing is trained again
rgs build-bank --from "$out/bank" --remove-source "$source_id" -o "$out/bank-without" >/dev/null
rgs train index --bank "$out/bank-without" --exclude group -o "$out/index-without" >/dev/null
rgs synthesize "$out/generator" --data "$out/town" --split val \
  --bank "$out/bank-without" --index "$out/index-without" -o "$out/samples-without" >/dev/null
rgs show "$out/samples-without" --source "$source_id" >&2 # removed from the bank
if grep -q "\"$source_id\"" "$out/samples-without/provenance.jsonl"; then
  echo "the source is still used" >&2
  exit 1
fi
echo "$out/samples-without"
