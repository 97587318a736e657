"""Sharpness difference against the numbers of its papers' formulas, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.metrics.sharpness import Variant, sharpness_difference


def gray(rows: list[list[int]]) -> np.ndarray:
    return np.repeat(np.array(rows, np.uint8)[None, :, :, None], 3, axis=3)


@pytest.mark.parametrize("variant", ["signed", "abs"])
def test_equal_gradients_reach_the_floor(variant: Variant) -> None:
    image = np.random.default_rng(0).integers(0, 246, (2, 7, 9, 3)).astype(np.uint8)
    assert sharpness_difference(image, image + 10, variant) == pytest.approx([88.131, 88.131], abs=5e-4)


def test_a_mean_error_of_one_level() -> None:
    ramp = gray([[column for column in range(8)]] * 8)
    assert sharpness_difference(ramp, np.zeros_like(ramp)) == pytest.approx([30.069], abs=5e-4)
    assert sharpness_difference(ramp, ramp.transpose(0, 2, 1, 3)) == pytest.approx([30.069 - 3.0103], abs=5e-4)


def test_the_published_step_edge() -> None:
    """Two right columns of 4 are white: 255 of 255 between columns 1 and 2, in the two inner rows."""
    step = gray([[0, 0, 255, 255]] * 4)
    assert sharpness_difference(step, np.zeros_like(step), "abs") == pytest.approx([15.018], abs=5e-4)


def test_signed_sees_a_mirrored_slope_and_abs_does_not() -> None:
    up = gray([[0, 50, 100, 150]] * 4)
    down = up[:, :, ::-1]
    assert sharpness_difference(up, down, "abs")[0] == pytest.approx(88.131, abs=5e-4)
    assert sharpness_difference(up, down, "signed")[0] == pytest.approx(10 * np.log10(255**2 / (64 * 100)))
