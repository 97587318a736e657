"""Retrieval quality on planted layouts."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import ArtifactError
from pipelines.metrics import retrieval
from pipelines.metrics.retrieval import Placed


def placed(
    number: int, category: int, box: tuple[int, int, int, int], row: int = 0, score: float = 0.5, source: str = "t/1"
) -> Placed:
    return Placed(number, category, box, row, source, score, 1)


def test_the_segment_is_read_back_from_the_layout_and_what_fed_it() -> None:
    """Two windows (class 1) side by side in one box of the left one; a third class; a hole that no piece covers."""
    labels = np.array([[1, 1, 0, 1], [1, 1, 0, 1], [0, 0, 0, 1]])
    index = np.array([[1, 0, 3, 2], [1, 1, 3, 2], [3, 3, 3, 0]])
    pieces = [placed(1, 1, (0, 0, 4, 2)), placed(2, 1, (3, 0, 1, 3)), placed(3, 0, (0, 0, 4, 3))]
    left, right, wall = retrieval.query_masks(labels, index, pieces)
    assert left.tolist() == [[True, True, False, False], [True, True, False, False]]
    assert right.tolist() == [[True], [True], [True]]
    assert np.array_equal(wall, labels == 0)


def test_an_overflow_of_another_class_does_not_take_from_the_segment() -> None:
    labels, index = np.array([[0, 0, 1]]), np.array([[1, 2, 2]])  # the thing 2 flows over the wall
    wall, thing = retrieval.query_masks(labels, index, [placed(1, 0, (0, 0, 3, 1)), placed(2, 1, (2, 0, 1, 1))])
    assert wall.tolist() == [[True, True, False]] and thing.tolist() == [[True]]


def test_iou_by_hand() -> None:
    query = np.array([[1, 1, 0, 0]] * 4, dtype=bool)
    assert retrieval.intersection_over_union(query, query[:2]) == 1  # shapes are compared, not sizes
    top = np.zeros((4, 4), dtype=bool)
    top[:2] = True
    assert retrieval.intersection_over_union(query, top) == pytest.approx(4 / 12)
    assert retrieval.intersection_over_union(query, ~query) == 0
    assert math.isnan(retrieval.intersection_over_union(np.zeros((0, 0), dtype=bool), query))


def test_the_fit_of_an_image() -> None:
    labels = np.array([[0, 0, 1, -1], [0, 0, 1, -1]])
    index = np.array([[1, 1, 0, 1], [1, 1, 2, 0]])
    pieces = [placed(1, 0, (0, 0, 2, 2), row=7, score=0.25), placed(2, 1, (2, 0, 1, 2), row=9, score=1.5, source="t/2")]
    masks = {7: np.ones((5, 5), dtype=bool), 9: np.array([[False], [True]])}
    found = retrieval.fit(labels, index, pieces, masks, [0, 1, 2, 2])
    assert found.iou.tolist() == [1, 0.5] and found.sigma.tolist() == [0.25, 1.5] and found.pixels.tolist() == [4, 2]
    assert (found.covered, found.labelled, found.without) == (5, 6, 2)
    assert found.sources == ("t/1", "t/2")
    assert retrieval.mean_over_pieces(found.sigma) == 0.875
    assert retrieval.mean_over_pieces(found.sigma, found.pixels) == pytest.approx((4 * 0.25 + 2 * 1.5) / 6)


def test_random_pieces_have_no_sigma() -> None:
    assert retrieval.mean_over_pieces(np.array([math.inf, math.inf])) is None
    assert retrieval.mean_over_pieces(np.array([])) is None
    assert retrieval.mean_over_pieces(np.array([1.0, math.nan])) == 1


def test_records_are_read_with_the_number_that_the_index_image_gives_them(tmp_path: Path) -> None:
    piece = {"category": "door", "box": [1, 2, 3, 4], "bank_row": 5, "source": "t/1", "score": math.inf, "pixels": 6}
    lines = [{"name": "a", "pieces": [piece, {**piece, "score": None}]}, {"name": "b", "pieces": []}]
    (tmp_path / "provenance.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = retrieval.read_pieces(tmp_path, ["wall", "door"])
    assert found["b"] == []
    assert found["a"][1] == Placed(2, 1, (1, 2, 3, 4), 5, "t/1", math.inf, 6) and found["a"][0].number == 1
    (tmp_path / "provenance.jsonl").write_text('{"name": "a", "pieces": [{"category": "gate"}]}')
    with pytest.raises(ArtifactError, match="cannot be read"):
        retrieval.read_pieces(tmp_path, ["wall", "door"])
