"""Exact nearest shapes under the geometric dissimilarity of RESAIL (section 3.1, eq. 2 to 4); lower is more alike.

    sigma(i, j) = sigma_scale + gamma * sigma_shape
    sigma_scale = 0 if min(|M_i|, |M_j|) / max(|M_i|, |M_j|) >= 0.5 else 1, of the areas |M| at the original resolution
    sigma_shape = |A xor B| / max(|A|, |B|), of the canonical masks A and B

The canonical mask is the mask cropped to its bounding box and resized to 128x128, its aspect ratio not kept.
Candidates are of the query's category; equal scores go to the lower row. The result is the one of the plain
definition, to the bit, whatever the number of threads: what is skipped has a lower bound above the k-th score.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from pipelines.data.transforms import nearest_indices, nearest_resize
from pipelines.errors import ArtifactError, ConfigError, DataError
from pipelines.index.shape_kernels import (
    BLOCK,
    BYTES,
    DETAILS,
    POOLS,
    SIDE,
    WORDS,
    Layout,
    Shapes,
    count_pixels,
    count_regions,
    search_queries,
)

CANONICAL = SIDE
_CHUNK = 4096  # masks that are in flight while an index is built
_LARGEST_AREA = 2**40  # pixels; twice that is compared in int64


@dataclass(frozen=True)
class ShapeScore:
    """gamma: weight of sigma_shape, finite and >= 0. strict: areas of exactly 1:2 cost 1, as in the authors' code."""

    gamma: float = 1.0
    strict: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(1 + 2 * self.gamma) and self.gamma >= 0):  # sigma_shape is at most 2
            raise ConfigError(f"gamma is {self.gamma}", where="gamma", fix="give a finite number of at least 0")


def canonical_mask(mask: np.ndarray) -> np.ndarray:
    """(128, 128) bool of a mask (h, w) bool that is cropped to its bounding box.

    Pixel (i, j) is the mask's (floor((i + 0.5) h / 128), floor((j + 0.5) w / 128)). Of a sparse mask larger than
    128 pixels no pixel may be left; two such masks are equal. Raises DataError if the mask itself has no pixel.
    """
    if not mask.any():
        raise DataError(f"a mask of {mask.shape} has no pixel", fix="leave empty segments out")
    return nearest_resize(mask.astype(bool), (CANONICAL, CANONICAL))


def pack_mask(canonical: np.ndarray) -> np.ndarray:
    """(2048,) uint8: the bits of a canonical mask row by row, the leftmost pixel in the highest bit of its byte."""
    return np.packbits(canonical.reshape(-1))


def packed_canonical(mask: np.ndarray) -> np.ndarray:
    """(2048,) uint8: pack_mask of the canonical mask of `mask` (h, w) bool, in a fraction of the time.

    Rows are repeated as packed bytes rather than pixels. Raises DataError if the mask has no pixel.
    """
    if not mask.any():
        raise DataError(f"a mask of {mask.shape} has no pixel", fix="leave empty segments out")
    rows, columns = (nearest_indices(side, CANONICAL) for side in mask.shape)
    if mask.shape[0] > CANONICAL:
        return np.packbits(mask.take(rows, 0).take(columns, 1), axis=1).reshape(-1)
    return np.packbits(mask.take(columns, 1), axis=1).take(rows, 0).reshape(-1)


def unpack_mask(packed: np.ndarray) -> np.ndarray:
    """The (128, 128) bool mask of pack_mask."""
    return np.unpackbits(packed).reshape(CANONICAL, CANONICAL).astype(bool)


def sigma_scale(area: int, other: int, *, strict: bool = False) -> float:
    """Eq. 2, of areas in pixels; 0 or 1."""
    small, large = sorted((int(area), int(other)))
    return 0.0 if 2 * small > large or (2 * small == large and not strict) else 1.0


def sigma_shape(a: np.ndarray, b: np.ndarray) -> float:
    """Eq. 3, of two binary masks of one size; in [0, 2]. 0 if neither has a pixel."""
    largest = max(np.count_nonzero(a), np.count_nonzero(b))
    return np.count_nonzero(a != b) / largest if largest else 0.0


