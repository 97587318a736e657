"""Graphs as tensors, the triple graph convolution against its definition written with loops, boxes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipelines.data.graph import SceneGraph
from pipelines.embed.graph_batch import graph_tensors, join_graphs
from pipelines.embed.graph_encoder import (
    BoxPredictor,
    GraphEncoder,
    GraphTripleConv,
    GraphTripleConvNet,
    box_loss,
    tidy_boxes,
)


def graph(categories: list[int], *relations: tuple[int, int, int], boxes: np.ndarray | None = None) -> SceneGraph:
    return SceneGraph(np.array(categories, np.int64), relations, boxes)


def draw(rng: np.random.Generator, n: int, categories: int = 5, predicates: int = 6) -> SceneGraph:
    """A random graph of n objects with boxes."""
    triples = [
        (int(rng.integers(n)), int(rng.integers(predicates)), int(rng.integers(n))) for _ in range(rng.integers(0, 9))
    ]
    boxes = rng.random((n, 4)).astype(np.float32)
    return SceneGraph(rng.integers(0, categories, n), tuple(triples), boxes)


# ---- tensors --------------------------------------------------------------------------------------------------------


def test_a_graph_ends_with_the_image_and_a_triple_to_it_from_every_object() -> None:
    boxes = np.array([[0, 0, 1, 0.5], [0.25, 0.5, 0.5, 1]], np.float32)
    made = graph_tensors(graph([3, 0], (1, 4, 0), (0, 2, 1), boxes=boxes))
    assert made["objects"].tolist() == [4, 1, 0]
    assert made["boxes"].tolist() == [*boxes.tolist(), [0, 0, 1, 1]]
    assert made["predicates"].tolist() == [5, 3, 0, 0]
    assert made["edges"].tolist() == [[1, 0], [0, 1], [0, 2], [1, 2]]


def test_boxes_that_are_not_known_are_zeros_and_relations_may_be_none() -> None:
    made = graph_tensors(graph([2]))
    assert made["boxes"].tolist() == [[0, 0, 0, 0], [0, 0, 1, 1]]
    assert made["edges"].tolist() == [[0, 1]] and made["predicates"].tolist() == [0]


def test_edges_of_a_batch_count_within_the_batch() -> None:
    one, two = graph([0, 1], (0, 0, 1)), graph([2, 2, 2], (2, 5, 0))
    joined = join_graphs([graph_tensors(one), graph_tensors(two)])
    assert joined["obj_to_img"].tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert joined["real"].tolist() == [True, True, False, True, True, True, False]
    assert joined["edges"].tolist() == [[0, 1], [0, 2], [1, 2], [5, 3], [3, 6], [4, 6], [5, 6]]
    assert all(len(joined[key]) == 7 for key in ("objects", "boxes", "real"))


# ---- convolution ----------------------------------------------------------------------------------------------------


def by_hand(layer: GraphTripleConv, v: torch.Tensor, p: torch.Tensor, edges: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The definition, triple by triple and object by object."""
    proposals: dict[int, list[torch.Tensor]] = {i: [] for i in range(len(v))}
    predicates = []
    h, d = layer.hidden, layer.outputs
    for (s, o), vector in zip(edges.tolist(), p, strict=True):
        out = layer.net1(torch.cat([v[s], vector, v[o]]))
        proposals[s].append(out[:h])
        predicates.append(out[h : h + d])
        proposals[o].append(out[h + d :])
    pooled = []
    for given_to in proposals.values():
        total = sum(given_to, torch.zeros(h))
        pooled.append(total / max(len(given_to), 1) if layer.pooling == "avg" else total)
    return torch.stack([layer.net2(vector) for vector in pooled]), torch.stack(predicates)


@pytest.mark.parametrize("pooling", ["avg", "sum"])
@torch.no_grad()
def test_a_layer_of_single_numbers_by_hand(pooling: str) -> None:
    """T3 of the specification."""
    layer = GraphTripleConv(1, 1, 1, pooling)  # type: ignore[arg-type]
    ones = (torch.ones(1, 3), torch.tensor([[1.0], [2.0], [3.0]]), torch.ones(1, 1), torch.ones(1, 1))
    linear = [module for module in layer.modules() if isinstance(module, nn.Linear)]
    for module, weight in zip(linear, ones, strict=True):
        module.weight.copy_(weight)
        module.bias.zero_()
    v, p, edge = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.5]]), torch.tensor([[0, 1]])
    objects, predicates = layer(v, p, edge)
    assert predicates.tolist() == [[7]] and objects.tolist() == [[3.5], [10.5]]
    both, _ = layer(v, p.repeat(2, 1), torch.tensor([[0, 1], [1, 0]]))
    assert both.tolist() == ([[7], [7]] if pooling == "avg" else [[14], [14]])


@pytest.mark.parametrize("pooling", ["avg", "sum"])
@pytest.mark.parametrize("seed", range(3))
@torch.no_grad()
def test_a_layer_is_its_definition(pooling: str, seed: int) -> None:
    torch.manual_seed(seed)
    layer = GraphTripleConv(4, 7, 5, pooling)  # type: ignore[arg-type]
    v, p = torch.randn(6, 4), torch.randn(9, 4)
    edges = torch.randint(0, 5, (9, 2))  # object 5 is in no triple, and some triples are of one object twice
    edges[0] = 3
    objects, predicates = layer(v, p, edges)
    wanted, wanted_predicates = by_hand(layer, v, p, edges)
    torch.testing.assert_close(objects, wanted)
    torch.testing.assert_close(predicates, wanted_predicates)
    torch.testing.assert_close(objects[5], layer.net2(torch.zeros(7)))
    order = torch.randperm(9)
    torch.testing.assert_close(layer(v, p[order], edges[order])[0], objects)
    assert min(float(objects.min()), float(predicates.min())) >= 0


