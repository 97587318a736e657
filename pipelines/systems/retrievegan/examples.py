"""What a training or a synthesis of RetrieveGAN is fed with: pixels in memory, candidates, and every random draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.bank.bank import Bank, Exclusion
from pipelines.bank.patches import load_patches
from pipelines.data.augment import Size, resize_image
from pipelines.embed.graph_batch import join_graphs
from pipelines.errors import ArtifactError, DataError
from pipelines.systems.base import Batch, Sources
from pipelines.systems.retrievegan.config import RetrieveganConfig
from pipelines.systems.retrievegan.guidance import NONE
from pipelines.systems.retrievegan.retrieval import gumbel

MEMORY = 512 * 2**20
"""Bytes of photos at the training size that a worker remembers."""

PADDING = {"own": NONE, "candidates": NONE, "picked": NONE, "categories": NONE}
"""What fills the places of objects that an image does not have; anything else is filled with 0."""


class Patches:
    """The pixels of a bank's patches at one size: decoded when they are first asked for, and then kept in memory.

    A hundred thousand of 32 pixels a side are 307 MB; those that nobody asks for take none.
    """

    def __init__(self, bank: Bank, side: int) -> None:
        self.bank, self.side = bank, side
        self._pixels = np.empty((len(bank), side, side, 3), np.uint8)
        self._there = np.zeros(len(bank), bool)

    def __reduce__(self) -> tuple[type[Patches], tuple[Bank, int]]:
        return Patches, (self.bank, self.side)  # pixels stay behind when it travels to a worker

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


def draws(
    config: RetrieveganConfig,
    bank: Bank,
    categories: np.ndarray,
    candidates: np.ndarray | None,
    excluded: tuple[Exclusion, int],
    rng: np.random.Generator,
    more: int = 0,
) -> dict[str, Any]:
    """Everything random about the retrieval for the n objects of a graph, by the pool and the way of choosing.

    categories: (n,) class indices. candidates: (n, k) rows of the index, None where all of the bank is the pool; the
    bank's pieces of some exclusion key are then left out. more: candidates that will join those of each object.

    Learned: candidates and their noise, and «uniform», which draws the first query; or what the pool draws by: the
    classes, a seed, the excluded key. Random: the rows picked, and their ranks in the index, 0 without one.
    """
    n = len(categories)
    if config.learns_retrieval and candidates is not None:
        return {
            "candidates": torch.from_numpy(candidates),
            "noise": draw_noise(n, candidates.shape[1] + more, config, rng),
            "uniform": torch.tensor(rng.random()),
        }
    if config.learns_retrieval:
        return {
            "categories": torch.from_numpy(categories),
            "seed": torch.tensor(int(rng.integers(2**62))),
            "excluded": torch.tensor(excluded[1]),
            "exclusion": excluded[0],
        }
    if candidates is not None:
        ranks = rng.integers(1, candidates.shape[1] + 1, n)
        picked = candidates[np.arange(n), ranks - 1]
        return {"picked": torch.from_numpy(picked), "ranks": torch.from_numpy(np.where(picked == NONE, 0, ranks))}
    allowed = bank.exclusion_keys(excluded[0]) != excluded[1]
    picked = np.array([draw_row(np.flatnonzero((bank.categories == c) & allowed), rng) for c in categories.tolist()])
    return {"picked": torch.from_numpy(picked), "ranks": torch.zeros(n, dtype=torch.int64)}


def draw_noise(n: int, k: int, config: RetrieveganConfig, rng: np.random.Generator) -> Tensor:
    """(t, n, k) Gumbel noise of a retrieval for n objects of k candidates each: t is n, or 1 where one draw is kept."""
    return gumbel((n if config.noise == "per_step" else 1, n, k), rng)


def draw_row(rows: np.ndarray, rng: np.random.Generator) -> int:
    """One of some rows (m,), all equally likely; NONE where there is none."""
    return int(rows[rng.integers(len(rows))]) if len(rows) else NONE


def collate(examples: Sequence[dict[str, Any]]) -> Batch:
    """A flat batch of graphs, as join_graphs makes it, and everything else padded to the image with most objects.

    counted: (B, N) bool, the places that hold an object, one after the other those of the flat batch that are real.
    Values that are no tensors become lists.
    """
    graphs = [example["graph"] for example in examples]
    batch: Batch = dict(join_graphs(graphs))
    counts = torch.tensor([len(graph["objects"]) - 1 for graph in graphs])
    batch["counted"] = torch.arange(int(counts.max())) < counts.unsqueeze(1)
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
