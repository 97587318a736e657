"""Noise by table: smooth (fractal) and white, periodic, the same for every town."""

from __future__ import annotations

from functools import cache

import numpy as np

_CELL = 16  # table entries per unit of the smooth noise
_SIDE = 1024


@cache
def _smooth_table() -> np.ndarray:
    """(_SIDE, _SIDE) float32 fractal value noise in 0..1 with mean near 0.5, base cells of one unit."""
    rng = np.random.Generator(np.random.PCG64(20_061))
    total = np.zeros((_SIDE, _SIDE))
    for octave in range(5):
        cell = _CELL >> octave
        lattice = rng.random((_SIDE // cell, _SIDE // cell))
        step = np.arange(cell) / cell
        weight = (step * step * (3 - 2 * step))[None, :, None]
        for _ in range(2):  # along the rows, then along the columns
            after = np.roll(lattice, -1, axis=0)
            lattice = lattice[:, None] * (1 - weight) + after[:, None] * weight
            lattice = lattice.reshape(_SIDE, -1).T
        total += lattice * 0.5**octave
    low, high = np.quantile(total, (0.002, 0.998))
    return ((total - low) / (high - low)).clip(0, 1).astype(np.float32)


@cache
def _white_table() -> np.ndarray:
    return np.random.Generator(np.random.PCG64(20_062)).random(1 << 16, dtype=np.float32)


def smooth(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Fractal noise in 0..1 at x, y; features of one unit and finer."""
    i = np.floor(x * _CELL).astype(np.int32) & (_SIDE - 1)
    j = np.floor(y * _CELL).astype(np.int32) & (_SIDE - 1)
    return _smooth_table().ravel()[i * _SIDE + j]


def silky(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The smooth noise without steps, for what is seen from near: four times the work."""
    x, y = x * _CELL - 0.5, y * _CELL - 0.5
    i, j = np.floor(x), np.floor(y)
    fx, fy = x - i, y - j
    i0, j0 = i.astype(np.int32) & (_SIDE - 1), j.astype(np.int32) & (_SIDE - 1)
    i1, j1 = (i0 + 1) & (_SIDE - 1), (j0 + 1) & (_SIDE - 1)
    table = _smooth_table().ravel()
    i0, i1 = i0 * _SIDE, i1 * _SIDE
    near = table[i0 + j0] * (1 - fy) + table[i0 + j1] * fy
    far = table[i1 + j0] * (1 - fy) + table[i1 + j1] * fy
    return near * (1 - fx) + far * fx


def white(i: np.ndarray, j: np.ndarray, salt: np.ndarray | int = 0) -> np.ndarray:
    """An independent number in 0..1 for each cell (i, j) of integers or whole floats."""
    # products wrap around in 32 bits, which is as good a hash
    a = np.atleast_1d(np.asarray(i).astype(np.int32)) * np.int32(73_856_093)
    b = np.atleast_1d(np.asarray(j).astype(np.int32)) * np.int32(19_349_663)
    c = np.atleast_1d(np.asarray(salt).astype(np.int32)) * np.int32(83_492_791)
    mixed = a ^ b ^ c
    return _white_table()[(mixed ^ (mixed >> 16)) & 0xFFFF]
