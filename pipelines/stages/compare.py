"""rgs eval --compare: reports side by side as one page, each score with its difference to the first report's."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from pipelines.artifact import (
    Artifact,
    command_line,
    environment,
    open_artifact,
    require_free,
    tool_version,
    writing,
)
from pipelines.config import Config
from pipelines.data.palette import paint_labels
from pipelines.data.pixels import read_image
from pipelines.data.scene import Schema
from pipelines.errors import ArtifactError, ConfigError, RgsError
from pipelines.metrics.compare import compare
from pipelines.metrics.report import Example, render_comparison
from pipelines.metrics.samples import Sample, read_labels, read_samples


class Compare(Config):
    """What decides a comparison, beside its reports."""

    rows: int = Field(8, ge=1, le=100)
    """Rows of the contact sheet: layouts that all runs made an image of."""
    seed: int = Field(0, ge=0)
    """Which layouts the contact sheet shows is drawn with it, and what the intervals resample."""


@dataclass(frozen=True)
class Opened:
    """A report, its name in the comparison, and its samples where they still are."""

    name: str
    artifact: Artifact
    report: dict[str, Any]
    samples: Artifact | None
    note: str


def run(config: Compare, *, reports: Sequence[Path], out: Path) -> Artifact:
    """Write the comparison. The first report is the one that the others are compared with.

    Raises ConfigError for fewer than two reports, ArtifactError where one is no report or shares no score with the
    first.
    """
    opened, rows = _prepare(config, reports, out)
    inputs = [one.artifact.as_input("report", out.parent) for one in opened]
    statistics: dict[str, Any] = {"runs": [one.name for one in opened], "rows": len(rows)}
    with writing(out, "comparison", config, inputs, statistics) as folder:
        examples, columns, selection = _examples(config, opened)
        content = {
            "title": " and ".join(one.name for one in opened) if len(opened) == 2 else f"{len(opened)} runs compared",
            "summary": f"Differences are to {opened[0].name}. Compared by rgs {tool_version()}.",
            "runs": [_run_json(one) for one in opened],
            "rows": rows,
            "not_computed": {one.name: one.report["not_computed"] for one in opened if one.report["not_computed"]},
            "selection": selection,
            "inputs": [{"of": "comparison", "step": None, **i.to_json()} for i in inputs],
            "commands": [{"what": "Comparison", "text": shlex.join(command_line())}],
            "environment": {"comparison": environment()},
        }
        page = render_comparison(content, examples, columns)
        (folder / "report.json").write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        (folder / "report.html").write_text(page, encoding="utf-8")
    return open_artifact(out, "comparison")


def plan(config: Compare, *, reports: Sequence[Path], out: Path) -> dict[str, Any]:
    """What `run` would do: the config, the reports with their digests, and the scores that share a row."""
    opened, rows = _prepare(config, reports, out)
    return {
        "config": config.model_dump(mode="json"),
        "inputs": [one.artifact.as_input("report", out.parent).to_json() for one in opened],
        "rows": [row["name"] for row in rows],
        "out": str(out),
    }


def _prepare(config: Compare, paths: Sequence[Path], out: Path) -> tuple[list[Opened], list[dict[str, Any]]]:
    require_free(out)
    if len(paths) < 2:
        raise ConfigError("a comparison needs two reports or more", fix="rgs eval --compare reports/a reports/b -o …")
    names = _names(paths)
    opened = [_open(name, path) for name, path in zip(names, paths, strict=True)]
    rows = compare([one.report for one in opened], config.seed)
    for number, one in enumerate(opened[1:], start=1):
        if not any(row["entries"][0] and row["entries"][number] for row in rows):
            raise ArtifactError(
                f"no score of {one.name} can stand beside one of {opened[0].name}: {_why(rows, number)}",
                where=one.artifact.path,
                fix="evaluate both against the same photos with the same judge and options",
            )
    return opened, rows


def _why(rows: Sequence[dict[str, Any]], number: int) -> str:
    """What keeps a report apart from the first: what differs in the protocol of a score that both have."""
    names = {row["name"] for row in rows if row["entries"][0]}
    for row in rows:
        if row["name"] in names and row["entries"][number] and row["differs"]:
            return f"{row['name']} differs in {', '.join(row['differs'])}"
    return "they have no score of one name"


def _names(paths: Sequence[Path]) -> list[str]:
    """The folders' names, with as many parents as tell them apart."""
    parts = [path.resolve().parts for path in paths]
    for depth in range(1, max(map(len, parts))):
        names = ["/".join(p[-depth:]) for p in parts]
        if max(Counter(names).values()) == 1:
            return names
    return [f"{path.name} ({number})" for number, path in enumerate(paths, start=1)]


def _open(name: str, path: Path) -> Opened:
    artifact = open_artifact(path, "report")
    file = path / "report.json"
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        known = all(key in report for key in ("scores", "images", "reference", "not_computed"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"the report cannot be read: {error}", where=file, fix="evaluate again") from error
    if not known:
        raise ArtifactError("this report lacks what a comparison needs", where=file, fix="evaluate again")
    given = artifact.input("samples")
    try:
        samples = None if given is None else open_artifact(path.parent / given.path, "samples")
    except RgsError as error:
        return Opened(name, artifact, report, None, f"its samples cannot be shown: {error.what}")
    if samples is not None and given is not None and samples.digest != given.digest:
        return Opened(name, artifact, report, None, "its samples cannot be shown: others are in their place")
    return Opened(name, artifact, report, samples, "")


def _run_json(one: Opened) -> dict[str, Any]:
    report = one.report
    return {
        "name": one.name,
        "title": report["title"],
        "summary": report["summary"],
        "images": len(report["images"]),
        "reference": report["reference"],
        "judge": report.get("judge"),
        "digest": one.artifact.digest,
        "note": one.note,
    }


def _examples(config: Compare, opened: Sequence[Opened]) -> tuple[list[Example], list[str], str]:
    """Rows of the same layouts, a column per run, drawn at random among the images that all have."""
    shown = [one for one in opened if one.samples is not None]
    listed = [{sample.name: sample for sample in read_samples(_samples(one))} for one in shown]
    common = sorted(set.intersection(*(set(samples) for samples in listed))) if listed else []
    if not common:
        return [], [], "No image to show: the runs have no layout in common, or their samples are no longer there."
    rng = np.random.default_rng(config.seed)
    count = min(config.rows, len(common))
    names = [common[i] for i in sorted(rng.choice(len(common), count, replace=False))]
    example = listed[0][names[0]]
    first = "layout" if example.layout else "graph" if example.graph else "source"
    columns = [first, *(one.name for one in shown)]
    rows = []
    for name in names:
        images = {one.name: read_image(samples[name].image) for one, samples in zip(shown, listed, strict=True)}
        rows.append(Example(name, {first: _made_from(shown[0], listed[0][name]), **images}))
    return rows, columns, f"{count} of {len(common)} images of one name, drawn at random (seed {config.seed})."


def _samples(one: Opened) -> Artifact:
    assert one.samples is not None
    return one.samples


def _made_from(one: Opened, sample: Sample) -> np.ndarray | None:
    """The layout, the photo or the picture of the graph of a sample."""
    if sample.layout is None:
        shown = sample.photo or sample.picture
        return None if shown is None else read_image(shown)
    schema = Schema.from_json(_samples(one).statistics["schema"])
    image = read_image(sample.image)
    return paint_labels(read_labels(sample.layout, schema, (image.shape[0], image.shape[1])), schema)
