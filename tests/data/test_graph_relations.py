"""T1 of the specification, and a literal reading of sg2im's rule as the oracle."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data.relations import ABOVE, BELOW, GEOMETRIC, INSIDE, LEFT, RIGHT, SURROUNDING, draw_relations, relation

Box = tuple[float, float, float, float]
Point = tuple[float, float]


def around(centre: Point, half: float = 0.05) -> Box:
    return centre[0] - half, centre[1] - half, centre[0] + half, centre[1] + half


def literal(s_box: Box, s: Point, o_box: Box, o: Point) -> str:
    """The words of the specification, first match wins."""
    theta = math.atan2(s[1] - o[1], s[0] - o[0])
    if s_box[0] < o_box[0] and s_box[1] < o_box[1] and s_box[2] > o_box[2] and s_box[3] > o_box[3]:
        return "surrounding"
    if s_box[0] > o_box[0] and s_box[1] > o_box[1] and s_box[2] < o_box[2] and s_box[3] < o_box[3]:
        return "inside"
    if theta >= 3 * math.pi / 4 or theta <= -3 * math.pi / 4:
        return "left of"
    if -3 * math.pi / 4 <= theta < -math.pi / 4:
        return "above"
    if -math.pi / 4 <= theta < math.pi / 4:
        return "right of"
    return "below"


def test_the_predicates_are_in_the_order_of_sg2im() -> None:
    assert GEOMETRIC == ("left of", "right of", "above", "below", "inside", "surrounding")


@pytest.mark.parametrize(
    ("subject", "target", "expected"),
    [
        ((0.2, 0.5), (0.8, 0.5), LEFT),
        ((0.8, 0.5), (0.2, 0.5), RIGHT),
        ((0.5, 0.2), (0.5, 0.8), ABOVE),
        ((0.5, 0.8), (0.5, 0.2), BELOW),
        ((0.75, 0.75), (0.5, 0.5), BELOW),  # theta = pi / 4
        ((0.25, 0.75), (0.5, 0.5), LEFT),  # 3 pi / 4
        ((0.25, 0.25), (0.5, 0.5), LEFT),  # -3 pi / 4
        ((0.75, 0.25), (0.5, 0.5), RIGHT),  # -pi / 4
        ((0.5, 0.5), (0.5, 0.5), RIGHT),  # theta = 0
    ],
)
def test_the_direction_between_centres(subject: Point, target: Point, expected: int) -> None:
    assert relation(around(subject), subject, around(target), target) == expected


def test_boxes_within_each_other_come_before_directions() -> None:
    outer, inner = (0.0, 0.0, 1.0, 1.0), (0.1, 0.1, 0.3, 0.3)
    assert relation(outer, (0.5, 0.5), inner, (0.2, 0.2)) == SURROUNDING
    assert relation(inner, (0.2, 0.2), outer, (0.5, 0.5)) == INSIDE
    touching = (0.0, 0.1, 0.3, 0.3)
    assert relation(touching, (0.15, 0.2), outer, (0.5, 0.2)) == LEFT
    assert relation(outer, (0.5, 0.5), outer, (0.5, 0.5)) == RIGHT


# eighths are exact, so that many draws fall on diagonals and shared borders; the others fall anywhere
grid = st.integers(0, 8).map(lambda i: i / 8)
part = st.one_of(grid, st.floats(0, 1, allow_subnormal=False))
boxes = st.tuples(part, part, part, part).map(lambda b: (*np.minimum(b[:2], b[2:]), *np.maximum(b[:2], b[2:])))
points = st.tuples(part, part)


@settings(max_examples=500, deadline=None)
@given(boxes, points, boxes, points)
def test_it_is_what_the_rule_says(s_box: Box, s: Point, o_box: Box, o: Point) -> None:
    dx, dy = s[0] - o[0], s[1] - o[1]
    near_a_diagonal = abs(dx) != abs(dy) and abs(abs(dx) - abs(dy)) < 1e-12 * max(abs(dx), abs(dy))
    if not near_a_diagonal:  # there an angle is rounded, and only there
        assert GEOMETRIC[relation(s_box, s, o_box, o)] == literal(s_box, s, o_box, o)


def test_every_object_has_one_relation_of_its_own() -> None:
    rng = np.random.default_rng(0)
    centres = rng.random((7, 2))
    boxes = np.hstack([centres - 0.05, centres + 0.05])
    for _ in range(50):
        triples = draw_relations(boxes, centres, rng)
        assert len(triples) == 7
        for own, (s, p, o) in enumerate(triples):
            assert s != o
            assert own in (s, o)
            assert p == relation(boxes[s], centres[s], boxes[o], centres[o])


def test_the_other_object_and_the_direction_are_drawn_uniformly() -> None:
    rng = np.random.default_rng(1)
    centres = rng.random((5, 2))
    boxes = np.hstack([centres - 0.01, centres + 0.01])
    draws = 4000
    others: Counter[tuple[int, int]] = Counter()
    as_subject = 0
    for _ in range(draws):
        for own, (s, _p, o) in enumerate(draw_relations(boxes, centres, rng)):
            others[own, o if s == own else s] += 1
            as_subject += s == own
    assert len(others) == 5 * 4
    # four standard deviations of a binomial
    assert all(abs(count - draws / 4) < 4 * math.sqrt(draws * 3 / 16) for count in others.values())
    assert abs(as_subject - draws * 5 / 2) < 4 * math.sqrt(draws * 5 / 4)


def test_one_object_has_no_relation_and_two_have_two() -> None:
    rng = np.random.default_rng(2)
    assert draw_relations([(0.0, 0.0, 1.0, 1.0)], [(0.5, 0.5)], rng) == ()
    assert draw_relations([], [], rng) == ()
    two = [(0.1, 0.1, 0.2, 0.2), (0.8, 0.1, 0.9, 0.2)]
    triples = draw_relations(two, [(0.15, 0.15), (0.85, 0.15)], rng)
    assert set(triples) <= {(0, LEFT, 1), (1, RIGHT, 0)}
    assert len(triples) == 2
