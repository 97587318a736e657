"""Color histograms against counting, and chi-square against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.metrics import histogram
from pipelines.metrics.histogram import chi_square, color_histogram


def test_shares_of_pixels_by_color() -> None:
    image = np.array([[[0, 0, 0], [31, 31, 31]], [[32, 0, 0], [255, 255, 255]]], np.uint8)
    found = color_histogram(image).reshape(8, 8, 8)
    assert found[0, 0, 0] == 0.5 and found[1, 0, 0] == 0.25 and found[7, 7, 7] == 0.25 and found.sum() == 1


def test_chi_square_by_its_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histogram, "_CHUNK", 40)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (7, 5, 5, 3)).astype(np.uint8)
    images[3:] //= 4
    p = np.stack([color_histogram(image) for image in images]).astype(np.float64)
    with np.errstate(invalid="ignore"):
        wanted = 0.5 * np.nansum((p[:, None] - p) ** 2 / (p[:, None] + p), axis=2)
    assert chi_square(p[:4], p) == pytest.approx(wanted[:4], abs=1e-6)
