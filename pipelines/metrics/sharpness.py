"""Sharpness difference of output images against reference images, per image: do they have edges in the same places?

Two published forms, whose numbers are not to be mixed. «signed» compares gradients with their sign (Shi et al. 2022),
«abs» their sizes alone (Regmi and Borji 2018). Both are 10 log10(255² / error) in dB, higher is better; both floor the
error at FLOOR, where equal gradients have 88.13 dB.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Variant = Literal["signed", "abs"]

FLOOR = 1e-4
"""Least error."""
SIDE = 3
"""Smallest side of an image that has a pixel inside its border."""

PROTOCOLS: dict[str, str] = {
    "signed": "10 log10(255² / (64 mean(|dx a - dx b| + |dy a - dy b|))), forward differences of RGB in 0 to 255 where "
    f"both exist, error at least {FLOOR:g}; per image, then the mean",
    "abs": "10 log10(255² / (128² sum(||dx a| - |dx b|| + ||dy a| - |dy b||) / (3 h w))), differences of RGB in 0 to 1 "
    f"to the left and upper neighbor, the sum over pixels off the border, error at least {FLOOR:g}; per image, then "
    "the mean",
}


def sharpness_difference(outputs: np.ndarray, references: np.ndarray, variant: Variant = "signed") -> np.ndarray:
    """Sharpness difference in dB of each image: two (n, h, w, 3) uint8 arrays to (n,) float64."""
    a, b = (images.astype(np.float64) for images in (outputs, references))
    if variant == "signed":
        steps = [(right - left, below - above) for right, left, below, above in map(_forward, (a, b))]
        error = 64 * sum(np.abs(one - other) for one, other in zip(*steps, strict=True)).mean(axis=(1, 2, 3))
    else:
        sizes = [(np.abs(here - left), np.abs(here - above)) for here, left, above in map(_inner, (a, b))]
        apart = sum(np.abs(one - other) for one, other in zip(*sizes, strict=True)).sum(axis=(1, 2, 3))
        error = 128**2 / 255 * apart / np.prod(a.shape[1:])
    return np.asarray(10 * np.log10(255**2 / np.maximum(error, FLOOR)))


def _forward(images: np.ndarray) -> tuple[np.ndarray, ...]:
    """Right neighbor, pixel, lower neighbor, pixel, of all pixels that have both: (n, h - 1, w - 1, 3) each."""
    here = images[:, :-1, :-1]
    return images[:, :-1, 1:], here, images[:, 1:, :-1], here


def _inner(images: np.ndarray) -> tuple[np.ndarray, ...]:
    """Pixel, left neighbor, upper neighbor, of all pixels off the border: (n, h - 2, w - 2, 3) each."""
    return images[:, 1:-1, 1:-1], images[:, 1:-1, :-2], images[:, :-2, 1:-1]
