"""Patches that were picked together: distances by hand, photos and patches in common."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.data.graph import SceneGraph
from pipelines.metrics.compatibility import (
    compatibility_score,
    mean_pairwise_distance,
    pick_scores,
    repeats,
    share_of_equal_pairs,
)
from pipelines.metrics.scene_graphs import Made, Pick
from pipelines.metrics.scores import OWN, Context, JudgeName, NotComputed, Score

JUDGE = JudgeName("f2", "0123abcd", False, "cooccurrence")


def made(*picks: tuple[str, str] | None) -> Made:
    """An image of a graph whose objects got these (patch, photo)."""
    n = len(picks)
    graph = SceneGraph(np.zeros(n, np.int64), (), np.tile(np.float32([0, 0, 1, 1]), (n, 1)))
    chosen = tuple(None if p is None else Pick(int(p[0], 16), p[0], p[1]) for p in picks)
    return Made(graph, True, None, chosen)


def test_the_penalty_of_the_paper_is_n_times_n_minus_1_of_the_mean_distance() -> None:
    # embeddings (0, 0), (3, 4): eq. 5 counts 10 over ordered pairs, 5 apart
    assert mean_pairwise_distance(np.array([[0, 0], [3, 4]])) == pytest.approx(5)
    triangle = np.array([[0, 0], [3, 4], [0, 4]])
    assert mean_pairwise_distance(triangle) == pytest.approx((5 + 4 + 3) / 3)
    assert mean_pairwise_distance(triangle[[1, 1, 1]]) == 0
    assert mean_pairwise_distance(triangle[:1]) is None and mean_pairwise_distance(triangle[:0]) is None


def test_the_order_of_patches_does_not_count() -> None:
    vectors = np.random.default_rng(0).normal(size=(6, 8))
    oracle = np.sqrt(((vectors[:, None] - vectors) ** 2).sum(2)).sum() / 30
    assert mean_pairwise_distance(vectors) == pytest.approx(oracle)
    assert mean_pairwise_distance(vectors[::-1]) == pytest.approx(oracle)


def test_pairs_of_one_photo() -> None:
    assert share_of_equal_pairs("aab") == pytest.approx(1 / 3)
    assert share_of_equal_pairs("aabb") == pytest.approx(2 / 6)
    assert share_of_equal_pairs("aaa") == 1 and share_of_equal_pairs("abc") == 0
    assert share_of_equal_pairs("a") is None and share_of_equal_pairs("") is None


def test_repeats_are_counted_by_object_and_pair_of_images() -> None:
    one, other = made(("a", "x"), ("b", "x")), made(("a", "x"), ("c", "x"))
    assert repeats([one, one]) == 1 and repeats([one, other]) == 0.5 and repeats([one]) is None
    assert repeats([one, other, one]) == pytest.approx((1 + 2 + 1) / 6)
    assert repeats([one, made(("b", "x"), ("a", "x"))]) == 0  # the same patches for other objects
    assert repeats([one, made(("a", "x"), None)]) == 1 and repeats([one, made(None, None)]) is None


def test_scores_of_picks() -> None:
    context = Context({}, np.array([0, 0, 1, 1]), 2, 0)
    images = [
        made(("a", "x"), ("b", "x")),
        made(("a", "x"), ("c", "y")),
        made(("d", "x"), ("e", "y")),
        made(("f", "x"), None),
    ]
    source, same = pick_scores(images, context)
    assert isinstance(source, Score) and source.value == pytest.approx((1 + 0 + 0) / 3)
    assert source.per_image == [1, 0, 0, None] and source.better == "neither"
    assert isinstance(same, Score) and same.value == pytest.approx((0.5 + 0) / 2)  # of the graphs
    assert same.interval == (0, 0.5)
    single = pick_scores(images[:2], Context({}, np.arange(2), 2, 0))
    assert isinstance(single[1], NotComputed) and "several outputs" in single[1].reason
    nothing = pick_scores([made(None), made(("a", "x"))], Context({}, np.arange(2), 2, 0))
    assert isinstance(nothing[0], NotComputed) and nothing[0].reason == "no image has two patches"


def test_compatibility_is_the_mean_over_images_that_have_two_patches() -> None:
    context = Context({}, np.arange(3), 3, 0)
    vectors = [np.array([[1, 0], [0, 1]]), np.array([[1, 0], [1, 0]]), np.array([[1, 0]])]
    score = compatibility_score(vectors, [np.array([[1, 0], [-1, 0]])], JUDGE, context)
    assert isinstance(score, Score) and score.name == "compatibility[cooccurrence:f2]" and score.better == "lower"
    assert score.value == pytest.approx(np.sqrt(2) / 2) and score.on_real == pytest.approx(2)
    assert score.warning is None and score.protocol["features weights"] == "0123abcd"
    own = compatibility_score(vectors, [], JudgeName("f", "0123abcd", True, "cooccurrence"), context)
    assert isinstance(own, Score) and own.warning == OWN["cooccurrence"] and own.on_real is None
    assert isinstance(compatibility_score([vectors[2]], [], JUDGE, Context({}, np.arange(1), 1, 0)), NotComputed)
