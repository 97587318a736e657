"""The spline against its definition written out, and pieces moved by it."""

from __future__ import annotations

from itertools import pairwise
from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.compose.guidance import Piece
from pipelines.compose.warp import boundary_points, flow_map, move_points, thin_plate, warp_piece


def spline_by_definition(sites: np.ndarray, values: np.ndarray, p: tuple[float, float]) -> np.ndarray:
    """Solve [[Phi, P], [P', 0]] [w; v] = [f; 0] without rescaling, P = [y x 1], and evaluate at one point."""

    def phi(a: np.ndarray, b: np.ndarray) -> float:
        squared = float((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2)
        return 0.5 * squared * log(squared) if squared else 0.0

    n = len(sites)
    matrix = np.zeros((n + 3, n + 3))
    for i in range(n):
        for j in range(n):
            matrix[i, j] = phi(sites[i], sites[j])
        matrix[i, n:] = matrix[n:, i] = [sites[i][1], sites[i][0], 1]
    w = np.linalg.solve(matrix, np.vstack([values, np.zeros((3, values.shape[1]))]))
    point = np.array(p)
    row = [phi(point, s) for s in sites] + [point[1], point[0], 1]
    return np.array(row) @ w


def outline(seed: int = 0) -> np.ndarray:
    """Ten points on a wobbly ring, the last next to the first."""
    angle = np.append(np.arange(9) * 2 * np.pi / 9, -0.05)
    radius = 18 + np.random.default_rng(seed).uniform(-4, 4, 10)
    return np.rint(np.stack([25 + radius * np.cos(angle), 22 + radius * np.sin(angle)], axis=1)).astype(np.int64)


@pytest.mark.parametrize("seed", range(4))
def test_flow_equals_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sites, values = outline(seed).astype(float), rng.uniform(-4, 4, (10, 2))
    spline = thin_plate(sites, values)
    assert spline is not None
    flow = flow_map(spline, (-5, -3), (50, 60))
    assert flow.shape == (2, 50, 60)
    for x, y in rng.integers(0, (60, 50), (40, 2)):
        expected = spline_by_definition(sites, values, (x - 5, y - 3))
        np.testing.assert_allclose(flow[:, y, x], expected, atol=5e-3)
    for (x, y), value in zip(outline(seed), values, strict=True):
        np.testing.assert_allclose(flow[:, y + 3, x + 5], value, atol=5e-3)


def test_points_that_stay_give_no_flow_and_a_translation_a_constant_one() -> None:
    sites = outline().astype(float)
    for move in ((0, 0), (3, -2), (0.25, 10)):
        spline = thin_plate(sites, np.tile(np.array(move, float), (10, 1)))
        assert spline is not None
        assert np.abs(spline.weights).max() < 1e-9
        np.testing.assert_allclose(
            flow_map(spline, (0, 0), (40, 45)).transpose(1, 2, 0), np.broadcast_to(move, (40, 45, 2)), atol=1e-5
        )


def test_an_affine_map_is_reproduced() -> None:
    matrix, shift = np.array([[1.1, -0.2], [0.3, 0.8]]), np.array([4.0, -7.0])
    spline = thin_plate(outline().astype(float), outline() @ matrix.T + shift)
    assert spline is not None
    assert np.abs(spline.weights).max() < 1e-9
    y, x = np.mgrid[:40, :45]
    expected = np.stack([x, y], axis=-1) @ matrix.T + shift
    np.testing.assert_allclose(flow_map(spline, (0, 0), (40, 45)).transpose(1, 2, 0), expected, atol=1e-4)


@pytest.mark.parametrize(
    "sites",
    [
        [[0, 0], [1, 1], [2, 2], [5, 5]],  # collinear
        [[3, 0], [3, 7], [3, 9]],
        [[4, 4], [4, 4], [4, 4]],
        [[0, 0], [10, 0], [0, 10], [0, 10]],  # one twice
    ],
)
def test_no_spline_through_collinear_or_coincident_sites(sites: list[list[int]]) -> None:
    values = np.random.default_rng(0).uniform(-2, 2, (len(sites), 2))
    assert thin_plate(np.array(sites, float), values) is None


def test_points_spread_over_the_longest_outer_contour() -> None:
    mask = np.zeros((30, 40), bool)
    mask[2:5, 2:5] = True  # a smaller blob
    mask[8:28, 10:35] = True
    mask[12:20, 15:25] = False  # a hole, which has no outer contour
    points = boundary_points(mask, 10)
    assert points is not None and points.shape == (10, 2)
    x, y = points.T
    assert (((x == 10) | (x == 34)) & (y >= 8) & (y < 28) | ((y == 8) | (y == 27)) & (x >= 10) & (x < 35)).all()
    assert np.abs(points[0] - points[-1]).max() == 1  # neighbors on the closed contour
    # 86 pixels: every stride is 9 or 10 of them, which a corner shortens at most to half.
    assert all(4 < np.abs(a - b).sum() <= 10 for a, b in pairwise(points))


@pytest.mark.parametrize(("size", "enough"), [((3, 3), False), ((1, 6), False), ((2, 5), False), ((4, 4), True)])
def test_short_outlines_have_no_points(size: tuple[int, int], enough: bool) -> None:
    """An outline of 8, 10, 10 and 12 pixels, a line being walked there and back; 11 are needed."""
    assert (boundary_points(np.ones(size, bool), 10) is not None) == enough


def test_an_empty_mask_has_no_points() -> None:
    assert boundary_points(np.zeros((4, 4), bool), 10) is None


@given(st.integers(0, 2**32 - 1), st.floats(0, 6), st.integers(0, 10))
@settings(deadline=None)
def test_moves_are_few_short_and_whole(seed: int, reach: float, moved: int) -> None:
    points = outline()
    target = move_points(points, moved, reach, np.random.default_rng(seed))
    if target is None:
        return
    assert target.dtype == np.int64
    difference = np.abs(target - points)
    assert difference.max() <= reach
    assert np.count_nonzero(difference.any(axis=1)) <= moved
    assert len(np.unique(target, axis=0)) == len(target)


def test_moves_reach_their_bounds_and_every_point() -> None:
    rng = np.random.default_rng(0)
    moves = [m - outline() for m in (move_points(outline(), 3, 2.9, rng) for _ in range(300)) if m is not None]
    assert {int(v) for m in moves for v in m.ravel()} == {-2, -1, 0, 1, 2}
    assert np.any(moves, axis=(0, 2)).all()


def test_points_that_come_to_coincide_are_rejected() -> None:
    points = np.array([[0, 0], [1, 0]])
    results = [move_points(points, 1, 1.9, np.random.default_rng(s)) for s in range(200)]
    assert any(r is None for r in results)


def ring_piece() -> Piece:
    y, x = np.mgrid[:44, :50]
    mask = (x - 25) ** 2 + (y - 22) ** 2 < 400
    crop = np.stack([4 * x, 5 * y, x + y], axis=-1).astype(np.uint8) + np.uint8(20)
    crop[~mask] = 0
    return Piece(crop, mask)


def test_moving_all_points_alike_moves_the_piece() -> None:
    piece = ring_piece()
    for dx, dy in ((0, 0), (3, 0), (-2, 4)):
        result = warp_piece(piece, outline(), outline() + np.array([dx, dy]), (5, 6, 7, 8))
        assert result is not None and result.mask.shape == (44 + 14, 50 + 12)
        expected = np.zeros((58, 62, 3), np.uint8)
        expected[6 + dy : 50 + dy, 5 + dx : 55 + dx] = piece.crop
        np.testing.assert_array_equal(result.crop, expected)
        np.testing.assert_array_equal(result.mask, expected.any(axis=-1))


def test_a_warp_takes_sources_to_targets() -> None:
    piece = ring_piece()
    source = outline()
    target = source.copy()
    target[[1, 4, 6]] += [[3, 2], [-2, 3], [1, -3]]
    result = warp_piece(piece, source, target, (8, 8, 8, 8))
    assert result is not None
    checked = 0
    for (sx, sy), (tx, ty) in zip(source, target, strict=True):
        if piece.mask[sy - 1 : sy + 2, sx - 1 : sx + 2].all():
            assert np.abs(result.crop[ty + 8, tx + 8].astype(int) - piece.crop[sy, sx]).max() <= 1
            checked += 1
    assert checked >= 3
    assert (result.crop[~result.mask] == 0).all()
    assert (result.mask[8:-8, 8:-8] != piece.mask).any()


def test_no_warp_without_a_spline() -> None:
    line = np.stack([np.arange(10), np.arange(10)], axis=1)
    assert warp_piece(ring_piece(), line, line, (0, 0, 0, 0)) is None
