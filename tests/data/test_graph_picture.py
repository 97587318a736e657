"""Pictures of graphs: what is drawn where, and that anything can be drawn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data.graph import SceneGraph
from pipelines.data.graph_picture import LEAST_SIDE, draw_graph, object_names
from pipelines.data.graph_text import parse_graph
from pipelines.data.relations import GEOMETRIC
from pipelines.data.scene import Category, Schema

RED, GREEN, BLUE = (230, 20, 20), (20, 200, 20), (30, 30, 240)
SCHEMA = Schema(
    (Category(1, "sky", RED, False), Category(2, "road", GREEN, False), Category(3, "car", BLUE, True)),
    (),
    (),
    (*GEOMETRIC, "near"),
)


def boxed(categories: list[int], boxes: list[list[float]], relations: tuple[tuple[int, int, int], ...]) -> SceneGraph:
    return SceneGraph(np.array(categories), relations, np.array(boxes, dtype=np.float32))


def where(picture: np.ndarray, color: tuple[int, int, int]) -> tuple[float, float]:
    """The mean x and y of a color, in parts of the picture's height."""
    rows, columns = np.nonzero((picture == color).all(axis=2))
    assert len(rows), f"nothing is {color}"
    return columns.mean() / picture.shape[0], rows.mean() / picture.shape[0]


def test_objects_of_one_class_are_numbered() -> None:
    graph = SceneGraph(np.array([2, 0, 2]), ())
    assert object_names(graph, SCHEMA) == ["car#1", "sky", "car#2"]


@pytest.mark.parametrize(("size", "drawn"), [((64, 64), (384, 384)), ((64, 128), (192, 384)), ((400, 300), (400, 300))])
def test_the_size_of_a_picture(size: tuple[int, int], drawn: tuple[int, int]) -> None:
    graph = boxed([0, 1], [[0, 0, 1, 0.5], [0, 0.5, 1, 1]], ())
    assert draw_graph(graph, SCHEMA, size).shape == (*drawn, 3)  # no relation, so no list of them
    related = boxed([0, 1], [[0, 0, 1, 0.5], [0, 0.5, 1, 1]], ((0, 2, 1),))
    height, width, _ = draw_graph(related, SCHEMA, size).shape
    assert height == drawn[0] and drawn[1] + 60 < width < drawn[1] + 200


def test_boxes_have_the_colors_of_their_classes() -> None:
    graph = boxed([0, 2], [[0, 0, 1, 0.4], [0.5, 0.5, 0.75, 1]], ())
    picture = draw_graph(graph, SCHEMA, (400, 400))
    for point, color in (((200, 80), RED), ((250, 350), BLUE)):
        tint = picture[point[1], point[0]].astype(int)
        assert np.argmax(tint) == np.argmax(color) and np.ptp(tint) > 40
    assert picture[300, 100].tolist() == [255, 255, 255]


def test_a_photo_shows_through() -> None:
    photo = np.zeros((32, 32, 3), dtype=np.uint8)
    photo[:16] = 200
    picture = draw_graph(boxed([1], [[0.8, 0.8, 0.9, 0.9]], ()), SCHEMA, (32, 32), photo)
    assert picture.shape == (384, 384, 3)
    assert picture[100, 100].tolist() == [200] * 3 and picture[250, 100].tolist() == [0] * 3
    large = draw_graph(boxed([1], [[0.8, 0.8, 0.9, 0.9]], ()), SCHEMA, (400, 400), photo.repeat(40, 0).repeat(40, 1))
    assert large[100, 100].tolist() == [200] * 3


def test_without_boxes_nodes_stand_where_their_relations_want_them() -> None:
    picture = draw_graph(parse_graph("road below sky; car right of road", SCHEMA), SCHEMA, (400, 400))
    sky, road, car = where(picture, RED), where(picture, GREEN), where(picture, BLUE)
    assert sky[1] < road[1] - 0.2
    assert car[0] > road[0] + 0.2


def test_a_picture_is_the_same_every_time_and_leaves_the_graph_alone() -> None:
    graph = boxed(
        [0, 1, 2, 2], [[0, 0, 1, 0.5], [0, 0.5, 1, 1], [0.1, 0.6, 0.3, 0.8], [0.2, 0.6, 0.5, 0.9]], ((2, 4, 1),)
    )
    assert graph.boxes is not None
    before = graph.boxes.copy()
    photo = np.full((64, 64, 3), 90, dtype=np.uint8)
    assert np.array_equal(draw_graph(graph, SCHEMA, (64, 64), photo), draw_graph(graph, SCHEMA, (64, 64), photo))
    assert np.array_equal(before, graph.boxes) and (photo == 90).all()


def test_more_relations_than_lines_are_counted() -> None:
    few = parse_graph("; ".join(f"car#{i + 1} left of car#{i}" for i in range(1, 6)), SCHEMA)
    many = parse_graph("; ".join(f"car#{i + 1} left of car#{i}" for i in range(1, 500)), SCHEMA)
    for graph in (few, many):
        picture = draw_graph(graph, SCHEMA, (64, 64))
        assert picture.shape[0] == LEAST_SIDE and picture.dtype == np.uint8


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 12),
    st.lists(st.tuples(st.integers(0, 11), st.integers(0, 6), st.integers(0, 11)), max_size=20),
    st.booleans(),
    st.tuples(st.integers(1, 500), st.integers(1, 500)),
    st.integers(0, 2**32),
)
def test_anything_can_be_drawn(
    n: int, relations: list[tuple[int, int, int]], with_boxes: bool, size: tuple[int, int], seed: int
) -> None:
    """Boxes of no area and outside the picture too, as a network may predict them."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-0.2, 1.2, (n, 2, 2)).round(1).astype(np.float32)
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    triples = tuple(t for t in relations if t[0] < n and t[2] < n and t[0] != t[2])
    graph = SceneGraph(rng.integers(0, 3, n), triples, boxes if with_boxes else None)
    picture = draw_graph(graph, SCHEMA, size)
    assert picture.ndim == 3 and max(picture.shape) >= LEAST_SIDE
