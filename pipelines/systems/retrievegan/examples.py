"""What a training or a synthesis of RetrieveGAN is fed with: pixels in memory, candidates, and every random draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.bank.bank import Bank
from pipelines.bank.patches import load_patches
from pipelines.data.augment import Size, resize_image
from pipelines.embed.graph_batch import join_graphs
from pipelines.errors import ArtifactError, DataError
from pipelines.systems.base import Batch, Sources
from pipelines.systems.retrievegan.guidance import NONE
from pipelines.systems.retrievegan.retrieval import gumbel

MEMORY = 512 * 2**20
"""Bytes of photos at the training size that a worker remembers."""

PADDING: dict[str, float] = {"own": NONE, "candidates": NONE, "picked": NONE, "ranks": 0}
"""What fills the places of objects that an image does not have; anything else is filled with 0."""


class Patches:
    """The pixels of a bank's patches at one size: decoded when they are first asked for, and then kept in memory.

    A hundred thousand of 32 pixels a side are 307 MB; those that nobody asks for take none.
    """

    def __init__(self, bank: Bank, side: int) -> None:
        self.bank, self.side = bank, side
        self._pixels = np.empty((len(bank), side, side, 3), np.uint8)
        self._there = np.zeros(len(bank), bool)

    def pixels(self, rows: np.ndarray) -> np.ndarray:
        """(n, side, side, 3) uint8 of rows (n,)."""
        missing = np.unique(rows[~self._there[rows]])
        if len(missing):
            self._pixels[missing] = load_patches(self.bank, (self.side, self.side), missing)
            self._there[missing] = True
        return self._pixels[rows]

    def __call__(self, rows: Tensor) -> Tensor:
        """(…, 3, side, side) in [-1, 1] of rows (…) of the bank, on their device; 0 where the row is NONE."""
        there = rows != NONE
        pixels = torch.from_numpy(self.pixels(rows[there].cpu().numpy())).to(rows.device)
        scaled = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
        patches = scaled.new_zeros(*rows.shape, 3, self.side, self.side)
        patches[there] = scaled
        return patches


class Photos:
    """Training photos at one size, read once and remembered as far as the memory goes."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self._known: dict[str, np.ndarray] = {}

    def read(self, sources: Sources, scene_id: str) -> np.ndarray:
        """(h, w, 3) uint8. Raises DataError where the scene has no image."""
        if scene_id in self._known:
            return self._known[scene_id]
        assert sources.dataset is not None
        image = sources.dataset.read(sources.record(scene_id)).image
        if image is None:
            raise DataError(f"the scene {scene_id} has no image", where=sources.dataset.root)
        image = resize_image(image, self.size)
        if (len(self._known) + 1) * image.nbytes <= MEMORY:
            self._known[scene_id] = image
        return image


def scenes_with_graphs(bank: Bank, scene_ids: Sequence[str], with_graph: Sequence[str]) -> list[str]:
    """The training scenes that make a graph. Raises ArtifactError when the bank was cut from other scenes."""
    known = {source.id for source in bank.source_table}
    known |= {str(entry["id"]) for entry in bank.artifact.statistics["bad"]}
    for scene_id in scene_ids:
        if scene_id not in known:
            raise ArtifactError(
                f"the bank lacks the training scene {scene_id}",
                where=bank.path,
                fix="build the bank from the split that is trained on, and its index after it",
            )
    usable = set(with_graph)
    return [scene_id for scene_id in scene_ids if scene_id in usable]


class Classes:
    """The rows of a bank by class, to draw of."""

    def __init__(self, bank: Bank) -> None:
        order = np.argsort(bank.categories, kind="stable")
        categories, starts = np.unique(bank.categories[order], return_index=True)
        self._rows = dict(zip(categories.tolist(), np.split(order, starts[1:]), strict=True))

    def rows(self, category: int, excluded: np.ndarray | None) -> np.ndarray:
        """(m,) int64 rows of a class, without those that are excluded: (len(bank),) bool."""
        rows = self._rows.get(category, np.zeros(0, np.int64))
        return rows if excluded is None else rows[~excluded[rows]]


def draw_noise(n: int, k: int, per_step: bool, rng: np.random.Generator) -> Tensor:
    """(t, n, k) Gumbel noise of a retrieval for n objects of k candidates each: t is n, or 1 where one draw is kept."""
    return gumbel((n if per_step else 1, n, k), rng)


def draw_row(candidates: np.ndarray, rng: np.random.Generator) -> int:
    """One of the candidates (…) that exist, all equally likely; NONE where none does."""
    there = candidates[candidates != NONE]
    return int(there[rng.integers(len(there))]) if len(there) else NONE


def collate(examples: Sequence[dict[str, Any]]) -> Batch:
    """A flat batch of graphs, as join_graphs makes it, and everything else padded to the image with most objects.

    Values that are no tensors become lists.
    """
    batch: Batch = dict(join_graphs([example["graph"] for example in examples]))
    for key in examples[0]:
        if key == "graph":
            continue
        values = [example[key] for example in examples]
        batch[key] = _padded(values, PADDING.get(key, 0)) if isinstance(values[0], Tensor) else values
    return batch


def _padded(values: Sequence[Tensor], fill: float) -> Tensor:
    """Tensors of one number of dimensions stacked, each dimension as long as the longest."""
    shape = [max(sides) for sides in zip(*(value.shape for value in values), strict=True)]
    stacked = values[0].new_full((len(values), *shape), fill)
    for place, value in zip(stacked, values, strict=True):
        place[tuple(slice(side) for side in value.shape)] = value
    return stacked
