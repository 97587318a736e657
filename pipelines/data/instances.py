"""Instance maps: the encodings on disk to unique int32 ids per thing, 0 for none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np

from pipelines.data.scene import IGNORED, Schema
from pipelines.errors import DataError

InstanceEncoding = Literal["class1000", "index"]
"""class1000: value = class id * 1000 + k for a thing, the plain class id elsewhere. index: value = number, 0 none."""


def decode_instances(
    values: np.ndarray,
    labels: np.ndarray,
    schema: Schema,
    encoding: str,
    where: str | Path,
    crowd: Sequence[int] = (),
) -> np.ndarray:
    """Decode a stored instance map (h, w) beside its class indices (h, w) to int32 ids, 0 where no single thing is.

    crowd: stored values of regions that hold many things, so are no instance. An id is the stored value. Raises
    DataError where an instance lies on two classes or, in class1000, on a class that is not its own; a region of stuff
    or of ignored pixels has no instance.
    """
    require_encoding(encoding, schema, where)
    values = values.astype(np.int32)
    if encoding == "class1000":
        values = np.where(values >= 1000, values, 0)
    present, areas = _areas(values, labels, len(schema.classes))
    classes = areas > 0
    spanning = np.flatnonzero((classes.sum(axis=1) > 1) & (present > 0))
    if len(spanning):
        row = spanning[0]
        parts = ", ".join(f"{schema.names[c]} ({areas[row, c]} px)" for c in np.flatnonzero(classes[row]))
        raise DataError(
            f"instance {present[row]} lies on several classes: {parts}",
            where=where,
            fix="give every instance one class",
        )
    owner = np.where(classes.any(axis=1), areas.argmax(axis=1), IGNORED)
    if encoding == "class1000":
        strange = np.flatnonzero((present >= 1000) & (owner != IGNORED) & (schema.ids[owner] != present // 1000))
        if len(strange):
            row = strange[0]
            raise DataError(
                f"instance {present[row]} is of the class id {present[row] // 1000} but lies on"
                f" {schema.names[owner[row]]} ({areas[row].sum()} px)",
                where=where,
                fix="make the instance map agree with the label map",
            )
    single = (owner != IGNORED) & schema.things[owner] & ~np.isin(present, [0, *crowd])
    kept = np.zeros(int(present[-1]) + 1, dtype=np.int32)
    kept[present[single]] = present[single]
    return np.where(labels == IGNORED, 0, kept[values])


def require_encoding(encoding: str, schema: Schema, where: str | Path) -> None:
    """Raise DataError on an unknown encoding, or on class1000 where class ids leave it ambiguous."""
    if encoding not in get_args(InstanceEncoding):
        known = " or ".join(get_args(InstanceEncoding))
        raise DataError(f"the instance encoding {encoding!r} is unknown", where=where, fix=f"it is {known}")
    if encoding == "class1000":
        for category in schema.classes:
            if category.id >= 1000 or (category.thing and category.id < 1):
                raise DataError(
                    f"class1000 cannot encode the class {category.name} with the id {category.id}",
                    where=where,
                    fix="use ids below 1000, above 0 for things, or the index encoding",
                )


def connected_instances(labels: np.ndarray, schema: Schema) -> np.ndarray:
    """Number the 8-connected components of every thing class in class indices (h, w): int32 ids 1..N, 0 elsewhere."""
    instances = np.zeros(labels.shape, dtype=np.int32)
    count = 0
    for index in np.flatnonzero(schema.things):
        mask = labels == index
        if mask.any():
            found, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
            instances[mask] = parts[mask] + count
            count += found - 1
    return instances


def _areas(values: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The values present, ascending (n,), and their pixels on each class (n, classes), ignored pixels left out."""
    present = np.flatnonzero(np.bincount(values.ravel()))
    rank = np.zeros(int(present[-1]) + 1, dtype=np.int64)
    rank[present] = np.arange(len(present))
    pairs = rank[values] * (classes + 1) + labels + 1
    areas = np.bincount(pairs.ravel(), minlength=len(present) * (classes + 1)).reshape(len(present), -1)
    return present, areas[:, 1:]
