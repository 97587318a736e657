"""Graphs out of objects by the rules of the settings, and their JSON there and back."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipelines.data.graph import (
    GraphSettings,
    SceneGraph,
    find_cycle,
    graph_to_json,
    graphs_from_json,
    make_graph,
    scene_rng,
    with_predicates,
)
from pipelines.data.objects import GraphObject, scene_objects
from pipelines.data.open import open_dataset
from pipelines.data.relations import GEOMETRIC, relation
from pipelines.data.scene import Category, Schema
from pipelines.errors import DataError

from .trees import REAL, real

NAMES = ("sky", "road", "car", "traffic light", "tree")
SCHEMA = Schema(tuple(Category(10 + i, name, (i, 0, 0), i > 1) for i, name in enumerate(NAMES)), (0,), (), GEOMETRIC)


def some_objects(n: int, seed: int = 0) -> list[GraphObject]:
    """Objects of different sizes; ordinals with gaps, as small objects leave them."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        x, y, w, h = rng.uniform(0, 0.5, 4)
        centre = (x + w / 2 + 0.01, y + h / 2 - 0.01)
        found.append(GraphObject(int(rng.integers(5)), (x, y, x + w + 0.02, y + h + 0.02), centre, 2 * i + 1))
    return found


def area(item: GraphObject) -> float:
    return (item.box[2] - item.box[0]) * (item.box[3] - item.box[1])


def wrong(data: Any, schema: Schema = SCHEMA) -> str:
    with pytest.raises(DataError) as caught:
        graphs_from_json(data, schema, "g.json")
    assert caught.value.where == "g.json"
    assert caught.value.fix
    return caught.value.what


# --- from objects


@pytest.mark.parametrize(("n", "made"), [(2, False), (3, True), (5, True), (8, True), (9, False)])
def test_sg2im_keeps_images_of_three_to_eight_objects(n: int, made: bool) -> None:
    graph = make_graph(some_objects(n), (), GraphSettings(), np.random.default_rng(0))
    assert (graph is not None) == made
    if graph is not None:
        assert len(graph) == len(graph.relations) == n


def test_objects_keep_their_order_and_every_field() -> None:
    objects = some_objects(5)
    graph = make_graph(objects, (), GraphSettings(), np.random.default_rng(0))
    assert graph is not None and graph.boxes is not None and graph.ordinals is not None
    assert graph.categories.dtype == graph.ordinals.dtype == np.int64 and graph.boxes.dtype == np.float32
    assert graph.categories.tolist() == [item.category for item in objects]
    assert graph.ordinals.tolist() == [1, 3, 5, 7, 9]
    assert np.array_equal(graph.boxes, np.array([item.box for item in objects], dtype=np.float32))
    for own, (s, p, o) in enumerate(graph.relations):
        assert own in (s, o) and s != o
        assert p == relation(objects[s].box, objects[s].centre, objects[o].box, objects[o].centre)


def test_of_too_many_the_largest_are_kept_in_their_order() -> None:
    objects = some_objects(30)
    config = GraphSettings(overflow="largest")
    graph = make_graph(objects, (), config, np.random.default_rng(0))
    largest = sorted(objects, key=area, reverse=True)[:8]
    assert graph is not None and graph.ordinals is not None
    assert graph.ordinals.tolist() == sorted(item.ordinal for item in largest)


def test_of_too_many_a_sample_is_uniform_and_drawn_anew() -> None:
    objects = some_objects(12)
    rng = np.random.default_rng(3)
    draws, counts = 3000, Counter[int]()
    for _ in range(draws):
        graph = make_graph(objects, (), GraphSettings(overflow="sample"), rng)
        assert graph is not None and graph.ordinals is not None
        kept = graph.ordinals.tolist()
        assert len(graph) == 8 and kept == sorted(set(kept))
        counts.update(kept)
    expected = draws * 8 / 12
    assert all(abs(counts[item.ordinal] - expected) < 4 * math.sqrt(expected / 3) for item in objects)


def test_the_same_draws_give_the_same_graph() -> None:
    def one(seed: int) -> tuple[Any, ...]:
        graph = make_graph(some_objects(12), (), GraphSettings(overflow="sample"), np.random.default_rng(seed))
        assert graph is not None and graph.ordinals is not None
        return graph.relations, graph.ordinals.tolist()

    assert one(1) == one(1)
    assert one(1) != one(2)