def sigma(a: np.ndarray, b: np.ndarray, area: int, other: int, score: ShapeScore) -> float:
    """Eq. 4, of canonical masks a and b and their areas at the original resolution: what the search minimizes."""
    return sigma_scale(area, other, strict=score.strict) + score.gamma * sigma_shape(a, b)


@dataclass(frozen=True, eq=False)
class Batch:
    """q prepared queries. run(first, last) answers the queries order[first:last], once, and holds no GIL meanwhile.

    order: (q,) so that queries that read the same blocks follow each other. rows, scores: as `ShapeSearch.search`
    returns. work: (q, 4) int64, how many shapes were compared by their 4x4, 8x8 and 16x16 counts and pixel by pixel.
    """

    run: Callable[[int, int], None]
    order: np.ndarray
    rows: np.ndarray
    scores: np.ndarray
    work: np.ndarray


class ShapeSearch:
    """Shapes arranged for the search; about 2,360 bytes a row, less where canonical masks are equal.

    One arrangement serves every score: gamma and strict are of the search alone.
    """

    def __init__(
        self, masks: np.ndarray, areas: np.ndarray, categories: np.ndarray, score: ShapeScore | None = None
    ) -> None:
        """masks: (n, 2048) uint8 of pack_mask. areas: (n,) pixels at the original resolution. categories: (n,).

        Row i is the i-th of each. Raises DataError where they do not fit together or an area is below 1.
        """
        masks, areas, categories = _checked(masks, areas, categories)
        self.score = score or ShapeScore()
        self.layout, firsts = _arrange(masks, areas, categories)
        self.shapes = _gather(masks, firsts, self.layout.shape_start)

    def search(
        self,
        masks: np.ndarray,
        areas: np.ndarray,
        categories: np.ndarray,
        k: int,
        *,
        exclude: np.ndarray | None = None,
        keys: np.ndarray | None = None,
        threads: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k rows with the lowest (score, row) for each of q queries, given as in the constructor.

        keys: (n,) int64, one for each row; a query skips the rows whose key is its exclude (q,) int64, or none if that
        is -1. Row numbers as keys exclude the query itself, numbers of images or groups exclude all of its image or
        group. threads: all of the process's by default.
        Returns rows (q, k) int64, -1 where there are fewer candidates, and scores (q, k) float64, there inf.
        """
        batch = self.prepare(masks, areas, categories, k, exclude=exclude, keys=keys)
        count = len(batch.rows)
        threads = threads or _processors()
        chunk = min(max(count // (8 * threads), 1), 256)
        firsts = range(0, count, chunk)
        if threads == 1 or len(firsts) <= 1:
            for first in firsts:
                batch.run(first, first + chunk)
        else:
            with ThreadPoolExecutor(threads) as executor:
                list(executor.map(lambda first: batch.run(first, first + chunk), firsts))
        return batch.rows, batch.scores

    def prepare(
        self,
        masks: np.ndarray,
        areas: np.ndarray,
        categories: np.ndarray,
        k: int,
        *,
        exclude: np.ndarray | None = None,
        keys: np.ndarray | None = None,
    ) -> Batch:
        """The queries of `search`, checked and counted but not yet answered."""
        masks, areas, categories = _checked(masks, areas, categories)
        count = len(masks)
        if k < 1:
            raise ConfigError(f"k is {k}", where="k", fix="ask for at least one neighbor")
        if exclude is None:
            exclude = np.full(count, -1, dtype=np.int64)
        if keys is None:
            keys = np.empty(0, dtype=np.int64)
            if (exclude >= 0).any():
                raise ConfigError("rows are to be excluded, but they have no keys", fix="give a key for each row")
        elif len(keys) != len(self):
            raise ConfigError(f"{len(keys)} keys for {len(self)} rows", where="keys", fix="give one for each row")
        if len(exclude) != count:
            raise ConfigError(f"{len(exclude)} exclusions for {count} queries", where="exclude")
        exclude = np.ascontiguousarray(exclude, dtype=np.int64)
        keys = np.ascontiguousarray(keys, dtype=np.int64)
        pixels, _ = _fingerprints(masks)
        cells, pools = np.empty((count, DETAILS), dtype=np.uint8), np.empty((count, POOLS), dtype=np.uint16)
        count_regions(masks, cells, pools)
        queries = Shapes(_words(masks), pixels, cells, pools)
        rows = np.full((count, k), -1, dtype=np.int64)
        scores = np.full((count, k), np.inf)
        work = np.zeros((count, 4), dtype=np.int64)
        order = np.lexsort((pixels, _octaves(areas), categories))

        def run(first: int, last: int) -> None:
            search_queries(
                queries, areas, categories, exclude, order, first, min(last, count), self.shapes, self.layout, keys,
                float(self.score.gamma), bool(self.score.strict), rows, scores, work,
            )  # fmt: skip

        return Batch(run, order, rows, scores, work)

    def __len__(self) -> int:
        return len(self.layout.rows)

    @property
    def nbytes(self) -> int:
        """Bytes of all that a search reads."""
        return sum(array.nbytes for array in self.arrays().values())

    def arrays(self) -> dict[str, np.ndarray]:
        """All that from_arrays needs, by name; not copies."""
        return {**self.shapes._asdict(), **self.layout._asdict()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], score: ShapeScore | None = None) -> ShapeSearch:
        """Open what arrays() gave, without work. Raises ArtifactError where they cannot belong together."""
        made = cls.__new__(cls)
        made.score = score or ShapeScore()
        kinds = {"masks": np.uint64, "cells": np.uint8, "pools": np.uint16, "bucket_areas": np.int64, "areas": np.int64}
        found = {}
        for name in (*Shapes._fields, *Layout._fields):
            if name not in arrays:
                raise ArtifactError(f"the shape index lacks {name}", fix="build it again")
            kind = kinds.get(name, np.int32)
            if arrays[name].dtype != kind:
                raise ArtifactError(f"{name} of the shape index is {arrays[name].dtype}", fix="build it again")
            found[name] = np.require(arrays[name], requirements=["C", "A"])
        made.shapes = Shapes(*(found[name] for name in Shapes._fields))
        made.layout = Layout(*(found[name] for name in Layout._fields))
        _check_offsets(made.shapes, made.layout)
        return made


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _checked(masks: np.ndarray, areas: np.ndarray, categories: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if masks.ndim != 2 or masks.shape[1] != BYTES or masks.dtype != np.uint8:
        raise DataError(f"masks are {masks.dtype} {masks.shape}, not uint8 (n, {BYTES})", fix="use pack_mask")
    if not len(masks) == len(areas) == len(categories):
        raise DataError(f"{len(masks)} masks, {len(areas)} areas and {len(categories)} categories")
    areas = np.ascontiguousarray(areas, dtype=np.int64)
    if len(areas) and (areas.min() < 1 or areas.max() > _LARGEST_AREA):
        strange = int(np.flatnonzero((areas < 1) | (areas > _LARGEST_AREA))[0])
        raise DataError(f"the area of row {strange} is {areas[strange]}", fix="leave empty segments out")
    return (
        np.require(masks, requirements=["C"]),
        areas,
        np.ascontiguousarray(categories, dtype=np.int32),
    )


def _words(masks: np.ndarray) -> np.ndarray:
    return np.require(masks.view(np.uint64), requirements=["A"])


def _octaves(areas: np.ndarray) -> np.ndarray:
    """Number of the power of two at or below each area."""
    return np.frexp(areas.astype(np.float64))[1]


def _fingerprints(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Set pixels (n,) int32 and hashes (n,) uint64."""
    pixels, hashes = np.empty(len(masks), dtype=np.int32), np.empty(len(masks), dtype=np.uint64)
    factors = np.arange(1, 2 * WORDS, 2, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    count_pixels(_words(masks), factors, pixels, hashes)
    return pixels, hashes


def _arrange(masks: np.ndarray, areas: np.ndarray, categories: np.ndarray) -> tuple[Layout, np.ndarray]:
    """The layout, and for each of its shapes the first row that has it."""
    n = len(masks)
    pixels, hashes = _fingerprints(masks)
    octaves = _octaves(areas)
    rows = np.lexsort((hashes, pixels, octaves, categories))  # stable: equal masks keep ascending rows
    bucket = np.ones(n, dtype=bool)  # does a bucket begin here
    bucket[1:] = (np.diff(categories[rows]) != 0) | (np.diff(octaves[rows]) != 0)
    shape = bucket.copy()
    shape[1:] |= (hashes[rows[1:]] != hashes[rows[:-1]]) | (pixels[rows[1:]] != pixels[rows[:-1]])
    alike = np.flatnonzero(~shape)  # by hash; now by pixel
    for first in range(0, len(alike), _CHUNK):
        at = alike[first : first + _CHUNK]
        shape[at] = (masks[rows[at]] != masks[rows[at - 1]]).any(axis=1)

    firsts = np.flatnonzero(shape)
    begins = np.flatnonzero(bucket[firsts])  # first shape of each bucket
    sizes = np.diff(np.append(begins, len(firsts)))
    blocks = -(-sizes // BLOCK)
    within = np.arange(blocks.sum()) - np.repeat(np.cumsum(blocks) - blocks, blocks)
    shape_start = np.append(np.repeat(begins, blocks) + BLOCK * within, len(firsts))
    known, category_start = np.unique(categories[rows[firsts[begins]]], return_index=True)
    ordered = areas[rows]
    least, largest = (f.reduceat(ordered, firsts[begins]) if n else ordered for f in (np.minimum, np.maximum))
    layout = Layout(
        categories=known.astype(np.int32),
        bucket_start=np.append(category_start, len(begins)).astype(np.int32),
        bucket_areas=np.stack([least, largest], axis=1),
        block_start=np.append(0, np.cumsum(blocks)).astype(np.int32),
        shape_start=shape_start.astype(np.int32),
        member_start=np.append(firsts, n).astype(np.int32),
        rows=rows.astype(np.int32),
        areas=ordered,
    )
    return layout, rows[firsts]


def _gather(masks: np.ndarray, rows: np.ndarray, shape_start: np.ndarray) -> Shapes:
    """The shapes at these rows, their pools block by block."""
    m = len(rows)
    words, cells = np.empty((m, WORDS), dtype=np.uint64), np.empty((m, DETAILS), dtype=np.uint8)
    rowwise = np.empty((m, POOLS), dtype=np.uint16)
    for first in range(0, m, _CHUNK):
        here = slice(first, first + _CHUNK)
        packed = masks[rows[here]]
        words[here] = packed.view(np.uint64)
        count_regions(packed, cells[here], rowwise[here])
    pools = np.zeros(m * POOLS + BLOCK, dtype=np.uint16)
    for start, stop in zip(shape_start[:-1].tolist(), shape_start[1:].tolist(), strict=True):
        pools[start * POOLS : stop * POOLS] = rowwise[start:stop].T.ravel()
    return Shapes(words, rowwise.sum(axis=1, dtype=np.int32), cells, pools)


def _check_offsets(shapes: Shapes, layout: Layout) -> None:
    """Raise ArtifactError if a search could read outside of the arrays."""
    m, n = len(shapes.counts), len(layout.rows)
    chain = (
        (layout.bucket_start, len(layout.categories), len(layout.bucket_areas)),
        (layout.block_start, len(layout.bucket_areas), len(layout.shape_start) - 1),
        (layout.shape_start, len(layout.shape_start) - 1, m),
        (layout.member_start, m, n),
    )
    sound = all(
        len(start) == count + 1 and start[0] == 0 and start[-1] == total and (np.diff(start) > 0).all()
        for start, count, total in chain
    )
    sound = sound and bool(
        shapes.masks.shape == (m, WORDS)
        and shapes.cells.shape == (m, DETAILS)
        and shapes.pools.shape == (m * POOLS + BLOCK,)
        and layout.bucket_areas.shape[1:] == (2,)
        and layout.areas.shape == (n,)
        and (np.diff(layout.shape_start) <= BLOCK).all()
        and (n == 0 or (layout.rows.min() >= 0 and layout.rows.max() < n))
    )
    if not sound:
        raise ArtifactError("the arrays of the shape index do not belong together", fix="build it again")
