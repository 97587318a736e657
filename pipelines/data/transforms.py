"""Geometry that must be the same wherever a map or a picture is resized."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np


def nearest_resize(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (H, W, ...) `values` to `size` = (h, w): row i comes from row floor((i + 0.5) H / h), columns alike.

    This is the one nearest-neighbor rule of the project (PyTorch calls it nearest-exact, PIL NEAREST). Labels,
    instances, segment ownership and masks that are resized together stay aligned only if all use it. The
    result is always a new array. OpenCV's INTER_NEAREST drops the 0.5 and shifts maps by half a pixel.
    """
    h, w = size
    H, W = values.shape[:2]
    return values[nearest_indices(H, h)][:, nearest_indices(W, w)]


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (h, w, 3) uint8: bicubic where it grows, area average where it shrinks (plain bicubic aliases)."""
    if image.shape[:2] == tuple(size):
        return image
    shrinks = size[0] <= image.shape[0] and size[1] <= image.shape[1]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


@lru_cache(maxsize=4096)
def nearest_indices(length: int, size: int) -> np.ndarray:
    """(size,): which of `length` entries each of `size` comes from. Remembered, so not to be written to."""
    indices = (2 * np.arange(size) + 1) * length // (2 * size)
    indices.flags.writeable = False
    return indices
