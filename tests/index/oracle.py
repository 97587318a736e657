"""RESAIL's geometric score (eq. 2 to 4), one pair of masks at a time, from the formulas alone."""

from __future__ import annotations

import numpy as np


def sigma(
    one: np.ndarray, other: np.ndarray, area: int, other_area: int, gamma: float = 1.0, strict: bool = False
) -> float:
    """one, other: (2048,) uint8 packed canonical masks; area, other_area: what eq. 2 compares."""
    a, b = np.unpackbits(one).astype(float), np.unpackbits(other).astype(float)
    t = min(area, other_area) / max(area, other_area)
    scale = 0.0 if t > 0.5 or (t == 0.5 and not strict) else 1.0
    return scale + gamma * (((a - b) ** 2).sum() / max(a.sum(), b.sum()))


def nearest(scores: list[tuple[float, int]], k: int) -> list[tuple[float, int]]:
    """The k lowest (score, row), lower rows first among equals."""
    return sorted(scores)[:k]
