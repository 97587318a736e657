"""The pasting rules against a per-pixel reading of the paper, and the resizing of pieces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipelines.bank.segments import Decompose, decompose
from pipelines.compose.guidance import Guidance, Piece, Placement, compose, cut, resize_piece
from pipelines.data.transforms import nearest_resize


@dataclass
class Layout:
    owner: np.ndarray
    things: np.ndarray
    areas: np.ndarray
    foreground: np.ndarray
    placements: list[Placement | None]

    def compose(self) -> Guidance:
        return compose(self.owner, self.things, self.areas, self.foreground, self.placements)


def painted(mask: np.ndarray, seed: int) -> Piece:
    """A piece whose every pixel has its own color."""
    crop = np.random.default_rng(seed).integers(1, 256, (*mask.shape, 3)).astype(np.uint8)
    crop[~mask] = 0
    return Piece(crop, mask)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Segments on a small canvas, some without a pixel, with pieces of the size of their box anywhere around it."""
    h, w, n = draw(st.integers(1, 7)), draw(st.integers(1, 7)), draw(st.integers(1, 5))
    owner = draw(hnp.arrays(np.int32, (h, w), elements=st.integers(-1, n - 1)))
    things = draw(hnp.arrays(bool, n))
    # Pixels of a thing class that no segment owns are possible: segments are dropped, labels stay.
    unowned = draw(hnp.arrays(bool, (h, w)))
    foreground = np.where(owner >= 0, things[owner], unowned)
    areas = draw(hnp.arrays(np.int64, n, elements=st.integers(1, 4)))
    placements: list[Placement | None] = []
    for i in range(n):
        if draw(st.integers(0, 5)) == 0:
            placements.append(None)
            continue
        bw, bh = draw(st.integers(1, 6)), draw(st.integers(1, 6))
        box = (draw(st.integers(-7, 8)), draw(st.integers(-7, 8)), bw, bh)
        placements.append(Placement(painted(draw(hnp.arrays(bool, (bh, bw))), i), box))
    return Layout(owner, things, areas, foreground, placements)


