"""PSNR and SSIM of output images against reference images, per image, by torchmetrics.

Both take uint8 images and compare them in float64 on [0, 1] (data_range 1), so the batch size changes no digit that
is shown.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

PSNR_CEILING = 100.0
"""dB of an image that equals its reference."""

PSNR_PROTOCOL = "per image over all channels in dB (data range 1, at most 100 dB), then the mean"
SSIM_PROTOCOL = "Gaussian window 11x11, sigma 1.5, K 0.01 and 0.03, data range 1, mean over RGB, reflected borders"

SSIM_SIDE = 11
"""Smallest side of an image for SSIM: its window."""


def psnr(outputs: np.ndarray, references: np.ndarray) -> np.ndarray:
    """PSNR in dB of each image: two (n, h, w, 3) uint8 arrays to (n,) float64, at most 100."""
    from torchmetrics.functional.image import peak_signal_noise_ratio

    values: Tensor = peak_signal_noise_ratio(
        unit_range(outputs), unit_range(references), data_range=1.0, reduction="none", dim=(1, 2, 3)
    )
    return values.clamp(max=PSNR_CEILING).numpy()


def ssim(outputs: np.ndarray, references: np.ndarray) -> np.ndarray:
    """SSIM of each image: two (n, h, w, 3) uint8 arrays to (n,) float64. Sides must be SSIM_SIDE or more."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    values = structural_similarity_index_measure(
        unit_range(outputs), unit_range(references), data_range=1.0, reduction="none"
    )
    assert isinstance(values, Tensor)
    return values.numpy()


def unit_range(images: np.ndarray) -> Tensor:
    """(n, h, w, 3) uint8 -> (n, 3, h, w) float64 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).double() / 255
