"""Boxes against boxes and against the relations of their graphs, and the graphs of samples read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipelines.data.graph import SceneGraph, graph_to_json
from pipelines.data.relations import GEOMETRIC
from pipelines.data.scene import Category, Schema
from pipelines.errors import ArtifactError
from pipelines.metrics.scene_graphs import Made, Pick, box_iou, box_l1, box_scores, read_made, satisfied
from pipelines.metrics.scores import Context, NotComputed, Score

SCHEMA = Schema(
    tuple(Category(i, name, (i, 0, 0), False) for i, name in enumerate(("sky", "road", "car"))),
    relations=(*GEOMETRIC, "drives on"),
)
LEFT, RIGHT, ABOVE, BELOW, INSIDE, SURROUNDING, DRIVES_ON = range(7)
CONTEXT = Context({}, np.arange(2), 2, 0)


def graph(boxes: list[list[float]], *relations: tuple[int, int, int]) -> SceneGraph:
    return SceneGraph(np.arange(len(boxes)) % 3, relations, np.array(boxes, np.float32))


def made(boxes: list[list[float]], given: list[list[float]] | None, *relations: tuple[int, int, int]) -> Made:
    of = None if given is None else np.array(given)
    return Made(graph(boxes, *relations), True, of, (None,) * len(boxes))


# ---- boxes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "other", "iou", "l1"),
    [
        ([0, 0, 1, 1], [0, 0, 1, 1], 1, 0),
        ([0, 0, 0.5, 1], [0.5, 0, 1, 1], 0, 0.25),  # they touch
        ([0, 0, 0.5, 1], [0.25, 0, 0.75, 1], 1 / 3, 0.125),
        ([0, 0, 1, 1], [0.25, 0.25, 0.75, 0.75], 0.25, 0.25),
        ([0.2, 0.2, 0.2, 0.9], [0, 0, 1, 1], 0, 0.325),  # no width
        ([0.2, 0.2, 0.2, 0.2], [0.2, 0.2, 0.2, 0.2], 0, 0),  # both empty
    ],
)
def test_two_boxes_by_hand(box: list[float], other: list[float], iou: float, l1: float) -> None:
    a, b = np.array([box], np.float32), np.array([other])
    assert box_iou(a, b) == pytest.approx([iou]) and box_iou(b, a) == pytest.approx([iou])
    assert box_l1(a, b) == pytest.approx([l1], abs=1e-7) and box_l1(b, a) == pytest.approx([l1], abs=1e-7)


CORNERS = arrays(np.int64, (5, 4), elements=st.integers(0, 16))


@settings(max_examples=100, deadline=None)
@given(one=CORNERS, other=CORNERS)
def test_the_overlap_is_that_of_painted_cells(one: np.ndarray, other: np.ndarray) -> None:
    """Boxes on a grid of 16 x 16, counted cell by cell; corners may be in any order (then they are empty)."""

    def painted(box: np.ndarray) -> np.ndarray:
        cells = np.zeros((16, 16), bool)
        cells[box[1] : box[3], box[0] : box[2]] = True
        return cells

    wanted = []
    for a, b in zip(one, other, strict=True):
        x, y = painted(a), painted(b)
        wanted.append((x & y).sum() / max((x | y).sum(), 1))
    assert box_iou(one / 16, other / 16) == pytest.approx(np.array(wanted), abs=1e-12)


def test_relations_of_boxes_by_hand() -> None:
    boxes = np.array([[0, 0, 1, 0.4], [0, 0.5, 1, 1], [0.1, 0.6, 0.3, 0.8], [0.7, 0.6, 0.9, 0.8]])
    true = [(0, ABOVE, 1), (1, BELOW, 0), (2, INSIDE, 1), (1, SURROUNDING, 2), (2, LEFT, 3), (3, RIGHT, 2)]
    assert satisfied(true, boxes, SCHEMA.relations).all()
    false = [(s, p, o) for s, _, o in true for p in range(6) if (s, p, o) not in true]
    assert len(false) == 30 and not satisfied(false, boxes, SCHEMA.relations).any()


def test_relations_that_boxes_cannot_tell_are_left_out() -> None:
    boxes = np.array([[0, 0.5, 1, 1], [0.1, 0.6, 0.3, 0.8]])
    assert satisfied([(1, DRIVES_ON, 0), (1, INSIDE, 0)], boxes, SCHEMA.relations).tolist() == [True]
    assert len(satisfied([(1, DRIVES_ON, 0)], boxes, SCHEMA.relations)) == 0


def scores(found: list[Score | NotComputed]) -> dict[str, Score]:
    return {one.name: one for one in found if isinstance(one, Score)}


def test_scores_are_means_over_objects_then_over_images() -> None:
    given = [[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]]
    right = made(given, given, (0, LEFT, 1), (1, RIGHT, 0))
    # one box of two is right, the other the left half: IoU 1 and 0, L1 0 and 0.25; no center is left of the other
    half = made([given[0], given[0]], given, (0, LEFT, 1), (1, RIGHT, 0))
    found = scores(box_scores([right, half], SCHEMA, CONTEXT))
    assert found["box_iou"].value == pytest.approx((1 + 0.5) / 2)
    assert found["box_l1"].value == pytest.approx((0 + 0.125) / 2)
    assert found["relations"].value == pytest.approx((1 + 0.5) / 2)  # of equal boxes each is right of the other
    assert found["relations"].on_real == 1
    assert found["box_iou"].per_image == pytest.approx([1, 0.5]) and found["box_iou"].interval == (0.5, 1.0)


def test_what_boxes_cannot_be_asked_is_said() -> None:
    boxes = [[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]]
    free = [made(boxes, None, (0, LEFT, 1)), made(boxes, None, (0, DRIVES_ON, 1))]
    found = {one.name: one for one in box_scores(free, SCHEMA, CONTEXT)}
    assert isinstance(found["box_iou"], NotComputed) and "came without boxes" in found["box_iou"].reason
    held = found["relations"]
    assert isinstance(held, Score) and held.value == 1 and held.on_real is None and held.per_image == [1, None]
    assert held.protocol["images with a value"] == 1
    given = [Made(one.graph, False, one.boxes, one.picks) for one in free]
    assert all(isinstance(one, NotComputed) and "given" in one.reason for one in box_scores(given, SCHEMA, CONTEXT))
    (*_, none) = box_scores([free[1], free[1]], SCHEMA, CONTEXT)
    assert isinstance(none, NotComputed) and "no graph has a geometric relation" in none.reason


# ---- files ----------------------------------------------------------------------------------------------------------


def document(**changes: Any) -> dict[str, Any]:
    data = graph_to_json(graph([[0, 0, 1, 0.5], [0, 0.5, 1, 1]], (0, ABOVE, 1)), SCHEMA, "street")
    return {
        **data,
        "used": "predicted",
        "given": [[0, 0, 1, 0.25], [0, 0.25, 1, 1]],
        "patches": [{"row": 7, "id": "00000000000000ff", "source": "train/0003"}, None],
        **changes,
    }


def test_the_graph_of_a_sample_is_read_back(tmp_path: Path) -> None:
    file = tmp_path / "street.json"
    file.write_text(json.dumps(document()))
    one = read_made(file, SCHEMA)
    assert one.predicted and one.graph.relations == ((0, ABOVE, 1),) and one.graph.categories.tolist() == [0, 1]
    assert one.boxes.tolist() == [[0, 0, 1, 0.5], [0, 0.5, 1, 1]]
    assert one.given is not None and one.given.tolist() == [[0, 0, 1, 0.25], [0, 0.25, 1, 1]]
    assert one.picks == (Pick(7, "00000000000000ff", "train/0003"), None)
    file.write_text(json.dumps(document(used="given", given=None)))
    assert read_made(file, SCHEMA).given is None and not read_made(file, SCHEMA).predicted


@pytest.mark.parametrize(
    "changes",
    [
        {"used": "guessed"},
        {"boxes": None},
        {"given": [[0, 0, 1]]},
        {"patches": [None]},
        {"patches": [{"row": 0}, None]},
        {"patches": None},
        {"objects": ["sky", "cow"]},
        {"relationships": [[0, "above", 5]]},
        {"more": 1},
    ],
)
def test_a_graph_that_makes_no_sense_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    file = tmp_path / "street.json"
    file.write_text(json.dumps(document(**changes)))
    with pytest.raises(ArtifactError, match="graph of a sample cannot be read") as error:
        read_made(file, SCHEMA)
    assert str(file) in str(error.value.where)


@pytest.mark.parametrize("text", ["", "[1]", "[]", "{}", "nonsense", "7"])
def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "street.json"
    file.write_text(text)
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_made(file, SCHEMA)
