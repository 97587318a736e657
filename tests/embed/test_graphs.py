"""The graph embedder: what it is shown, that it learns boxes, and the vectors that it gives a bank."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipelines.artifact import Artifact
from pipelines.bank.bank import Bank
from pipelines.bank.patches import bank_graph, bank_objects, graph_sources
from pipelines.config import Layer, resolve
from pipelines.data.graph import GraphSettings
from pipelines.embed.bank_vectors import bank_vectors
from pipelines.embed.embedder import Embedder, embed_graphs
from pipelines.embed.graph_batch import graph_tensors
from pipelines.embed.graph_vectors import graph_checksums, source_graph
from pipelines.embed.graphs import BOXES, ENCODER, PICTURE, GraphEmbedder, GraphsConfig, box_iou
from pipelines.errors import ArtifactError, ConfigError, NumericalError
from pipelines.index.embedding_index import EmbeddingIndex
from pipelines.stages import build_bank, evaluate_embedder, search
from pipelines.stages import train as stage
from pipelines.stages import train_embedding_index as vectors
from pipelines.stages.embedders import open_embedder
from pipelines.systems.base import Sources

NARROW: dict[str, Any] = {"dimension": 16, "hidden": 32, "layers": 2}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def opened(patches: Path) -> Bank:
    return Bank.open(patches)


@pytest.fixture(scope="module")
def embedder(graph_embedder: Path) -> Embedder:
    return open_embedder(str(graph_embedder))


def trainable(bank: Bank, **config: Any) -> GraphEmbedder:
    return GraphEmbedder(GraphsConfig(**{**NARROW, **config}), bank.schema)


# ---- what it is shown -----------------------------------------------------------------------------------------------


def test_examples_are_the_graphs_of_pictures_that_are_not_held_out(opened: Bank) -> None:
    made, sources = trainable(opened, holdout=0.3), Sources(bank=opened)
    ids = list(made.sampling(sources).ids)
    groups = {opened.source_table[k].group for k in range(len(opened.source_table))}
    shown = {source.group for source in opened.source_table if source.id in ids}
    assert 0 < len(shown) < len(groups) and set(ids) < set(graph_sources(opened))
    assert all(source.id in ids for source in opened.source_table if source.group in shown)
    example = made.example(ids[0], sources, np.random.default_rng(5), 0)
    wanted = bank_graph(opened, ids[0], np.random.default_rng(5))
    assert wanted is not None
    for key, tensor in graph_tensors(wanted).items():
        assert torch.equal(example[key], tensor)
    again = made.example(ids[0], sources, np.random.default_rng(6), 0)
    assert not all(torch.equal(example[key], again[key]) for key in ("edges", "predicates"))


class Told(nn.Module):
    """Gives every object a vector, or every vector a box, that it was told."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = values

    def forward(self, *_: Tensor) -> Any:
        return self.values if len(_) == 1 else (self.values, self.values)


def test_the_loss_is_the_mean_distance_of_the_boxes_of_objects(opened: Bank) -> None:
    made, sources = trainable(opened), Sources(bank=opened)
    rng = np.random.default_rng(0)
    batch = made.collate([made.example(name, sources, rng, 0) for name in list(made.sampling(sources).ids)[:3]])
    told = torch.from_numpy(rng.random((len(batch["objects"]), 4))).float()
    nets = {ENCODER: Told(torch.zeros(len(told), 2)), BOXES: Told(told)}
    loss = made.losses("graph", nets, {}, batch, {}, 0)["bbx"]
    distances = [
        sum(abs(float(b) - float(t)) for b, t in zip(box, own, strict=True))
        for box, own, real in zip(batch["boxes"], told, batch["real"], strict=True)
        if real
    ]
    assert float(loss) == pytest.approx(np.mean(distances), rel=1e-5)


def test_a_picture_of_the_boxes_for_every_graph(opened: Bank) -> None:
    made, sources = trainable(opened), Sources(bank=opened)
    rng = np.random.default_rng(0)
    batch = made.collate([made.example(name, sources, rng, 0) for name in list(made.sampling(sources).ids)[:3]])
    nets = {ENCODER: Told(torch.zeros(1)), BOXES: Told(batch["boxes"])}
    shown = made.preview(nets, {}, batch)
    assert shown["boxes"].shape == (3, 3, PICTURE, PICTURE) and torch.equal(shown["boxes"], shown["predicted"])
    colors = torch.tensor(opened.schema.palette[batch["objects"][0] - 1].tolist()) / 127.5 - 1
    assert bool((shown["boxes"][0] == colors[:, None, None]).all(0).any())


# ---- measures and training ------------------------------------------------------------------------------------------


