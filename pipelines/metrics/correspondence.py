"""Does an image made from one view of a place show that place? An embedder is asked, among the places of a source.

The sources of samples (the photos that they were made from, the real images that they should resemble) are the gallery;
places are told apart within their source of data, and pictures that are equal are one item of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.metrics.intervals import Interval, bootstrap, sums_by_layout
from pipelines.metrics.recall import permutation_p, rank, wilson


@dataclass(frozen=True)
class Items:
    """The gallery. vectors: (m, d), one per place. alike: (m,) equal numbers for equal pictures. stratum: (m,) which
    of several galleries each is in.
    """

    vectors: np.ndarray
    alike: np.ndarray
    stratum: np.ndarray


@dataclass(frozen=True)
class Answers:
    """By query: hits with ties against it and for it, the chance of one, what was found (-1: a tie) and wanted, where.

    owners: the place of each.
    """

    against: np.ndarray
    generous: np.ndarray
    chance: np.ndarray
    found: np.ndarray
    wanted: np.ndarray
    strata: np.ndarray
    owners: np.ndarray

    def p(self, seed: int) -> float:
        """Of as many hits if the places' first queries were dealt their places at random."""
        first = np.unique(self.owners, return_index=True)[1]
        return permutation_p(self.found[first], self.wanted[first], self.strata[first], seed=seed)

    def interval(self, seed: int) -> Interval:
        """Wilson's where every place has one query, as it has ends at a share of 0 too; else a bootstrap of places."""
        places, numbers = np.unique(self.owners, return_inverse=True)
        if len(self.owners) == len(places):
            ends = wilson(int(self.against.sum()), len(places))
            return Interval(ends, f"95 %, Wilson, {len(places)} queries")
        columns = np.stack([self.against, np.ones(len(self.owners))], axis=1)
        return bootstrap(sums_by_layout(columns, numbers, len(places)), lambda sums: sums[:, 0] / sums[:, 1], seed)


def ask(queries: np.ndarray, owners: np.ndarray, items: Items) -> Answers:
    """Which item is most similar to each query (q, d), among those of its own gallery; owners: (q,) its place."""
    count = len(queries)
    against, generous, chance = np.zeros(count, bool), np.zeros(count, bool), np.zeros(count)
    found, wanted = np.zeros(count, np.int64), items.alike[owners]
    strata = items.stratum[owners]
    for number in np.unique(strata):
        members = np.flatnonzero(items.stratum == number)
        pictures, first = np.unique(items.alike[members], return_index=True)
        asked = np.flatnonzero(strata == number)
        own = np.searchsorted(pictures, wanted[asked])
        ranks = rank(queries[asked], items.vectors[members[first]], own)
        against[asked], generous[asked] = ranks.hits(1), ranks.hits(1, "for")
        chance[asked] = ranks.own / ranks.candidates
        found[asked] = np.where(ranks.top < 0, -1, pictures[ranks.top])
    return Answers(against, generous, chance, found, wanted, strata, owners)


def numbers(values: Sequence[str]) -> np.ndarray:
    """(n,) int64, equal numbers for equal values, counted from 0 in the order in which they come."""
    known: dict[str, int] = {}
    return np.array([known.setdefault(value, len(known)) for value in values], np.int64)
