"""Gumbel noise for many, drawn for few: what the first pass of `pool: bank` computes of each object and step.

Random numbers are functions of an image's seed and counters, not of a generator's state: an image's draws do not depend
on its neighbors in the batch, on padding, or on the order in which they are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pipelines.index.neighbors import NONE

GOLDEN, FIRST, SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15
"""Increment and multipliers of SplitMix64, as signed numbers."""
FIRST_OBJECT, FIRST_PIECE, HEAD, RING, LABEL, REST = range(6)
"""What a draw is for, so that no two share their counters."""


def uniform(seeds: Tensor, *counters: Tensor | int) -> Tensor:
    """Numbers in (0, 1), float64: SplitMix64 of int64 seeds and counters, broadcast against each other."""
    state = _mixed(seeds)
    for counter in counters:
        state = _mixed(state + GOLDEN + counter)
    return (_shifted(state, 11).double() + 0.5) * 2.0**-53


def exponential(seeds: Tensor, *counters: Tensor | int) -> Tensor:
    """Standard exponential numbers E, float64; -log E is Gumbel noise."""
    return -uniform(seeds, *counters).log()


def _mixed(x: Tensor) -> Tensor:
    x = (x ^ _shifted(x, 30)) * FIRST
    x = (x ^ _shifted(x, 27)) * SECOND
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, by: int) -> Tensor:
    """x >> by, of the bits as they are: int64 would drag its sign along."""
    return (x >> by) & ((1 << (64 - by)) - 1)


@dataclass(frozen=True)
class Ranges:
    """Where the pieces of each object (B, N) lie among all, sorted by class: start to stop, without own to own_stop,
    which are the image's own. free: how many that leaves."""

    start: Tensor
    stop: Tensor
    own: Tensor
    own_stop: Tensor

    @property
    def free(self) -> Tensor:
        return self.stop - self.start - (self.own_stop - self.own)

    def to(self, device: torch.device) -> Ranges:
        return Ranges(*(part.to(device) for part in (self.start, self.stop, self.own, self.own_stop)))

    def place(self, free: Tensor) -> Tensor:
        """Places (B, N, m) of the free pieces with these numbers (B, N, m)."""
        place = self.start.unsqueeze(2) + free
        return place + torch.where(place >= self.own.unsqueeze(2), (self.own_stop - self.own).unsqueeze(2), 0)

    def number(self, place: Tensor) -> Tensor:
        """The inverse of `place`."""
        own = torch.where(place >= self.own_stop.unsqueeze(2), (self.own_stop - self.own).unsqueeze(2), 0)
        return place - own - self.start.unsqueeze(2)

    def excluded(self, place: Tensor) -> Tensor:
        """(B, N, m) bool: is it a piece of the image itself."""
        return (place >= self.own.unsqueeze(2)) & (place < self.own_stop.unsqueeze(2))


@dataclass(frozen=True)
class Tail:
    """The m first rings among the R pieces behind the head.

    place: (B, N, m) int64. noise: (B, N, m). valid: (B, N, m) bool, False where the piece had rung before. latest:
    (B, N) the time of the last ring: every piece that did not ring has noise below -log of it. unseen: (B, N) int64,
    how many these are.
    """

    place: Tensor
    noise: Tensor
    valid: Tensor
    latest: Tensor
    unseen: Tensor


