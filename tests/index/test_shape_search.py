"""The shape search against the plain definition of the score, on masks with planted duplicates and ties."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.errors import ArtifactError, ConfigError, DataError
from pipelines.index.shape_search import (
    ShapeScore,
    ShapeSearch,
    canonical_mask,
    pack_mask,
    packed_canonical,
    sigma,
    sigma_scale,
    sigma_shape,
    unpack_mask,
)

POPCOUNT = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)


def brute_force(masks, areas, categories, query, k, score, skip):
    """The k best rows by a stable sort of float64 scores; query is a (mask, area, category), skip (n,) bool."""
    mask, area, category = query
    rows = np.flatnonzero((categories == category) & ~skip)
    distance = POPCOUNT[masks[rows] ^ mask].sum(axis=1, dtype=np.int64)
    largest = np.maximum(POPCOUNT[masks[rows]].sum(axis=1, dtype=np.int64), POPCOUNT[mask].sum(dtype=np.int64))
    shape = np.divide(distance, largest, out=np.zeros(len(rows)), where=largest > 0)
    ratio = 2 * np.minimum(areas[rows], area) - np.maximum(areas[rows], area)
    scale = np.where(ratio > 0 if score.strict else ratio >= 0, 0.0, 1.0)
    total = scale + score.gamma * shape
    best = np.argsort(total, kind="stable")[:k]
    missing = k - len(best)
    return np.append(rows[best], np.full(missing, -1)), np.append(total[best], np.full(missing, np.inf))


def assert_exact(masks, areas, categories, score, queries, k, exclude=None, keys=None, threads=1):
    search = ShapeSearch(masks, areas, categories, score=score)
    rows, scores = search.search(*queries, k, exclude=exclude, keys=keys, threads=threads)
    for i, query in enumerate(zip(*queries, strict=True)):
        skip = np.zeros(len(masks), bool) if exclude is None or exclude[i] < 0 else keys == exclude[i]
        expected_rows, expected_scores = brute_force(masks, areas, categories, query, k, score, skip)
        np.testing.assert_array_equal(rows[i], expected_rows)
        np.testing.assert_array_equal(scores[i], expected_scores)
    return search


def draw_masks(rng, n, categories, kinds=6):
    """n masks from a few families (so that distances vary), a third of them copies, areas that often tie at 1:2."""
    y, x = np.mgrid[:128, :128] / 128
    masks = np.empty((n, 2048), dtype=np.uint8)
    for i in range(n):
        family = np.random.default_rng(rng.integers(kinds))
        a, b, c, d = family.uniform(0.1, 0.9, 4) + rng.normal(0, 0.03, 4)
        shape = (np.abs(x - a) < b * 0.6) & (np.abs(y - c) < d * 0.6) if rng.random() < 0.5 else a * x + b * y < c
        if rng.random() < 0.2:
            shape = shape & (rng.random((128, 128)) < 0.7)
        masks[i] = pack_mask(shape)
    copies = rng.permutation(n)[: n // 3]
    masks[copies] = masks[rng.integers(0, n, len(copies))]
    areas = rng.choice([1, 2, 3, 50, 60, 99, 100, 101, 120, 200, 399, 400], n).astype(np.int64)
    return masks, areas, rng.integers(0, categories, n).astype(np.int32)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    n=st.integers(1, 300),
    categories=st.integers(1, 4),
    k=st.sampled_from([1, 3, 10, 400]),
    gamma=st.sampled_from([0.0, 1e-13, 0.5, 1.0, 3.0]),
    strict=st.booleans(),
    excluding=st.sampled_from(["nothing", "self", "group"]),
)
def test_equals_brute_force(seed, n, categories, k, gamma, strict, excluding):
    rng = np.random.default_rng(seed)
    masks, areas, classes = draw_masks(rng, n, categories)
    mine = rng.integers(0, n, 5)
    new = draw_masks(rng, 4, categories + 1)  # new masks too, perhaps of a category without a row
    queries = tuple(np.concatenate([old[mine], fresh]) for old, fresh in zip((masks, areas, classes), new, strict=True))
    keys = exclude = None
    if excluding != "nothing":
        keys = np.arange(n) if excluding == "self" else rng.integers(-1, max(n // 4, 1), n)
        exclude = np.append(keys[mine], [-1, -1, -1, n + 7])
    assert_exact(masks, areas, classes, ShapeScore(gamma, strict), queries, k, exclude, keys)


def test_many_blocks_and_dense_ties():
    rng = np.random.default_rng(5)
    masks, areas, classes = draw_masks(rng, 2500, 2, kinds=40)
    areas = np.where(rng.random(len(areas)) < 0.8, rng.integers(100, 200, len(areas)), areas)
    some = rng.integers(0, len(masks), 25)
    queries = masks[some], areas[some], classes[some]
    for score in (ShapeScore(), ShapeScore(gamma=3.0), ShapeScore(gamma=0.0)):
        assert_exact(masks, areas, classes, score, queries, 10, exclude=some, keys=np.arange(len(masks)))


def test_long_walks():
    """More blocks in a bucket than the first look takes, and neighbors far away in pixel count."""
    rng = np.random.default_rng(8)
    n = 6000
    y, x = np.mgrid[:128, :128].reshape(2, -1) / 128
    a, b, c = rng.normal(size=(3, n, 1))
    masks = np.concatenate(
        [np.packbits(a[i : i + 500] * x + b[i : i + 500] * y < c[i : i + 500], axis=1) for i in range(0, n, 500)]
    )
    lonely = rng.random((20, 128, 128)) < rng.random((20, 1, 1))  # like nothing else: their 10th score is large
    masks[:20] = [pack_mask(mask) for mask in lonely]
    areas, classes = rng.integers(130, 250, n), np.zeros(n, np.int32)
    some = np.arange(8, 32)
    for score in (ShapeScore(), ShapeScore(gamma=0.1)):
        assert_exact(masks, areas, classes, score, (masks[some], areas[some], classes[some]), 10)
    assert_exact(masks, areas, classes, ShapeScore(), (masks[some], areas[some] * 100, classes[some]), 10)


def test_random_masks_where_no_bound_prunes():
    rng = np.random.default_rng(1)
    masks = rng.integers(0, 256, (400, 2048)).astype(np.uint8)
    areas, classes = rng.integers(1, 10**6, 400), np.zeros(400, np.int32)
    assert_exact(masks, areas, classes, ShapeScore(), (masks[:20], areas[:20], classes[:20]), 10)


def test_sparse_and_full_masks():
    rng = np.random.default_rng(2)
    bits = rng.random((300, 128, 128)) < rng.choice([0.0, 0.0005, 0.01, 0.99, 1.0], 300)[:, None, None]
    masks = np.stack([pack_mask(mask) for mask in bits])
    areas, classes = rng.integers(1, 9, 300), np.zeros(300, np.int32)
    assert_exact(masks, areas, classes, ShapeScore(), (masks[:40], areas[:40], classes[:40]), 20)


def test_all_duplicates_come_in_row_order():
    mask = pack_mask(np.tri(128, dtype=bool))
    masks, areas, classes = np.tile(mask, (500, 1)), np.full(500, 40), np.zeros(500, np.int32)
    search = assert_exact(
        masks, areas, classes, ShapeScore(), (masks[:3], areas[:3], classes[:3]), 10, np.arange(3), np.arange(500)
    )
    assert len(search.shapes.masks) == 1  # stored once
    rows, scores = search.search(mask[None], np.array([40]), np.array([0]), 4)
    assert rows.tolist() == [[0, 1, 2, 3]]
    assert scores.tolist() == [[0.0] * 4]


def test_duplicates_outside_the_scale_come_after_those_within():
    mask, other = pack_mask(np.tri(128, dtype=bool)), pack_mask(np.tri(128, k=-3, dtype=bool))
    masks = np.stack([mask, mask, other, mask])
    rows, scores = ShapeSearch(masks, np.array([900, 100, 100, 120]), np.zeros(4, int)).search(
        mask[None], np.array([100]), np.array([0]), 4
    )
    assert rows.tolist() == [[1, 3, 2, 0]]
    assert scores[0, 3] == 1.0


def test_threads_and_order_of_queries_change_nothing():
    rng = np.random.default_rng(3)
    masks, areas, classes = draw_masks(rng, 600, 3)
    search = ShapeSearch(masks, areas, classes)
    one = search.search(masks, areas, classes, 7, threads=1)
    two = search.search(masks, areas, classes, 7, threads=2)
    order = rng.permutation(600)
    shuffled = search.search(masks[order], areas[order], classes[order], 7, threads=2)
    for a, b, c in zip(one, two, shuffled, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a[order], c)


def test_arrays_round_trip_and_damage():
    rng = np.random.default_rng(4)
    masks, areas, classes = draw_masks(rng, 200, 3)
    search = ShapeSearch(masks, areas, classes)
    arrays = {name: array.copy() for name, array in search.arrays().items()}
    opened = ShapeSearch.from_arrays(arrays, score=ShapeScore(gamma=0.5))
    expected = ShapeSearch(masks, areas, classes, score=ShapeScore(gamma=0.5)).search(masks, areas, classes, 5)
    for a, b in zip(opened.search(masks, areas, classes, 5), expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert opened.nbytes == search.nbytes == sum(array.nbytes for array in arrays.values())
    for damage in (
        {"rows": arrays["rows"] + 1},
        {"rows": arrays["rows"].astype(np.int64)},
        {"masks": arrays["masks"][:-1]},
        {"member_start": arrays["member_start"][::-1].copy()},
        {"pools": arrays["pools"][:-1]},
    ):
        with pytest.raises(ArtifactError):
            ShapeSearch.from_arrays({**arrays, **damage})
    with pytest.raises(ArtifactError, match="lacks cells"):
        ShapeSearch.from_arrays({name: array for name, array in arrays.items() if name != "cells"})


def test_memory_of_distinct_masks():
    rng = np.random.default_rng(6)
    n = 3000
    masks = rng.integers(0, 256, (n, 2048)).astype(np.uint8)
    search = ShapeSearch(masks, rng.integers(1, 10**5, n), rng.integers(0, 12, n))
    assert search.nbytes < 2400 * n


def test_empty_index_and_no_queries():
    nothing = np.empty((0, 2048), np.uint8), np.empty(0, np.int64), np.empty(0, np.int32)
    mask = pack_mask(np.tri(128, dtype=bool))[None]
    search = ShapeSearch.from_arrays(ShapeSearch(*nothing).arrays())
    rows, scores = search.search(mask, np.array([5]), np.array([0]), 2)
    assert rows.tolist() == [[-1, -1]]
    assert np.isinf(scores).all()
    rows, scores = ShapeSearch(mask, np.array([5]), np.array([0])).search(*nothing, 2)
    assert rows.shape == scores.shape == (0, 2)


def test_refusals():
    mask, area, category = pack_mask(np.tri(128, dtype=bool))[None], np.array([5]), np.array([0])
    with pytest.raises(DataError, match="area of row 0 is 0"):
        ShapeSearch(mask, np.array([0]), category)
    with pytest.raises(DataError, match="pack_mask"):
        ShapeSearch(mask.astype(bool), area, category)
    with pytest.raises(DataError, match="2 areas"):
        ShapeSearch(mask, np.array([1, 2]), category)
    search = ShapeSearch(mask, area, category)
    with pytest.raises(ConfigError, match="k is 0"):
        search.search(mask, area, category, 0)
    with pytest.raises(ConfigError, match="no keys"):
        search.search(mask, area, category, 1, exclude=np.array([0]))
    with pytest.raises(ConfigError, match="2 keys"):
        search.search(mask, area, category, 1, exclude=np.array([0]), keys=np.array([0, 1]))
    for gamma in (-0.1, float("nan"), float("inf"), 1e308):
        with pytest.raises(ConfigError, match="gamma"):
            ShapeScore(gamma=gamma)


# The specification's own tests of the score.


def test_scale_t1():
    assert [sigma_scale(100, area) for area in (60, 50, 49)] == [0, 0, 1]
    assert [sigma_scale(area, 100) for area in (60, 50, 49)] == [0, 0, 1]
    assert [sigma_scale(100, area, strict=True) for area in (60, 51, 50)] == [0, 0, 1]


def test_shape_t2_t3():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 128, 128)) < 0.4
    assert sigma_shape(a, a) == 0
    squares = ((a.astype(float) - b.astype(float)) ** 2).sum()
    assert squares == (a ^ b).sum() == a.sum() + b.sum() - 2 * (a & b).sum()
    left, top, corner = np.zeros((3, 4, 4), bool)
    left[:, :2] = top[:2] = corner[:2, :2] = True
    assert sigma_shape(left, top) == 1.0
    assert sigma_shape(corner, np.ones((4, 4), bool)) == 0.75
    assert sigma_shape(left, ~left) == 2.0
    assert sigma_shape(np.zeros((4, 4), bool), np.zeros((4, 4), bool)) == 0.0
    assert sigma(left, top, 100, 49, ShapeScore(gamma=0.5)) == 1.5


def test_crop_t4_aspect_is_not_kept():
    a, b = canonical_mask(np.ones((2, 8), bool)), canonical_mask(np.ones((8, 2), bool))
    assert sigma_shape(a, b) == 0


@settings(max_examples=30, deadline=None)
@given(h=st.integers(1, 300), w=st.integers(1, 300), seed=st.integers(0, 99))
def test_canonical_pixel(h, w, seed):
    mask = np.random.default_rng(seed).random((h, w)) < 0.5
    mask[0, 0] = True
    canonical = canonical_mask(mask)
    for i, j in ((0, 0), (127, 127), (63, 64), (seed, 127 - seed)):
        row, column = int((i + 0.5) * h / 128), int((j + 0.5) * w / 128)  # exact: at most 17 bits
        assert canonical[i, j] == mask[row, column]
    packed = pack_mask(canonical)
    assert packed[0] >> 7 == canonical[0, 0]
    np.testing.assert_array_equal(unpack_mask(packed), canonical)
    np.testing.assert_array_equal(packed_canonical(mask), packed)


def test_empty_mask_is_refused():
    with pytest.raises(DataError, match="no pixel"):
        canonical_mask(np.zeros((5, 5), bool))
    with pytest.raises(DataError, match="no pixel"):
        packed_canonical(np.zeros((5, 5), bool))


def photo_segments(folder: Path):
    """Instances of a pack: packed masks, areas, categories and the number of the image of each."""
    masks, areas, categories, images = [], [], [], []
    for number, path in enumerate(sorted((folder / "label").glob("*.png"))[:150]):
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        instances = cv2.imread(str(folder / "inst" / path.name), cv2.IMREAD_UNCHANGED)
        for value in np.unique(instances[instances > 0]):
            mask = instances == value
            (top, left), (bottom, right) = (f(np.argwhere(mask), axis=0) for f in (np.min, np.max))
            masks.append(pack_mask(canonical_mask(mask[top : bottom + 1, left : right + 1])))
            areas.append(mask.sum())
            categories.append(labels[mask][0])
            images.append(number)
    return np.stack(masks), np.array(areas), np.array(categories, dtype=np.int32), np.array(images)


@pytest.mark.real
@pytest.mark.parametrize("pack", ["cmp_facades", "camvid"])
def test_exact_on_photos(pack):
    root = os.environ.get("RGS_REAL_DATA")
    if not root:
        pytest.skip("RGS_REAL_DATA is not set")
    folder = Path(root) / pack
    classes = json.loads((folder / "classes.json").read_text())["classes"]
    masks, areas, categories, images = photo_segments(folder / "train")
    assert len(np.unique(categories)) > len(classes) / 2
    rng = np.random.default_rng(0)
    members = [np.flatnonzero(categories == c) for c in np.unique(categories)]
    some = np.concatenate([rng.permutation(rows)[:12] for rows in members])
    queries = masks[some], areas[some], categories[some]
    assert_exact(masks, areas, categories, ShapeScore(), queries, 10, exclude=images[some], keys=images)
