"""The order of the data, a function of (seed, step) alone.

Training has one endless sequence of positions 0, 1, 2, …; step s takes the next `batch * accumulate` of them, and
each process a contiguous slice. So resuming needs no state, and two processes see what one would.
"""

from __future__ import annotations

import signal
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from pipelines.errors import ConfigError, DataError, RgsError
from pipelines.systems.base import Batch, Sampling, Sources, Trainable


@dataclass(frozen=True)
class Draw:
    """One example to make: its position in the endless sequence, its scene and its step."""

    position: int
    scene_id: str
    step: int


class Order:
    """Maps positions to scene ids: a fresh permutation each epoch, or draws by weight with replacement.

    batch: how many positions from 0, batch, 2 batch, … on are of distinct groups, where the sampling has groups.
    """

    def __init__(self, sampling: Sampling, seed: int, batch: int = 1) -> None:
        if not len(sampling.ids):
            raise DataError("there is no example to train on", fix="check --data and --split")
        if sampling.groups is not None and (places := len(set(sampling.groups))) < batch:
            raise ConfigError(f"a batch of {batch} needs as many groups, and there are {places}", fix="lower --batch")
        assert sampling.weights is None or sampling.groups is None, "draws by weight know no distinct groups"
        self.sampling, self.seed, self.batch = sampling, seed, batch
        self._starts = [0]  # the first position of each epoch so far
        self._epoch, self._permutation = -1, np.empty(0, dtype=np.int64)

    def __getitem__(self, position: int) -> str:
        ids = self.sampling.ids
        if self.sampling.weights is not None:
            rng = np.random.default_rng([self.seed, 1, position])
            return ids[int(rng.choice(len(ids), p=self.sampling.weights / self.sampling.weights.sum()))]
        while position >= self._starts[-1]:
            self._starts.append(self._starts[-1] + len(self._permute(len(self._starts) - 1)))
        epoch = bisect_right(self._starts, position) - 1
        return ids[int(self._permute(epoch)[position - self._starts[epoch]])]

    def _permute(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            permutation = np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.sampling.ids))
            groups = self.sampling.groups
            self._permutation = permutation if groups is None else distinct_batches(permutation, groups, self.batch)
            self._epoch = epoch
        return self._permutation


def distinct_batches(permutation: np.ndarray, groups: Sequence[str], batch: int) -> np.ndarray:
    """(m,) a permutation rearranged so that each `batch` in a row are of distinct groups; those that fit no more go.

    An example waits for the first batch without its group.
    """
    taken: list[int] = []
    waiting: deque[int] = deque()
    coming = iter(permutation.tolist())
    while True:
        chosen: list[int] = []
        here: set[str] = set()
        late: deque[int] = deque()
        while len(chosen) < batch:
            number = waiting.popleft() if waiting else next(coming, None)
            if number is None:
                return np.array(taken, dtype=np.int64)
            if groups[number] in here:
                late.append(number)
            else:
                chosen.append(number)
                here.add(groups[number])
        waiting = late + waiting
        taken += chosen


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
