"""Diversity, repetition and cluster occupancy of vectors whose distances are known."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.metrics.diversity import (
    Ruler,
    cluster_centers,
    cluster_score,
    cosine,
    diversity_scores,
    nearest,
    occupancy_entropy,
    pairs_across,
    pairs_within,
)
from pipelines.metrics.scores import Context, Score


def angles(*degrees: float) -> np.ndarray:
    turned = np.deg2rad(degrees)
    return np.stack([np.cos(turned), np.sin(turned)], axis=1)


def ruler(outputs: np.ndarray, reals: np.ndarray | None, threshold: float | None = None) -> Ruler:
    return Ruler("e", "e", cosine(outputs), None if reals is None else cosine(reals), threshold, 1000, {})


def test_pairs_are_counted_once() -> None:
    owners = np.array([0, 0, 0, 1, 1])
    assert pairs_within(owners).tolist() == [[0, 1], [0, 2], [1, 2], [3, 4]]
    assert len(pairs_within(np.repeat(np.arange(3), 10))) == 3 * 45
    across = pairs_across(owners, 1000, 0)
    assert len(across) == 6 and all(owners[i] != owners[j] for i, j in across)
    few = pairs_across(np.arange(1000), 50, 0)
    assert few.shape == (50, 2) and (few == pairs_across(np.arange(1000), 50, 0)).all()


def test_diversity_is_the_mean_over_sources_of_the_mean_over_pairs() -> None:
    # source 0: three outputs at 0, 90 and 180 degrees: 1, 2, 1; source 1: two equal ones: 0
    outputs = angles(0, 90, 180, 45, 45)
    context = Context({}, np.array([0, 0, 0, 1, 1]), 2, 0)
    scores, missing = diversity_scores(ruler(outputs, angles(0, 90)), context)
    found = {score.name: score for score in scores}
    assert not missing and found["diversity[e]"].value == pytest.approx((4 / 3 + 0) / 2)
    assert found["diversity[e]"].on_real == pytest.approx(1)
    # below the one real distance of 1: the pair of source 1 alone, and across 0-45 and 90-45 twice each
    assert found["repetition[e]"].value == pytest.approx((0 + 1) / 2)
    assert found["repetition_across[e]"].value == pytest.approx(4 / 6)


def test_identical_outputs_repeat_and_have_no_diversity() -> None:
    context = Context({}, np.repeat(np.arange(3), 4), 3, 0)
    scores, _ = diversity_scores(ruler(angles(*[30] * 12), None, 0.05), context)
    found = {score.name: score.value for score in scores}
    assert found == pytest.approx({"diversity[e]": 0, "repetition[e]": 1, "repetition_across[e]": 1}, abs=1e-12)


def test_the_threshold_is_one_percent_of_real_pairs() -> None:
    rng = np.random.default_rng(0)
    reals = rng.normal(size=(60, 8))
    reals /= np.linalg.norm(reals, axis=1, keepdims=True)
    scores, missing = diversity_scores(
        Ruler("e", "e", cosine(reals), cosine(reals), None, 10_000, {}), Context({}, np.arange(60), 60, 0)
    )
    (across,) = scores
    assert across.name == "repetition_across[e]" and across.value == across.on_real == pytest.approx(0.01, abs=0.001)
    assert [one.name for one in missing] == ["diversity[e]"]


def test_without_real_images_there_is_no_threshold() -> None:
    scores, missing = diversity_scores(ruler(angles(0, 90, 0, 90), None), Context({}, np.array([0, 0, 1, 1]), 2, 0))
    assert [score.name for score in scores] == ["diversity[e]"] and [one.name for one in missing] == ["repetition[e]"]


def test_entropy_of_shares() -> None:
    assert occupancy_entropy(np.array([0, 1, 2, 3]), 4) == pytest.approx(1)
    assert occupancy_entropy(np.array([2, 2, 2]), 4) == 0
    assert occupancy_entropy(np.array([0, 0, 1, 1]), 4) == pytest.approx(0.5)


def test_clusters_of_real_images_tell_outputs_that_fill_one() -> None:
    rng = np.random.default_rng(0)
    axes = np.eye(4)
    reals = np.repeat(axes, 10, axis=0) + rng.normal(size=(40, 4)) * 0.01
    centers = cluster_centers(reals, 4, 0)
    assert sorted(nearest(axes, centers).tolist()) == [0, 1, 2, 3]
    assert (centers == cluster_centers(reals, 4, 0)).all()
    context = Context({}, np.arange(40), 40, 0)
    collapsed = cluster_score("e", "e", np.repeat(axes[:1], 40, axis=0), reals, context, {})
    faithful = cluster_score("e", "e", reals, reals, context, {})
    assert isinstance(collapsed, Score) and isinstance(faithful, Score)
    assert faithful.value == faithful.on_real and faithful.value > 0.9  # 8 clusters of 4 heaps
    assert collapsed.value == 0 and collapsed.on_real == faithful.value
    assert not isinstance(cluster_score("e", "e", axes, axes, Context({}, np.arange(4), 4, 0), {}), Score)
