"""Intervals: their width against theory, and whole layouts as the unit."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.metrics.fidelity import mmd2
from pipelines.metrics.frechet import frechet_distance
from pipelines.metrics.intervals import Interval, bootstrap, subsample, sums_by_layout


def mean_interval(values: np.ndarray, owners: np.ndarray | None = None, seed: int = 0) -> Interval:
    """Of the mean over images, each its own layout unless owners are given."""
    owners = np.arange(len(values)) if owners is None else owners
    columns = np.stack([values, np.ones(len(values))], axis=1)
    return bootstrap(sums_by_layout(columns, owners, owners.max() + 1), lambda s: s[:, 0] / s[:, 1], seed)


def width(interval: Interval) -> float:
    assert interval.ends is not None
    return interval.ends[1] - interval.ends[0]


def test_the_bootstrap_of_a_mean_has_the_width_of_theory_and_shrinks() -> None:
    values = np.random.default_rng(0).normal(size=1600)
    for n in (100, 400, 1600):
        expected = 2 * 1.96 * values[:n].std() / np.sqrt(n)
        assert width(mean_interval(values[:n])) == pytest.approx(expected, rel=0.12)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30), st.integers(0, 9))
def test_the_interval_holds_the_mean_and_stays_within_the_values(values: list[float], seed: int) -> None:
    found = mean_interval(np.array(values), seed=seed)
    assert found.ends is not None
    assert min(values) - 1e-9 <= found.ends[0] <= np.mean(values) + 1e-9
    assert np.mean(values) - 1e-9 <= found.ends[1] <= max(values) + 1e-9


def test_variants_of_a_layout_are_no_new_evidence() -> None:
    values = np.random.default_rng(1).normal(size=50)
    once = mean_interval(values)
    four_times = mean_interval(values.repeat(4), np.arange(50).repeat(4))
    assert once.ends == pytest.approx(four_times.ends)
    assert width(mean_interval(values.repeat(4))) < 0.6 * width(once)  # what taking images for layouts would claim
    assert "50 layouts" in four_times.protocol


def test_the_order_of_images_within_layouts_does_not_matter() -> None:
    values, owners = np.random.default_rng(2).normal(size=60), np.arange(20).repeat(3)
    order = np.random.default_rng(3).permutation(60)
    assert mean_interval(values, owners).ends == pytest.approx(mean_interval(values[order], owners[order]).ends)


def test_one_layout_has_no_interval() -> None:
    assert mean_interval(np.ones(3), np.zeros(3, dtype=np.int64)).ends is None
    found = subsample(lambda chosen: 1.0, 1.0, 7, least=4, largest=1000, seed=0)
    assert found.ends is None and "half of 7 layouts is too few" in found.protocol


@pytest.mark.parametrize(("layouts", "largest"), [(300, 1000), (301, 1000), (300, 40)])
def test_subsets_of_a_mean_have_the_width_of_theory(layouts: int, largest: int) -> None:
    values = np.random.default_rng(4).normal(size=layouts)
    found = subsample(
        lambda c: float(values[c].mean()), float(values.mean()), layouts, least=2, largest=largest, seed=0
    )
    assert width(found) == pytest.approx(2 * 1.96 * values.std() / np.sqrt(layouts), rel=0.2)
    assert f"200 subsets of {min(layouts // 2, largest)} of {layouts}" in found.protocol


def of_layouts(distance, real: np.ndarray, fake: np.ndarray, chosen: np.ndarray) -> float:  # type: ignore[no-untyped-def]
    return float(distance(real[chosen], fake[chosen]))


@pytest.mark.parametrize("distance", [frechet_distance, mmd2])
def test_intervals_of_distances_tell_how_they_vary(distance) -> None:  # type: ignore[no-untyped-def]
    """Beside the spread of the same distance over 200 fresh pairs of sets."""
    rng = np.random.default_rng(5)

    def draw() -> tuple[np.ndarray, np.ndarray]:
        return rng.normal(size=(80, 3)), rng.normal(size=(80, 3)) * 1.5 + 0.7

    fresh = np.array([distance(*draw()) for _ in range(200)])
    widths = []
    for _ in range(5):
        real, fake = draw()
        score = distance(real, fake)
        part = partial(of_layouts, distance, real, fake)
        found = subsample(part, score, 80, least=2, largest=1000, seed=0)
        assert found.ends is not None and found.ends[0] < score < found.ends[1]
        widths.append(width(found))
    assert np.mean(widths) == pytest.approx(2 * 1.96 * fresh.std(), rel=0.35)


def test_ends_stay_where_scores_can_be() -> None:
    values = np.random.default_rng(6).random(20)
    found = subsample(lambda c: float(values[c].mean()), 0.99, 20, least=2, largest=99, seed=0, bounds=(0, 1))
    assert found.ends is not None and found.ends[1] == 1 and 0 < found.ends[0] < 0.99


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(7).normal(size=30)
    assert mean_interval(values, seed=1) == mean_interval(values, seed=1) != mean_interval(values, seed=2)
