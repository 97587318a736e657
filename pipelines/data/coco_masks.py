"""COCO's segmentations to masks.

pycocotools rasterizes polygons. Run lengths are decoded here, because its decoder (2.0.11) leaves uninitialized
memory in the mask where they end too early.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from pipelines.errors import DataError


def segment_mask(segmentation: Any, height: int, width: int, where: str) -> np.ndarray:
    """Rasterize polygons, an uncompressed RLE or a compressed one to (h, w) bool. No polygon is an empty mask.

    Raises DataError on malformed segmentations and on an RLE of another size or length than the image.
    """
    try:
        if isinstance(segmentation, list):
            return _polygons(segmentation, height, width)
        return _rle(segmentation, height, width)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"a segmentation is malformed ({error})", where=where, fix="annotate it again") from error


def _polygons(polygons: list[Any], height: int, width: int) -> np.ndarray:
    if not polygons:
        return np.zeros((height, width), dtype=bool)
    for polygon in polygons:
        points = np.asarray(polygon, dtype=np.float64)
        if points.ndim != 1 or len(points) < 6 or len(points) % 2:
            raise ValueError(f"a polygon has {points.size} numbers, not three points x, y or more")
        if not (np.abs(points) <= 4 * max(height, width)).all():
            raise ValueError("a polygon lies far outside the image")
    parts = coco_mask.frPyObjects([[float(v) for v in polygon] for polygon in polygons], height, width)
    return coco_mask.decode(coco_mask.merge(parts)).astype(bool)


def _rle(rle: Any, height: int, width: int) -> np.ndarray:
    if list(rle["size"]) != [height, width]:
        raise ValueError(f"an RLE is of the size {rle['size']} (height, width), the image of {[height, width]}")
    counts = rle["counts"]
    if isinstance(counts, str | bytes):
        text = counts.encode("ascii") if isinstance(counts, str) else counts
        runs = run_lengths(text)
    else:
        runs = [int(count) for count in counts]
    if any(run < 0 for run in runs) or sum(runs) != height * width:
        raise ValueError(f"an RLE has runs of {sum(runs)} pixels in all, the image {height * width}")
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return values.reshape(width, height).T  # COCO runs down the columns


def run_lengths(text: bytes) -> list[int]:
    """Decode COCO's compressed counts: 6-bit characters from '0', 5 bits and a continuation each, low bits first; from
    the third run on, the difference to the run before last."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        code = character - 48
        if not 0 <= code < 64 or shift > 60:
            raise ValueError("an RLE has a character that does not belong there")
        value |= (code & 0x1F) << shift
        shift += 5
        if not code & 0x20:
            if code & 0x10:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("an RLE is cut off")
    return runs
