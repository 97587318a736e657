"""Pictures of scene graphs: boxes with names and arrows where boxes are known, nodes and arrows where they are not."""

from __future__ import annotations

import math
from collections import Counter

import cv2
import numpy as np

from pipelines.data.graph import SceneGraph
from pipelines.data.relations import ABOVE, BELOW, GEOMETRIC, INSIDE, LEFT, RIGHT, SURROUNDING
from pipelines.data.scene import Schema

LEAST_SIDE = 384
"""Smaller pictures are drawn larger by a whole factor until their longer side has this, so that names can be read."""
MOST_DRAWN = 1000
"""Of more relations the first have arrows; of more boxes none is tinted."""
MOST_SOLVED = 500
"""Nodes of larger graphs stand on a circle instead of where their relations want them."""

FONT = cv2.FONT_HERSHEY_SIMPLEX
SCALE = 0.4
MARGIN = 4
LINE = 16
PAPER, INK, FAINT = (255, 255, 255), (40, 40, 40), (120, 120, 120)

# where a subject wants to be, seen from its object
WISHES = {LEFT: (-1, 0), RIGHT: (1, 0), ABOVE: (0, -1), BELOW: (0, 1), INSIDE: (0.3, 0.5), SURROUNDING: (-0.3, -0.5)}

Rectangle = tuple[int, int, int, int]  # left, top, right, bottom


def object_names(graph: SceneGraph, schema: Schema) -> list[str]:
    """What to call each object: its class, with a number where the graph has several of it («car#2»)."""
    counts = Counter(graph.categories.tolist())
    seen: Counter[int] = Counter()
    names = []
    for category in graph.categories.tolist():
        seen[category] += 1
        names.append(schema.names[category] + (f"#{seen[category]}" if counts[category] > 1 else ""))
    return names


def draw_graph(graph: SceneGraph, schema: Schema, size: tuple[int, int], image: np.ndarray | None = None) -> np.ndarray:
    """A picture of the graph, (H, W, 3) uint8 RGB, its relations listed at the right.

    size: (h, w) of the picture that the boxes are parts of, drawn larger where it is small. image: (h', w', 3) uint8
    RGB to draw on, fitted to it. Boxes have their classes' colors; an arrow points from a relation's subject to its
    object. Without boxes the objects stand about where their geometric relations want them. Names that find no free
    place in a crowded picture are left out.
    """
    height, width = (side * max(1, math.ceil(LEAST_SIDE / max(size))) for side in size)
    canvas = _canvas(image, height, width)
    names = object_names(graph, schema)
    colors = [schema.classes[c].color for c in graph.categories.tolist()]
    boxes = None
    if graph.boxes is None:
        centres = _arranged(graph, schema) * (width * 0.8, height * 0.86) + (width * 0.1, height * 0.07)
    else:
        boxes = (graph.boxes.clip(0, 1) * (width, height, width, height)).round().astype(int)
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        _draw_boxes(canvas, boxes, colors, 0.15 if image is not None else 0.3)
    for s, o in list(dict.fromkeys((s, o) for s, _, o in graph.relations))[:MOST_DRAWN]:
        _draw_arrow(canvas, centres[s], centres[o])
    _draw_names(canvas, names, colors, centres, boxes)
    told = [f"{names[s]} {schema.relations[p]} {names[o]}" for s, p, o in graph.relations]
    return np.hstack([canvas, _listed(list(dict.fromkeys(told)), height)])


def _canvas(image: np.ndarray | None, height: int, width: int) -> np.ndarray:
    if image is None:
        return np.full((height, width, 3), PAPER, dtype=np.uint8)
    way = cv2.INTER_AREA if image.shape[0] > height else cv2.INTER_NEAREST
    return cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=way)


def _arranged(graph: SceneGraph, schema: Schema) -> np.ndarray:
    """Where the nodes of a graph without boxes stand, (n, 2) in [0, 1].

    On a circle, moved by least squares to where the geometric relations want them: with L the Laplacian of the
    relations and d their wishes, (L + w I) p = sum of d + w circle.
    """
    n = len(graph)
    angles = np.arange(n) * (2 * math.pi / n) - math.pi / 2
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    places = circle
    if n <= MOST_SOLVED:
        hold = 0.05
        matrix, wanted = np.eye(n) * hold, circle * hold
        for s, p, o in graph.relations:
            name = schema.relations[p]
            wish = np.array(WISHES[GEOMETRIC.index(name)] if name in GEOMETRIC else (0.0, 0.0))
            matrix[[s, o], [s, o]] += 1
            matrix[[s, o], [o, s]] -= 1
            wanted[s] += wish
            wanted[o] -= wish
        places = np.linalg.solve(matrix, wanted)
    low, high = places.min(axis=0), places.max(axis=0)
    span = np.where(high - low > 1e-9, high - low, 1.0)
    return np.where(high - low > 1e-9, (places - low) / span, 0.5)


