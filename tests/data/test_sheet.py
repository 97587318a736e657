"""Contact sheets: every image where it belongs, nothing stretched, the same at every call."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.data.sheet import HEADING, MARGIN, contact_sheet, fit, grid


def flat(color: tuple[int, int, int], h: int = 8, w: int = 8) -> np.ndarray:
    return np.full((h, w, 3), color, dtype=np.uint8)


def test_each_image_is_in_its_row_and_column() -> None:
    colors = [[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (9, 9, 9)], [(1, 2, 3), (70, 80, 90)]]
    sheet = contact_sheet([[flat(c) for c in row] for row in colors], ["layout", "output"], cell=32)
    assert sheet.shape == (HEADING + MARGIN + 3 * (32 + MARGIN), MARGIN + 2 * (32 + MARGIN), 3)
    assert sheet.dtype == np.uint8
    for i, row in enumerate(colors):
        for j, color in enumerate(row):
            top, left = HEADING + MARGIN + i * (32 + MARGIN), MARGIN + j * (32 + MARGIN)
            assert (sheet[top : top + 32, left : left + 32] == color).all()


def test_headings_are_written() -> None:
    row = [[flat((0, 0, 0))]]
    with_text, without = contact_sheet(row, ["output"]), contact_sheet(row, [""])
    assert (with_text[:HEADING] < 255).any()
    assert (without[:HEADING] == 255).all()


def test_small_images_grow_by_whole_factors_with_hard_pixels() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    large = fit(image, 32)
    assert large.shape == (20, 28, 3)
    assert np.array_equal(large[2::4, 2::4], image)


def test_large_images_keep_their_aspect_and_mean() -> None:
    image = np.random.default_rng(1).integers(0, 256, (128, 256, 3), dtype=np.uint8)
    small = fit(image, 64)
    assert small.shape == (32, 64, 3)
    assert small.mean() == pytest.approx(image.mean(), abs=0.5)


def test_a_long_heading_stays_in_its_column() -> None:
    sheet = contact_sheet([[flat((0, 0, 0)), flat((0, 0, 0))]], ["a very long heading indeed " * 2, ""], cell=128)
    assert (sheet[:HEADING, -60:] == 255).all()


def test_the_grid_holds_all_and_repeats_itself() -> None:
    images = [flat((i, i, i)) for i in range(1, 6)]
    sheet = grid(images, cell=16)
    assert {int(v) for v in np.unique(sheet)} == {1, 2, 3, 4, 5, 255}
    assert np.array_equal(sheet, grid(images, cell=16))


def test_a_row_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="2 images"):
        contact_sheet([[flat((0, 0, 0))]], ["a", "b"])