ANNOTATED = GraphSettings(relations="annotated", overflow="sample", max_objects=4)


def test_annotated_relations_move_to_the_positions_of_their_objects() -> None:
    # ordinals are 1, 3, 5, 7; 4 was too small; an object related to itself says nothing
    annotated = [(7, 2, 1), (4, 0, 1), (1, 1, 4), (3, 5, 3), (1, 0, 3)]
    graph = make_graph(some_objects(4), annotated, ANNOTATED, np.random.default_rng(0))
    assert graph is not None
    assert graph.relations == ((3, 2, 0), (0, 0, 1))
    assert len(graph) == 4  # one of them an orphan


def test_no_graph_where_nothing_annotated_is_left() -> None:
    for annotated in ([], [(2, 0, 4)], [(1, 0, 1)]):
        assert make_graph(some_objects(4), annotated, ANNOTATED, np.random.default_rng(0)) is None


def test_related_objects_come_before_orphans() -> None:
    rng = np.random.default_rng(5)
    orphans = Counter[int]()
    for _ in range(300):
        graph = make_graph(some_objects(10), [(3, 0, 7), (7, 1, 15)], ANNOTATED, rng)
        assert graph is not None and graph.ordinals is not None
        kept = set(graph.ordinals.tolist())
        assert {3, 7, 15} < kept and len(kept) == 4
        assert len(graph.relations) == 2
        orphans.update(kept - {3, 7, 15})
    assert set(orphans) == {1, 5, 9, 11, 13, 17, 19}


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(st.integers(0, 19), st.integers(0, 5), st.integers(0, 19)), min_size=1, max_size=12),
    st.sampled_from(["largest", "sample"]),
    st.integers(0, 2**32),
)
def test_a_relation_is_left_and_all_have_both_ends(pairs: list[tuple[int, int, int]], overflow: str, seed: int) -> None:
    """However many related objects there are: Visual Genome's protocol, which never gives a graph without relations."""
    objects = some_objects(20, seed % 7)
    annotated = [(2 * s + 1, p, 2 * o + 1) for s, p, o in pairs]
    config = ANNOTATED.model_copy(update={"overflow": overflow})
    graph = make_graph(objects, annotated, config, np.random.default_rng(seed))
    if all(s == o for s, _, o in pairs):
        assert graph is None
        return
    assert graph is not None and graph.ordinals is not None
    kept = graph.ordinals.tolist()
    assert len(kept) == 4 and kept == sorted(kept)
    expected = [t for t in annotated if t[0] != t[2] and t[0] in kept and t[2] in kept]
    assert [(kept[s], p, kept[o]) for s, p, o in graph.relations] == expected
    assert expected


def test_settings_that_contradict_themselves_are_refused() -> None:
    for values in ({"min_objects": 9}, {"max_objects": 0}, {"min_area": 1}, {"min_area": -0.1}, {"overflow": "all"}):
        with pytest.raises(ValidationError):
            GraphSettings.model_validate(values)
    with pytest.raises(ValidationError, match="two objects"):
        GraphSettings(relations="annotated", min_objects=1, max_objects=1)


def test_the_predicates_of_a_schema() -> None:
    bare = Schema(SCHEMA.classes)
    own = Schema(SCHEMA.classes, relations=("on", "under"))
    assert with_predicates(bare).relations == GEOMETRIC
    assert with_predicates(own).relations == ("on", "under")
    assert with_predicates(own, GraphSettings()).relations == GEOMETRIC
    assert with_predicates(own, GraphSettings(relations="annotated")).relations == ("on", "under")
    with pytest.raises(DataError, match="names no relations"):
        with_predicates(bare, GraphSettings(relations="annotated"))


# --- JSON

triples = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        st.just(n),
        st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, 3), st.integers(0, n - 1)), max_size=20),
    )
)


