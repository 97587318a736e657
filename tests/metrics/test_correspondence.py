"""Which place an output shows, of planted vectors."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.metrics.correspondence import Items, ask, numbers

EYE = np.eye(6, dtype=np.float32)


def test_outputs_that_show_their_place_hit() -> None:
    owners = np.array([0, 0, 1, 2])
    answers = ask(EYE[[0, 0, 1, 1]], owners, Items(EYE[:3], np.arange(3), np.zeros(3, int)))
    assert answers.against.tolist() == [True, True, True, False]
    assert answers.found.tolist() == [0, 0, 1, 1] and answers.chance == pytest.approx(np.full(4, 1 / 3))
    assert "bootstrap of 3 layouts" in answers.interval(0).protocol


def test_places_are_told_apart_within_their_gallery() -> None:
    items = Items(EYE[[0, 1, 0, 1]], np.arange(4), np.array([0, 0, 1, 1]))
    answers = ask(EYE[[0, 1, 0, 1]], np.arange(4), items)
    assert answers.against.all() and answers.chance == pytest.approx(np.full(4, 1 / 2))
    assert "Wilson" in answers.interval(0).protocol
    together = ask(EYE[[0, 1, 0, 1]], np.arange(4), Items(items.vectors, items.alike, np.zeros(4, int)))
    assert not together.against.any() and together.generous.all()


def test_equal_pictures_are_one_item() -> None:
    items = Items(EYE[[0, 0, 1]], numbers(["a", "a", "b"]), np.zeros(3, int))
    answers = ask(EYE[[0, 0, 1]], np.arange(3), items)
    assert answers.against.all() and answers.chance == pytest.approx(np.full(3, 1 / 2))


def test_outputs_dealt_at_random_reach_chance() -> None:
    vectors = np.eye(100, dtype=np.float32)
    items = Items(vectors, np.arange(100), np.zeros(100, int))
    dealt = ask(vectors[np.random.default_rng(0).permutation(100)], np.arange(100), items)
    assert dealt.against.mean() < 0.05 and dealt.p(0) > 0.01
    assert ask(vectors, np.arange(100), items).p(0) == pytest.approx(1e-4)
