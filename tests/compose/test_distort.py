"""Distorted ground truth: each distortion by itself, then whole scenes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipelines.bank.segments import Decompose, Decomposition, decompose, reframe
from pipelines.compose.color import color_statistics, transfer_color
from pipelines.compose.distort import Distort, distort_scene, lower_resolution
from pipelines.compose.guidance import Guidance, Piece, cut

NOTHING = Distort(color=False, resolution=False, shape=False)
THINGS = np.array([False, True, False])


def scene() -> tuple[np.ndarray, np.ndarray, Decomposition]:
    """Sky over ground with a disk before both, a small thing, ignored pixels and a one-pixel thing."""
    rng = np.random.default_rng(0)
    labels = np.zeros((64, 80), np.int16)
    labels[30:] = 2
    y, x = np.mgrid[:64, :80]
    labels[(x - 40) ** 2 + (y - 32) ** 2 < 300] = 1
    labels[50:56, 5:20] = 1
    labels[60, 70] = 1
    labels[:4, 60:] = -1
    image = rng.integers(1, 256, (64, 80, 3)).astype(np.uint8)
    return image, labels, decompose(labels, None, THINGS, Decompose(preserved_ratio=1))


def distorted(config: Distort, references: list | None = None, seed: int = 0) -> Guidance:
    image, labels, d = scene()
    references = references or [None] * len(d.segments)
    return distort_scene(image, d, (labels >= 0) & THINGS[labels], references, config, np.random.default_rng(seed))


def test_without_distortions_the_image_comes_back() -> None:
    image, _, d = scene()
    result = distorted(NOTHING)
    np.testing.assert_array_equal(result.owner, d.owner)
    np.testing.assert_array_equal(result.image, np.where((d.owner >= 0)[..., None], image, 0))


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0.01, 1), st.integers(0, 99))
@settings(deadline=None)
def test_resolution_keeps_shape_and_mask(h: int, w: int, tau: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((h, w)) < 0.8
    piece = Piece(rng.integers(0, 256, (h, w, 3)).astype(np.uint8) * mask[..., None], mask)
    result = lower_resolution(piece, tau)
    np.testing.assert_array_equal(result.mask, mask)
    assert result.crop.shape == piece.crop.shape and (result.crop[~mask] == 0).all()
    np.testing.assert_array_equal(lower_resolution(piece, 1.0).crop, piece.crop)


def test_resolution_takes_detail_away_and_leaves_flats() -> None:
    full = np.ones((40, 40), bool)
    checker = np.full((40, 40, 3), 100, np.uint8)
    checker[::2, ::2] = checker[1::2, 1::2] = 140
    blurred = lower_resolution(Piece(checker, full), 0.6).crop[10:30, 10:30]
    assert blurred.std() < 0.7 * checker.std()
    flat = lower_resolution(Piece(np.full((40, 40, 3), 77, np.uint8), full), 0.6).crop
    assert (flat[4:-4, 4:-4] == 77).all()
    assert flat[0].mean() < 77  # the black around bleeds in, as published


def test_order_is_color_then_resolution() -> None:
    image, _, d = scene()
    reference = color_statistics(cut(image[::-1].copy() // 2, d.owner, 1, d.segments[1].box))
    references = [None, reference, None, None, None][: len(d.segments)]
    config = Distort(shape=False)
    result = distorted(config, references)
    rng = np.random.default_rng(0)
    for i, segment in enumerate(d.segments):
        piece = cut(image, d.owner, i, segment.box)
        if references[i] is not None:
            piece = transfer_color(piece, reference)
        piece = lower_resolution(piece, rng.uniform(0.5, 1))
        np.testing.assert_array_equal(result.image[d.owner == i], piece.crop[piece.mask])


def test_a_segment_without_reference_keeps_its_color() -> None:
    image, _, d = scene()
    reference = Piece(np.full((3, 3, 3), (10, 20, 200), np.uint8), np.ones((3, 3), bool))
    only_first = [reference] + [None] * (len(d.segments) - 1)
    config = Distort(shape=False, resolution=False)
    result = distorted(config, only_first)
    np.testing.assert_array_equal(result.image[d.owner > 0], image[d.owner > 0])
    assert np.abs(result.image[d.owner == 0].astype(int) - [10, 20, 200]).max() <= 2
    by_statistics = distorted(config, [color_statistics(reference), *only_first[1:]])
    np.testing.assert_array_equal(by_statistics.image, result.image)


def test_shape_moves_things_over_stuff_and_stuff_nowhere() -> None:
    _, _, d = scene()
    disk = next(i for i, s in enumerate(d.segments) if s.area > 900 and s.thing)
    overflowed = holes = 0
    for seed in range(20):
        result = distorted(Distort(color=False, resolution=False), seed=seed)
        moved = (result.owner != d.owner) & (result.owner >= 0)
        assert d.things[result.owner[moved]].all()  # R2: stuff stays in its own mask
        assert not ((d.owner >= 0) & d.things[d.owner])[moved].any()  # R4: nothing covers a thing
        assert (result.image[result.owner < 0] == 0).all()
        overflowed += ((result.owner == disk) & (d.owner != disk)).sum()
        holes += ((d.owner == disk) & (result.owner != disk)).sum()
    assert overflowed > 50 and holes > 50


def test_shape_moves_by_no_more_than_it_may() -> None:
    """0.4 * 0.22 * sqrt(area) per axis; a disk of 940 pixels moves by 2.7, a spline overshoots little more."""
    _, _, d = scene()
    y, x = np.mgrid[:64, :80]
    distance = np.sqrt((x - 40) ** 2 + (y - 32) ** 2)
    disk = d.owner[32, 40]
    for seed in range(20):
        owner = distorted(Distort(color=False, resolution=False), seed=seed).owner
        assert distance[owner == disk].max() < 17.3 + 6
        assert (owner[distance < 17.3 - 6] == disk).all()


def test_the_same_generator_state_gives_the_same_image() -> None:
    a, b, c = (distorted(Distort(), seed=s).image for s in (3, 3, 4))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_nothing_moves_where_moves_are_under_a_pixel() -> None:
    _, _, d = scene()
    result = distorted(Distort(color=False, resolution=False, move=0.05))
    np.testing.assert_array_equal(result.owner, d.owner)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (1, 40), (40, 1), (2, 30), (3, 3)])
def test_tiny_segments_pass_through_everything(size: tuple[int, int]) -> None:
    labels = np.zeros((48, 48), np.int16)
    h, w = size
    labels[4 : 4 + h, 4 : 4 + w] = 1
    image = np.random.default_rng(1).integers(1, 256, (48, 48, 3)).astype(np.uint8)
    d = decompose(labels, None, THINGS, Decompose(preserved_ratio=1))
    tiny = Piece(np.full((1, 1, 3), 90, np.uint8), np.ones((1, 1), bool))
    for seed in range(10):
        with np.errstate(divide="raise", invalid="raise", over="raise"):
            result = distort_scene(
                image, d, labels == 1, [tiny] * len(d.segments), Distort(move=4), np.random.default_rng(seed)
            )
        assert result.image.shape == image.shape


def test_a_segment_that_vanished_in_a_crop_is_left_out() -> None:
    image, labels, d = scene()
    window = np.s_[32:, :30]
    small = reframe(d, d.owner[window].copy())
    assert any(s.area == 0 for s in small.segments)
    result = distort_scene(
        image[window],
        small,
        (labels == 1)[window],
        [None] * len(d.segments),
        NOTHING,
        np.random.default_rng(0),
    )
    np.testing.assert_array_equal(result.owner, small.owner)


def test_config_refuses_what_cannot_be() -> None:
    for wrong in ({"moved": 11}, {"points": 2}, {"tau_min": 0}, {"tau_min": 1.5}, {"move": -1}, {"colour": True}):
        with pytest.raises(ValidationError):
            Distort.model_validate(wrong)
