"""The claim tables of the cross-view system: merges the reports of crossview.sh, and writes them into its README.

    python benchmarks/claims/crossview_table.py [FOLDER]

FOLDER is what crossview.sh printed (out/claims/crossview). Without one the tables are written anew from what was merged
before. Rows that were never run are printed as not run. A row is replaced when it is run again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from table import dump

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "claims_crossview.json"
README = HERE.parents[1] / "pipelines" / "systems" / "crossview" / "README.md"
BEGIN, END = "<!-- claims: written by benchmarks/claims/crossview_table.py -->", "<!-- end of claims -->"
EMBEDDERS = {
    "saig": "SAIG of 3 blocks",
    "saig_short": "SAIG of 3 blocks, as many steps as ResNet-18",
    "resnet": "ResNet-18 from scratch",
}
GENERATORS = {
    "full": "all of it",
    "encoder": "a trainable encoder in place of the retrieval embedder",
    "plain": "plain AdaIN, no attention",
    "undiverse": "no diversity loss",
    "unconditional": "unconditional discriminator",
}
STRENGTHS = {f"strength{s}": f"all of it, strength {s}" for s in ("0", "0.5", "2")}
REAL = {
    "tuned": "ResNet-18, trained on the town, then on the other folds",
    "scratch": "the same, trained on the other folds alone",
    "town": "the same, trained on the town alone",
}
JUDGE, OWN = "[embedder:resnet-1]", "[embedder:saig-0]"
SCORES: dict[str, tuple[str, float, int]] = {
    f"r@1{JUDGE}": ("R@1, photos", 100, 1),
    f"r@1_target{JUDGE}": ("R@1, real streets", 100, 1),
    f"r@1{OWN}": ("R@1, photos, own embedder", 100, 1),
    f"frechet{JUDGE}": ("Fréchet", 1, 3),
    "ssim": ("SSIM", 1, 3),
    "psnr": ("PSNR", 1, 2),
    "sd": ("sharpness", 1, 2),
    f"diversity{JUDGE}": ("diversity", 1, 3),
    f"repetition{JUDGE}": ("repetition", 100, 1),
    f"clusters{JUDGE}": ("clusters", 1, 2),
}
"""Of the generators' table: title, factor and digits of a score."""

Merged = Mapping[str, dict[str, Any]]


def main() -> None:
    def gather(home: Path) -> dict[str, dict[str, Any]]:
        return {path.parent.name: collect(path, home) for path in sorted((home / "reports").glob("*/report.json"))}

    def pages(merged: Merged) -> str:
        return "\n\n".join(section(merged) for section in (embedders, generators, real))

    update(str(__doc__), RESULTS, README, BEGIN, gather, pages)


def update(
    says: str,
    results: Path,
    readme: Path,
    begin: str,
    gather: Callable[[Path], dict[str, dict[str, Any]]],
    pages: Callable[[Merged], str],
) -> None:
    """The command of a table: merge the reports of a folder, if one is given, and write the pages into the README.

    says: the help. begin: the line after which they stand. gather: the reports in a folder by name; pages: their text.
    """
    parser = argparse.ArgumentParser(description=says, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="what the script of the claims printed")
    parser.add_argument("--results", type=Path, default=results)
    parser.add_argument("--readme", type=Path, default=readme)
    arguments = parser.parse_args()
    merged: dict[str, dict[str, Any]] = {}
    if arguments.results.exists():
        merged = json.loads(arguments.results.read_text(encoding="utf-8"))["reports"]
    if arguments.folder is not None:
        merged |= gather(arguments.folder)
    arguments.results.write_text(dump({"reports": dict(sorted(merged.items()))}), encoding="utf-8")
    text = pages(merged)
    page = arguments.readme.read_text(encoding="utf-8")
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(END)
    arguments.readme.write_text(f"{before}{begin}\n\n{text}\n\n{END}{after}", encoding="utf-8")
    print(text)


def collect(path: Path, home: Path) -> dict[str, Any]:
    """What the tables need of a report, and the budget of the run that it measures."""
    report = json.loads(path.read_text(encoding="utf-8"))
    scores = {
        s["name"].split("@few")[0]: {k: s.get(k) for k in ("value", "interval", "on_real")} for s in report["scores"]
    }
    entry: dict[str, Any] = {
        "images": len(report["images"]),
        "scores": scores,
        "environment": report["environment"]["report"],
    }
    if "retrieval" in report:
        entry["retrieval"] = report["retrieval"]["ground-aerial"]
    if "correspondence" in report:
        entry["correspondence"] = report["correspondence"]
    name = path.parent.name.removeprefix("embedder-")
    for folder in ("embedders", "generators"):
        manifest = home / folder / name / "manifest.json"
        if manifest.exists():
            run = json.loads(manifest.read_text(encoding="utf-8"))
            entry["budget"] = {"steps": run["step"], "batch": run["config"]["train"]["batch"], **run["statistics"]}
    return entry


