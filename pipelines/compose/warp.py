"""Warping of a segment by a thin-plate spline through points on its outline (RESAIL supplement A.2, shape)."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from pipelines.compose.guidance import Piece


@dataclass(frozen=True)
class ThinPlate:
    """The smoothest map of the plane that takes given values at given sites.

    f(p) = sum_i w_i phi(|p - s_i|^2) + v . (1, p) with phi(r^2) = 1/2 r^2 ln r^2. sites: (n, 2). weights: (n, k).
    affine: (3, k). Coordinates are divided by `scale` after the subtraction of `center`, which changes nothing but
    the condition of the system.
    """

    sites: np.ndarray
    weights: np.ndarray
    affine: np.ndarray
    center: np.ndarray
    scale: float


def thin_plate(sites: np.ndarray, values: np.ndarray) -> ThinPlate | None:
    """Interpolate values (n, k) at sites (n, 2), unregularized; None if the sites are collinear or coincide."""
    n = len(sites)
    center = sites.mean(axis=0)
    scale = float(np.abs(sites - center).max()) or 1.0
    unit = (sites - center) / scale
    spread = unit.T @ unit
    if spread[0, 0] * spread[1, 1] - spread[0, 1] ** 2 < 1e-9:
        return None
    squared = ((unit[:, None] - unit) ** 2).sum(axis=-1)
    system = np.zeros((n + 3, n + 3))
    system[:n, :n] = 0.5 * squared * np.log(np.maximum(squared, np.finfo(np.float64).tiny))
    system[:n, n] = 1
    system[:n, n + 1 :] = unit
    system[n:, :n] = system[:n, n:].T
    wanted = np.zeros((n + 3, values.shape[1]))
    wanted[:n] = values
    try:
        solution = np.linalg.solve(system, wanted)
    except np.linalg.LinAlgError:
        return None
    if not np.abs(system @ solution - wanted).max() < 1e-6:  # all but singular: rounding won; NaN too
        return None
    return ThinPlate(unit, solution[:n], solution[n:], center, scale)


def boundary_points(mask: np.ndarray, count: int) -> np.ndarray | None:
    """`count` points (x, y), int64, evenly spread over the longest outer contour of a mask.

    None if the contour has no more than `count` pixels. The first and the last are neighbors on the closed contour.
    """
    contours, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    contour = max(contours, key=len, default=np.empty((0, 1, 2), np.int32)).reshape(-1, 2).astype(np.int64)
    if len(contour) <= count:
        return None
    return contour[np.arange(count) * (len(contour) - 1) // (count - 1)]


def move_points(points: np.ndarray, moved: int, reach: float, rng: np.random.Generator) -> np.ndarray | None:
    """Shift `moved` of the points (n, 2), drawn without replacement, by U(-reach, reach) per axis, cut to integers.

    None if two points then coincide, for which there is no spline.
    """
    target = points.copy()
    chosen = rng.permutation(len(points))[:moved]
    target[chosen] += rng.uniform(-reach, reach, size=(moved, 2)).astype(np.int64)
    return target if len(set(map(tuple, target.tolist()))) == len(target) else None


def flow_map(spline: ThinPlate, origin: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """A spline at every pixel of the rectangle of `size` = (h, w) whose first pixel is `origin` = (x, y).

    Returns (k, h, w) float32. For a flow in pixels the single precision costs a few thousandths of a pixel, a tenth of
    the step to which cv2.remap rounds; in return OpenCV's logarithm is five times as fast as numpy's. (Sampling
    a coarser grid is as fast, and off by a pixel where two sites are neighbors, as two always are on an outline.)
    """
    h, w = size
    x = (np.arange(w) + origin[0] - spline.center[0]) / spline.scale
    y = (np.arange(h) + origin[1] - spline.center[1]) / spline.scale
    to_x = ((x - spline.sites[:, :1]) ** 2).astype(np.float32)
    to_y = ((y - spline.sites[:, 1:]) ** 2).astype(np.float32)
    squared = (to_y[:, :, None] + to_x[:, None, :]).reshape(len(to_x), h * w)
    np.maximum(squared, np.finfo(np.float32).tiny, out=squared)
    kernel = cv2.log(squared)
    kernel *= squared
    flow = ((0.5 * spline.weights.T).astype(np.float32) @ kernel).reshape(-1, h, w)
    constant, by_x, by_y = spline.affine[:, :, None]
    flow += (constant + by_x * x).astype(np.float32)[:, None, :]
    flow += (by_y * y).astype(np.float32)[:, :, None]
    return flow


def warp_piece(
    piece: Piece, source: np.ndarray, target: np.ndarray, margins: tuple[int, int, int, int]
) -> Piece | None:
    """Warp a piece so that its points `source` (n, 2) come to lie on `target`.

    margins: (left, top, right, bottom), by how many pixels the result is larger than the piece. A backward warp,
    out(p) = in(p - f(p)), where the spline f has its sites on the targets: bilinear with black around for the
    crop, nearest for the mask. None if the targets admit no spline.
    """
    spline = thin_plate(target.astype(np.float64), (target - source).astype(np.float64))
    if spline is None:
        return None
    left, top, right, bottom = margins
    h, w = piece.mask.shape[0] + top + bottom, piece.mask.shape[1] + left + right
    flow = flow_map(spline, (-left, -top), (h, w))
    x = np.arange(-left, w - left, dtype=np.float32) - flow[0]
    y = np.arange(-top, h - top, dtype=np.float32)[:, None] - flow[1]
    crop = cv2.remap(piece.crop, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    mask = cv2.remap(piece.mask.view(np.uint8), x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)
    return Piece(cv2.copyTo(crop, mask, np.zeros_like(crop)), mask.view(bool))
