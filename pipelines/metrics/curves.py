"""Training curves of a run's metrics.jsonl as one inline SVG that follows the colors of the page around it."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

Line = Mapping[str, float]

POINTS = 400
"""Points of a curve; longer ones are averaged in equal stretches of the log."""

SMOOTHING = 0.05
"""Share of a curve over which its bold line averages."""

_INK = "#010203"  # stands for the page's text color until the SVG is written


def read_metrics(file: Path, until: int | None = None) -> list[dict[str, float]]:
    """The lines of metrics.jsonl up to a step; a last line that a kill cut off is left out."""
    lines = []
    for text in file.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            break
        if until is None or line["step"] <= until:
            lines.append(line)
    return lines


def loss_names(lines: Sequence[Line]) -> list[str]:
    """The keys that are losses, «phase/term», in the order of their first appearance."""
    return list(dict.fromkeys(key for line in lines for key in line if "/" in key))


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Exponential average over about `window` points without a start-up bias; not-finite values are passed over."""
    decay = 1 - 1 / max(window, 1)
    result = np.full(len(values), np.nan)
    total = weight = 0.0
    for i, value in enumerate(values):
        total, weight = total * decay, weight * decay
        if math.isfinite(value):
            total, weight = total + value, weight + 1
        if weight > 0:
            result[i] = total / weight
    return result


def draw_curves(lines: Sequence[Line], columns: int = 3) -> str:
    """One small panel per loss, raw values faint and their average bold, over steps: an <svg> element.

    Text is text in the page's font, and ink is currentColor, so it reads on light and dark pages.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    names = loss_names(lines)
    rows = -(-len(names) // columns)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "rgs", "font.size": 8}):
        figure = Figure(figsize=(3.2 * columns, 1.9 * rows), layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_alpha(0)
        for number, name in enumerate(names):
            axes = figure.add_subplot(rows, columns, number + 1)
            steps, values = _thin([(line["step"], line[name]) for line in lines if name in line])
            axes.plot(steps, values, color="#3b82c4", alpha=0.35, linewidth=0.8)
            axes.plot(steps, smooth(values, math.ceil(SMOOTHING * len(values))), color="#3b82c4", linewidth=1.6)
            axes.set_title(name, loc="left", color=_INK)
            axes.patch.set_alpha(0)
            axes.tick_params(colors=_INK, length=2)
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            for side, spine in axes.spines.items():
                spine.set_visible(side in ("left", "bottom"))
                spine.set_color(_INK)
                spine.set_alpha(0.4)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 role="img" aria-label="training curves"', svg, count=1)
    return svg.replace(_INK, "currentColor").strip()


def _thin(points: Sequence[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values, averaged over stretches where there are more than POINTS."""
    array = np.array(points, dtype=np.float64)
    if len(array) > POINTS:
        array = np.stack([part.mean(0) for part in np.array_split(array, POINTS)])
    return array[:, 0], array[:, 1]
