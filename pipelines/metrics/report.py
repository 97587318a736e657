"""The page of an evaluation: one HTML file that stands alone, light or dark as its reader likes."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import cv2
import numpy as np

from pipelines.data.sheet import fit
from pipelines.metrics.history import Curves

CELL = 256
"""Longest side in pixels of an image in the page."""


@dataclass(frozen=True)
class Example:
    """A row of the page's contact sheet: the sample's name and its images by column, each (h, w, 3) uint8 or None."""

    name: str
    images: Mapping[str, np.ndarray | None]


def render(report: Mapping[str, Any], examples: Sequence[Example], columns: Sequence[str], curves: Curves) -> str:
    """The page: report.json's content, the curves and the example images in one HTML file without any link out."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = show_number
    environment.filters["color"] = lambda rgb: "#{:02x}{:02x}{:02x}".format(*rgb)
    page = environment.from_string((resources.files(__package__) / "report.html").read_text(encoding="utf-8"))
    rows = [
        (example.name, [None if (image := example.images[name]) is None else data_uri(image) for name in columns])
        for example in examples
    ]
    return page.render(report=report, rows=rows, columns=columns, curves=curves)


def show_number(value: float | None) -> str:
    """Four digits that matter, plainly: 0.7312, 23.41, 1204; a dash for what is unknown."""
    if value is None or not math.isfinite(value):
        return "–"
    before = max(1, len(str(int(abs(value))))) if abs(value) >= 1 else 0
    return f"{value:.{max(4 - before, 0)}f}"


def data_uri(image: np.ndarray) -> str:
    """(h, w, 3) uint8 RGB as a PNG of at most CELL pixels a side in a data: URI."""
    small = fit(image, CELL) if max(image.shape[:2]) > CELL else image
    _, data = cv2.imencode(".png", np.ascontiguousarray(small[..., ::-1]))
    return "data:image/png;base64," + base64.b64encode(data.tobytes()).decode()
