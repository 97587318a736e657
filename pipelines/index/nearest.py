"""The exact nearest vectors, found while the vectors stream by: bounded memory, and ties by the lower row.

A matrix product finds the candidates; what may be among the k nearest is computed again in float64, one pair at a time
and always in the same order, so that equal vectors have equal distances whatever block they came in. The compiled loop
is in this file alone: Numba's cache on disk looks at the file of a function.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numba import njit

from pipelines.index.neighbors import NONE

Metric = Literal["cosine", "l2"]
"""How vectors are compared: 1 - cosine of unit vectors, or the squared Euclidean distance. Lower is more alike."""

FREE = -1
"""The key of a query that may find everything."""
QUERIES, ROWS = 1024, 4096
"""The sides of one block of the matrix product."""


class Nearest:
    """The k nearest of the vectors offered so far, for each of q queries.

    queries: (q, d) float32; unit vectors for «cosine». keys: (q,) int64, a query finds no vector of its own key.
    categories: (q,) a query finds only vectors of its category; None to find all. rows: (q, k) int64, NONE where there
    are fewer. distances: (q, k) float64, inf where there is none; equal ones are in the order of their rows.
    """

    def __init__(
        self,
        queries: np.ndarray,
        k: int,
        metric: Metric,
        keys: np.ndarray | None = None,
        categories: np.ndarray | None = None,
    ) -> None:
        self.queries = np.ascontiguousarray(queries, np.float32)
        self.metric = metric
        self.rows = np.full((len(queries), k), NONE, np.int64)
        self.distances = np.full((len(queries), k), np.inf)
        self._keys = np.full(len(queries), FREE, np.int64) if keys is None else keys.astype(np.int64)
        self._categories = None if categories is None else categories.astype(np.int64)
        self._squares = _squares(self.queries)

    def offer(
        self,
        rows: np.ndarray,
        vectors: np.ndarray,
        keys: np.ndarray | None = None,
        categories: np.ndarray | None = None,
    ) -> None:
        """Compare all queries with m vectors (m, d) float32 of some rows (m,), each row offered once."""
        for first in range(0, len(rows) if len(self.queries) else 0, ROWS):
            part = slice(first, first + ROWS)
            block = np.ascontiguousarray(vectors[part], np.float32)
            numbers = np.asarray(rows[part], np.int64)
            nobody = np.full(len(block), FREE - 1, np.int64)
            own = nobody if keys is None else keys[part].astype(np.int64)
            squares = _squares(block)
            for start in range(0, len(self.queries), QUERIES):
                q = slice(start, start + QUERIES)
                some = self.queries[q]
                product = (torch.from_numpy(some) @ torch.from_numpy(block).T).numpy()
                if self._categories is None or categories is None:
                    mine, theirs = np.zeros(len(some), np.int64), np.zeros(len(block), np.int64)
                else:
                    mine, theirs = self._categories[q], categories[part].astype(np.int64)
                _offer(
                    product, some, block, self._squares[q], squares, numbers,
                    self._keys[q], own, mine, theirs, self.metric == "cosine", self.rows[q], self.distances[q],
                )  # fmt: skip

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and distances; one that rounding left below zero is zero."""
        return self.rows, np.maximum(self.distances, 0)


def _squares(vectors: np.ndarray) -> np.ndarray:
    """(n,) float64 squared lengths."""
    return np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)


def _offer_plain(
    product: np.ndarray,
    queries: np.ndarray,
    vectors: np.ndarray,
    query_squares: np.ndarray,
    vector_squares: np.ndarray,
    numbers: np.ndarray,
    query_keys: np.ndarray,
    keys: np.ndarray,
    query_categories: np.ndarray,
    categories: np.ndarray,
    cosine: bool,
    rows: np.ndarray,
    distances: np.ndarray,
) -> None:
    """Put the vectors of a block that are nearer than what a query has so far into its row, which stays sorted."""
    k, dimension = rows.shape[1], queries.shape[1]
    longest = vector_squares.max()
    for i in range(len(queries)):
        # float32 sums of products are wrong by at most this
        slack = 2.0 * (dimension + 2) * 2.0**-24 * max(1.0, query_squares[i], longest)
        if not cosine:
            slack *= 2.0
        worst = distances[i, k - 1]
        for j in range(len(vectors)):
            rough = np.float64(product[i, j])
            rough = 1.0 - rough if cosine else query_squares[i] + vector_squares[j] - 2.0 * rough
            if rough > worst + slack or query_keys[i] == keys[j] or query_categories[i] != categories[j]:
                continue
            total = 0.0
            for n in range(dimension):
                if cosine:
                    total += np.float64(queries[i, n]) * np.float64(vectors[j, n])
                else:
                    difference = np.float64(queries[i, n]) - np.float64(vectors[j, n])
                    total += difference * difference
            distance = 1.0 - total if cosine else total
            at = k
            while at > 0 and (
                distance < distances[i, at - 1] or (distance == distances[i, at - 1] and numbers[j] < rows[i, at - 1])
            ):
                at -= 1
            if at == k:
                continue
            for n in range(k - 1, at, -1):
                distances[i, n] = distances[i, n - 1]
                rows[i, n] = rows[i, n - 1]
            distances[i, at] = distance
            rows[i, at] = numbers[j]
            worst = distances[i, k - 1]


try:
    _offer = njit(nogil=True, cache=True)(_offer_plain)
except RuntimeError:  # no folder that Numba may keep it in
    _offer = njit(nogil=True)(_offer_plain)