def test_intersection_over_union_by_hand() -> None:
    first = torch.tensor([[0, 0, 0.5, 1], [0, 0, 1, 1], [0, 0, 0.2, 0.2], [0.5, 0.5, 0.4, 0.6], [0, 0, 0, 0]])
    second = torch.tensor([[0.25, 0, 0.75, 1], [0, 0, 1, 1], [0.5, 0.5, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]])
    assert box_iou(first, second).tolist() == pytest.approx([1 / 3, 1, 0, 0, 0])


def test_measures_of_a_perfect_and_of_an_ignorant_predictor(opened: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    made, sources = trainable(opened, holdout=0.3), Sources(bank=opened)
    monkeypatch.setattr(made, "_predicted", lambda nets, batch: batch["boxes"])
    perfect = made.validate({}, sources, CPU)
    assert perfect["box_iou"] == pytest.approx(1) and perfect["box_l1"] == 0
    assert 0 < perfect["class_mean_iou"] < 1 and perfect["class_mean_l1"] > 0
    monkeypatch.setattr(made, "_predicted", lambda nets, batch: torch.zeros_like(batch["boxes"]))
    ignorant = made.validate({}, sources, CPU)
    assert ignorant["box_iou"] == 0 and ignorant["box_l1"] > 0.5
    assert ignorant["class_mean_iou"] == perfect["class_mean_iou"]
    assert trainable(opened, holdout=0.0).validate({}, sources, CPU) == {}


def test_it_learns_boxes_better_than_their_means(opened: Bank, tmp_path: Path) -> None:
    """T15 of the specification: the distance falls; on pictures that it was shown it beats the mean of each class."""
    tiny = {
        "model": {"dimension": 32, "hidden": 64, "layers": 3, "lr": 3e-3, "holdout": 0.0},
        "train": {"steps": 120, "batch": 12},
        "log": {"workers": 0, "every": 4},
    }
    config = resolve(stage.config_of("embedder-graph"), [Layer("tiny", tiny)])
    run = stage.run("embedder-graph", config, stage.Given(bank=opened.path), tmp_path / "run", device="cpu")
    losses = [json.loads(line)["graph/bbx"] for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert np.mean(losses[-4:]) < 0.6 * losses[0]
    boxes = [np.array([item.box for item in bank_objects(opened, name)[0]]) for name in graph_sources(opened)]
    classes = [np.array([item.category for item in bank_objects(opened, name)[0]]) for name in graph_sources(opened)]
    joined, of = np.concatenate(boxes), np.concatenate(classes)
    means = np.abs(joined - np.stack([joined[of == c].mean(0) for c in of])).sum(1).mean()
    assert np.mean(losses[-4:]) < 0.9 * means


def test_it_needs_a_bank_of_patches(bank: Path, tmp_path: Path) -> None:
    config = resolve(stage.config_of("embedder-graph"), [])
    with pytest.raises(ArtifactError, match="this is a bank of segments, embedder-graph needs one of patches"):
        stage.run("embedder-graph", config, stage.Given(bank=bank), tmp_path / "run")


# ---- vectors of a bank ----------------------------------------------------------------------------------------------


def test_it_is_an_embedder_of_graphs(embedder: Embedder) -> None:
    assert (embedder.kind, embedder.metric, embedder.gate) == ("graph", "l2", "category")
    assert embedder.encoder is not None and embedder.dimension == embedder.encoder.dimension
    assert not embedder.encoder.training and not any(w.requires_grad for w in embedder.encoder.parameters())
    with pytest.raises(ConfigError, match="embeds the objects of scene graphs, no images"):
        embedder.embed([np.zeros((8, 8, 3), np.uint8)], "piece")


def test_a_picture_of_more_objects_than_a_graph_has_shows_them_all(opened: Bank) -> None:
    counts = np.bincount(opened.sources)
    assert counts.max() > 8  # the settings of the bank sample 8
    name = opened.source_table[int(counts.argmax())].id
    graph = source_graph(opened, name)
    rows = opened.rows_of_source(name)
    np.testing.assert_array_equal(graph.categories, opened.categories[rows])
    np.testing.assert_array_equal(graph.ordinals, opened.ordinals[rows])
    assert len(graph.relations) == len(rows) and source_graph(opened, name).relations == graph.relations
    other = opened.source_table[int(np.argsort(counts)[-2])].id
    assert source_graph(opened, other).relations != graph.relations


def test_vectors_are_those_of_the_pictures_graphs(opened: Bank, embedder: Embedder) -> None:
    assert embedder.encoder is not None
    wanted = np.concatenate(
        [embed_graphs(embedder.encoder, [source_graph(opened, source.id)]) for source in opened.source_table]
    )
    for batch in (7, 1000):
        found = list(bank_vectors(opened, embedder, batch=batch))
        np.testing.assert_array_equal(np.concatenate([rows for rows, _ in found]), np.arange(len(opened)))
        np.testing.assert_allclose(np.concatenate([part for _, part in found]), wanted, atol=1e-5)
    some = np.array([len(opened) - 1, 0, 40, 3])
    np.testing.assert_allclose(next(bank_vectors(opened, embedder, some))[1], wanted[some], atol=1e-5)
    assert len(np.unique(wanted.round(4), axis=0)) > 0.8 * len(opened)


def test_a_bank_of_other_words_is_refused(opened: Bank, bank: Path, embedder: Embedder) -> None:
    with pytest.raises(ArtifactError, match="this is a bank of segments"):
        next(bank_vectors(Bank.open(bank), embedder))
    classes = opened.schema.classes
    strangers = replace(opened.schema, classes=(*classes[:3], replace(classes[3], name="river"), *classes[4:]))
    other = Bank.open(opened.path)
    other.schema = strangers
    with pytest.raises(ArtifactError, match=r"the class 'river' where .* knows 'road'"):
        next(bank_vectors(other, embedder))
    other.schema = replace(opened.schema, relations=opened.schema.relations[:5])
    with pytest.raises(ArtifactError, match=r"the relation None where .* knows 'surrounding'"):
        next(bank_vectors(other, embedder))


def test_a_vector_that_is_not_finite_names_its_piece(opened: Bank, embedder: Embedder) -> None:
    def spoil(module: Any, given: Any, found: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return found[0].index_fill(0, torch.tensor([2]), torch.nan), found[1]

    assert embedder.encoder is not None
    handle = embedder.encoder.register_forward_hook(spoil)
    try:
        with pytest.raises(NumericalError, match=f"{opened.ids[2]:016x} of {opened.source_of(2).id} is not finite"):
            next(bank_vectors(opened, embedder))
    finally:
        handle.remove()


def test_an_index_of_its_vectors_is_updated_where_graphs_are_the_same(
    patches: Path, patch_index: Path, town: Path, tmp_path: Path
) -> None:
    less = build_bank.run(build_bank.BuildBank(), base=patches, remove=["train/00003"], out=tmp_path / "less")
    updated = update(less, patch_index, tmp_path / "x")
    assert updated.statistics["embedded"] == 0 and updated.statistics["kept"] == len(Bank.open(less.path))
    settings = GraphSettings(min_area=0.02, max_objects=8, overflow="sample")
    fewer = build_bank.run(
        build_bank.BuildBank(kind="patches", patch=16, graph=settings), data=town, out=tmp_path / "fewer"
    )
    bank, whole = Bank.open(fewer.path), Bank.open(patches)
    assert set(bank.ids) < set(whole.ids)
    same = np.array([graph_checksums(whole)[whole.row_of_id(int(piece))] for piece in bank.ids]) == graph_checksums(
        bank
    )
    again = update(fewer, patch_index, tmp_path / "y")
    assert again.statistics["kept"] == same.sum() < len(bank)
    fresh = vectors.run(
        vectors.TrainEmbeddingIndex(), bank=fewer.path, embedder=run_of(patch_index), out=tmp_path / "z", device="cpu"
    )
    opened = [EmbeddingIndex.open(artifact.path, bank).vectors for artifact in (again, fresh)]
    rows = np.arange(len(bank))
    np.testing.assert_allclose(opened[0].vectors(rows), opened[1].vectors(rows), atol=1e-5)


def update(bank: Artifact, index: Path, out: Path) -> Artifact:
    return vectors.run(vectors.TrainEmbeddingIndex(), bank=bank.path, embedder=run_of(index), update=[index], out=out)


def run_of(index: Path) -> str:
    return str(index.parent / "embedder-graph")


# ---- what else takes embedders --------------------------------------------------------------------------------------


def test_a_piece_is_searched_by_its_id_and_a_photo_is_refused(
    patches: Path, patch_index: Path, town: Path, opened: Bank
) -> None:
    (found,) = search.run(patch_index, [f"{opened.ids[5]:016x}"], k=3)
    rows = found.rows[found.rows >= 0]
    assert len(rows) and (opened.categories[rows] == opened.categories[5]).all()
    assert (opened.sources[rows] != opened.sources[5]).all() and (np.diff(found.scores) >= 0).all()
    photo = next((town / "train" / "img").iterdir())
    with pytest.raises(ConfigError, match=r"which embeds the objects of scene graphs, no photos(.|\n)*by its id"):
        search.run(patch_index, [str(photo)])


def test_its_evaluation_says_what_it_measured(graph_embedder: Path, town: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"embedder of kind graph(.|\n)*box_iou 0\.") as error:
        evaluate_embedder.run(
            evaluate_embedder.EvaluateEmbedder(), runs=[str(graph_embedder)], reference=town, out=tmp_path / "report"
        )
    assert "class_mean_iou" in str(error.value.fix)
    silent = tmp_path / "silent"
    shutil.copytree(graph_embedder, silent)
    (silent / "metrics.jsonl").unlink()
    with pytest.raises(ConfigError, match="while it trained: nothing"):
        evaluate_embedder.run(
            evaluate_embedder.EvaluateEmbedder(), runs=[str(silent)], reference=town, out=tmp_path / "report"
        )
