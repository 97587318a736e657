"""Color transfer between segments by statistics in l-alpha-beta space (Reinhard et al. 2001; RESAIL eq. 5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.compose.guidance import Piece

RGB_TO_LMS = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
LMS_TO_RGB = np.array([[4.4679, -3.5873, 0.1193], [-1.2186, 2.3809, -0.1624], [0.0497, -0.2439, 1.2045]])
"""As printed in the paper: the inverse of RGB_TO_LMS within 0.0072 per entry, not exactly."""
LOG_TO_LAB = np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]]) / np.sqrt([[3], [6], [2]])
"""Orthonormal: its transpose is its inverse."""
FLOOR = 1e-10
"""The least LMS response before the logarithm, and the least standard deviation."""


@dataclass(frozen=True)
class ColorStatistics:
    """Mean and population standard deviation of l, alpha, beta over a mask, (3,) float64 each."""

    mean: np.ndarray
    deviation: np.ndarray


def rgb_to_lab(rgb: np.ndarray) -> np.ndarray:
    """(3, n) RGB in 0..255 to (3, n) l, alpha, beta in float64 (natural logarithm)."""
    lms = RGB_TO_LMS @ rgb.astype(np.float64, order="C")
    np.maximum(lms, FLOOR, out=lms)
    return LOG_TO_LAB @ np.log(lms, out=lms)


def lab_to_rgb(lab: np.ndarray) -> np.ndarray:
    """(3, n) l, alpha, beta to (3, n) RGB in float64, unclipped: inverts `rgb_to_lab` up to the printed constants.

    White is ln 255 = 5.5 in the logarithm. An outlier of a nearly constant segment can land in the thousands, where
    the exponential is infinite and RGB, a difference, would be NaN: hence the cap.
    """
    lms = LOG_TO_LAB.T @ lab
    np.minimum(lms, 50.0, out=lms)
    return LMS_TO_RGB @ np.exp(lms, out=lms)


def color_statistics(piece: Piece) -> ColorStatistics:
    """The color of a piece, over the pixels of its mask, of which there must be one."""
    return _centered(piece)[1]


def transfer_color(piece: Piece, reference: ColorStatistics) -> Piece:
    """The piece with the color statistics of the reference: x' = (x - mu) sigma_ref / sigma + mu_ref per channel.

    In float64, because a gray segment has no chroma but rounding, which a division by its deviation magnifies.
    """
    lab, own = _centered(piece)
    lab *= (np.maximum(reference.deviation, FLOOR) / np.maximum(own.deviation, FLOOR))[:, None]
    lab += reference.mean[:, None]
    rgb = lab_to_rgb(lab)
    crop = np.zeros_like(piece.crop)
    crop[piece.mask] = np.clip(rgb, 0, 255, out=rgb).astype(np.uint8).T
    return Piece(crop, piece.mask)


def _centered(piece: Piece) -> tuple[np.ndarray, ColorStatistics]:
    """(3, n) l, alpha, beta of the n pixels of the mask less their mean, and their statistics."""
    lab = rgb_to_lab(np.take(piece.crop.reshape(-1, 3), np.flatnonzero(piece.mask), axis=0).T)
    mean = lab.mean(axis=1)
    lab -= mean[:, None]
    return lab, ColorStatistics(mean, np.sqrt(np.einsum("cn,cn->c", lab, lab) / lab.shape[1]))
