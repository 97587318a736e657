"""The page of an evaluation: one HTML file that stands alone, light or dark as its reader likes."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, FunctionLoader, StrictUndefined

from pipelines.data.sheet import fit
from pipelines.metrics.history import Curves

CELL = 256
"""Longest side in pixels of an image in the page."""


CARDS = 6
"""Scores that head the page."""
EXTREMES = 4
"""Images that the page shows as the best, and as the worst."""

RANKED_BY = ("lpips", "ssim", "psnr")
"""Scores that best and worst images are told by: the first of these that has a value for each image."""


@dataclass(frozen=True)
class Example:
    """A row of the page's contact sheet: the sample's name and its images by column, each (h, w, 3) uint8 or None."""

    name: str
    images: Mapping[str, np.ndarray | None]


@dataclass(frozen=True)
class Figure:
    """Pictures (h, w, 3) uint8, or with alpha (h, w, 4), side by side by caption, and the line under them."""

    pictures: Mapping[str, np.ndarray]
    text: str


@dataclass(frozen=True)
class Extremes:
    """The numbers of the best and of the worst images, best and worst first, and the score that says so."""

    score: Mapping[str, Any]
    best: list[int]
    worst: list[int]


def extremes(scores: Sequence[Mapping[str, Any]]) -> Extremes | None:
    """The images that stand out by the first score of RANKED_BY; None without one, or with too few images.

    scores: as in report.json. Of equal images the earlier is first.
    """
    for kind in RANKED_BY:
        for score in scores:
            values = score["per_image"]
            if score["name"].partition("[")[0] != kind or not values or len(values) < 2 * EXTREMES:
                continue
            order = np.argsort(
                np.asarray(values, np.float64) * (-1 if score["better"] == "higher" else 1), kind="stable"
            )
            return Extremes(score, order[:EXTREMES].tolist(), order[::-1][:EXTREMES].tolist())
    return None


def render(
    report: Mapping[str, Any],
    examples: Sequence[Example],
    columns: Sequence[str],
    curves: Curves,
    *,
    standouts: Mapping[str, Sequence[Example]] = MappingProxyType({}),
    figures: Mapping[str, Sequence[Figure]] = MappingProxyType({}),
) -> str:
    """The page: report.json's content, the curves and the example images in one HTML file without any link out.

    standouts: more rows of the contact sheet, figures: pictures of the copy check, both by their heading.
    """
    shelves = [{"title": title, "rows": _rows(rows, columns)} for title, rows in standouts.items()]
    return (
        environment()
        .get_template("report.html")
        .render(
            report={"audit": None, "correspondence": [], "objects": None, **report},
            groups=_groups(report),
            rows=_rows(examples, columns),
            columns=columns,
            curves=curves,
            extremes=shelves,
            pairs=[
                {"title": title, "figures": [_figure(f) for f in shelf]} for title, shelf in figures.items() if shelf
            ],
        )
    )


def render_comparison(report: Mapping[str, Any], examples: Sequence[Example], columns: Sequence[str]) -> str:
    """The page of several reports side by side: the content of their comparison and rows of the same layouts."""
    page = environment().get_template("compare.html")
    return page.render(report=report, rows=_rows(examples, columns), columns=columns)


def render_retrieval(report: Mapping[str, Any], queries: Sequence[Figure]) -> str:
    """The page of an embedder: the tables of its retrieval, and queries with what was found for them."""
    return environment().get_template("retrieval.html").render(report=report, queries=[_figure(f) for f in queries])


def environment() -> Environment:
    """The templates of this package with their filters; what is missing from a report is an error, not a blank."""

    def load(name: str) -> str:
        return (resources.files(__package__) / name).read_text(encoding="utf-8")

    made = Environment(
        loader=FunctionLoader(load), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters["number"] = show_number
    made.filters["signed"] = lambda value: f"{'−' if value < 0 else '+' if value else ''}{show_number(abs(value))}"
    made.filters["verdict"] = verdict
    made.filters["color"] = lambda rgb: "#{:02x}{:02x}{:02x}".format(*rgb)
    return made


def verdict(entry: Mapping[str, Any], better: str) -> str:
    """«good» or «bad» of a difference whose interval leaves out 0, where either way is better; else «»."""
    ends = entry["difference_interval"]
    if better == "neither" or ends is None or ends[0] <= 0 <= ends[1]:
        return ""
    return "good" if (ends[0] > 0) == (better == "higher") else "bad"


def _rows(examples: Sequence[Example], columns: Sequence[str]) -> list[tuple[str, list[str | None]]]:
    return [
        (example.name, [None if (image := example.images[name]) is None else data_uri(image) for name in columns])
        for example in examples
    ]


def _figure(figure: Figure) -> dict[str, Any]:
    return {"text": figure.text, "pictures": [(caption, data_uri(image)) for caption, image in figure.pictures.items()]}


def _cards(main: Sequence[Mapping[str, Any]], report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The scores that head the page: correspondence by independent embedders first, by others never."""
    own = {row["score"] for row in report.get("correspondence", ()) if row["own"]}
    found = [s for s in main if s["name"].startswith("r@1[") and s["name"] not in own]
    return [*found, *(s for s in main if not s["name"].startswith("r@"))][:CARDS]


def _groups(report: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The scores by the section that they stand in. The parts of a comparison (ratio, share, z) are in one row."""
    scores: Sequence[Mapping[str, Any]] = report["scores"]
    main = [s for s in scores if not s["name"].startswith(("retrieval/", "copy/"))]
    by_name = {score["name"]: score for score in scores}
    copies = [
        {"score": score, "parts": [by_name.get(f"{name}_{part}") for part in ("ratio", "close", "z")]}
        for name, score in by_name.items()
        if name.startswith("copy/") and not name.endswith(("_ratio", "_close", "_z"))
    ]
    return {
        "cards": _cards(main, report),
        "main": [s for s in main if not s["name"].startswith("r@")],
        "retrieval": [s for s in scores if s["name"].startswith("retrieval/")],
        "copies": copies,
    }


def show_number(value: float | None) -> str:
    """Four digits that matter, plainly: 0.7312, 23.41, 1204; a dash for what is unknown."""
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) >= 10 and value == round(value):
        return f"{value:.0f}"
    before = max(1, len(str(int(abs(value))))) if abs(value) >= 1 else 0
    return f"{value:.{max(4 - before, 0)}f}"


def data_uri(image: np.ndarray) -> str:
    """(h, w, 3) uint8 RGB, or with alpha (h, w, 4), as a PNG of at most CELL pixels a side in a data: URI."""
    small = fit(image, CELL) if max(image.shape[:2]) > CELL else image
    _, data = cv2.imencode(".png", np.ascontiguousarray(small[..., [2, 1, 0, *range(3, small.shape[2])]]))
    return "data:image/png;base64," + base64.b64encode(data.tobytes()).decode()
