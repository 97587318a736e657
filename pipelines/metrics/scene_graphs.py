"""The scene graphs that images were made of, and where their objects were put.

Predicted boxes are measured against those that the graph came with, and by the graph's own relations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.data.graph import SceneGraph, graphs_from_json
from pipelines.data.listing import read_json
from pipelines.data.relations import GEOMETRIC, relation
from pipelines.data.scene import Schema
from pipelines.errors import ArtifactError, RgsError
from pipelines.metrics.scores import Better, Context, NotComputed, Score, mean_of_images


@dataclass(frozen=True)
class Pick:
    """A piece of the bank that was picked for an object: its row, its id, and the image that it was cut from."""

    row: int
    id: str
    source: str


@dataclass(frozen=True)
class Made:
    """What one image was made of.

    graph: its boxes are those that were used. predicted: they were, or else they came with the graph. given: (n, 4)
    those that it came with, None where there were none. picks: what was picked for each object, None for nothing.
    """

    graph: SceneGraph
    predicted: bool
    given: np.ndarray | None
    picks: tuple[Pick | None, ...]

    @property
    def boxes(self) -> np.ndarray:
        assert self.graph.boxes is not None
        return self.graph.boxes


def read_made(path: Path, schema: Schema) -> Made:
    """The graph of a sample. Raises ArtifactError when it cannot be understood."""
    try:
        data = read_json(path)
        own = {key: data.pop(key) for key in ("used", "given", "patches")}
        ((_, graph),) = graphs_from_json(data, schema, str(path))
        n = len(graph)
        if own["used"] not in ("predicted", "given") or graph.boxes is None:
            raise ValueError("it does not say which boxes were used")
        given = None
        if own["given"] is not None:
            given = np.array(own["given"], np.float64).reshape(n, 4)
        picks = tuple(
            None if p is None else Pick(int(p["row"]), str(p["id"]), str(p["source"])) for p in own["patches"]
        )
        if len(picks) != n:
            raise ValueError(f"{n} objects and {len(picks)} patches")
    except (RgsError, KeyError, TypeError, ValueError, AttributeError) as error:
        what = error.what if isinstance(error, RgsError) else repr(error)
        raise ArtifactError(f"the graph of a sample cannot be read: {what}", where=path) from error
    return Made(graph, own["used"] == "predicted", given, picks)


def box_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n,) intersection over union of boxes (n, 4), each (x0, y0, x1, y1); 0 where both are empty."""
    low, high = np.maximum(boxes[:, :2], others[:, :2]), np.minimum(boxes[:, 2:], others[:, 2:])
    common = np.clip(high - low, 0, None).prod(axis=1, dtype=np.float64)
    areas = [np.clip(b[:, 2:] - b[:, :2], 0, None).prod(axis=1, dtype=np.float64) for b in (boxes, others)]
    union = areas[0] + areas[1] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def box_l1(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n,) mean absolute difference of the four coordinates."""
    return np.abs(boxes.astype(np.float64) - others).mean(axis=1)


def satisfied(relations: Sequence[tuple[int, int, int]], boxes: np.ndarray, predicates: Sequence[str]) -> np.ndarray:
    """(m,) bool: which of the geometric relations of a graph hold between boxes (n, 4), by the centers of these.

    predicates: what relations are numbers of. Others than the geometric ones are left out.
    """
    centers = (boxes[:, :2].astype(np.float64) + boxes[:, 2:]) / 2
    held = [
        GEOMETRIC[relation(boxes[s], centers[s], boxes[o], centers[o])] == predicates[p]
        for s, p, o in relations
        if predicates[p] in GEOMETRIC
    ]
    return np.array(held, bool)


BOX_SCORES: dict[str, tuple[str, Better, str]] = {
    "box_iou": ("Box IoU", "higher", "of predicted and given boxes: the mean over objects, then over images"),
    "box_l1": (
        "Box L1",
        "lower",
        "mean absolute difference of the four coordinates, in parts of the picture: over objects, then over images",
    ),
    "relations": (
        "Relations that hold",
        "higher",
        "share of the graph's geometric relations that hold between the predicted boxes and their centers: of an "
        "image, then over images; real: between the given boxes (a graph's own relations are between centers of masks)",
    ),
}
"""Title, which way is better, and protocol."""


def box_scores(made: Sequence[Made], schema: Schema, context: Context) -> list[Score | NotComputed]:
    """Predicted boxes against those that the graphs came with, and by the relations of the graphs."""
    if not all(one.predicted for one in made):
        return [NotComputed(name, "the boxes were given, not predicted") for name in BOX_SCORES]

    def mean(one: Made, measure: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> float | None:
        return None if one.given is None else float(measure(one.boxes, one.given).mean())

    def share(one: Made, boxes: np.ndarray | None) -> float | None:
        held = np.zeros(0) if boxes is None else satisfied(one.graph.relations, boxes, schema.relations)
        return float(held.mean()) if len(held) else None

    found = [
        mean_of_images(
            name,
            *BOX_SCORES[name],
            [mean(one, measure) for one in made],
            context,
            why="the graphs came without boxes to compare with",
        )
        for name, measure in (("box_iou", box_iou), ("box_l1", box_l1))
    ]
    held = mean_of_images(
        "relations",
        *BOX_SCORES["relations"],
        [share(one, one.boxes) for one in made],
        context,
        reals=[share(one, one.given) for one in first_of_each(made, context)],
        why="no graph has a geometric relation",
    )
    return [*found, held]


def first_of_each(made: Sequence[Made], context: Context) -> list[Made]:
    """The first image of each graph."""
    return [made[i] for i in np.unique(context.owners, return_index=True)[1].tolist()]
