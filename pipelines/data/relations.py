"""The six geometric relations of sg2im, from the boxes and centres of two objects.

A box is (x0, y0, x1, y1) and a centre (x, y), in parts of the picture; y grows downwards. All is done in float64: in
float32 an angle of exactly pi / 4 falls on the wrong side of its border.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

GEOMETRIC = ("left of", "right of", "above", "below", "inside", "surrounding")
"""The predicates in sg2im's order, which leaves out `__in_image__`."""

LEFT, RIGHT, ABOVE, BELOW, INSIDE, SURROUNDING = range(6)

Box = Sequence[float]
Centre = Sequence[float]


def relation(subject_box: Box, subject_centre: Centre, object_box: Box, object_centre: Centre) -> int:
    """The index into GEOMETRIC of «subject … object».

    A box that strictly contains the other on all four sides surrounds it. Otherwise the direction d from the object's
    centre to the subject's decides, in quarters of the circle between the diagonals: the right quarter has its upper
    diagonal, the lower one its right, the left one both of its own, and d = 0 is right of. (These are the borders of
    sg2im's comparisons of atan2 with pi / 4 and 3 pi / 4, without the rounding of an angle.)
    """
    if _contains(subject_box, object_box):
        return SURROUNDING
    if _contains(object_box, subject_box):
        return INSIDE
    dx = float(subject_centre[0]) - float(object_centre[0])
    dy = float(subject_centre[1]) - float(object_centre[1])
    if dx < 0 and abs(dy) <= -dx:
        return LEFT
    if dy < 0 and abs(dx) < -dy:
        return ABOVE
    if -dx <= dy < dx or dx == dy == 0:
        return RIGHT
    return BELOW


def draw_relations(
    boxes: Sequence[Box] | np.ndarray, centres: Sequence[Centre] | np.ndarray, rng: np.random.Generator
) -> tuple[tuple[int, int, int], ...]:
    """One relation (subject, predicate, object) for every object with another one drawn uniformly, either way round.

    boxes (n, 4), centres (n, 2). n relations for n objects, repeats possible; none where there is one object.
    """
    n = len(boxes)
    if n < 2:
        return ()
    others = rng.integers(0, n - 1, n)
    others += others >= np.arange(n)
    turned = rng.random(n) >= 0.5
    pairs = [(int(o), i) if turn else (i, int(o)) for i, (o, turn) in enumerate(zip(others, turned, strict=True))]
    return tuple((s, relation(boxes[s], centres[s], boxes[o], centres[o]), o) for s, o in pairs)


def _contains(outer: Box, inner: Box) -> bool:
    return bool(outer[0] < inner[0] and outer[1] < inner[1] and outer[2] > inner[2] and outer[3] > inner[3])