@settings(deadline=None, max_examples=200)
@given(triples, st.booleans(), st.integers(0, 2**32), st.sampled_from(["", "a", "val_0001", "Ñandú é"]))
def test_there_and_back(drawn: tuple[int, list[tuple[int, int, int]]], boxed: bool, seed: int, name: str) -> None:
    n, relations = drawn
    rng = np.random.default_rng(seed)
    corners = rng.random((n, 2, 2)).astype(np.float32)
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    graph = SceneGraph(
        rng.integers(0, 5, n), tuple(t for t in relations if t[0] != t[2]), boxes if boxed else None, np.arange(n)
    )
    text = json.dumps(graph_to_json(graph, SCHEMA, name or None))
    ((called, back),) = graphs_from_json(json.loads(text), SCHEMA, "g.json")
    assert called == (name or "graph")
    assert np.array_equal(back.categories, graph.categories) and back.categories.dtype == np.int64
    assert back.relations == graph.relations
    assert (back.boxes is not None) == boxed
    assert back.boxes is None or (np.array_equal(back.boxes, boxes) and back.boxes.dtype == np.float32)
    assert json.dumps(graph_to_json(back, SCHEMA, name or None)) == text


def test_files_of_sg2im_are_read_as_they_are() -> None:
    data = [
        {"objects": ["sky", "road", "car"], "relationships": [[0, "above", 1], [2, "inside", 1]]},
        {"objects": ["tree"], "relationships": []},
    ]
    (first, graph), (second, alone) = graphs_from_json(data, SCHEMA, "g.json")
    assert (first, second) == ("graph-0000", "graph-0001")
    assert graph.categories.tolist() == [0, 1, 2]
    assert graph.relations == ((0, 2, 1), (2, 4, 1))
    assert graph.boxes is None and graph.ordinals is None
    assert alone.relations == ()
    assert [name for name, _ in graphs_from_json(data, SCHEMA, "g.json", "street")] == ["street-0000", "street-0001"]
    assert graphs_from_json(data[0], SCHEMA, "g.json", "street")[0][0] == "street"


def test_small_and_large_graphs_are_right_results() -> None:
    ring = [[i, "left of", (i + 1) % 500] for i in range(500)]
    nested = [[i + 1, "inside", i] for i in range(499)]
    ((_, graph),) = graphs_from_json({"objects": ["car"] * 500, "relationships": [*ring, *nested]}, SCHEMA, "g.json")
    assert len(graph) == 500 and len(graph.relations) == 999
    deep = 9_999
    chain = [[i + 1, "inside", i] for i in range(deep)]
    ((_, graph),) = graphs_from_json({"objects": ["car"] * (deep + 1), "relationships": chain}, SCHEMA, "g.json")
    assert len(graph) == 10_000
    assert "circle" in wrong({"objects": ["car"] * (deep + 1), "relationships": [*chain, [0, "inside", deep]]})


