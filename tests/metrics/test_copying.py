"""The copy check against planted copies, planted twins and a rank test by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.metrics import copying
from pipelines.metrics.copying import Patch, patch
from pipelines.metrics.intervals import resample

RNG = np.random.default_rng(0)


def picture(h: int, w: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def disk(h: int, w: int) -> np.ndarray:
    y, x = np.mgrid[:h, :w]
    return np.asarray(((y + 0.5) / h - 0.5) ** 2 + ((x + 0.5) / w - 0.5) ** 2 < 0.2)


def test_a_patch_is_the_mean_under_each_of_its_pixels() -> None:
    image = picture(32, 48)
    made = patch(image, side=16)
    by_hand = image.reshape(16, 2, 16, 3, 3).mean((1, 3)) / 255
    assert made.colors.reshape(16, 16, 3) == pytest.approx(by_hand, abs=1e-6)
    assert made.cover == pytest.approx(1)


def test_a_patch_that_grows_repeats_and_mixes_in_proportion() -> None:
    image = np.array([[[0, 0, 0], [255, 255, 255], [0, 0, 0]]], dtype=np.uint8)
    row = patch(image, side=4).colors.reshape(4, 4, 3)[0, :, 0]
    assert row == pytest.approx([0, 2 / 3, 2 / 3, 0], abs=1e-6)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_colors_outside_of_the_mask_play_no_part(h: int, w: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((h, w)) < 0.5
    mask[0, 0] = True
    one = picture(h, w, seed)
    other = np.where(mask[..., None], one, 255 - one).astype(np.uint8)
    a, b = patch(one, mask), patch(other, mask)
    assert np.array_equal(a.colors, b.colors) and np.array_equal(a.cover, b.cover)
    flat = patch(np.full((h, w, 3), 77, np.uint8), mask)
    assert flat.colors[flat.cover > 1e-6] == pytest.approx(77 / 255, abs=1e-5)
    assert flat.cover.mean() == pytest.approx(mask.mean(), abs=1e-5)


def distance_by_hand(a: Patch, b: Patch) -> float:
    """The definition, pixel by pixel; inf where less than half of `a` is common."""
    common = 0.0
    total = 0.0
    for p, q, v, w in zip(a.colors.astype(float), b.colors.astype(float), a.cover, b.cover, strict=True):
        common += float(v) * float(w)
        total += float(v) * float(w) * float(((p - q) ** 2).sum())
    return 255 * math.sqrt(total / (3 * common)) if common >= 0.5 * a.cover.sum() else math.inf


def test_the_nearest_piece_is_that_of_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_CHUNK", 7)
    queries = [patch(picture(20, 30, s), disk(20, 30), 6) for s in range(5)]
    bank = [patch(picture(9 + s, 13, 50 + s), RNG.random((9 + s, 13)) < 0.7, 6) for s in range(24)]
    found = copying.nearest_patches(queries, iter(bank))
    for i, query in enumerate(queries):
        by_hand = [distance_by_hand(query, candidate) for candidate in bank]
        assert found.distance[i] == pytest.approx(min(by_hand), abs=1e-3)
        assert by_hand[found.number[i]] == pytest.approx(min(by_hand), abs=1e-3)


def test_a_copy_has_distance_0_and_noise_has_not() -> None:
    mask = disk(24, 24)
    bank = [patch(picture(24, 24, s), mask) for s in range(50)]
    copies = [patch(picture(24, 24, s), mask) for s in (3, 31)]
    noise = [patch(picture(24, 24, 1000 + s), mask) for s in range(2)]
    found = copying.nearest_patches(copies + noise, bank)
    assert found.distance[:2].tolist() == [0, 0] and found.number[:2].tolist() == [3, 31]
    assert (found.distance[2:] > 20).all()


def test_pieces_that_hardly_touch_are_not_compared() -> None:
    top, bottom = np.zeros((2, 8, 8), dtype=bool)
    top[:3], bottom[4:] = True, True
    image = picture(8, 8)
    found = copying.nearest_patches([patch(image, top)], [patch(image, bottom)])
    assert (found.distance[0], found.number[0]) == (math.inf, -1)
    assert len(copying.nearest_patches([], [patch(image, top)]).distance) == 0
    assert copying.nearest_patches([patch(image, top)], []).number.tolist() == [-1]


def test_an_exact_copy_is_close_and_a_photo_is_not() -> None:
    sources = np.arange(12)
    copied = copying.compare([0.0] * 12, list(range(10, 22)), sources)
    assert copied.ratio.tolist() == [0.0] * 12 and copied.close.all()
    assert copied.z is not None and copied.z < -4
    fresh = copying.compare(list(range(10, 22)), list(range(10, 22)), sources)
    assert fresh.ratio.tolist() == [1.0] * 12 and not fresh.close.any() and fresh.z == 0


def test_a_photo_without_distance_gives_no_ratio() -> None:
    found = copying.compare([3.0, math.nan, 2.0], [math.nan, 4.0, 0.0], np.arange(3))
    assert np.isnan(found.ratio).all() and not found.close.any()


def test_variants_share_a_photo_that_ranks_once() -> None:
    a, b = [1.0, 2.0, 5.0, 6.0], [4.0, 4.0, 7.0, 7.0]
    found = copying.compare(a, b, np.array([0, 0, 1, 1]))
    assert found.z == pytest.approx(copying.mann_whitney_z(np.array(a), np.array([4.0, 7.0])))


def test_mann_whitney_by_hand() -> None:
    """a = 1, 2, 4 and b = 3, 5, 6, 7: U = 1, mean 6, variance 3 * 4 * 8 / 12."""
    assert copying.mann_whitney_z(np.array([1, 2, 4.0]), np.array([3, 5, 6, 7.0])) == pytest.approx(-5 / math.sqrt(8))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.lists(st.integers(0, 4), min_size=1, max_size=8))
def test_mann_whitney_counts_pairs_and_knows_ties(a: list[int], b: list[int]) -> None:
    n, m = len(a), len(b)
    wins = sum((x > y) + 0.5 * (x == y) for x, y in itertools.product(a, b))
    sizes = [(a + b).count(value) for value in set(a + b)]
    total = n + m
    variance = n * m / 12 * ((total + 1) - sum(t**3 - t for t in sizes) / (total * (total - 1)))
    found = copying.mann_whitney_z(np.array(a, float), np.array(b, float))
    if len(sizes) == 1:
        assert found is None
    else:
        assert found == pytest.approx((wins - n * m / 2) / math.sqrt(variance))


def test_what_is_taken_over_is_counted_under_the_pieces_alone() -> None:
    guidance = picture(4, 4)
    image = guidance.astype(np.int16)
    image[0] += np.where(image[0] > 127, -copying.LEVELS, copying.LEVELS)
    image[1, :, 1] += np.where(image[1, :, 1] > 127, -copying.LEVELS - 1, copying.LEVELS + 1)
    covered = np.ones((4, 4), dtype=bool)
    covered[3] = False
    made = image.astype(np.uint8)
    assert copying.taken_over(made, guidance, covered) == pytest.approx(2 / 3)
    assert copying.taken_over(made, guidance, np.zeros((4, 4), dtype=bool)) is None


def smooth(seed: int) -> np.ndarray:
    """A photo-like picture: a few blurred blobs."""
    coarse = np.random.default_rng(seed).random((7, 7, 3))
    return (np.kron(coarse, np.ones((12, 12, 1))) * 255).astype(np.uint8)


def test_the_audit_finds_files_under_other_names_and_near_duplicates() -> None:
    held_out = [smooth(s) for s in range(6)]
    brighter = np.clip(held_out[4].astype(int) + 6, 0, 255).astype(np.uint8)
    training = [smooth(100), held_out[2].copy(), smooth(101), brighter]
    leaks = copying.audit([copying.fingerprint(i) for i in held_out], [copying.fingerprint(i) for i in training])
    assert [(leak.reference, leak.training, leak.same) for leak in leaks] == [(2, 1, True), (4, 3, False)]
    assert leaks[0].bits == 0 and leaks[1].bits <= copying.ALIKE_BITS
    assert copying.audit([], [copying.fingerprint(smooth(1))]) == []


def test_the_hash_is_that_of_the_gray_gradient() -> None:
    ramp = np.broadcast_to(np.arange(90, dtype=np.uint8)[None, :, None], (80, 90, 3))
    assert copying.fingerprint(ramp)[1].tolist() == [True] * 64
    assert copying.fingerprint(ramp[:, ::-1])[1].tolist() == [False] * 64
    sizes = copying.fingerprint(picture(4, 6))[0], copying.fingerprint(picture(4, 6).reshape(6, 4, 3))[0]
    assert sizes[0] != sizes[1]


def test_an_interval_holds_its_median_and_moves_whole_layouts() -> None:
    values = np.arange(40.0)
    found = resample(lambda at: float(np.median(values[at])), np.arange(40), 0)
    assert found.ends is not None and found.ends[0] < np.median(values) < found.ends[1]
    sizes = set()
    resample(lambda at: sizes.add(tuple(np.bincount(at, minlength=4) % 2)) or 0.0, np.array([0, 0, 1, 1]), 0)
    assert sizes == {(0, 0, 0, 0), (1, 1, 1, 1)}
    assert resample(lambda at: 0.0, np.array([0, 0]), 0).ends is None
    assert resample(lambda at: None, np.array([0, 1]), 0).ends is None
