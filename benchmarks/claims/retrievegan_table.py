"""The claim tables of RetrieveGAN: merges the reports of retrievegan.sh, and writes them into its README.

    python benchmarks/claims/retrievegan_table.py [FOLDER]

FOLDER is what retrievegan.sh printed (out/claims/retrievegan). Without one the tables are written anew from what was
merged before. Rows that were never run are printed as not run. A row is replaced when it is run again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crossview_table import score_text, update

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "claims_retrievegan.json"
README = HERE.parents[1] / "pipelines" / "systems" / "retrievegan" / "README.md"
BEGIN = "<!-- claims: written by benchmarks/claims/retrievegan_table.py -->"
ROWS = {
    "neither": "neither selection loss",
    "gt": "ground-truth selection",
    "occur": "co-occurrence penalty",
    "both": "both",
    "random": "random retrieval",
    "sg2im": "no patches (as sg2im)",
    "bank": "both, over the whole bank",
}
SCORES: dict[str, tuple[str, float, int]] = {
    "frechet[classifier:classifier]": ("Fréchet, images", 1, 2),
    "frechet_objects[classifier:classifier]": ("Fréchet, objects", 1, 2),
    "class_score[classifier:classifier]": ("class score", 1, 2),
    "object_accuracy[classifier:classifier]": ("objects recognized %", 100, 1),
    "diversity[classifier:classifier]": ("DS", 1, 3),
    "compatibility[cooccurrence:compatibility]": ("compatibility", 1, 3),
    "same_source": ("of one photo %", 100, 1),
    "box_iou": ("box IoU", 1, 3),
    "relations": ("relations %", 100, 1),
}
"""Of the tables: title, factor and digits of a score."""

Merged = Mapping[str, dict[str, Any]]


def main() -> None:
    def gather(home: Path) -> dict[str, dict[str, Any]]:
        paths = sorted(home.glob("*/reports/*/report.json"))
        return {f"{path.parents[2].name}/{path.parent.name}": collect(path) for path in paths}

    def pages(merged: Merged) -> str:
        sets = sorted({name.partition("/")[0] for name in merged} | {"town", "cmp_facades"}, reverse=True)
        return "\n\n".join(section(merged, data, boxes) for data in sets for boxes in ("predicted", "given"))

    update(str(__doc__), RESULTS, README, BEGIN, gather, pages)


def collect(path: Path) -> dict[str, Any]:
    """What the tables need of a report, and the budget of the run that it measures."""
    report = json.loads(path.read_text(encoding="utf-8"))
    scores = {
        s["name"].split("@few")[0]: {k: s.get(k) for k in ("value", "interval", "on_real")} for s in report["scores"]
    }
    entry = {"images": len(report["images"]), "scores": scores, "environment": report["environment"]["report"]}
    manifest = path.parents[2] / "runs" / path.parent.name.rpartition("-")[0] / "manifest.json"
    if manifest.exists():
        run = json.loads(manifest.read_text(encoding="utf-8"))
        entry["budget"] = {"steps": run["step"], "batch": run["config"]["train"]["batch"], **run["statistics"]}
    return entry


def section(merged: Merged, data: str, boxes: str) -> str:
    """The rows on one set of photos, in predicted or in given boxes; means over seeds."""
    titles = [title for title, _, _ in SCORES.values()]
    lines = [f"| | {' | '.join(titles)} | seeds | CPU minutes |", "|---" * (len(titles) + 3) + "|"]
    real: Sequence[Any] = ()
    budgets = set()
    for name, says in ROWS.items():
        runs = [e for key, e in merged.items() if key.startswith(f"{data}/{name}-") and key.endswith(f"-{boxes}")]
        if not runs:
            lines.append(f"| {says} | not run |" + " |" * (len(titles) + 1))
            continue
        cells = []
        for key, (_, factor, digits) in SCORES.items():
            found = [entry["scores"][key] for entry in runs if key in entry["scores"]]
            cells.append(score_text(found, factor, digits) if found else "")
        spent = sum(entry["budget"]["cpu_seconds"] for entry in runs) / 60 / len(runs)
        budgets |= {f"{entry['budget']['steps']} steps of {entry['budget']['batch']}" for entry in runs}
        lines.append(f"| {says} | {' | '.join(cells)} | {len(runs)} | {spent:.0f} |")
        real = real or [runs[0]["scores"].get(key, {}).get("on_real") for key in SCORES]
    if real:
        shown = [
            "" if value is None else f"{value * factor:.{digits}f}"
            for value, (_, factor, digits) in zip(real, SCORES.values(), strict=True)
        ]
        lines.append(f"| real images | {' | '.join(shown)} | | |")
    spent = f" ({', '.join(sorted(budgets))})" if budgets else ""
    return "\n".join([f"### {data}, {boxes} boxes{spent}", "", *lines])


if __name__ == "__main__":
    main()
