"""The objects of an annotated image, as scene graphs know them: class, box and centre."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from pipelines.data.scene import Scene, SceneObject, Schema
from pipelines.errors import DataError

MASK_SIDE = 16
"""Cells across the mask of a box from which its centre is computed (sg2im)."""


@dataclass(frozen=True)
class GraphObject:
    """One object. category: class index. box: (x0, y0, x1, y1) and centre: (x, y) in parts of the picture.

    ordinal: its place among all objects of its scene, small ones too, so that it does not depend on settings.
    """

    category: int
    box: tuple[float, float, float, float]
    centre: tuple[float, float]
    ordinal: int


@dataclass(frozen=True)
class _Found:
    """An object and where its mask is: an id of the instance map, or 0 for its class in the label map."""

    category: int
    box: tuple[float, float, float, float]  # x, y, w, h in pixels
    instance: int


def scene_objects(scene: Scene, schema: Schema, min_area: float) -> list[GraphObject]:
    """The objects of a scene whose boxes cover strictly more than `min_area` of it.

    First the annotated objects, in their order, crowds too. Then of each class of the label map of which none is
    annotated, in the order of the schema, its instances, or where it has none one object over all its pixels, as
    COCO-Stuff has it. A box is clipped to the image. Its centre is that of the object's pixels inside it (on a mask of
    16 x 16 cells, as in sg2im), or that of the box where it has none or the scene has no maps. Raises DataError where
    the size of the scene is unknown or a category is outside the schema.
    """
    height, width = size_of(scene)
    objects = []
    for ordinal, found in enumerate(_found(scene)):
        if not 0 <= found.category < len(schema.classes):
            raise DataError(
                f"class index {found.category} is outside the {len(schema.classes)} classes", where=scene.id
            )
        x, y, w, h = found.box
        x0, y0, x1, y1 = max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))
        # the share is of pixels, since those are exact: 6,144 of 640 x 480 are not more than 0.02
        if x1 > x0 and y1 > y0 and (x1 - x0) * (y1 - y0) / (width * height) > min_area:
            box = (x0 / width, y0 / height, x1 / width, y1 / height)
            cells = _mask(scene, found, (x0, y0, x1, y1))
            objects.append(GraphObject(found.category, box, _centre(cells, box), ordinal))
    return objects


def size_of(scene: Scene) -> tuple[int, int]:
    """Height and width of a scene. Raises DataError where it has neither a picture nor annotations that tell."""
    for layer in (scene.image, scene.labels, scene.instances):
        if layer is not None:
            return layer.shape[0], layer.shape[1]
    if "size" in scene.record.extra:
        height, width = scene.record.extra["size"]
        return int(height), int(width)
    raise DataError("the scene has objects, but neither a picture nor a size", where=scene.id)


def _found(scene: Scene) -> Iterator[_Found]:
    annotated: tuple[SceneObject, ...] = scene.record.objects
    for item in annotated:
        yield _Found(item.category, item.box, item.instance)
    if scene.labels is None:
        return
    with_objects = {item.category for item in annotated}
    for category in np.unique(scene.labels[scene.labels >= 0]).tolist():
        if category in with_objects:
            continue
        mask = scene.labels == category
        ids = [] if scene.instances is None else np.unique(scene.instances[mask & (scene.instances > 0)]).tolist()
        for instance in ids:
            assert scene.instances is not None
            yield _Found(category, _box(mask & (scene.instances == instance)), instance)
        if not ids:
            yield _Found(category, _box(mask), 0)


def _box(mask: np.ndarray) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y = float(columns[0]), float(rows[0])
    return x, y, float(columns[-1]) + 1 - x, float(rows[-1]) + 1 - y


def _mask(scene: Scene, found: _Found, box: tuple[float, float, float, float]) -> np.ndarray | None:
    """The object's pixels in its rounded box, at least one pixel wide and high: (16, 16) bool, None without maps."""
    if found.instance and scene.instances is not None:
        values, wanted = scene.instances, found.instance
    elif scene.labels is not None:
        values, wanted = scene.labels, found.category
    else:
        return None
    height, width = values.shape
    left, top = min(round(box[0]), width - 1), min(round(box[1]), height - 1)
    right, bottom = max(round(box[2]), left + 1), max(round(box[3]), top + 1)
    mask = (values[top:bottom, left:right] == wanted).astype(np.float32)
    resized: np.ndarray = cv2.resize(mask, (MASK_SIDE, MASK_SIDE), interpolation=cv2.INTER_LINEAR)
    return resized > 128 / 255


def _centre(mask: np.ndarray | None, box: tuple[float, float, float, float]) -> tuple[float, float]:
    x0, y0, x1, y1 = box
    if mask is None or not mask.any():
        return (x0 + x1) / 2, (y0 + y1) / 2
    rows, columns = np.nonzero(mask)
    return float(np.linspace(x0, x1, MASK_SIDE)[columns].mean()), float(np.linspace(y0, y1, MASK_SIDE)[rows].mean())