def read_rules(layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Image and owner, pixel by pixel, from R1-R4 and the words on precedence."""
    h, w = layout.owner.shape
    image, fed = np.zeros((h, w, 3), np.uint8), np.full((h, w), -1)
    for y in range(h):
        for x in range(w):
            own, overflows = None, []
            for i, placement in enumerate(layout.placements):
                if placement is None:
                    continue
                bx, by, bw, bh = placement.box
                if not (bx <= x < bx + bw and by <= y < by + bh) or not placement.piece.mask[y - by, x - bx]:
                    continue
                if layout.owner[y, x] == i:
                    own = i  # R1
                elif not layout.things[i]:
                    pass  # R2
                elif not layout.foreground[y, x]:
                    overflows.append((-layout.areas[i], by, bx, i))  # R3
                # else R4
            winner = own
            if overflows and not (own is not None and layout.things[own]):
                winner = max(overflows)[3]
            if winner is not None:
                placement = layout.placements[winner]
                assert placement is not None
                image[y, x] = placement.piece.crop[y - placement.box[1], x - placement.box[0]]
                fed[y, x] = winner
    return image, fed


@given(layouts())
@settings(max_examples=400, deadline=None)
def test_equals_the_rules_read_pixel_by_pixel(layout: Layout) -> None:
    result = layout.compose()
    image, fed = read_rules(layout)
    np.testing.assert_array_equal(result.owner, fed)
    np.testing.assert_array_equal(result.image, image)


@given(layouts(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_order_of_segments_does_not_matter(layout: Layout, random: object) -> None:
    n = len(layout.placements)
    layout.areas = np.arange(1, n + 1)  # equal areas are told apart by box, then by index
    order = list(range(n))
    random.shuffle(order)  # type: ignore[attr-defined]
    place = np.argsort(order)
    shuffled = Layout(
        np.where(layout.owner >= 0, place[layout.owner], -1).astype(np.int32),
        layout.things[order],
        layout.areas[order],
        layout.foreground,
        [layout.placements[i] for i in order],
    )
    a, b = layout.compose(), shuffled.compose()
    np.testing.assert_array_equal(a.image, b.image)
    np.testing.assert_array_equal(np.where(a.owner >= 0, place[a.owner], -1), b.owner)


def spec_case(with_g: bool) -> Layout:
    """The 4x4 case of the specification: stuff s = 0, instance f = 1, and perhaps an instance g = 2 at (2, 2)."""
    owner = np.zeros((4, 4), np.int32)
    owner[1, 1] = owner[1, 2] = owner[2, 1] = 1
    everything_but_a_corner = np.ones((4, 4), bool)
    everything_but_a_corner[0, 0] = False
    placements: list[Placement | None] = [
        Placement(painted(everything_but_a_corner, 0), (0, 0, 4, 4)),
        Placement(painted(np.ones((2, 2), bool), 1), (1, 1, 2, 2)),
    ]
    things, areas = [False, True], [12, 3]
    if with_g:
        owner[2, 2] = 2
        placements.append(Placement(painted(np.ones((1, 1), bool), 2), (2, 2, 1, 1)))
        things, areas = [False, True, True], [11, 3, 1]
    things_array = np.array(things)
    return Layout(owner, things_array, np.array(areas), things_array[owner], placements)


@pytest.mark.parametrize(("with_g", "corner"), [(False, 1), (True, 2)])
def test_overflow_is_kept_on_stuff_and_dropped_on_things(with_g: bool, corner: int) -> None:
    result = spec_case(with_g).compose()
    assert result.owner.tolist() == [[-1, 0, 0, 0], [0, 1, 1, 0], [0, 1, corner, 0], [0, 0, 0, 0]]
    assert (result.image[0, 0] == 0).all()


def test_smaller_of_two_overflows_is_on_top() -> None:
    owner = np.full((1, 5), -1, np.int32)
    owner[0, 0], owner[0, 4] = 0, 1
    pieces = [Placement(painted(np.ones((1, 4), bool), i), (i, 0, 4, 1)) for i in (0, 1)]
    things, foreground = np.array([True, True]), owner >= 0
    for areas, expected in (([2, 1], [0, 1, 1, 1, 1]), ([1, 2], [0, 0, 0, 0, 1])):
        assert compose(owner, things, np.array(areas), foreground, pieces).owner.tolist() == [expected]


@given(
    hnp.arrays(np.int16, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(-1, 3)),
    st.sampled_from([0.5, 1.0]),
)
@settings(deadline=None)
def test_perfect_retrieval_gives_the_image_back(labels: np.ndarray, ratio: float) -> None:
    things = np.array([False, True, False, True])
    image = np.random.default_rng(0).integers(1, 256, (*labels.shape, 3)).astype(np.uint8)
    d = decompose(labels, None, things, Decompose(preserved_ratio=ratio))
    pieces = [Placement(cut(image, d.owner, i, s.box), s.box) for i, s in enumerate(d.segments)]
    result = compose(d.owner, d.things, d.areas, (labels >= 0) & things[labels], pieces)
    np.testing.assert_array_equal(result.owner, d.owner)
    np.testing.assert_array_equal(result.image, np.where((d.owner >= 0)[..., None], image, 0))


def test_inputs_are_left_alone() -> None:
    layout = spec_case(True)
    before = [p.piece.crop.copy() for p in layout.placements if p is not None]
    layout.compose().image[:] = 7
    for p, crop in zip(layout.placements, before, strict=True):
        assert p is not None
        np.testing.assert_array_equal(p.piece.crop, crop)


sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))


@given(sizes, sizes, st.integers(0, 2**32 - 1), st.sampled_from([(255, 0, 7), (200, 100, 50)]))
@settings(deadline=None)
def test_a_piece_of_one_color_keeps_it_at_every_size(
    source: tuple[int, int], target: tuple[int, int], seed: int, color: tuple[int, int, int]
) -> None:
    mask = np.random.default_rng(seed).random(source) < 0.3
    result = resize_piece(Piece(mask[..., None] * np.array(color, np.uint8), mask), target)
    np.testing.assert_array_equal(result.mask, nearest_resize(mask, target))
    np.testing.assert_array_equal(result.crop, result.mask[..., None] * np.array(color, np.uint8))


@given(sizes, st.floats(0.1, 1), st.floats(0.1, 1), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_shrinking_stays_within_the_colors_of_the_mask(
    source: tuple[int, int], by_h: float, by_w: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random(source) < 0.5
    crop = rng.integers(90, 130, (*source, 3)).astype(np.uint8)
    crop[~mask] = 0
    target = max(1, int(source[0] * by_h)), max(1, int(source[1] * by_w))
    result = resize_piece(Piece(crop, mask), target)
    inside = result.crop[result.mask]
    assert ((inside >= 90) & (inside < 130)).all()
    assert (result.crop[~result.mask] == 0).all()


def test_shrinking_takes_means_over_the_mask() -> None:
    crop = np.zeros((2, 4, 3), np.uint8)
    crop[0], crop[1] = 10, 20
    crop[:, 2:] *= 5  # 50 over 100
    mask = np.ones((2, 4), bool)
    assert resize_piece(Piece(crop, mask), (1, 2)).crop[0, :, 0].tolist() == [15, 75]
    mask[0, 2:] = False
    crop[0, 2:] = 0
    assert resize_piece(Piece(crop, mask), (1, 2)).crop[0, :, 0].tolist() == [15, 100]


def test_a_fine_pattern_does_not_alias() -> None:
    crop = np.zeros((64, 64, 3), np.uint8)
    crop[:, ::2] = 255
    result = resize_piece(Piece(crop, np.ones((64, 64), bool)), (32, 20))
    assert np.ptp(result.crop[:, 1:-1].astype(int)) < 90


def test_enlarging_a_ramp_keeps_it_straight_up_to_the_mask() -> None:
    """Under a cubic kernel black outside the mask would pull the ramp down, or ring, by tens of levels."""
    ramp = np.repeat(np.arange(20, 180, 8, dtype=np.uint8)[None, :, None], 12, axis=0).repeat(3, axis=2)
    mask = np.zeros((12, 20), bool)
    mask[3:9, 4:15] = True
    ramp[~mask] = 0
    result = resize_piece(Piece(ramp, mask), (48, 80))
    x = (np.arange(80) + 0.5) / 4 - 0.5
    expected = 20 + 8 * x
    error = np.abs(result.crop[..., 0] - expected)[result.mask]
    assert error.max() < 8  # one step of the ramp, at its very ends
    inner = result.mask.copy()
    inner[:, :24] = inner[:, 52:] = False
    assert np.abs(result.crop[..., 0] - expected)[inner].max() <= 1.5


def test_a_piece_of_the_right_size_is_not_touched() -> None:
    piece = painted(np.random.default_rng(0).random((9, 7)) < 0.5, 3)
    assert resize_piece(piece, (9, 7)) is piece
