"""Color transfer: the numbers of the specification, and the segments that break a naive division."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.compose.color import (
    LMS_TO_RGB,
    LOG_TO_LAB,
    RGB_TO_LMS,
    color_statistics,
    lab_to_rgb,
    rgb_to_lab,
    transfer_color,
)
from pipelines.compose.guidance import Piece


def noise(low: int, high: int, seed: int, size: tuple[int, int] = (24, 31)) -> Piece:
    rng = np.random.default_rng(seed)
    mask = rng.random(size) < 0.7
    crop = rng.integers(low, high, (*size, 3)).astype(np.uint8)
    crop[~mask] = 0
    return Piece(crop, mask)


def flat(color: tuple[int, int, int], size: tuple[int, int] = (5, 6)) -> Piece:
    return Piece(np.full((*size, 3), color, np.uint8), np.ones(size, bool))


def test_constants() -> None:
    assert np.abs(LOG_TO_LAB @ LOG_TO_LAB.T - np.eye(3)).max() < 1e-12
    assert 0.005 < np.abs(LMS_TO_RGB @ RGB_TO_LMS - np.eye(3)).max() < 0.0073


def test_one_color_there_and_back() -> None:
    lab = rgb_to_lab(np.array([[200], [100], [50]]))
    np.testing.assert_allclose(lab[:, 0], [7.9426, 0.6034, 0.1147], atol=5e-5)
    np.testing.assert_allclose(lab_to_rgb(lab)[:, 0], [200.04, 99.91, 50.72], atol=5e-3)


def test_its_own_statistics_change_nothing() -> None:
    """Within 2 levels, as long as every channel is above the error of the printed constants."""
    piece = noise(60, 200, 0)
    result = transfer_color(piece, color_statistics(piece))
    assert np.abs(result.crop.astype(int) - piece.crop)[piece.mask].max() <= 2
    assert (result.crop[~piece.mask] == 0).all()
    assert result.mask is piece.mask


def test_statistics_become_those_of_the_reference() -> None:
    """Up to the truncation to whole levels and the printed constants."""
    piece, reference = noise(100, 140, 1), noise(60, 90, 2)
    got, wanted = color_statistics(transfer_color(piece, color_statistics(reference))), color_statistics(reference)
    np.testing.assert_allclose(got.mean, wanted.mean, atol=0.02)
    np.testing.assert_allclose(got.deviation, wanted.deviation, rtol=0.05)


def test_statistics_see_the_mask_alone() -> None:
    piece = noise(30, 220, 3)
    dirty = Piece(piece.crop.copy(), piece.mask)
    dirty.crop[~piece.mask] = 255
    a, b = color_statistics(piece), color_statistics(dirty)
    np.testing.assert_array_equal(a.mean, b.mean)
    pixels = [rgb_to_lab(p[:, None])[:, 0] for p in piece.crop[piece.mask]]
    np.testing.assert_allclose(a.mean, np.mean(pixels, axis=0), atol=1e-12)
    np.testing.assert_allclose(a.deviation, np.std(pixels, axis=0), atol=1e-12)


@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255), (128, 128, 128), (7, 200, 31)])
def test_a_source_of_one_color_takes_the_mean_of_the_reference(color: tuple[int, int, int]) -> None:
    reference = color_statistics(noise(50, 200, 4))
    with np.errstate(all="raise"):
        result = transfer_color(flat(color), reference)
    assert len(np.unique(result.crop.reshape(-1, 3), axis=0)) == 1
    mean = lab_to_rgb(reference.mean[:, None])[:, 0]
    assert np.abs(result.crop[0, 0] - mean).max() <= 1


def test_a_reference_of_one_color_gives_that_color() -> None:
    result = transfer_color(noise(0, 256, 5), color_statistics(flat((90, 120, 150))))
    assert np.abs(result.crop[result.mask].astype(int) - [90, 120, 150]).max() <= 2


def test_a_gray_segment_gets_no_speckle_of_color() -> None:
    """Its chroma is rounding; divided by its own deviation and scaled to the reference's it would be noise."""
    rng = np.random.default_rng(0)
    gray = Piece(rng.integers(40, 220, (30, 30, 1)).astype(np.uint8).repeat(3, axis=2), np.ones((30, 30), bool))
    result = transfer_color(gray, color_statistics(noise(30, 220, 6)))
    of_gray: dict[int, set] = {}
    for before, after in zip(gray.crop.reshape(-1, 3), result.crop.reshape(-1, 3), strict=True):
        of_gray.setdefault(int(before[0]), set()).add(tuple(after.tolist()))
    assert all(len(colors) == 1 for colors in of_gray.values())
    chroma = rgb_to_lab(result.crop.reshape(-1, 3).T)[1:]
    assert chroma.std(axis=1).max() < 0.05


def test_an_outlier_in_a_flat_segment_stays_a_number() -> None:
    """200 deviations brighter than the rest, times the deviation of black beside white: e to the thousands."""
    piece = flat((20, 20, 20), (200, 200))
    piece.crop[0, 0] = 255
    wild = Piece(np.zeros((40, 40, 3), np.uint8), np.ones((40, 40), bool))
    wild.crop[::2] = 255
    with np.errstate(all="raise", under="ignore"):
        result = transfer_color(piece, color_statistics(wild))
    assert len(np.unique(result.crop[1:].reshape(-1, 3), axis=0)) == 1
    assert result.crop[0, 0].tolist() == [255, 255, 255]


def test_one_pixel_each() -> None:
    result = transfer_color(flat((10, 20, 30), (1, 1)), color_statistics(flat((200, 100, 50), (1, 1))))
    assert np.abs(result.crop[0, 0].astype(int) - [200, 100, 50]).max() <= 1
