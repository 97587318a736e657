"""Unit vectors in clusters, and the nearest of them by the plain definition."""

from __future__ import annotations

from fractions import Fraction

import numpy as np


def clustered(count: int, dimension: int = 16, clusters: int = 20, seed: int = 0) -> np.ndarray:
    """(count, dimension) float32 of length 1."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(clusters, dimension))
    vectors = centers[rng.integers(0, clusters, count)] + 0.5 * rng.normal(size=(count, dimension))
    unit: np.ndarray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def distance(a: np.ndarray, b: np.ndarray, metric: str) -> Fraction:
    """Of two vectors, without any rounding."""
    pairs = [(Fraction(float(x)), Fraction(float(y))) for x, y in zip(a, b, strict=True)]
    if metric == "cosine":
        return 1 - sum((x * y for x, y in pairs), Fraction(0))
    return sum(((x - y) ** 2 for x, y in pairs), Fraction(0))


def nearest(
    query: np.ndarray, vectors: np.ndarray, k: int, metric: str, barred: np.ndarray | None = None
) -> list[tuple[int, float]]:
    """(row, distance) of the k nearest rows that are not barred; among equals the lower row first."""
    rows = [row for row in range(len(vectors)) if barred is None or not barred[row]]
    found = sorted((distance(query, vectors[row], metric), row) for row in rows)[:k]
    return [(row, float(far)) for far, row in found]
