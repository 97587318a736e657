"""The order of the data, a function of (seed, step) alone.

Training has one endless sequence of positions 0, 1, 2, …; step s takes the next `batch * accumulate` of them, and
each process a contiguous slice. So resuming needs no state, and two processes see what one would.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from pipelines.errors import DataError, RgsError
from pipelines.systems.base import Batch, Sampling, Sources, Trainable


@dataclass(frozen=True)
class Draw:
    """One example to make: its position in the endless sequence, its scene and its step."""

    position: int
    scene_id: str
    step: int


class Order:
    """Maps positions to scene ids: a fresh permutation each epoch, or draws by weight with replacement."""

    def __init__(self, sampling: Sampling, seed: int) -> None:
        if not len(sampling.ids):
            raise DataError("there is no example to train on", fix="check --data and --split")
        self.sampling, self.seed = sampling, seed
        self._epoch, self._permutation = -1, np.empty(0, dtype=np.int64)

    def __getitem__(self, position: int) -> str:
        ids = self.sampling.ids
        if self.sampling.weights is not None:
            rng = np.random.default_rng([self.seed, 1, position])
            return ids[int(rng.choice(len(ids), p=self.sampling.weights / self.sampling.weights.sum()))]
        epoch, offset = divmod(position, len(ids))
        if epoch != self._epoch:
            self._epoch = epoch
            self._permutation = np.random.default_rng([self.seed, 0, epoch]).permutation(len(ids))
        return ids[int(self._permutation[offset])]


def draws(
    order: Order, batch: int, accumulate: int, rank: int, world: int, start: int, stop: int
) -> Iterator[list[Draw]]:
    """For steps start..stop-1, `accumulate` lists each: this rank's share of every batch."""
    share = batch // world
    for step in range(start, stop):
        for micro in range(accumulate):
            first = (step * accumulate + micro) * batch + rank * share
            yield [Draw(p, order[p], step) for p in range(first, first + share)]


class Examples(Dataset[dict[str, Any]]):
    """Makes the example of a draw, every random number keyed by (seed, position)."""

    def __init__(self, trainable: Trainable, sources: Sources, seed: int) -> None:
        self.trainable, self.sources, self.seed = trainable, sources, seed

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, 2, draw.position])
        return self.trainable.example(draw.scene_id, self.sources, rng, draw.step)

    def __getitems__(self, draws: Sequence[Draw]) -> list[dict[str, Any]] | RgsError:
        """The examples of a batch, or why there are none: an error travels whole only as a value."""
        try:
            return [self[draw] for draw in draws]
        except RgsError as error:
            return error

    def collate(self, made: list[dict[str, Any]] | RgsError) -> Batch | RgsError:
        return made if isinstance(made, RgsError) else self.trainable.collate(made)


def batches(examples: Examples, draws: Iterator[list[Draw]], workers: int, pin: bool = False) -> Iterator[Batch]:
    """Collated batches in order, made by `workers` processes ahead of time. Raises what making an example raised."""
    loader: DataLoader[dict[str, Any]] = DataLoader(
        examples,
        batch_sampler=_Given(draws),
        num_workers=workers,
        collate_fn=examples.collate,
        worker_init_fn=_start_worker,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
        generator=torch.Generator().manual_seed(0),
    )
    for batch in loader:
        if isinstance(batch, RgsError):
            raise batch
        yield batch


def _start_worker(_: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # they reach the whole group; the training decides, workers follow
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(0)


class _Given:
    """A batch sampler that hands on what it was given; the loader iterates it once."""

    def __init__(self, lists: Iterator[list[Draw]]) -> None:
        self.lists = lists

    def __iter__(self) -> Iterator[list[Draw]]:
        return self.lists