def test_layers_follow_each_other() -> None:
    net = GraphTripleConvNet(4, 8, 3)
    v, p, edges = torch.randn(3, 4), torch.randn(2, 4), torch.tensor([[0, 1], [2, 1]])
    wanted = v, p
    for layer in net.gconvs:
        wanted = layer(*wanted, edges)
    torch.testing.assert_close(net(v, p, edges), wanted)
    assert len(net.gconvs) == 3


@torch.no_grad()
def test_graphs_of_a_batch_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    encoder, rng = GraphEncoder(5, 6, dimension=8, hidden=16, layers=3), np.random.default_rng(0)
    graphs = [graph_tensors(draw(rng, n)) for n in (1, 4, 3)]
    joined = join_graphs(graphs)
    v, p = encoder(joined["objects"], joined["predicates"], joined["edges"])
    alone = [encoder(g["objects"], g["predicates"], g["edges"]) for g in graphs]
    torch.testing.assert_close(v, torch.cat([one for one, _ in alone]))
    torch.testing.assert_close(p, torch.cat([one for _, one in alone]))


@torch.no_grad()
def test_objects_in_another_order_have_the_same_vectors() -> None:
    torch.manual_seed(0)
    encoder, rng = GraphEncoder(5, 6, dimension=8, hidden=16, layers=5), np.random.default_rng(1)
    first = draw(rng, 5)
    order = rng.permutation(5)
    place = np.argsort(order)
    moved = tuple((int(place[s]), p, int(place[o])) for s, p, o in first.relations)
    second = SceneGraph(first.categories[order], moved)
    vectors = []
    for one in (first, second):
        g = graph_tensors(one)
        vectors.append(encoder(g["objects"], g["predicates"], g["edges"])[0])
    torch.testing.assert_close(vectors[1][:5], vectors[0][:5][torch.from_numpy(order)])


def test_the_first_vectors_of_predicates_are_their_embeddings() -> None:
    encoder = GraphEncoder(2, 3, dimension=8, hidden=16, layers=1)
    assert encoder.objects.weight.shape == (3, 8) and encoder.predicates.weight.shape == (4, 8)
    rows = torch.tensor([3, 0, 3])
    assert torch.equal(encoder.embed_predicates(rows), encoder.predicates.weight[rows])


def test_every_weight_of_an_encoder_learns_from_boxes() -> None:
    torch.manual_seed(0)
    encoder, boxes = GraphEncoder(4, 6, dimension=16, hidden=32, layers=4), BoxPredictor(16, 32)
    rng = np.random.default_rng(2)
    batch = join_graphs([graph_tensors(draw(rng, 6, categories=4)) for _ in range(16)])
    v, _ = encoder(batch["objects"], batch["predicates"], batch["edges"])
    box_loss(boxes(v), batch["boxes"]).mean().backward()
    for name, weight in [*encoder.named_parameters(), *boxes.named_parameters()]:
        assert weight.grad is not None and bool(weight.grad.isfinite().all()), name
        assert float(weight.grad.abs().max()) > 0, name


# ---- boxes ----------------------------------------------------------------------------------------------------------


def test_a_predictor_begins_where_every_coordinate_can_learn() -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        encoder, predictor = GraphEncoder(5, 6), BoxPredictor()
        g = join_graphs([graph_tensors(draw(np.random.default_rng(k), 6)) for k in range(8)])
        boxes = predictor(encoder(g["objects"], g["predicates"], g["edges"])[0])
        assert bool((boxes >= 0).all()) and bool(((boxes > 0).float().mean(0) > 0.5).all())


@settings(max_examples=200, deadline=None)
@given(
    boxes=st.lists(st.lists(st.floats(-3, 3, width=32), min_size=4, max_size=4), min_size=1, max_size=5),
    height=st.integers(1, 256),
)
def test_tidy_boxes_are_boxes(boxes: list[list[float]], height: int) -> None:
    given_boxes = torch.tensor(boxes)
    tidy = tidy_boxes(given_boxes, height)
    assert bool((tidy >= 0).all()) and bool((tidy <= 1).all())
    assert bool((tidy[:, 2:] - tidy[:, :2] >= (1 - 1e-5) / height).all())
    fine = (given_boxes >= 0).all(1) & (given_boxes <= 1).all(1)
    fine &= (given_boxes[:, 2:] - given_boxes[:, :2] >= (1 + 1e-5) / height).all(1)
    torch.testing.assert_close(tidy[fine], given_boxes[fine])
    torch.testing.assert_close(tidy_boxes(tidy, height), tidy)


def test_the_box_loss_is_the_sum_of_the_distances() -> None:
    loss = box_loss(torch.tensor([[0.1, 0.2, 0.3, 0.4]]), torch.tensor([[0.2, 0.2, 0.0, 0.5]]))
    assert loss.tolist() == pytest.approx([0.5])