TWO = {"objects": ["car", "road"]}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], "there are no graphs"),
        ([1], "the graph: it is no JSON object, but 1"),
        (None, "the graph: it is no JSON object, but null"),
        ({}, "it has no objects"),
        ({"objects": []}, "it has no objects"),
        ({"objects": "car"}, "it has no objects"),
        ({"objects": ["car"] * 10_001}, "10001 objects, more than 10000"),
        ({"objects": ["car", "carr"]}, "object 1: there is no class 'carr'"),
        ({"objects": ["car", 3]}, "object 1: there is no class '3'"),
        ({"objects": ["car", None]}, "object 1: there is no class 'None'"),
        ({"objects": ["car", "__image__"]}, "object 1 is __image__"),
        ({**TWO, "relationship": []}, "there is no field 'relationship'"),
        ({**TWO, "relationships": None}, "its relationships are null"),
        ({**TWO, "relationships": [[0, "above"]]}, 'relation 0 ([0, "above"]) is not subject, predicate and object'),
        ({**TWO, "relationships": [[0, "above", 1], 7]}, "relation 1 (7) is not"),
        ({**TWO, "relationships": [[0, "above", 2]]}, "names the object 2, which is not among the objects 0 to 1"),
        ({**TWO, "relationships": [[-1, "above", 1]]}, "names the subject -1, which is not among the objects 0 to 1"),
        ({**TWO, "relationships": [[True, "above", 0]]}, "subject true, which is not among"),
        ({**TWO, "relationships": [[0.0, "above", 1]]}, "subject 0.0, which is not among"),
        ({**TWO, "relationships": [["car", "above", 1]]}, 'subject "car", which is not among'),
        ({**TWO, "relationships": [[0, "over", 1]]}, "there is no predicate 'over'"),
        ({**TWO, "relationships": [[0, 2, 1]]}, "there is no predicate '2'"),
        ({**TWO, "relationships": [[0, "__in_image__", 1]]}, "holds of every object"),
        ({**TWO, "relationships": [[1, "above", 1]]}, "relates object 1 (road) to itself"),
        ({**TWO, "relationships": [[0, "left of", 1]] * 100_001}, "100001 relations, more than 100000"),
        ({**TWO, "boxes": [[0, 0, 1, 1]]}, "it has 2 objects, but 1 boxes"),
        ({**TWO, "boxes": 3}, "it has 2 objects, but 3"),
        ({**TWO, "boxes": [[0, 0, 1, 1], [0, 0, 1]]}, "the box of object 1 (road) is [0, 0, 1]"),
        ({**TWO, "boxes": [[0, 0, 1, 1], [0.5, 0, 0.5, 1]]}, "the box of object 1 (road)"),
        ({**TWO, "boxes": [[0, 0, 1, 1], [0.6, 0, 0.5, 1]]}, "the box of object 1 (road)"),
        ({**TWO, "boxes": [[0, 0, 1, 1], [0, 0.6, 1, 0.5]]}, "the box of object 1 (road)"),
        ({**TWO, "boxes": [[0, 0, math.nan, 1], [0, 0, 1, 1]]}, "the box of object 0 (car) is [0, 0, NaN, 1]"),
        ({**TWO, "boxes": [[0, 0, math.inf, 1], [0, 0, 1, 1]]}, "the box of object 0 (car)"),
        ({**TWO, "boxes": [[0, 0, 10**400, 1], [0, 0, 1, 1]]}, "the box of object 0 (car)"),
        ({**TWO, "boxes": [[-0.1, 0, 1, 1], [0, 0, 1, 1]]}, "the box of object 0 (car)"),
        ({**TWO, "boxes": [[0, 0, 1.1, 1], [0, 0, 1, 1]]}, "the box of object 0 (car)"),
        ({**TWO, "boxes": [["0", 0, 1, 1], [0, 0, 1, 1]]}, "the box of object 0 (car)"),
        ({**TWO, "boxes": [[0, 0, 1e-60, 1], [0, 0, 1, 1]]}, "the box of object 0 (car)"),
        ({**TWO, "name": ""}, 'the graph: "" cannot name it'),
        ({**TWO, "name": 7}, "the graph: 7 cannot name it"),
        ({**TWO, "name": "../x"}, "cannot name it"),
        ({**TWO, "name": "a/b"}, "cannot name it"),
        ({**TWO, "name": "a\nb"}, "cannot name it"),
        ({**TWO, "name": "\ud800"}, "cannot name it"),
        ({**TWO, "name": "é" * 101}, "cannot name it"),
        ([{**TWO, "name": "a"}, {**TWO, "name": "a"}], "graph 1 (a): another graph is named 'a'"),
        ([{**TWO, "name": "graph-0001"}, TWO], "graph 1: another graph is named 'graph-0001'"),
        ([TWO, {"objects": ["sea"], "name": "bay"}], "graph 1 (bay): object 0: there is no class 'sea'"),
    ],
)
def test_a_bad_graph_is_refused_by_what_is_wrong_in_it(data: Any, said: str) -> None:
    assert said in wrong(data)


def test_the_nearest_name_is_offered() -> None:
    with pytest.raises(DataError) as caught:
        graphs_from_json({"objects": ["trafic light"]}, SCHEMA, "g.json")
    assert caught.value.fix == "did you mean 'traffic light'?"
    with pytest.raises(DataError) as caught:
        graphs_from_json({"objects": ["zzz"]}, SCHEMA, "g.json")
    assert caught.value.fix == "known: sky, road, car, traffic light, tree"


