"""The pre-filter: whom it finds for an object, whom it may not find, and what it does where there are too few."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.bank.bank import Bank
from pipelines.data.graph import SceneGraph
from pipelines.embed.embedder import embed_graphs
from pipelines.embed.graph_encoder import GraphEncoder
from pipelines.embed.graph_vectors import source_graph
from pipelines.errors import ArtifactError, ConfigError
from pipelines.index.embedding_index import EmbeddingIndex
from pipelines.index.neighbors import NONE, Neighbors
from pipelines.index.prefilter import Prefilter, from_neighbors, repeated
from pipelines.stages import build_bank
from pipelines.stages import train_embedding_index as vectors
from pipelines.stages.embedders import open_embedder

K = 10


@pytest.fixture(scope="module")
def prefilter(patches: Path, patch_index: Path, graph_embedder: Path) -> Prefilter:
    encoder = open_embedder(str(graph_embedder)).encoder
    assert encoder is not None
    return Prefilter(EmbeddingIndex.open(patch_index, Bank.open(patches)), encoder)


@pytest.fixture(scope="module")
def graph(prefilter: Prefilter) -> SceneGraph:
    bank = prefilter.index.bank
    return source_graph(bank, bank.source_table[3].id)


def all_vectors(prefilter: Prefilter) -> np.ndarray:
    """(n, d) float64: of every piece of the bank, source by source."""
    bank = prefilter.index.bank
    graphs = [source_graph(bank, source.id) for source in bank.source_table]
    return embed_graphs(prefilter.encoder, graphs).astype(np.float64)


@pytest.mark.parametrize("exclude", [None, "source", "group"])
def test_candidates_are_the_nearest_of_the_class(prefilter: Prefilter, graph: SceneGraph, exclude: str | None) -> None:
    """T13 of the specification, against all distances."""
    bank, vectors_of = prefilter.index.bank, all_vectors(prefilter)
    source = bank.source_table[3]
    name = {"source": source.id, "group": source.group}.get(exclude or "")
    found = prefilter.candidates(graph, K, None if exclude is None else (exclude, name))  # type: ignore[arg-type]
    queries = embed_graphs(prefilter.encoder, [graph]).astype(np.float64)
    assert found.shape == (len(graph), K) and found.dtype == np.int64
    assert len(np.unique(graph.categories)) > 5
    may = np.ones(len(bank), bool)
    if exclude is not None:
        may = bank.exclusion_keys(exclude) != bank.exclusion_key(exclude, name)  # type: ignore[arg-type]
    for category, query, rows in zip(graph.categories.tolist(), queries, found, strict=True):
        of_class = np.flatnonzero(may & (bank.categories == category))
        if not len(of_class):
            assert (rows == NONE).all()
            continue
        distances = ((vectors_of[of_class] - query) ** 2).sum(1)
        nearest = of_class[np.lexsort((of_class, distances.round(6)))][:K]
        order = rows[: len(nearest)]
        assert len(set(order.tolist())) == len(nearest)  # none twice before all were had
        spread = ((vectors_of[order] - query) ** 2).sum(1)
        assert (np.diff(spread) > -1e-5).all()
        np.testing.assert_allclose(np.sort(spread), np.sort(distances)[: len(nearest)], atol=1e-4)
        assert (bank.categories[rows] == category).all() and may[rows].all()
        np.testing.assert_array_equal(rows, np.resize(order, K))  # again and again in order
    if exclude is None:
        own = bank.rows_of_source(source.id)
        assert (found == own[:, None]).any(axis=1).mean() > 0.9  # a piece is nearest to itself, but for ties


def test_equals_are_found_by_their_rows(prefilter: Prefilter, graph: SceneGraph) -> None:
    """Of an encoder that maps everything to one point all of the class are equal."""
    flat = GraphEncoder(14, 6, dimension=64, hidden=8, layers=1)
    with torch.no_grad():
        for weight in flat.parameters():
            weight.zero_()
    bank = prefilter.index.bank
    index = prefilter.index
    constant = index.vectors.empty(index.vectors.factory, 64, "l2")
    constant.add(np.arange(len(bank)), np.zeros((len(bank), 64), np.float32), 1)
    constant.sort()
    found = Prefilter(replace(index, vectors=constant), flat).candidates(graph, 3)
    for category, rows in zip(graph.categories.tolist(), found, strict=True):
        np.testing.assert_array_equal(rows, np.resize(np.flatnonzero(bank.categories == category)[:3], 3))


def test_a_class_without_pieces_has_no_candidates(prefilter: Prefilter) -> None:
    """The bank has no door."""
    bank = prefilter.index.bank
    door, sky = bank.schema.names.index("door"), bank.schema.names.index("sky")
    assert not (bank.categories == door).any()
    found = prefilter.candidates(SceneGraph(np.array([door, sky]), ((0, 3, 1),)), 4)
    assert found[0].tolist() == [NONE] * 4 and len(set(found[1].tolist())) == 4 and NONE not in found[1]


def test_a_bank_of_one_repeats_it(prefilter: Prefilter, patches: Path, graph_embedder: Path, tmp_path: Path) -> None:
    """T13: of one picture all skies are one; for that picture itself there are none."""
    bank = prefilter.index.bank
    others = [source.id for source in bank.source_table[1:]]
    one = Bank.open(build_bank.run(build_bank.BuildBank(), base=patches, remove=others, out=tmp_path / "one").path)
    vectors.run(vectors.TrainEmbeddingIndex(k=4), bank=one.path, embedder=str(graph_embedder), out=tmp_path / "x")
    filtered = Prefilter(EmbeddingIndex.open(tmp_path / "x", one), prefilter.encoder)
    sky = one.schema.names.index("sky")
    (row,) = np.flatnonzero(one.categories == sky)
    asked = SceneGraph(np.array([sky]), ())
    assert filtered.candidates(asked, 4).tolist() == [[row] * 4]
    assert filtered.candidates(asked, 4, ("source", one.source_table[0].id)).tolist() == [[NONE] * 4]
    kept = from_neighbors(Neighbors.open(tmp_path / "x", one), np.array([row]), 4)
    assert kept.tolist() == [[NONE] * 4]


def test_neighbors_are_the_candidates_of_the_own_graph(prefilter: Prefilter, graph: SceneGraph) -> None:
    bank = prefilter.index.bank
    source = bank.source_table[3].id
    neighbors = Neighbors.open(prefilter.index.artifact.path, bank)
    rows = bank.rows_of_source(source)
    for k in (1, 4, K):
        searched = prefilter.candidates(graph, k, ("source", source))
        np.testing.assert_array_equal(from_neighbors(neighbors, rows, k), searched)
    with pytest.raises(ConfigError, match=r"keeps 10 neighbors(.|\n)*--k 11"):
        from_neighbors(neighbors, rows, 11)


def test_an_index_of_fewer_neighbors_than_were_asked_for_repeats_them(
    patches: Path, graph_embedder: Path, tmp_path: Path
) -> None:
    """Where no piece has as many neighbors as k, the index keeps fewer columns."""
    bank = Bank.open(patches)
    config = vectors.TrainEmbeddingIndex(k=len(bank))
    vectors.run(config, bank=patches, embedder=str(graph_embedder), out=tmp_path / "x")
    neighbors = Neighbors.open(tmp_path / "x", bank)
    assert neighbors.k < len(bank)
    found = from_neighbors(neighbors, np.arange(len(bank)), len(bank))
    for row in (0, len(bank) // 2):
        others = (bank.categories == bank.categories[row]) & (bank.sources != bank.sources[row])
        assert set(found[row].tolist()) == set(np.flatnonzero(others).tolist())
        np.testing.assert_array_equal(found[row], np.resize(found[row][: others.sum()], len(bank)))


def test_other_indexes_are_refused(
    prefilter: Prefilter, patches: Path, cooccurrence: Path, graph_embedder: Path, tmp_path: Path
) -> None:
    bank = prefilter.index.bank
    vectors.run(vectors.TrainEmbeddingIndex(), bank=patches, embedder=str(cooccurrence), out=tmp_path / "any")
    with pytest.raises(ArtifactError, match="finds pieces of any class"):
        Prefilter(EmbeddingIndex.open(tmp_path / "any", bank), prefilter.encoder)
    with pytest.raises(ArtifactError, match="finds pieces of any class"):
        from_neighbors(Neighbors.open(tmp_path / "any", bank), np.arange(2), 2)
    own = vectors.TrainEmbeddingIndex(exclude="self")
    vectors.run(own, bank=patches, embedder=str(graph_embedder), out=tmp_path / "self")
    with pytest.raises(ArtifactError, match="may be of its own picture"):
        from_neighbors(Neighbors.open(tmp_path / "self", bank), np.arange(2), 2)
    with pytest.raises(ArtifactError, match="gives vectors of 8 numbers"):
        Prefilter(prefilter.index, GraphEncoder(14, 6, dimension=8, hidden=8, layers=1))


@settings(max_examples=100, deadline=None)
@given(counts=st.lists(st.integers(0, 6), min_size=1, max_size=6))
def test_rows_are_repeated_in_order(counts: list[int]) -> None:
    rows = np.full((len(counts), 6), NONE, np.int64)
    wanted = rows.copy()
    for i, count in enumerate(counts):
        rows[i, :count] = 10 * i + np.arange(count)
        for j in range(6 if count else 0):
            wanted[i, j] = 10 * i + j % count
    np.testing.assert_array_equal(repeated(rows), wanted)
