"""decompose against a plain flood fill, and its rules on maps small enough to read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipelines.bank.segments import (
    Decompose,
    Decomposition,
    decompose,
    reframe,
    resize_owner,
    segment_boxes,
)
from pipelines.data.transforms import nearest_resize
from pipelines.errors import DataError

THINGS = np.array([False, True, False, True])
ALL = Decompose(preserved_ratio=1)

shapes = st.tuples(st.integers(1, 9), st.integers(1, 9))


@st.composite
def maps(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray | None]:
    shape = draw(shapes)
    labels = draw(hnp.arrays(np.int16, shape, elements=st.integers(-1, 3)))
    instances = draw(st.none() | hnp.arrays(np.int32, shape, elements=st.sampled_from([0, 1, 2, 24001])))
    return labels, instances


def flood(labels: np.ndarray, instances: np.ndarray | None, config: Decompose) -> list[tuple[int, int, set]]:
    """(category, instance, pixels) of every segment kept, in the documented order, one pixel at a time."""
    h, w = labels.shape
    ids = np.zeros((h, w), int) if instances is None else instances
    found: list[tuple[int, int, set]] = []
    seen: set[tuple[int, int]] = set()
    for start in ((y, x) for y in range(h) for x in range(w)):
        c = int(labels[start])
        if c < 0 or start in seen:
            continue
        i = int(ids[start]) if THINGS[c] else 0
        if i:
            pixels = {(y, x) for y in range(h) for x in range(w) if labels[y, x] == c and ids[y, x] == i}
        else:
            pixels, todo = {start}, [start]
            while todo:
                y, x = todo.pop()
                for near in ((y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
                    if not (0 <= near[0] < h and 0 <= near[1] < w) or near in pixels:
                        continue
                    if labels[near] == c and (not THINGS[c] or ids[near] == 0):
                        pixels.add(near)
                        todo.append(near)
        seen |= pixels
        found.append((c, i, pixels))
    kept = []
    for c in range(len(THINGS)):
        of_class = [s for s in found if s[0] == c]
        total = sum(len(s[2]) for s in of_class)
        largest_first = sorted(of_class, key=lambda s: -len(s[2]))
        running, keep = 0, []
        for s in largest_first:
            whole = running < config.preserved_ratio * total or (config.preserve_things and THINGS[c])
            if whole and len(s[2]) >= config.min_area:
                keep.append(s)
            running += len(s[2])
        if config.stuff == "largest" and not THINGS[c]:
            keep = [s for s in keep if s is largest_first[0]]
        kept += [s for s in of_class if any(s is k for k in keep)]
    return kept


@given(
    maps(),
    st.builds(
        Decompose,
        stuff=st.sampled_from(["components", "largest"]),
        preserved_ratio=st.sampled_from([0.25, 0.5, 0.9, 1.0]),
        preserve_things=st.booleans(),
        min_area=st.integers(1, 4),
    ),
)
@settings(max_examples=400, deadline=None)
def test_equals_flood_fill(pair: tuple[np.ndarray, np.ndarray | None], config: Decompose) -> None:
    labels, instances = pair
    result = decompose(labels, instances, THINGS, config)
    expected = flood(labels, instances, config)
    owner = np.full(labels.shape, -1)
    for k, (_, _, pixels) in enumerate(expected):
        for p in pixels:
            owner[p] = k
    np.testing.assert_array_equal(result.owner, owner)
    assert result.owner.dtype == np.int32
    for segment, (c, i, pixels) in zip(result.segments, expected, strict=True):
        ys, xs = [p[0] for p in pixels], [p[1] for p in pixels]
        box = (min(xs), min(ys), max(xs) - min(xs) + 1, max(ys) - min(ys) + 1)
        assert (segment.category, segment.instance, segment.area, segment.box) == (c, i, len(pixels), box)
        assert segment.thing == THINGS[c]


@given(maps())
@settings(deadline=None)
def test_every_labeled_pixel_has_an_owner_at_ratio_one(pair: tuple[np.ndarray, np.ndarray | None]) -> None:
    labels, instances = pair
    result = decompose(labels, instances, THINGS, ALL)
    np.testing.assert_array_equal(result.owner >= 0, labels >= 0)
    assert sum(s.area for s in result.segments) == (labels >= 0).sum()


@given(maps())
@settings(deadline=None)
def test_values_of_instance_ids_do_not_matter(pair: tuple[np.ndarray, np.ndarray | None]) -> None:
    labels, instances = pair
    if instances is None:
        return
    renamed = np.select([instances == 1, instances == 2, instances == 24001], [9, 2**31 - 1, 3], 0).astype(np.int32)
    a, b = (decompose(labels, ids, THINGS, ALL) for ids in (instances, renamed))
    np.testing.assert_array_equal(a.owner, b.owner)


def test_a_long_snake_is_one_segment() -> None:
    labels = np.zeros((41, 41), np.int16)
    labels[1::2] = 2
    for k, y in enumerate(range(1, 41, 2)):
        labels[y, 0 if k % 2 else -1] = 0
    result = decompose(labels, None, THINGS, ALL)
    assert [s.category for s in result.segments] == [0] + [2] * 20
    assert result.segments[0].area == 21 * 41 + 20


def test_diagonal_neighbors_of_both_classes_connect() -> None:
    labels = np.array([[0, 2], [2, 0]], np.int16)
    assert [s.area for s in decompose(labels, None, THINGS, ALL).segments] == [2, 2]


def test_ignored_pixels_with_an_instance_id_join_nothing() -> None:
    labels = np.array([[3, 3, -1, -1]], np.int16)
    for ids in ([[1, 1, 2, 2]], [[0, 0, 1, 1]], [[1, 1, 1, 1]]):
        result = decompose(labels, np.array(ids, np.int32), THINGS, ALL)
        assert result.owner.tolist() == [[0, 0, -1, -1]]


def test_preserved_ratio_counts_the_area_before_each_segment() -> None:
    labels = np.full((1, 105), -1, np.int16)
    labels[0, :50] = labels[0, 51:91] = labels[0, 92:102] = 0  # 50, 40 and 10 pixels
    areas = {
        ratio: [s.area for s in decompose(labels, None, THINGS, Decompose(preserved_ratio=ratio)).segments]
        for ratio in (0.5, 0.51, 0.9, 0.91)
    }
    assert areas == {0.5: [50], 0.51: [50, 40], 0.9: [50, 40], 0.91: [50, 40, 10]}


def test_a_map_without_any_class_has_no_segments() -> None:
    result = decompose(np.full((3, 4), -1, np.int16), np.ones((3, 4), np.int32), THINGS, ALL)
    assert result.segments == () and (result.owner == -1).all()
    assert result.areas.shape == result.things.shape == (0,)


def test_faults_are_data_errors() -> None:
    labels = np.zeros((2, 3), np.int16)
    with pytest.raises(DataError, match="2x3 but the instance map 3x2"):
        decompose(labels, np.zeros((3, 2), np.int32), THINGS, ALL)
    with pytest.raises(DataError, match="class index 4"):
        decompose(labels + 4, None, THINGS, ALL)


@pytest.fixture
def scene() -> Decomposition:
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 4, (12, 14)).astype(np.int16)
    return decompose(labels, rng.integers(0, 9, (12, 14)).astype(np.int32), THINGS, ALL)


@given(hnp.arrays(np.int32, shapes, elements=st.integers(-1, 5)))
@settings(deadline=None)
def test_segment_boxes_equal_those_of_each_mask(owner: np.ndarray) -> None:
    boxes, areas = segment_boxes(owner, 8)
    assert boxes.shape == (8, 4)
    for i in range(8):
        ys, xs = np.nonzero(owner == i)
        expected = [0, 0, 0, 0]
        if len(ys):
            expected = [int(v) for v in (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1)]
        assert boxes[i].tolist() == expected and areas[i] == len(ys)


def test_reframing_keeps_indices_of_segments_that_vanish(scene: Decomposition) -> None:
    small = reframe(scene, resize_owner(scene.owner, (3, 3)))
    assert len(small.segments) == len(scene.segments)
    assert sum(s.area == 0 for s in small.segments) > 0
    for i, (new, old) in enumerate(zip(small.segments, scene.segments, strict=True)):
        assert (new.category, new.thing, new.instance) == (old.category, old.thing, old.instance)
        assert new.area == (small.owner == i).sum()


@given(hnp.arrays(np.int32, shapes, elements=st.integers(0, 255)), st.tuples(st.integers(1, 20), st.integers(1, 20)))
@settings(deadline=None)
def test_nearest_resize_follows_its_formula(values: np.ndarray, size: tuple[int, int]) -> None:
    H, W = values.shape
    h, w = size
    expected = [
        [values[int(((2 * i + 1) * H) / (2 * h) + 1e-9), int(((2 * j + 1) * W) / (2 * w) + 1e-9)] for j in range(w)]
        for i in range(h)
    ]
    np.testing.assert_array_equal(nearest_resize(values, size), expected)


def test_nearest_resize_is_what_pytorch_calls_nearest_exact() -> None:
    values = np.random.default_rng(0).integers(0, 255, (37, 53, 3)).astype(np.uint8)
    for size in ((37, 53), (64, 64), (16, 20), (74, 106)):
        planes = torch.from_numpy(values).permute(2, 0, 1)[None].float()
        expected = torch.nn.functional.interpolate(planes, size, mode="nearest-exact")[0].permute(1, 2, 0)
        np.testing.assert_array_equal(nearest_resize(values, size), expected.numpy())