def test_circles_of_inside_and_surrounding_in_any_mix() -> None:
    inside, around = "inside", "surrounding"
    for relationships in (
        [[0, inside, 1], [1, inside, 0]],
        [[0, inside, 1], [0, around, 1]],
        [[0, around, 1], [1, around, 0]],
        [[0, inside, 1], [2, around, 1], [2, inside, 0]],
        [[3, inside, 4], [0, inside, 1], [1, inside, 2], [0, around, 2], [4, "left of", 3]],
    ):
        told = wrong({"objects": ["car"] * 5, "relationships": relationships})
        assert "inside each other in a circle" in told
    for relationships in (
        [[0, inside, 1], [1, around, 0]],  # the same said twice
        [[0, inside, 1], [0, inside, 2], [1, inside, 3], [2, inside, 3]],
        [[0, "above", 1], [1, "above", 0]],  # only inside is a matter of order
    ):
        graphs_from_json({"objects": ["car"] * 5, "relationships": relationships}, SCHEMA, "g.json")


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.tuples(st.integers(0, 7), st.integers(0, 5), st.integers(0, 7)).filter(lambda t: t[0] != t[2]), max_size=14
    )
)
def test_a_circle_is_found_where_there_is_one(relations: Sequence[tuple[int, int, int]]) -> None:
    def edges(chosen: Sequence[tuple[int, int, int]]) -> list[tuple[int, int]]:
        within = [(s, o) for s, p, o in chosen if GEOMETRIC[p] == "inside"]
        return within + [(o, s) for s, p, o in chosen if GEOMETRIC[p] == "surrounding"]

    found = find_cycle(relations, GEOMETRIC)
    reach = np.zeros((8, 8), dtype=bool)
    for within, outside in edges(relations):
        reach[within, outside] = True
    for _ in range(3):  # paths of up to 8 steps
        reach |= reach @ reach
    assert bool(found) == bool(reach.diagonal().any())
    if found:
        assert found[0] == max(found) and len(set(found)) == len(found)
        circle = [edges([relations[k]])[0] for k in found]
        assert all(a[1] == b[0] for a, b in zip(circle, [*circle[1:], circle[0]], strict=True))


def test_other_predicates_than_the_geometric_make_no_circle() -> None:
    schema = Schema(SCHEMA.classes, relations=("on", "in"))
    data = {"objects": ["car", "tree"], "relationships": [[0, "in", 1], [1, "in", 0]]}
    assert len(graphs_from_json(data, schema, "g.json")[0][1].relations) == 2


# --- the packs


@real
@pytest.mark.parametrize(
    ("pack", "config"),
    [
        ("coco_panoptic", GraphSettings()),
        ("coco_instances", GraphSettings()),
        ("cmp_facades", GraphSettings(min_area=0.002, overflow="sample")),
        ("camvid", GraphSettings(min_area=0.002, overflow="largest")),
    ],
)
def test_graphs_of_real_photos(pack: str, config: GraphSettings) -> None:
    dataset = open_dataset(REAL / pack)
    schema = with_predicates(dataset.schema, config)
    made = 0
    records = dataset.records("val")[:20]
    for record in records:
        objects = scene_objects(dataset.read(record), schema, config.min_area)
        for item in objects:
            x0, y0, x1, y1 = item.box
            assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1
            assert np.all(np.abs(np.array(item.centre) * 2 - (x0 + x1, y0 + y1)) <= np.array([x1 - x0, y1 - y0]) + 1e-9)
            assert (x1 - x0) * (y1 - y0) > config.min_area * 0.999
        graph = make_graph(objects, record.relations, config, scene_rng(record.id))
        assert (graph is None) == (len(objects) < 3 or (len(objects) > 8 and config.overflow == "drop"))
        if graph is not None:
            ((_, back),) = graphs_from_json(graph_to_json(graph, schema), schema, record.id)
            assert back.relations == graph.relations and len(graph.relations) == len(graph) <= 8
            made += 1
    assert made > len(records) / 3


@real
def test_annotated_relations_of_a_pack() -> None:
    """coco_panoptic has geometric relations of its own, computed by another program from full masks."""
    dataset = open_dataset(REAL / "coco_panoptic")
    if not dataset.schema.relations:
        pytest.skip("the pack's classes.json names no predicates")
    config = GraphSettings(min_area=0, max_objects=9, overflow="sample", relations="annotated")
    schema = with_predicates(dataset.schema, config)
    agreeing = Counter[bool]()
    for record in dataset.records("val")[:20]:
        objects = {item.ordinal: item for item in scene_objects(dataset.read(record), schema, 0)}
        for s, p, o in record.relations:
            a, b = objects[s], objects[o]
            agreeing[GEOMETRIC[relation(a.box, a.centre, b.box, b.centre)] == schema.relations[p]] += 1
    assert agreeing[True] > 0.9 * agreeing.total()