def _draw_boxes(canvas: np.ndarray, boxes: np.ndarray, colors: list[tuple[int, int, int]], opacity: float) -> None:
    """Large ones first, tinted, with borders of their colors."""
    for i in np.argsort(-(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), kind="stable"):
        x0, y0, x1, y1 = boxes[i].tolist()
        x1, y1 = max(x1 - 1, x0), max(y1 - 1, y0)
        inside = canvas[y0 : y1 + 1, x0 : x1 + 1]
        if inside.size and len(boxes) <= MOST_DRAWN:
            cv2.addWeighted(inside, 1 - opacity, np.full_like(inside, colors[i]), opacity, 0, dst=inside)
        cv2.rectangle(canvas, (x0, y0), (x1, y1), INK, 3)
        cv2.rectangle(canvas, (x0, y0), (x1, y1), colors[i], 1)


def _draw_arrow(canvas: np.ndarray, start: np.ndarray, end: np.ndarray) -> None:
    """A line with its head a little behind the middle, where no name covers it and the way back has its own."""
    length = float(np.hypot(*(end - start)))
    if length < 8:
        return
    first, head, last = ((start + part * (end - start)).round().astype(int).tolist() for part in (0, 0.6, 1))
    for color, thickness in ((PAPER, 3), (INK, 1)):
        cv2.line(canvas, first, last, color, thickness, cv2.LINE_AA)
        cv2.arrowedLine(canvas, first, head, color, thickness, cv2.LINE_AA, tipLength=min(0.3, 16 / length))


def _draw_names(
    canvas: np.ndarray,
    names: list[str],
    colors: list[tuple[int, int, int]],
    centres: np.ndarray,
    boxes: np.ndarray | None,
) -> None:
    """Tags in the classes' colors, small objects first: each takes the first of its places that is free."""
    height, width = canvas.shape[:2]
    order = range(len(names))
    if boxes is not None:
        order = np.argsort((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), kind="stable").tolist()
    taken = np.zeros((height, width), dtype=bool)
    for i in order:
        (w, h), below = cv2.getTextSize(names[i], FONT, SCALE, 1)
        w, h = w + 2 * MARGIN, h + below + MARGIN
        cx, cy = (centres[i] - (w / 2, h / 2)).round().astype(int).tolist()
        if boxes is None:
            corners = [(cx, cy)]
        else:
            x0, y0, x1, y1 = boxes[i].tolist()
            corners = [(x0, y0), (x1 - w, y0), (x0, y1 - h), (x1 - w, y1 - h), (cx, cy), (x0, y0 - h), (x0, y1)]
        around = [(cx + dx * w // 2, cy + dy * h) for r in range(1, 5) for dx in (0, -r, r) for dy in (r, -r, 0)]
        for x, y in [*corners, *around]:
            left, top = max(0, min(x, width - w)), max(0, min(y, height - h))
            tag = taken[top : top + h, left : left + w]
            if not tag.any():
                tag[:] = True
                _draw_tag(canvas, names[i], colors[i], (left, top, left + w - 1, top + h - 1), below)
                break


def _draw_tag(canvas: np.ndarray, name: str, color: tuple[int, int, int], place: Rectangle, below: int) -> None:
    left, top, right, bottom = place
    cv2.rectangle(canvas, (left, top), (right, bottom), color, cv2.FILLED)
    cv2.rectangle(canvas, (left, top), (right, bottom), INK, 1)
    bright = float(np.dot(color, (0.299, 0.587, 0.114))) > 140
    ink = INK if bright else PAPER
    cv2.putText(canvas, name, (left + MARGIN, bottom - below), FONT, SCALE, ink, 1, cv2.LINE_AA)


def _listed(lines: list[str], height: int) -> np.ndarray:
    """The relations one below the other, as many as there is room for."""
    rows = max(1, (height - MARGIN) // LINE)
    if len(lines) > rows:
        lines = [*lines[: rows - 1], f"and {len(lines) - rows + 1} more"]
    width = max((cv2.getTextSize(line, FONT, SCALE, 1)[0][0] + 3 * MARGIN for line in lines), default=0)
    panel = np.full((height, width, 3), PAPER, dtype=np.uint8)
    for row, line in enumerate(lines):
        place = (2 * MARGIN, (row + 1) * LINE - MARGIN)
        cv2.putText(panel, line, place, FONT, SCALE, INK, 1, cv2.LINE_AA)
    return panel
