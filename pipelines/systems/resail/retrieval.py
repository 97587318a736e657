"""From segments to the pieces that guide them: the parametric-free half of RESAIL.

A layout is decomposed as the bank was; each segment gets a piece of its class, placed at its box; `compose` pastes
them by the paper's rules. In training the neighbors were searched beforehand; in synthesis the index is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from pipelines.bank.bank import Bank
from pipelines.bank.segments import Decompose, Decomposition, decompose
from pipelines.compose.guidance import Guidance, Piece, Placement, compose, cut
from pipelines.compose.provenance import Origin
from pipelines.data.scene import IGNORED, Schema
from pipelines.errors import ArtifactError
from pipelines.index.shape_index import ShapeIndex
from pipelines.index.shape_search import canonical_mask, pack_mask
from pipelines.systems.base import LayoutItem

NONE = -1
"""The row of a segment that has no piece."""


def decompose_like(bank: Bank, labels: np.ndarray, instances: np.ndarray | None, schema: Schema) -> Decomposition:
    """Cut a layout into segments by the settings that the bank was built with."""
    settings = Decompose.model_validate(bank.config["decompose"])
    return decompose(labels, instances, schema.things, settings)


def scenes_of_bank(bank: Bank, scene_ids: Sequence[str]) -> list[str]:
    """The scenes that the bank has, without those that it lists as unusable.

    Raises ArtifactError when it neither has nor lists one.
    """
    known = {source.id for source in bank.source_table}
    unusable = {str(entry["id"]) for entry in bank.artifact.statistics["bad"]}
    for scene_id in scene_ids:
        if scene_id not in known and scene_id not in unusable:
            raise _other_data(bank, "lacks", scene_id)
    return [scene_id for scene_id in scene_ids if scene_id in known]


def rows_of_scene(bank: Bank, scene_id: str, parts: Decomposition) -> np.ndarray:
    """(n,) the bank rows of a training scene's segments. Raises ArtifactError when the bank was cut from other data."""
    rows = bank.rows_of_source(scene_id)
    same = len(rows) == len(parts.segments) and all(
        int(bank.categories[row]) == segment.category and int(bank.areas[row]) == segment.area
        for row, segment in zip(rows, parts.segments, strict=True)
    )
    if not same:
        raise _other_data(bank, "holds other segments of", scene_id)
    return rows


def _other_data(bank: Bank, how: str, scene_id: str) -> ArtifactError:
    return ArtifactError(
        f"the bank {how} the training scene {scene_id}",
        where=bank.path,
        fix="build the bank from the split that is trained on, and its index after it",
    )


def excluded(bank: Bank, item: LayoutItem) -> np.ndarray:
    """(len(bank),) bool: the pieces that may not guide this layout."""
    if item.exclude is None:
        return np.zeros(len(bank), dtype=bool)
    by, name = item.exclude
    return bank.exclusion_keys(by) == bank.exclusion_key(by, name)


def search_rows(
    index: ShapeIndex, parts: Decomposition, k: int, exclude: tuple[Literal["source", "group"], str] | None
) -> tuple[np.ndarray, np.ndarray]:
    """(n, k) rows, NONE where there are fewer, and their scores: the nearest shapes of a layout's segments.

    exclude: («source» or «group», name) whose pieces may not be used.
    """
    if not parts.segments:
        return np.full((0, k), NONE), np.full((0, k), np.inf)
    masks = [_mask(parts, i) for i in range(len(parts.segments))]
    packed = np.stack([pack_mask(canonical_mask(mask)) for mask in masks])
    categories = np.array([s.category for s in parts.segments], dtype=np.int32)
    return index.search(packed, index.sizes(parts), categories, k, exclude=exclude)


def random_rows(bank: Bank, parts: Decomposition, rng: np.random.Generator, exclude: np.ndarray) -> np.ndarray:
    """(n,) a random row of each segment's class, NONE where the class has none. exclude: (len(bank),) bool."""
    rows = np.full(len(parts.segments), NONE, dtype=np.int64)
    allowed: dict[int, np.ndarray] = {}
    for i, segment in enumerate(parts.segments):
        if segment.category not in allowed:
            allowed[segment.category] = np.flatnonzero((bank.categories == segment.category) & ~exclude)
        if len(candidates := allowed[segment.category]):
            rows[i] = candidates[rng.integers(len(candidates))]
    return rows


def paste(bank: Bank, rows: np.ndarray, parts: Decomposition, labels: np.ndarray, schema: Schema) -> Guidance:
    """The guidance image: the piece of each row at the box of its segment. labels: (h, w), of the size of `parts`."""
    placements = [
        Placement(piece_of(bank, int(row)), segment.box) if row != NONE and segment.area else None
        for row, segment in zip(rows, parts.segments, strict=True)
    ]
    return compose(parts.owner, parts.things, parts.areas, foreground(labels, schema), placements)


def paste_own(image: np.ndarray, parts: Decomposition, labels: np.ndarray, schema: Schema) -> Guidance:
    """The guidance of perfect retrieval: each segment by itself, out of the layout's own photo."""
    placements = [
        Placement(cut(image, parts.owner, i, segment.box), segment.box) if segment.area else None
        for i, segment in enumerate(parts.segments)
    ]
    return compose(parts.owner, parts.things, parts.areas, foreground(labels, schema), placements)


def origins(bank: Bank, rows: np.ndarray, ranks: Sequence[int], scores: np.ndarray) -> list[Origin | None]:
    """Where the pieces of some rows come from; None for a segment without one."""
    return [
        None
        if row == NONE
        else Origin(
            row=int(row),
            id=f"{int(bank.ids[row]):016x}",
            source=bank.source_of(int(row)).id,
            licence=bank.source_of(int(row)).licence,
            rank=rank,
            score=float(score),
        )
        for row, rank, score in zip(rows, ranks, scores, strict=True)
    ]


def piece_of(bank: Bank, row: int) -> Piece:
    return Piece(bank.crop(row), bank.mask(row))


def foreground(labels: np.ndarray, schema: Schema) -> np.ndarray:
    """(h, w) bool: the label is of a thing class; ignored pixels count as background."""
    return schema.things[labels.clip(0)] & (labels != IGNORED)


def _mask(parts: Decomposition, i: int) -> np.ndarray:
    x, y, w, h = parts.segments[i].box
    return parts.owner[y : y + h, x : x + w] == i
