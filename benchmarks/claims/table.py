"""The claim table of RESAIL: merges the reports that resail.sh wrote and writes the table into the system's README.

    python benchmarks/claims/table.py [FOLDER …]

FOLDER is what resail.sh printed (out/claims/facades). Without any the table is written anew from what was merged
before. Rows that were never run are printed as not run. A row is replaced when it is run again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from pipelines.metrics.intervals import Interval, bootstrap
from pipelines.metrics.segmentation import miou

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "claims_resail.json"
README = HERE.parents[1] / "pipelines" / "systems" / "resail" / "README.md"
BEGIN, END = "<!-- claims: written by benchmarks/claims/table.py -->", "<!-- end of claims -->"

Runs = Mapping[str, dict[str, Any]]
"""By «row-seed»: scores, and the budget where something was trained."""


class Row(NamedTuple):
    name: str
    says: str
    seeds: int


ROWS = (
    Row("resail", "RESAIL", 3),
    Row("random", "RESAIL, random retrieval", 3),
    Row("spade", "SPADE", 3),
    Row("oasis", "OASIS", 3),
    Row("undistorted", "RESAIL without distorted ground truth", 1),
    Row("unsegmented", "RESAIL without segmentation loss", 1),
    Row("spade_guided", "SPADE+ norms", 1),
    Row("sean_plus", "SEAN+ norms", 1),
    Row("pix2pixhd_plus", "Pix2pixHD+ norms", 1),
    Row("guidance", "the guidance image itself", 1),
    Row("shuffled", "outputs against other layouts (floor)", 1),
)
COLUMNS = {
    "miou": "mIoU",
    "kid": "KID x1000 (judge's features)",
    "frechet": "Fréchet (judge's)",
    "accuracy": "accuracy",
    "psnr": "PSNR",
    "ssim": "SSIM",
}
SCALES = {"kid": 1000.0}
DIGITS = {"miou": 3, "kid": 1, "frechet": 2, "accuracy": 3, "psnr": 2, "ssim": 3}
RIVALS = ("spade", "oasis", "random")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*", help="what resail.sh printed")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--readme", type=Path, default=README)
    arguments = parser.parse_args()
    merged: dict[str, dict[str, Any]] = {}
    if arguments.results.exists():
        merged = json.loads(arguments.results.read_text(encoding="utf-8"))
    for folder in arguments.folders:
        found = {path.parent.name: collect(path) for path in sorted((folder / "reports").glob("*/report.json"))}
        merged[folder.name] = dict(sorted({**merged.get(folder.name, {}), **found}.items()))
    arguments.results.write_text(dump(merged), encoding="utf-8")
    text = "\n\n".join(section(name, runs) for name, runs in sorted(merged.items()))
    page = arguments.readme.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    arguments.readme.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")
    print(text)


def dump(merged: Mapping[str, Runs]) -> str:
    """JSON with a line for every run."""
    blocks = [
        f"{json.dumps(name)}: {{\n"
        + ",\n".join(f"{json.dumps(k)}: {json.dumps(run)}" for k, run in runs.items())
        + "\n}"
        for name, runs in merged.items()
    ]
    return "{\n" + ",\n".join(blocks) + "\n}\n"


def collect(path: Path) -> dict[str, Any]:
    """What the table needs of a report, and the budget of the run that it judges."""
    report = json.loads(path.read_text(encoding="utf-8"))
    scores = {
        score["name"].partition("[segmenter:")[0]: {
            key: score[key] for key in ("name", "value", "interval", "on_real", "protocol", "per_image")
        }
        for score in report["scores"]
    }
    for name, score in scores.items():
        if name != "miou":  # whose differences are drawn anew
            del score["per_image"]
    entry: dict[str, Any] = {
        "images": len(report["images"]),
        "scores": scores,
        "environment": report["environment"]["report"],
    }
    manifest = path.parents[2] / "runs" / path.parent.name / "manifest.json"
    if manifest.exists():
        run = json.loads(manifest.read_text(encoding="utf-8"))
        train = run["config"]["train"]
        entry["budget"] = {"steps": run["step"], "batch": train["batch"], **run["statistics"]}
    return entry


def section(dataset: str, runs: Runs) -> str:
    """The table of a dataset, and the differences that the claims are about."""
    head = ["", *COLUMNS.values(), "steps x batch", "CPU min"]
    lines = [f"**{dataset}**", "", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    lines.append(ceiling(runs))
    for row in ROWS:
        seeds = [runs[f"{row.name}-{seed}"] for seed in range(row.seeds) if f"{row.name}-{seed}" in runs]
        label = row.says + (f" ({len(seeds)} of {row.seeds} seeds)" if row.seeds > 1 and seeds else "")
        cells = [cell(name, seeds) for name in COLUMNS] if seeds else ["not run", *[""] * (len(COLUMNS) - 1)]
        lines.append("| " + " | ".join([label, *cells, *budget(seeds)]) + " |")
    differences = list(difference_lines(runs))
    return "\n".join(lines + (["", *differences] if differences else []))


def ceiling(runs: Runs) -> str:
    """What the judge says of the real test photos; the other scores compare with these photos themselves."""
    scores = next((run["scores"] for name, run in runs.items() if name.startswith("resail")), {})
    real = {name: score["on_real"] for name, score in scores.items() if score.get("on_real") is not None}
    cells = [f"{real[name]:.{DIGITS[name]}f}" if name in real else "" for name in COLUMNS]
    return "| " + " | ".join(["real photos (ceiling)", *cells, "", ""]) + " |"


def cell(name: str, seeds: list[dict[str, Any]]) -> str:
    """A score with its 95 % interval for one seed; for several the mean, and the lowest and highest seed."""
    scores = [run["scores"].get(name) for run in seeds]
    present = [score for score in scores if score is not None]
    if not present:
        return "–"
    scale, digits = SCALES.get(name, 1.0), DIGITS[name]
    values = [score["value"] * scale for score in present]
    if len(values) > 1:
        return f"{fmean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
    ends = present[0]["interval"]
    if ends is None:
        return f"{values[0]:.{digits}f}"
    return f"{values[0]:.{digits}f} [{ends[0] * scale:.{digits}f}, {ends[1] * scale:.{digits}f}]"


def budget(seeds: list[dict[str, Any]]) -> list[str]:
    spent = [run["budget"] for run in seeds if "budget" in run]
    if not spent:
        return ["", ""]
    minutes = [b["cpu_seconds"] / 60 for b in spent if b.get("cpu_seconds")]
    return [f"{spent[0]['steps']} x {spent[0]['batch']}", f"{fmean(minutes):.0f}" if minutes else ""]


def difference_lines(runs: Runs) -> Iterable[str]:
    """RESAIL minus each rival in mIoU over the seeds that both have: the same layouts are drawn for both."""
    for rival in RIVALS:
        pairs = [
            (runs[f"resail-{seed}"], runs[f"{rival}-{seed}"])
            for seed in range(3)
            if f"resail-{seed}" in runs and f"{rival}-{seed}" in runs
        ]
        if pairs:
            value, interval = difference(pairs)
            ends = "" if interval.ends is None else f" [{interval.ends[0]:+.3f}, {interval.ends[1]:+.3f}]"
            says = next(row.says for row in ROWS if row.name == rival)
            how = f"seeds: {len(pairs)}, paired bootstrap of the layouts"
            yield f"- mIoU of RESAIL minus {says}: {value:+.3f}{ends}, {how}"


def difference(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> tuple[float, Interval]:
    """The mean over seeds of the difference in mIoU, and its interval over layouts."""
    counts = [[class_counts(run["scores"]["miou"]["per_image"]) for run in pair] for pair in pairs]
    classes = max(array.shape[1] for pair in counts for array in pair)
    padded = [np.pad(a, ((0, 0), (0, classes - a.shape[1]), (0, 0))) for pair in counts for a in pair]
    rows = np.stack(padded, axis=1)  # (layouts, 2 seeds, classes, 3)

    def statistic(sums: np.ndarray) -> np.ndarray:
        each = miou(sums.reshape(len(sums), len(pairs), 2, classes, 3))
        return (each[..., 0] - each[..., 1]).mean(-1)

    flat = rows.reshape(len(rows), -1).astype(np.float64)
    return float(statistic(flat.sum(0, keepdims=True))[0]), bootstrap(flat, statistic, seed=0)


def class_counts(per_image: list[dict[str, list[int]]]) -> np.ndarray:
    """(images, classes, 3) of the counts that a report keeps of each image."""
    classes = 1 + max(int(c) for image in per_image for c in image)
    counts = np.zeros((len(per_image), classes, 3), dtype=np.int64)
    for i, image in enumerate(per_image):
        for c, three in image.items():
            counts[i, int(c)] = three
    return counts


if __name__ == "__main__":
    main()
