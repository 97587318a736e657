"""Cameras: a 3x4 projection and its rays. Street views, views from above and the sun are all of this form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Camera:
    """A linear camera for images of (height, width) pixels; the center of pixel (i, j) is at x = j + 0.5, y = i + 0.5.

    projection: (3, 4), world point (X, Y, Z, 1) to (x w, y w, w). The ray of image point h = (x, y, 1) is
    origins @ h + t * (directions @ h) with t > 0, the depth in meters along the optical axis.
    focal: pixels per meter at depth 1 (perspective) or at any depth (orthographic).
    """

    height: int
    width: int
    projection: np.ndarray
    origins: np.ndarray
    directions: np.ndarray
    focal: float
    perspective: bool

    def footprint(self, depth: np.ndarray) -> np.ndarray:
        """Meters across one pixel at a depth."""
        return depth / self.focal if self.perspective else np.full_like(depth, 1 / self.focal)


def street_camera(
    position: tuple[float, float, float],
    heading: float,
    field_of_view: float,
    horizon: float,
    size: tuple[int, int],
) -> Camera:
    """A level perspective camera, so that upright edges stay upright in the image.

    position in meters; heading in radians from north to east; field_of_view in radians, that of a square image
    of the same area; horizon: where in the image's height it lies, 0 top to 1 bottom.
    """
    height, width = size
    right = np.array([math.cos(heading), -math.sin(heading), 0.0])
    forward = np.array([math.sin(heading), math.cos(heading), 0.0])
    down = np.array([0.0, 0.0, -1.0])
    focal = 0.5 * math.sqrt(height * width) / math.tan(field_of_view / 2)
    cx, cy = width / 2, horizon * height
    eye = np.array(position)
    axes = np.stack([focal * right + cx * forward, focal * down + cy * forward, forward])
    origins = np.zeros((3, 3))
    origins[:, 2] = eye
    return Camera(
        height=height,
        width=width,
        projection=np.column_stack([axes, -(axes * eye).sum(1)]),
        origins=origins,
        directions=np.column_stack([right / focal, down / focal, forward - right * cx / focal - down * cy / focal]),
        focal=focal,
        perspective=True,
    )


def distant_camera(
    target: tuple[float, float, float],
    direction: tuple[float, float, float],
    pixels_per_meter: float,
    size: tuple[int, int],
    *,
    distance: float = 500.0,
    up: float = 0.0,
) -> Camera:
    """An orthographic camera that looks along direction, with target in the middle of its image.

    direction (0, 0, -1) is the view from above; the sun's is its light's direction. up: the heading at the top of
    the image, in radians from north to east.
    """
    height, width = size
    forward = np.array(direction) / math.sqrt(sum(d * d for d in direction))
    top = np.array([math.sin(up), math.cos(up), 0.0])
    right = np.cross(forward, top)
    if (right * right).sum() < 1e-9:
        right = np.array([1.0, 0.0, 0.0])
    right /= math.sqrt((right * right).sum())
    down = np.cross(forward, right)
    k, cx, cy = pixels_per_meter, width / 2, height / 2
    middle = np.array(target)
    start = middle - distance * forward
    return Camera(
        height=height,
        width=width,
        projection=np.array(
            [
                [*(k * right), cx - k * (right * middle).sum()],
                [*(k * down), cy - k * (down * middle).sum()],
                [0.0, 0.0, 0.0, 1.0],
            ]
        ),
        origins=np.column_stack([right / k, down / k, start - right * cx / k - down * cy / k]),
        directions=np.column_stack([np.zeros(3), np.zeros(3), forward]),
        focal=k,
        perspective=False,
    )
