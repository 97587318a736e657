"""Decomposition of a label map into segments: I, M = {(M_i, y_i, I_i)} (RESAIL supplement, eq. 1).

A segment is one instance of a thing or one 8-connected component of a class. Nothing here reads or writes a
bank; it is integer arithmetic on maps.

Everything is done on runs, the maximal horizontal stretches of pixels that belong together: a map of half a
million pixels has some ten thousand of them, and every class and instance is handled in the same pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from pydantic import Field

from pipelines.config import Config
from pipelines.data.scene import IGNORED
from pipelines.data.transforms import nearest_resize
from pipelines.errors import DataError


class Decompose(Config):
    """How a label map is cut into segments."""

    stuff: Literal["components", "largest"] = "components"
    """Every 8-connected component of a stuff class is a segment, or only its largest one."""
    preserved_ratio: float = Field(default=0.9, gt=0, le=1)
    """Of each class keep the largest segments until they cover this share of its area; 1 keeps all."""
    preserve_things: bool = False
    """Keep every thing, however small; the ratio then rules stuff alone."""
    min_area: int = Field(default=1, ge=1)
    """Leave out segments of fewer pixels than this, things too."""


@dataclass(frozen=True)
class Segment:
    """One segment. category: class index. box: (x, y, w, h) in pixels. area: pixels of its mask M_i.

    instance: id in the instance map; 0 for stuff and for things that nobody annotated one by one.
    """

    category: int
    thing: bool
    box: tuple[int, int, int, int]
    area: int
    instance: int


@dataclass(frozen=True)
class Decomposition:
    """The segments of one map; owner: (h, w) int32, the index of the segment that owns a pixel, -1 for none.

    Ordered by class index, then by first pixel in scan order; values of instance ids play no part.
    """

    owner: np.ndarray
    segments: tuple[Segment, ...]

    @cached_property
    def things(self) -> np.ndarray:
        """(n,) bool: is segment i a thing."""
        return np.array([s.thing for s in self.segments], dtype=bool)

    @cached_property
    def areas(self) -> np.ndarray:
        """(n,) int64: pixels of segment i."""
        return np.array([s.area for s in self.segments], dtype=np.int64)


def decompose(labels: np.ndarray, instances: np.ndarray | None, things: np.ndarray, config: Decompose) -> Decomposition:
    """Cut a map into segments.

    labels: (h, w) class indices, IGNORED where there is none. instances: (h, w) ids >= 0, 0 for none, or None.
    things: (C,) bool by class index. An instance is the pixels of one id and one thing class, connected or not:
    an id that spans two classes gives a segment of each, an id on stuff says nothing. Pixels of a thing class
    without id become 8-connected components that still count as things (Cityscapes' group regions).
    Raises DataError where the maps differ in size or hold a class that `things` lacks.
    """
    h, w = labels.shape
    if instances is not None and instances.shape != labels.shape:
        raise DataError(
            f"the label map is {h}x{w} but the instance map {instances.shape[0]}x{instances.shape[1]}",
            fix="give both maps the size of the image",
        )
    starts, lengths = _runs(labels) if instances is None else _runs(labels, instances)
    category = labels.ravel()[starts].astype(np.int64)
    if category.max() >= len(things):
        raise DataError(f"class index {category.max()} is outside the {len(things)} classes of the schema")
    if instances is None:
        instance = np.zeros(len(starts), dtype=np.int64)
    else:
        countable = (category != IGNORED) & things[category]
        instance = np.where(countable, instances.ravel()[starts].astype(np.int64), 0)

    root = _join(starts, lengths, category + len(things) * instance, instance > 0, (h, w))
    roots = np.flatnonzero((root == np.arange(len(root))) & (category != IGNORED))
    roots = roots[np.argsort(category[roots], kind="stable")]
    number = np.full(len(starts), -1)
    number[roots] = np.arange(len(roots))
    number = number[root]
    boxes, areas = _extents(number, starts, lengths, w, len(roots))

    keep = _kept(category[roots], areas, things, config)
    renumber = np.append(np.where(keep, np.cumsum(keep) - 1, -1), -1).astype(np.int32)  # -1 stays -1
    segments = tuple(
        Segment(c, t, (x, y, bw, bh), area, i)
        for c, t, (x, y, bw, bh), area, i in zip(
            category[roots][keep].tolist(),
            things[category[roots]][keep].tolist(),
            boxes[keep].tolist(),
            areas[keep].tolist(),
            instance[roots][keep].tolist(),
            strict=True,
        )
    )
    return Decomposition(np.repeat(renumber[number], lengths).reshape(h, w), segments)


def resize_owner(owner: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize an ownership map to `size` = (h, w), aligned with labels resized by `nearest_resize`."""
    return nearest_resize(owner, size)


def segment_boxes(owner: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (count, 4) int64 as (x, y, w, h) and areas (count,) int64 of the indices 0..count-1 in `owner`.

    An index that owns no pixel (it vanished in a resize or a crop) has area 0 and box (0, 0, 0, 0).
    """
    starts, lengths = _runs(owner)
    return _extents(owner.ravel()[starts], starts, lengths, owner.shape[1], count)


def reframe(decomposition: Decomposition, owner: np.ndarray) -> Decomposition:
    """The same segments, seen on a resized, cropped or flipped `owner`: indices stay, boxes and areas are new."""
    boxes, areas = segment_boxes(owner, len(decomposition.segments))
    segments = tuple(
        Segment(s.category, s.thing, (x, y, w, h), area, s.instance)
        for s, (x, y, w, h), area in zip(decomposition.segments, boxes.tolist(), areas.tolist(), strict=True)
    )
    return Decomposition(owner, segments)


def _runs(*maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flat start and length of each stretch within a row on which every map is constant."""
    h, w = maps[0].shape
    change = np.zeros(h * w, dtype=bool)
    change[::w] = True
    for values in maps:
        flat = values.ravel()
        change[1:] |= flat[1:] != flat[:-1]
    starts = np.flatnonzero(change)
    return starts, np.diff(starts, append=h * w)


def _join(
    starts: np.ndarray,
    lengths: np.ndarray,
    key: np.ndarray,
    annotated: np.ndarray,
    shape: tuple[int, int],
) -> np.ndarray:
    """For each run the first run of its segment: 8-connected runs of one key, and all runs of one annotated key.

    Two runs in neighboring rows touch exactly if one of them starts over, under or one past the end of the other,
    so four look-ups at every start find all contacts; the fifth finds a run of the same key to the left.
    """
    h, w = shape
    run_at = np.repeat(np.arange(len(starts)), lengths)
    y, x = np.divmod(starts, w)
    ones, others = [], []
    for dy, dx in ((0, -1), (-1, -1), (-1, 0), (1, -1), (1, 0)):
        here = np.flatnonzero((x + dx >= 0) & (y + dy >= 0) & (y + dy < h))
        there = run_at[starts[here] + dy * w + dx]
        same = key[here] == key[there]
        ones.append(here[same])
        others.append(there[same])
    labeled = np.flatnonzero(annotated)
    _, first, inverse = np.unique(key[labeled], return_index=True, return_inverse=True)
    ones.append(labeled)
    others.append(labeled[first[inverse]])
    return _components(len(starts), np.concatenate(ones), np.concatenate(others))


def _components(count: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The smallest node of each node's connected component, for the edges a[i]-b[i] between `count` nodes.

    Hooking and pointer jumping: every round hangs roots under smaller neighbors, then flattens the trees.
    """
    root = np.arange(count)
    while True:
        low, high = np.minimum(root[a], root[b]), np.maximum(root[a], root[b])
        open_ = low != high
        if not open_.any():
            return root
        a, b = low[open_], high[open_]
        np.minimum.at(root, b, a)
        while not np.array_equal(above := root[root], root):
            root = above


def _extents(
    number: np.ndarray, starts: np.ndarray, lengths: np.ndarray, w: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (count, 4) and areas (count,) of the segments whose runs are numbered by `number` (-1: of none)."""
    owned = number >= 0
    number, starts, lengths = number[owned], starts[owned], lengths[owned]
    y, x = np.divmod(starts, w)
    areas = np.bincount(number, weights=lengths, minlength=count).astype(np.int64)
    low = np.full((2, count), np.iinfo(np.int64).max)
    high = np.zeros((2, count), dtype=np.int64)
    np.minimum.at(low[0], number, x)
    np.minimum.at(low[1], number, y)
    np.maximum.at(high[0], number, x + lengths)
    np.maximum.at(high[1], number, y + 1)
    low[:, areas == 0] = 0
    return np.concatenate([low, high - low]).T, areas


def _kept(category: np.ndarray, areas: np.ndarray, things: np.ndarray, config: Decompose) -> np.ndarray:
    """Which segments, given in order of class and scan, the config keeps.

    By descending area (ties: scan order), a segment is kept if those before it cover less than the ratio.
    """
    order = np.lexsort((-areas, category))  # stable: ties stay in scan order
    sorted_areas, sorted_class = areas[order], category[order]
    first = np.searchsorted(sorted_class, sorted_class)  # where the class of each entry begins
    before = np.cumsum(sorted_areas) - sorted_areas
    total = np.bincount(category, weights=areas, minlength=len(things))
    ruled = before - before[first] < config.preserved_ratio * total[sorted_class]
    if config.preserve_things:
        ruled |= things[sorted_class]
    if config.stuff == "largest":
        ruled &= things[sorted_class] | (np.arange(len(order)) == first)
    kept = np.zeros(len(areas), dtype=bool)
    kept[order] = ruled & (sorted_areas >= config.min_area)
    return kept