def draw_tail(seeds: Tensor, t: int, head: Tensor, valid: Tensor, ranges: Ranges, m: int) -> Tail:
    """Let the pieces behind the head ring: R exponential clocks are a Poisson process of rate R with uniform labels, of
    which only the first ring of each counts.

    seeds: (B,). head: (B, N, H) places, valid: which of them exist.
    """
    rest = ranges.free - valid.sum(2)
    groups, rings = _counters(head.shape[1], m, seeds.device)
    key = seeds.view(-1, 1, 1)
    times = exponential(key, RING, t, groups, rings).cumsum(2) / rest.clamp(min=1).unsqueeze(2)
    labels = (uniform(key, LABEL, t, groups, rings) * rest.unsqueeze(2)).long()
    # the label-th free piece that is not in the head: pass over every head piece that comes before it
    last = torch.iinfo(torch.int64).max // 2
    taken = torch.where(valid, ranges.number(head), last).sort(2).values
    before = taken - torch.arange(head.shape[2], device=head.device)
    free = labels + (before.unsqueeze(2) <= labels.unsqueeze(3)).sum(3)
    again = (labels.unsqueeze(3) == labels.unsqueeze(2)).tril(-1).any(3)
    rang = ~again & (rest > 0).unsqueeze(2)
    place = torch.where(rang, ranges.place(free), 0)
    return Tail(place, -times.log(), rang, times[:, :, -1], rest - rang.sum(2))


def nearest_free(places: Tensor, far: Tensor, ranges: Ranges, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` of places (B, N, m) that are no pieces of the image itself, NONE and inf where there are fewer.

    far: their distances, ascending, inf for a place that does not count.
    """
    far = far.masked_fill(ranges.excluded(places), torch.inf)
    order = (far == torch.inf).to(torch.uint8).sort(dim=2, stable=True).indices[:, :, :count]
    far = far.gather(2, order)
    return places.gather(2, order).masked_fill(far == torch.inf, NONE), far


def first_place(seeds: Tensor, active: Tensor, ranges: Ranges) -> Tensor:
    """(B,) the piece that starts a retrieval: of one of the active objects (B, N), and of its free pieces, both drawn
    uniformly; NONE where there is no object."""
    rank = (uniform(seeds, FIRST_OBJECT) * active.sum(1)).long().unsqueeze(1)
    drawn = (active & (active.cumsum(1) == rank + 1)).to(torch.uint8).argmax(1, keepdim=True)
    number = (uniform(seeds, FIRST_PIECE) * ranges.free.gather(1, drawn).squeeze(1)).long()
    place = ranges.place(number.view(-1, 1, 1)).squeeze(2).gather(1, drawn).squeeze(1)
    return place.masked_fill(~active.any(1), NONE)


def head_noise(seeds: Tensor, t: int, head: Tensor) -> Tensor:
    """(B, N, H) Gumbel noise of places, by their places."""
    groups, _ = _counters(head.shape[1], 1, seeds.device)
    return -exponential(seeds.view(-1, 1, 1), HEAD, t, groups, head).log()


def rest_noise(seeds: Tensor, places: Tensor, latest: Tensor) -> Tensor:
    """(B, T, N, K) Gumbel noise of places (B, N, K) that is known to be below -log of latest (B, T, N); an exponential
    clock that has not rung by then begins anew."""
    steps = torch.arange(latest.shape[1], device=places.device).view(1, -1, 1, 1)
    groups, _ = _counters(places.shape[1], 1, places.device)
    key = seeds.view(-1, 1, 1, 1)
    return -(latest.unsqueeze(3) + exponential(key, REST, steps, groups, places.unsqueeze(1))).log()


def _counters(groups: int, m: int, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.arange(groups, device=device).view(-1, 1), torch.arange(m, device=device)


def best_distinct(places: Tensor, scores: Tensor, k: int) -> Tensor:
    """(B, N, k) int64 the k places of the highest score, each once, best first, NONE where there are no more.

    places, scores: (B, N, m), a score of -inf for a place that does not count.
    """
    scores, by_score = scores.sort(dim=2, descending=True, stable=True)
    places, by_place = places.gather(2, by_score).sort(dim=2, stable=True)
    scores = scores.gather(2, by_place)
    again = places[:, :, 1:] == places[:, :, :-1]
    scores = torch.cat([scores[:, :, :1], scores[:, :, 1:].masked_fill(again, -torch.inf)], 2)
    best, at = scores.topk(min(k, scores.shape[2]), 2)
    found = torch.where(best > -torch.inf, places.gather(2, at), NONE)
    return F.pad(found, (0, k - found.shape[2]), value=NONE)
