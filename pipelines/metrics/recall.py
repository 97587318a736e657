"""Recall at k of a retrieval: is the item that belongs to a query among the k most similar of its gallery?

Two rules of counting, which differ only in ties. The published one (SAIG, SAFA, TransGeo) counts the gallery items
strictly more similar than the query's own, so that ties count for the query and an embedder that maps everything to one
point scores 100 %. The headline here counts those at least as similar, ties against the query: that embedder scores 0.

Two similarities tie when they are closer than TIE, which is what float32 leaves of the cosine of two unit vectors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipelines.errors import NumericalError

Ties = Literal["against", "for"]
Positives = np.ndarray | Sequence[Sequence[int]]
"""The gallery item that belongs to each query, (q,) int; or all that do, where there are several."""

TIE = 1e-6
"""Similarities closer than this are equal: rounding of the vectors and of their product."""
PERMUTATIONS = 9999
"""Random assignments of `permutation_p`, so its least p is 1 in 10,000."""

_CHUNK = 1 << 24  # similarities that are held at once


@dataclass(frozen=True)
class Ranks:
    """Where each query's own item stands among its gallery; of several, the most similar one.

    strict: (q,) int64, items strictly more similar. tied: (q,) int64, items at least as similar; the query's own and
    ignored items are in neither. top: (q,) int64, the one most similar item, -1 where the most similar tie. gallery:
    how many items there are. candidates, own: (q,) int64, how many of them a query was compared with, and how many of
    these are its own.
    """

    strict: np.ndarray
    tied: np.ndarray
    top: np.ndarray
    gallery: int
    candidates: np.ndarray
    own: np.ndarray

    def hits(self, k: int, ties: Ties = "against") -> np.ndarray:
        """(q,) bool: is a query's own item among its k most similar?"""
        return (self.tied if ties == "against" else self.strict) < k

    def recall(self, k: int, ties: Ties = "against") -> float:
        """The share of hits at k."""
        return float(self.hits(k, ties).mean())

    def chance(self, k: int = 1) -> float:
        """The expected recall at k of a random order of each gallery."""
        missed = [
            math.prod((n - m - i) / (n - i) for i in range(min(k, n)))
            for n, m in zip(self.candidates.tolist(), self.own.tolist(), strict=True)
        ]
        return 1 - math.fsum(missed) / len(missed)


def one_percent(gallery: int) -> int:
    """The k of recall at 1 %: floor(0.01 gallery) + 1, as published; 89 of 8,884."""
    return gallery // 100 + 1


def rank(
    queries: np.ndarray,
    gallery: np.ndarray,
    positives: Positives,
    ignored: Sequence[Sequence[int]] | None = None,
) -> Ranks:
    """Rank each query's own item in the gallery by cosine similarity.

    queries: (q, d), gallery: (g, d), unit vectors; compared in float32. positives: which item is a query's own.
    ignored: per query, items that are neither right nor wrong (VIGOR's semi-positives). Memory is bounded: similarities
    are made and dropped in chunks of queries. Raises NumericalError for vectors that are not finite.
    """
    for name, vectors in (("queries", queries), ("gallery", gallery)):
        bad = len(vectors) - int(np.isfinite(vectors).all(axis=1).sum())
        if bad:
            raise NumericalError(f"{bad} of {len(vectors)} vectors of the {name} are not finite")
    a, b = (np.ascontiguousarray(vectors, dtype=np.float32) for vectors in (queries, gallery))
    chunk = rows_at_once(len(b))
    return rank_chunks(
        (a[first : first + chunk] @ b.T for first in range(0, len(a), chunk)), len(b), positives, ignored
    )


def rows_at_once(gallery: int) -> int:
    """Queries whose similarities to a gallery are held at once."""
    return max(1, _CHUNK // max(gallery, 1))


def rank_similarities(
    similarities: np.ndarray, positives: Positives, ignored: Sequence[Sequence[int]] | None = None
) -> Ranks:
    """`rank` of similarities (q, g) that are known already."""
    return rank_chunks(iter([np.array(similarities)]), similarities.shape[1], positives, ignored)


def rank_chunks(
    chunks: Iterator[np.ndarray], gallery: int, positives: Positives, ignored: Sequence[Sequence[int]] | None = None
) -> Ranks:
    """`rank` of similarities (rows, gallery) that come some queries at a time; a chunk is overwritten."""
    mine = [np.atleast_1d(np.asarray(p, dtype=np.int64)) for p in positives]
    left_out = [np.asarray(items, dtype=np.int64) for items in ignored or [()] * len(mine)]
    found: list[np.ndarray] = []
    start = 0
    for similarities in chunks:
        rows = slice(start, start + len(similarities))
        start += len(similarities)
        own, row = np.concatenate(mine[rows]), _rows(mine[rows])
        similarities[_rows(left_out[rows]), np.concatenate(left_out[rows])] = -np.inf
        best = np.full(len(similarities), -np.inf, similarities.dtype)
        np.maximum.at(best, row, similarities[row, own])
        top = similarities.argmax(axis=1)
        alone = (similarities > (similarities.max(axis=1) - TIE)[:, None]).sum(axis=1) == 1
        similarities[row, own] = -np.inf
        strict = (similarities >= (best + TIE)[:, None]).sum(axis=1)
        tied = (similarities > (best - TIE)[:, None]).sum(axis=1)
        found.append(np.stack([strict, tied, np.where(alone, top, -1)]))
    strict, tied, top = np.concatenate(found, axis=1) if found else np.zeros((3, 0), np.int64)
    lacking = np.array([len(set(items.tolist())) for items in left_out], dtype=np.int64)
    return Ranks(strict, tied, top, gallery, gallery - lacking, np.array([len(items) for items in mine]))


def _rows(items: Sequence[np.ndarray]) -> np.ndarray:
    """The number of the row that each item of ragged rows is in."""
    return np.repeat(np.arange(len(items)), [len(row) for row in items])


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The Wilson 95 % interval of a share of `hits` of `n` (Wilson, JASA 1927)."""
    z = 1.959963984540054
    share, scale = hits / n, 1 + z * z / n
    center = (share + z * z / (2 * n)) / scale
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / scale
    return max(0.0, center - half), min(1.0, center + half)


def permutation_p(
    found: np.ndarray,
    wanted: np.ndarray,
    strata: np.ndarray | None = None,
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> float:
    """How often queries that were dealt each other's places at random hit at least as often as they did.

    found: (q,) int, the place of the item that a query found first, -1 for none (a tie). wanted: (q,) int, its own
    place. strata: (q,) what is dealt only among its like, such as the source. (hits at least as many + 1) /
    (permutations + 1), over seeded permutations.
    """
    observed = int((found == wanted).sum())
    rng = np.random.default_rng(seed)
    strata = np.zeros(len(found), np.int64) if strata is None else strata
    members = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    hits = np.zeros(permutations, np.int64)
    for of_stratum in members:
        step = max(1, (1 << 22) // len(of_stratum))
        for first in range(0, permutations, step):
            many = len(hits[first : first + step])
            dealt = rng.permuted(np.tile(wanted[of_stratum], (many, 1)), axis=1)
            hits[first : first + step] += (dealt == found[of_stratum]).sum(axis=1)
    return float((1 + (hits >= observed).sum()) / (1 + permutations))
