"""A million made masks: toy-town segments under random thin-plate warps and scales, 5 % of them exact duplicates.

Real shapes come in families: the windows of a town are variants of some hundred windows. Independent random masks
are no such bank (all distances are alike, so no bound prunes anything), hence this generator. It is a function of
(n, seed, scenes) alone and makes some 5,000 masks per second and core.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numba import njit

from pipelines.bank.segments import Decompose, decompose
from pipelines.data.toy.solids import SCHEMA
from pipelines.data.toy.town import draw_scene
from pipelines.index.shape_search import CANONICAL, canonical_mask

CONTROL = 4  # control points of a warp per axis
BATCH = 2048  # masks that share a random generator
FRAME = 0.75  # the unwarped mask fills this part of the frame, so that a warp has room
SMALLEST = 24  # pixels of a toy segment that is worth warping


@dataclass(frozen=True)
class MaskBank:
    """masks: (n, 2048) uint8, packed canonical masks. areas: (n,) int64. categories: (n,) int32."""

    masks: np.ndarray
    areas: np.ndarray
    categories: np.ndarray


def made_masks(n: int, seed: int = 0, scenes: int = 48, duplicates: float = 0.05, threads: int = 2) -> MaskBank:
    """n masks; every choice is keyed by (seed, batch), so the number of threads changes nothing."""
    bases, boxes, classes = _toy_segments(seed, scenes)
    basis = _thin_plate_basis()
    masks = np.zeros((n, CANONICAL * CANONICAL // 8), dtype=np.uint8)
    areas = np.zeros(n, dtype=np.int64)
    categories = np.zeros(n, dtype=np.int32)

    def fill(first: int) -> None:
        rng = np.random.default_rng([seed, first])
        count = min(BATCH, n - first)
        which = rng.integers(0, len(bases), count)
        strength = rng.uniform(0.01, 0.06, (count, 1, 1))
        shifts = (rng.standard_normal((count, 2, CONTROL**2)) * strength).astype(np.float32)
        scale = np.exp2(rng.uniform(-1, 1, count))
        here = slice(first, first + count)
        pixels = _warp(bases, which, shifts, basis, masks[here])
        density = pixels / (FRAME * CANONICAL) ** 2
        areas[here] = np.maximum(1, np.rint(density * boxes[which].prod(1) * scale**2))
        categories[here] = classes[which]

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(fill, range(0, n, BATCH)))
    rng = np.random.default_rng([seed, n])
    copies = rng.permutation(n)[: int(duplicates * n)]
    sources = rng.integers(0, n, len(copies))
    for values in (masks, areas, categories):
        values[copies] = values[sources]
    return MaskBank(masks, areas, categories)


def _toy_segments(seed: int, scenes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Canonical masks (b, 128, 128) uint8, boxes (b, 2) as width and height, class indices (b,)."""
    masks, boxes, classes = [], [], []
    for index in range(scenes):
        scene = draw_scene(seed, 2 * index)  # every other scene: each shows another place
        found = decompose(scene.labels.astype(np.int16), scene.instances, SCHEMA.things, Decompose())
        for number, segment in enumerate(found.segments):
            x, y, w, h = segment.box
            if segment.area >= SMALLEST:
                masks.append(canonical_mask(found.owner[y : y + h, x : x + w] == number))
                boxes.append((w, h))
                classes.append(segment.category)
    return np.stack(masks).astype(np.uint8), np.array(boxes), np.array(classes, dtype=np.int32)


def _thin_plate_basis() -> np.ndarray:
    """(16, 128, 128) float32: the thin-plate spline that is 1 at one control point and 0 at the others.

    A warp is linear in the shifts of its control points, so that any warp is a sum of these.
    """
    ticks = np.linspace(0, 1, CONTROL)
    control = np.stack(np.meshgrid(ticks, ticks, indexing="ij"), -1).reshape(-1, 2)
    ticks = (np.arange(CANONICAL) + 0.5) / CANONICAL
    pixels = np.stack(np.meshgrid(ticks, ticks, indexing="ij"), -1).reshape(-1, 2)

    def rows(points: np.ndarray) -> np.ndarray:
        squared = ((points[:, None] - control) ** 2).sum(-1)
        phi = 0.5 * squared * np.log(np.where(squared > 0, squared, 1.0))
        return np.concatenate([phi, np.ones((len(points), 1)), points], axis=1)

    system = np.zeros((len(control) + 3, len(control) + 3))
    system[: len(control)] = rows(control)
    system[len(control) :, : len(control)] = system[: len(control), len(control) :].T
    weights = np.linalg.solve(system, np.eye(len(control) + 3)[:, : len(control)])
    return (rows(pixels) @ weights).T.reshape(-1, CANONICAL, CANONICAL).astype(np.float32)


@njit(nogil=True)
def _warp(bases, which, shifts, basis, packed):  # type: ignore[no-untyped-def]
    """Fill packed (n, 2048) with the warped masks, cropped and canonical again; returns pixels before the crop (n,)."""
    n, side = len(which), 128
    zoom = np.float32(side / 0.75)  # from the frame to the base, which fills its middle
    counts = np.zeros(n)
    frame = np.zeros((side, side), np.uint8)
    rows = np.zeros(side, np.float32)
    columns = np.zeros(side, np.float32)
    for i in range(n):
        base = bases[which[i]]
        top, bottom, left, right, count = side, -1, side, -1, 0
        for y in range(side):
            for x in range(side):
                rows[x] = zoom * (np.float32((y + 0.5) / side - 0.5)) + np.float32(side / 2)
                columns[x] = zoom * (np.float32((x + 0.5) / side - 0.5)) + np.float32(side / 2)
            for c in range(shifts.shape[2]):
                down, across, bend = zoom * shifts[i, 0, c], zoom * shifts[i, 1, c], basis[c, y]
                for x in range(128):
                    rows[x] += down * bend[x]
                for x in range(128):
                    columns[x] += across * bend[x]
            first, last, found = side, -1, 0
            for x in range(side):
                inside = 0
                if 0 <= rows[x] < side and 0 <= columns[x] < side:
                    inside = base[np.int32(rows[x]), np.int32(columns[x])]
                frame[y, x] = inside
                if inside:
                    found += 1
                    first, last = min(first, x), x
            if found:
                count += found
                top, bottom = min(top, y), y
                left, right = min(left, first), max(right, last)
        counts[i] = count
        if count == 0:
            continue
        h, w = bottom - top + 1, right - left + 1
        for y in range(side):
            line = top + (2 * y + 1) * h // (2 * side)
            for b in range(side // 8):
                byte = 0
                for x in range(8 * b, 8 * b + 8):
                    byte = 2 * byte + frame[line, left + (2 * x + 1) * w // (2 * side)]
                packed[i, y * (side // 8) + b] = byte
    return counts
