"""PSNR and SSIM against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines.metrics.choice import Choice, Job
from pipelines.metrics.instruments import build
from pipelines.metrics.quality import psnr, ssim


def flat(value: int, side: int = 32) -> np.ndarray:
    return np.full((1, side, side, 3), value, dtype=np.uint8)


def test_psnr_is_the_mean_of_decibels_per_image() -> None:
    # pooled over the set the error would be 22.97 dB
    reference = np.zeros((2, 100, 100, 3), dtype=np.uint8)
    output = reference.copy()
    output[0, :25] = 51  # MSE (51/255)² / 4 = 0.01
    output[1].reshape(-1)[:3] = 255  # MSE 3 / 30000 = 0.0001
    assert psnr(output, reference) == pytest.approx([20.0, 40.0], abs=1e-5)


def test_psnr_of_equal_images_is_the_ceiling() -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    assert psnr(image, image) == pytest.approx([100.0])


def test_ssim_of_constant_images() -> None:
    a, b = 51 / 255, 102 / 255
    expected = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)  # contrast and structure are 1
    assert ssim(flat(51), flat(102)) == pytest.approx([expected], abs=1e-9)
    assert ssim(flat(51), flat(51)) == pytest.approx([1.0])


def gaussian_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al. 2004, away from the border, straight from the definition: one channel in [0, 1]."""
    t = np.arange(11) - 5
    g = np.exp(-(t**2) / (2 * 1.5**2))
    window = np.outer(g, g) / g.sum() ** 2
    values = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            p, q = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * p * p).sum() - mp**2, (window * q * q).sum() - mq**2
            cov = (window * p * q).sum() - mp * mq
            values.append((2 * mp * mq + 1e-4) * (2 * cov + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    return float(np.mean(values))


def test_ssim_equals_its_definition_away_from_borders() -> None:
    rng = np.random.default_rng(1)
    inner = rng.integers(0, 256, (11, 11, 3), dtype=np.uint8)
    # periodic mirror images of one tile: every reflected window is a window of the inside
    tile = np.concatenate([inner, inner[::-1][1:-1]])
    tile = np.concatenate([tile, tile[:, ::-1][:, 1:-1]], axis=1)
    x = np.concatenate([tile, tile[:1]])
    x = np.concatenate([x, x[:, :1]], axis=1)
    y = np.clip(x.astype(int) // 2 + 40, 0, 255).astype(np.uint8)
    period = [np.pad(im, ((5, 5), (5, 5), (0, 0)), mode="reflect") / 255 for im in (x, y)]
    expected = np.mean([gaussian_ssim(period[0][..., c], period[1][..., c]) for c in range(3)])
    assert ssim(x[None], y[None]) == pytest.approx([expected], abs=1e-8)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_batches_do_not_change_the_values(metric) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(2)
    x, y = rng.integers(0, 256, (2, 5, 24, 20, 3), dtype=np.uint8)
    together = metric(x, y)
    alone = np.concatenate([metric(x[i : i + 1], y[i : i + 1]) for i in range(5)])
    assert together == pytest.approx(alone, abs=1e-12)


def test_constants_ten_levels_apart() -> None:
    black = np.zeros((1, 12, 12, 3), np.uint8)
    assert psnr(black + 10, black) == pytest.approx([28.131], abs=5e-4)


def test_the_lower_half_is_measured_alone() -> None:
    image = np.random.default_rng(0).integers(0, 200, (1, 25, 30, 3)).astype(np.uint8)
    sky, ground = image.copy(), image.copy()
    sky[:, :12] += 50
    ground[:, 12:] += 10
    choice = Choice([Job("psnr_lower", "psnr_lower"), Job("ssim_lower", "ssim_lower")])
    found = build(choice, "alex", "signed", None, None, torch.device("cpu")).pairwise
    assert [side for side, _ in found.values()] == [2, 22]
    assert found["psnr_lower"][1](sky, image) == pytest.approx([100])
    assert found["ssim_lower"][1](sky, image) == pytest.approx([1])
    assert found["psnr_lower"][1](ground, image) == pytest.approx([28.131], abs=5e-4)
