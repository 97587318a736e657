"""Retrieval on its own, before any generator: how well the pieces fit the segments that they were found for.

Samples keep their layouts, which piece fed which pixel, and a record per piece. The mask of a segment is read back
from these: the pixels of its class within its box that no other segment's piece fed. It differs from the segment
only where another segment of the class reaches into the box with pixels that no piece covers (on cmp_facades at 64
pixels 1 segment in 50 does).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.data.transforms import nearest_resize
from pipelines.errors import ArtifactError
from pipelines.metrics.intervals import bootstrap, sums_by_layout
from pipelines.metrics.scores import Better, Context, NotComputed, Score

RECORDS = "provenance.jsonl"

QUERY = "a segment: the pixels of its class in its box that no other segment's piece fed"


@dataclass(frozen=True)
class Placed:
    """One piece of a sample. box: (x, y, w, h) of its segment in pixels of the image. score: under the index.

    number: which value of the provenance image is its own. pixels: how many it fed. row: in the bank.
    """

    number: int
    category: int
    box: tuple[int, int, int, int]
    row: int
    source: str
    score: float
    pixels: int

    @property
    def window(self) -> tuple[slice, slice]:
        x, y, w, h = self.box
        return np.s_[y : y + h, x : x + w]


@dataclass(frozen=True)
class Fit:
    """How the pieces of one image fit. Lists have an entry per placed piece.

    iou: NaN where the segment has no pixel at the image's size. pixels: of each segment. covered, labelled: pixels
    of the layout that a piece fed, and that have a class. without: segments of classes that the bank lacks.
    """

    sigma: np.ndarray
    iou: np.ndarray
    pixels: np.ndarray
    sources: tuple[str, ...]
    covered: int
    labelled: int
    without: int


def read_pieces(samples: Path, names: Sequence[str]) -> dict[str, list[Placed]]:
    """The pieces of each image by its name. `names`: of the classes. Raises ArtifactError for an unreadable list."""
    file = samples / RECORDS
    found: dict[str, list[Placed]] = {}
    try:
        for line in file.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            found[entry["name"]] = [
                Placed(
                    number,
                    names.index(piece["category"]),
                    (piece["box"][0], piece["box"][1], piece["box"][2], piece["box"][3]),
                    int(piece["bank_row"]),
                    str(piece["source"]),
                    math.inf if piece["score"] is None else float(piece["score"]),
                    int(piece["pixels"]),
                )
                for number, piece in enumerate(entry["pieces"], start=1)
            ]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ArtifactError(f"the records of pieces cannot be read: {error!r}", where=file) from error
    return found


def query_masks(labels: np.ndarray, index: np.ndarray, pieces: Sequence[Placed]) -> list[np.ndarray]:
    """The mask of each piece's segment, within its box.

    labels: (h, w) class indices. index: (h, w), the number of the piece that fed a pixel, 0 for none.
    """
    classes = np.array([-2, *(piece.category for piece in pieces)])
    fed = classes[index]
    masks = []
    for piece in pieces:
        own = labels[piece.window] == piece.category
        others = (fed[piece.window] == piece.category) & (index[piece.window] != piece.number)
        masks.append(own & ~others)
    return masks


def intersection_over_union(query: np.ndarray, piece: np.ndarray) -> float:
    """IoU of a segment's mask (h, w) and its piece's mask, resized to (h, w) by nearest neighbor; NaN for no query."""
    if not query.any():
        return float("nan")
    fitted = nearest_resize(piece, (query.shape[0], query.shape[1]))
    return float((query & fitted).sum() / (query | fitted).sum())


def fit(
    labels: np.ndarray,
    index: np.ndarray,
    pieces: Sequence[Placed],
    masks: Mapping[int, np.ndarray],
    segments: Sequence[int],
) -> Fit:
    """How the pieces of one image fit its layout.

    labels, index: as `query_masks`. masks: (h, w) bool of the bank's pieces by row. segments: the class of each
    segment of the layout as the bank would cut it; those of classes without any piece are counted as without.
    """
    queries = query_masks(labels, index, pieces)
    present = {piece.category for piece in pieces}
    return Fit(
        sigma=np.array([piece.score for piece in pieces], np.float64),
        iou=np.array([intersection_over_union(q, masks[p.row]) for q, p in zip(queries, pieces, strict=True)]),
        pixels=np.array([query.sum() for query in queries], np.int64),
        sources=tuple(piece.source for piece in pieces),
        covered=int(((index > 0) & (labels >= 0)).sum()),
        labelled=int((labels >= 0).sum()),
        without=sum(category not in present for category in segments),
    )


def mean_over_pieces(values: np.ndarray, weights: np.ndarray | None = None) -> float | None:
    """Mean of what is finite, None if nothing is (a random piece has no sigma)."""
    known = np.isfinite(values)
    if weights is not None:
        known &= weights > 0
    if not known.any():
        return None
    return float(np.average(values[known], weights=None if weights is None else weights[known]))


def scores(fits: Sequence[Fit], context: Context, **protocol: Any) -> tuple[list[Score], list[NotComputed]]:
    """The fits of all images, in their order, as scores. protocol: what they share beside the context, the bank."""
    of_pieces = "mean over the pieces of an image, then over the images"
    made: list[Score] = []
    missing: list[NotComputed] = []

    def add(name: str, title: str, better: Better, variant: str, values: Sequence[float | None]) -> None:
        own = {"variant": variant, "library": f"numpy {np.__version__}", **protocol}
        found = mean_score(f"retrieval/{name}", title, better, values, context, own)
        if found is None:
            missing.append(NotComputed(f"retrieval/{name}", "no image has a piece with such a number"))
        else:
            made.append(found)

    sigma = "sigma_scale + gamma sigma_shape (RESAIL eq. 2 to 4) as the index found it"
    add("sigma", "Mean sigma", "lower", f"{sigma}; {of_pieces}", [mean_over_pieces(f.sigma) for f in fits])
    weighted = [mean_over_pieces(f.sigma, f.pixels) for f in fits]
    add("sigma_by_pixels", "Mean sigma by pixels", "lower", f"{sigma}, weighed by the segments' pixels", weighted)
    iou = f"of a segment's mask and its piece's, resized to the segment's box at the image's size; {QUERY}; {of_pieces}"
    add("iou", "IoU of piece and segment", "higher", iou, [mean_over_pieces(f.iou) for f in fits])
    covered = [f.covered / f.labelled if f.labelled else None for f in fits]
    add("coverage", "Layout covered by pieces", "higher", "share of the labelled pixels that a piece fed", covered)
    count = [len(f.iou) + f.without for f in fits]
    without = [f.without / n if n else None for f, n in zip(fits, count, strict=True)]
    add(
        "without",
        "Segments without a piece",
        "lower",
        "share of a layout's segments, whose classes the bank lacks",
        without,
    )
    each = [float(len(set(f.sources))) for f in fits]
    add("sources", "Source photos per image", "neither", "distinct photos whose pieces were placed in an image", each)
    own = {"variant": "distinct photos whose pieces were placed in any image", **protocol, **context.common}
    total = float(len({source for f in fits for source in f.sources}))
    made.append(Score("retrieval/sources_of_all", "Source photos of all images", total, "neither", own))
    return made, missing


def mean_score(
    name: str,
    title: str,
    better: Better,
    values: Sequence[float | None],
    context: Context,
    own: Mapping[str, Any],
    on_real: float | None = None,
) -> Score | None:
    """The mean over the images that have a value, bootstrapped over layouts; None where none has."""
    known = np.array([value is not None for value in values])
    if not known.any():
        return None
    column = np.array([value or 0.0 for value in values])
    rows = sums_by_layout(np.stack([column, known], axis=1), context.owners, context.layouts)

    def mean(sums: np.ndarray) -> np.ndarray:
        return np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0)

    interval = bootstrap(rows, mean, context.seed)
    protocol = context.protocol(interval, **own)
    if not known.all():
        protocol["images with a value"] = int(known.sum())
    value = math.fsum(column) / int(known.sum())
    return Score(name, title, value, better, protocol, "", on_real, list(values), None, interval.ends)
