"""The chosen patches pasted at their boxes: what an image is painted from, and which patch is where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.bank.bank import Bank
from pipelines.bank.segments import Decomposition, Segment
from pipelines.compose.guidance import Box, Guidance
from pipelines.compose.provenance import Origin, provenance
from pipelines.data.augment import Size, resize_image
from pipelines.data.scene import Schema

NONE = -1
"""The row of an object without a patch."""


def pixel_boxes(boxes: np.ndarray, size: Size) -> list[Box]:
    """(x, y, w, h) in whole pixels of an image of `size` (h, w), one at least, of boxes (n, 4) in parts of it."""
    h, w = size
    corners = np.rint(boxes.clip(0, 1) * (w, h, w, h)).astype(np.int64)
    low = np.minimum(corners[:, :2], (w - 1, h - 1))
    high = np.maximum(corners[:, 2:], low + 1)
    return [(int(x), int(y), int(w), int(h)) for (x, y), (w, h) in zip(low, high - low, strict=True)]


def paste(patches: Sequence[np.ndarray | None], boxes: Sequence[Box], size: Size) -> Guidance:
    """Patches (s, s, 3) uint8 resized to their boxes and pasted, the largest first, so that the smaller are on top.

    None leaves out an object's patch. What nobody painted is 0.
    """
    image = np.zeros((*size, 3), np.uint8)
    owner = np.full(size, -1, np.int32)
    for i in sorted(range(len(boxes)), key=lambda i: -boxes[i][2] * boxes[i][3]):
        x, y, w, h = boxes[i]
        if (patch := patches[i]) is not None:
            image[y : y + h, x : x + w] = resize_image(patch, (h, w))
            owner[y : y + h, x : x + w] = i
    return Guidance(image, owner)


def explain(
    bank: Bank,
    rows: np.ndarray,
    ranks: np.ndarray,
    pixels: np.ndarray,
    categories: np.ndarray,
    boxes: np.ndarray,
    size: Size,
    schema: Schema,
) -> tuple[Guidance, tuple[np.ndarray, list[dict[str, Any]]]]:
    """The guidance image of a graph's n objects, with the index image and the records of its provenance.

    rows: (n,) of the bank, NONE for none. ranks: (n,) see `origins`. pixels: (n, s, s, 3) uint8 of the patches.
    categories: (n,) class indices. boxes: (n, 4) in parts of the image.
    """
    placed = pixel_boxes(boxes, size)
    guidance = paste([None if row == NONE else patch for row, patch in zip(rows, pixels, strict=True)], placed, size)
    parts = decomposition(categories, placed, guidance.owner, schema)
    return guidance, provenance(guidance, parts, origins(bank, rows, ranks), schema.names)


def served(bank: Bank, rows: np.ndarray) -> list[dict[str, Any] | None]:
    """Of each object its patch, by row, id and source; None where it has none."""
    return [
        None if row == NONE else {"row": row, "id": f"{int(bank.ids[row]):016x}", "source": bank.source_of(row).id}
        for row in rows.tolist()
    ]


def decomposition(categories: np.ndarray, boxes: Sequence[Box], owner: np.ndarray, schema: Schema) -> Decomposition:
    """The objects of a graph as segments that are all of their boxes, as provenance knows pieces."""
    segments = tuple(
        Segment(category, bool(schema.things[category]), box, box[2] * box[3], 0)
        for category, box in zip(categories.tolist(), boxes, strict=True)
    )
    return Decomposition(owner, segments)


def origins(bank: Bank, rows: np.ndarray, ranks: np.ndarray) -> list[Origin | None]:
    """Where the patches of some rows come from, None for NONE. ranks: among the candidates of the index, 0 for none."""
    return [
        None
        if row == NONE
        else Origin(
            row=row,
            id=f"{int(bank.ids[row]):016x}",
            source=bank.source_of(row).id,
            licence=bank.source_of(row).licence,
            rank=rank,
            score=float("inf"),
        )
        for row, rank in zip(rows.tolist(), ranks.tolist(), strict=True)
    ]
