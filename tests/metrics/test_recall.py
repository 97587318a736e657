"""Recall at k against hand-made ranks, a plain double loop, closed-form chances and an exact permutation count."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.errors import NumericalError
from pipelines.metrics import recall
from pipelines.metrics.recall import one_percent, permutation_p, rank, rank_similarities, wilson

THREE = np.array([[0.9, 0.2, 0.8], [0.1, 0.7, 0.3], [0.4, 0.75, 0.6]])
"""Rows aerial, columns ground: T1 of the specification."""


def test_ranks_of_the_specification_in_both_directions():
    ground_to_aerial = rank_similarities(THREE.T, np.arange(3))
    assert ground_to_aerial.strict.tolist() == [0, 1, 1]
    assert ground_to_aerial.recall(1) == pytest.approx(1 / 3)
    assert ground_to_aerial.recall(2) == 1
    aerial_to_ground = rank_similarities(THREE, np.arange(3))
    assert aerial_to_ground.strict.tolist() == [0, 0, 1]
    assert aerial_to_ground.recall(1) == pytest.approx(2 / 3)
    assert aerial_to_ground.top.tolist() == [0, 1, 1]


def test_a_perfect_embedder_scores_one_and_a_collapsed_one_nothing():
    assert rank(np.eye(5), np.eye(5), np.arange(5)).recall(1) == 1
    same = np.full((7, 16), 0.25, np.float32)
    collapsed = rank(same, same, np.arange(7))
    assert collapsed.recall(1, "for") == 1
    assert collapsed.recall(1) == collapsed.recall(6) == 0
    assert collapsed.recall(7) == 1
    assert set(collapsed.top.tolist()) == {-1}


def test_differences_of_rounding_are_ties():
    rng = np.random.default_rng(0)
    base = rng.normal(size=384)
    gallery = base / np.linalg.norm(base) + rng.normal(size=(300, 384)) * 1e-9
    found = rank(gallery, gallery, np.arange(300))
    assert found.recall(1) == 0 and found.recall(1, "for") == 1


def test_one_percent_as_published():
    assert [one_percent(n) for n in (8884, 99, 100, 200, 1)] == [89, 1, 2, 3, 1]


def test_ignored_items_count_neither_way():
    similarities = np.array([[0.5, 0.9, 0.8, 0.1]])
    assert rank_similarities(similarities, np.array([0])).tied.tolist() == [2]
    found = rank_similarities(similarities, np.array([0]), [[1, 2]])
    assert found.tied.tolist() == [0] and found.top.tolist() == [0] and found.candidates.tolist() == [2]
    assert found.chance() == pytest.approx(1 / 2)


def test_of_several_own_items_the_most_similar_counts():
    found = rank_similarities(np.array([[0.5, 0.9, 0.8], [0.5, 0.4, 0.8]]), [[0, 1], [0, 1]])
    assert found.tied.tolist() == [0, 1]
    assert found.chance(1) == pytest.approx(2 / 3) and found.chance(2) == 1


def test_similarities_given_are_left_alone():
    similarities = THREE.copy()
    rank_similarities(similarities, np.arange(3), [[1], [], []])
    assert (similarities == THREE).all()


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.integers(-2, 2), min_size=24, max_size=24),
    own=st.lists(st.integers(0, 5), min_size=3, max_size=3),
    chunk=st.integers(1, 20),
)
def test_against_a_plain_loop_with_many_ties(values, own, chunk):
    vectors = np.array(values[:18], np.float32).reshape(6, 3)
    queries = np.array([*values[18:], 1, 0, 1], np.float32).reshape(3, 3)
    whole, recall._CHUNK = recall._CHUNK, chunk
    try:
        found = rank(queries, vectors, np.array(own))
    finally:
        recall._CHUNK = whole
    for i, mine in enumerate(own):
        scores = [float(np.dot(queries[i], v)) for v in vectors]
        others = [s for j, s in enumerate(scores) if j != mine]
        assert found.strict[i] == sum(s > scores[mine] for s in others)
        assert found.tied[i] == sum(s >= scores[mine] for s in others)
        best = [j for j, s in enumerate(scores) if s == max(scores)]
        assert found.top[i] == (best[0] if len(best) == 1 else -1)


def test_vectors_that_are_not_finite_are_refused():
    bad = np.eye(3)
    bad[1, 2] = np.nan
    with pytest.raises(NumericalError, match="1 of 3 vectors of the gallery"):
        rank(np.eye(3), bad, np.arange(3))


def test_chance_of_galleries_of_several_sizes():
    found = rank_similarities(np.eye(4), np.arange(4), [[1, 2], [], [], []])
    assert found.chance() == pytest.approx((1 / 2 + 3 / 4) / 4)
    assert found.chance(4) == 1
    assert rank_similarities(np.eye(10), np.arange(10)).chance(5) == pytest.approx(0.5)


def test_wilson_against_published_values():
    # Newcombe, Statistics in Medicine 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29
    for hits, n, ends in (
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ):
        assert wilson(hits, n) == pytest.approx(ends, abs=5e-5)
    assert wilson(20, 20)[1] == 1


def test_permutations_against_all_of_them():
    wanted = np.arange(6)
    found = np.array([0, 1, 2, 0, 5, -1])
    exact = np.mean([(np.array(p) == found).sum() >= 3 for p in permutations(range(6))])
    assert permutation_p(found, wanted, permutations=20000) == pytest.approx(exact, abs=0.005)


def test_permutations_stay_within_their_source():
    # Dealt within sources of one query each, nothing changes: every deal hits as often.
    assert permutation_p(np.arange(5), np.arange(5), np.arange(5), permutations=99) == 1
    assert permutation_p(np.arange(5), np.arange(5), permutations=99) < 0.1
    assert permutation_p(np.full(5, -1), np.arange(5), permutations=99) == 1
