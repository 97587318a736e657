from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipelines.data.instances import connected_instances, decode_instances, require_encoding
from pipelines.data.scene import Category, Schema
from pipelines.errors import DataError

from .trees import CAR, CLASSES, IDS, NONE, PERSON, ROAD, scene_layers

SCHEMA = Schema(tuple(Category(c["id"], c["name"], tuple(c["color"]), c["thing"]) for c in CLASSES), (9,))


@settings(max_examples=60, deadline=None)
@given(arrays(np.int16, (4, 6), elements=st.integers(-1, 3)), arrays(np.int32, (4, 6), elements=st.integers(0, 999)))
def test_class1000_gives_things_their_value_and_all_else_none(labels: np.ndarray, numbers: np.ndarray) -> None:
    ids = IDS[labels]
    plain = numbers == 0
    values = np.where(plain, ids, ids * 1000 + numbers)
    instances = decode_instances(values, labels, SCHEMA, "class1000", "here")
    expected = np.where(np.isin(labels, [CAR, PERSON]) & ~plain, values, 0)
    assert instances.dtype == np.int32
    assert np.array_equal(instances, expected)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_index_keeps_numbers_of_things_only(seed: int) -> None:
    rng = np.random.default_rng(seed)
    owner = rng.integers(-1, 4, 30)  # the class of each number
    values = rng.integers(0, 30, (9, 11))
    labels = np.where(values > 0, owner[values], rng.integers(-1, 4, (9, 11))).astype(np.int16)
    crowd = [3, 7]
    expected = np.where(np.isin(labels, [CAR, PERSON]) & ~np.isin(values, crowd), values, 0)
    assert np.array_equal(decode_instances(values, labels, SCHEMA, "index", "here", crowd), expected)


def test_an_instance_over_ignored_pixels_loses_them() -> None:
    labels = np.array([[CAR, CAR, NONE]])
    assert decode_instances(np.array([[5, 5, 5]]), labels, SCHEMA, "index", "here").tolist() == [[5, 5, 0]]
    assert decode_instances(np.array([[2005] * 3]), labels, SCHEMA, "class1000", "here").tolist() == [[2005, 2005, 0]]


def test_an_instance_on_two_classes_is_refused() -> None:
    labels = np.array([[CAR, CAR, PERSON, ROAD]])
    with pytest.raises(DataError, match=r"instance 6 lies on several classes: car \(2 px\), person \(1 px\)") as error:
        decode_instances(np.array([[6, 6, 6, 0]]), labels, SCHEMA, "index", "a.png")
    assert error.value.where == "a.png"
    with pytest.raises(DataError, match=r"instance 3001 is of the class id 3 but lies on car \(2 px\)"):
        decode_instances(np.array([[3001, 3001, 3, 1]]), labels, SCHEMA, "class1000", "a.png")


def test_encodings_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(DataError, match="'classes'"):
        require_encoding("classes", SCHEMA, "classes.json")
    for label, thing in ((0, True), (1000, False), (-1, True)):
        schema = Schema((Category(label, "odd", (1, 2, 3), thing),))
        require_encoding("index", schema, "classes.json")
        with pytest.raises(DataError, match="odd"):
            require_encoding("class1000", schema, "classes.json")
    require_encoding("class1000", Schema((Category(0, "sky", (1, 2, 3), False),)), "classes.json")


def flood(labels: np.ndarray) -> np.ndarray:
    """Components by walking from pixel to pixel, numbered by their first pixel in reading order."""
    found = np.zeros(labels.shape, dtype=int)
    for start in np.argwhere(np.isin(labels, [CAR, PERSON])):
        if found[tuple(start)]:
            continue
        number, front = found.max() + 1, [tuple(start)]
        while front:
            y, x = front.pop()
            inside = 0 <= y < labels.shape[0] and 0 <= x < labels.shape[1]
            if inside and not found[y, x] and labels[y, x] == labels[tuple(start)]:
                found[y, x] = number
                front += [(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return found


@settings(max_examples=40, deadline=None)
@given(arrays(np.int16, (7, 8), elements=st.integers(-1, 3)))
def test_connected_instances_are_eight_connected_components(labels: np.ndarray) -> None:
    instances, expected = connected_instances(labels, SCHEMA), flood(labels)
    pairs = set(zip(instances.ravel().tolist(), expected.ravel().tolist(), strict=True))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})  # one to one
    assert ((instances == 0) == (expected == 0)).all()


def test_the_street_has_a_component_more_than_instances() -> None:
    labels, instances = scene_layers()
    assert connected_instances(labels, SCHEMA).max() == instances.max() + 1