def seeds_of(merged: Merged, name: str) -> list[dict[str, Any]]:
    return [entry for key, entry in merged.items() if key.rpartition("-")[0] == name]


def embedders(merged: Merged) -> str:
    """Recall on places of the town that nobody trained on."""
    lines = []
    for name, says in EMBEDDERS.items():
        runs = seeds_of(merged, f"embedder-{name}")
        if not runs:
            lines.append(f"| {says} | not run | | | | | |")
        for entry in runs:
            row, budget = entry["retrieval"][-1], entry["budget"]
            cells = [recall(row["recall"], k) for k in ("1", "5", "10")]
            spent = f"{budget['steps']} x {budget['batch']} | {budget['cpu_seconds'] / 60:.0f}"
            lines.append(f"| {says} | {' | '.join(cells)} | {percent(row['recall']['1']['published'])} | {spent} |")
            queries, chance, baseline = row["queries"], row["chance"], row["histogram"]["recall"]
            last = f"| color histograms | {' | '.join(recall(baseline, k) for k in ('1', '5', '10'))} | | | |"
    if any(seeds_of(merged, f"embedder-{name}") for name in EMBEDDERS):
        lines += [last, f"| chance | {percent(chance)} | | | | | |"]
        title = f"### Embedders: the aerial photo of a street panorama among those of {queries} places never trained on"
    else:
        title = "### Embedders"
    head = [
        "| | R@1 % | R@5 % | R@10 % | R@1 by the published rule | steps x batch | CPU minutes |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join([title, "", *head, *lines])


def generators(merged: Merged) -> str:
    """The ablations: means over seeds, with the interval where there is one seed."""
    titles = [title for title, _, _ in SCORES.values()]
    lines = [f"| | {' | '.join(titles)} | seeds |", "|---" * (len(titles) + 2) + "|"]
    for name, says in {**GENERATORS, **STRENGTHS}.items():
        runs = seeds_of(merged, name)
        if not runs:
            lines.append(f"| {says} | not run |" + " |" * len(titles))
            continue
        cells = []
        for key, (_, factor, digits) in SCORES.items():
            found = [entry["scores"][key] for entry in runs if key in entry["scores"]]
            cells.append(score_text(found, factor, digits) if found else "")
        lines.append(f"| {says} | {' | '.join(cells)} | {len(runs)} |")
    full = seeds_of(merged, "full")
    if full:
        real = [full[0]["scores"].get(key, {}).get("on_real") for key in SCORES]
        shown = [
            "" if v is None else f"{v * factor:.{digits}f}"
            for v, (_, factor, digits) in zip(real, SCORES.values(), strict=True)
        ]
        lines.append(f"| real streets | {' | '.join(shown)} | |")
    return "\n".join(["### Generators: aerial to street, of places never trained on", "", *lines])


def real(merged: Merged) -> str:
    """Real pairs, by source: hits of queries out of their fold, among the whole gallery of their source."""
    found = {name: merged[f"real-{name}"]["retrieval"] for name in REAL if f"real-{name}" in merged}
    title = "### Real pairs: the aerial photo of a street view among those of its source"
    if not found:
        return f"{title}\n\nnot run"
    first = next(iter(found.values()))
    lines = [
        f"| | {' | '.join(row['source'] for row in first)} |",
        "|---" * (len(first) + 1) + "|",
        f"| pairs; aerial photos | {' | '.join('{queries}; {gallery}'.format(**row) for row in first)} |",
    ]
    for name, says in REAL.items():
        cells = (
            [hits(row["recall"]["1"], row["queries"], row["p"]) for row in found[name]]
            if name in found
            else ["not run"]
        )
        lines.append(f"| {says} | {' | '.join(cells)} |")
    baseline = [hits(row["histogram"]["recall"]["1"], row["queries"], row["histogram"]["p"]) for row in first]
    lines.append(f"| color histograms | {' | '.join(baseline)} |")
    lines.append(f"| chance | {' | '.join(percent(row['chance']) for row in first)} |")
    return "\n".join([title, "", *lines])


def hits(at_1: Mapping[str, Any], queries: int, p: float) -> str:
    """«5/24, 21 % [9, 40], p 0.01»."""
    low, high = at_1["interval"]
    return f"{at_1['hits']}/{queries} [{100 * low:.0f}, {100 * high:.0f}] p {p:.4f}"


def recall(found: Mapping[str, Any], k: str) -> str:
    low, high = found[k]["interval"]
    return f"{percent(found[k]['value'])} [{percent(low)}, {percent(high)}]"


def score_text(found: Sequence[Mapping[str, Any]], factor: float, digits: int) -> str:
    """A mean over seeds; of one seed with its interval."""
    show: Callable[[float], str] = lambda value: f"{round(value * factor, digits) + 0.0:.{digits}f}"  # noqa: E731
    text = show(fmean(score["value"] for score in found))
    if len(found) > 1 or not found[0]["interval"]:
        return text
    low, high = found[0]["interval"]
    return f"{text} [{show(low)}, {show(high)}]"


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


if __name__ == "__main__":
    main()
