"""Searching an index of vectors: exclusion by identity, gates, widening, recall, and queries that do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.bank.bank import Bank
from pipelines.errors import ArtifactError, NumericalError
from pipelines.index import embedding_index
from pipelines.index.embedding_index import EmbeddingIndex, find, recall
from pipelines.index.factory import parse_factory
from pipelines.index.nearest import FREE
from pipelines.index.neighbors import NONE
from pipelines.index.vectors import VectorIndex
from pipelines.stages import build_bank, train_embedding_index, train_index
from pipelines.stages.train_embedding_index import TrainEmbeddingIndex
from tests.bank.photos import write_dataset
from tests.index.made_vectors import clustered
from tests.stages.indexed import MadeEmbedder

COUNT = 700
FOUND_BY_ALL = ["Flat", "IVF8,Flat", "HNSW16"]


def filled(name: str, vectors: np.ndarray) -> VectorIndex:
    index = VectorIndex.empty(parse_factory(name, vectors.shape[1]), vectors.shape[1], "cosine")
    index.train(vectors)
    index.add(np.arange(len(vectors)), vectors)
    return index


def expected(vectors: np.ndarray, k: int, barred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and distances of the k nearest of every vector, barred (n, n) not counted, by sorting all."""
    far = 1 - vectors.astype(np.float64) @ vectors.astype(np.float64).T
    far[barred] = np.inf
    rows = np.argsort(far.round(9), axis=1, kind="stable")[:, :k]
    distances = np.take_along_axis(far, rows, 1)
    return np.where(np.isinf(distances), NONE, rows), np.maximum(distances, 0)


@pytest.mark.parametrize("few", [0, 10_000])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("name", FOUND_BY_ALL)
def test_what_may_not_be_found_is_excluded_by_identity(
    name: str, gated: bool, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Duplicates of vectors, keys of one piece, of a few and of hundreds; categories large and small. At full width
    lists find what sorting all finds."""
    monkeypatch.setattr(embedding_index, "FEW", few)
    rng = np.random.default_rng(1)
    vectors = clustered(COUNT)
    vectors[rng.integers(0, COUNT, 150)] = vectors[5]
    keys = np.where(np.arange(COUNT) < 300, 0, np.arange(COUNT) // 3)  # 300 share a key, then three each
    categories = np.where(np.arange(COUNT) % 50 == 0, 1, 0)
    barred = keys[:, None] == keys
    if gated:
        barred |= categories[:, None] != categories
    rows, distances = find(
        filled(name, vectors),
        vectors,
        9,
        COUNT,
        own=keys,
        keys=keys,
        of=categories if gated else None,
        categories=categories if gated else None,
    )
    there = rows != NONE
    assert not barred[np.nonzero(there)[0], rows[there]].any()
    right, far = expected(vectors, 9, barred)
    if name == "HNSW16":  # a graph with 150 equal vectors has corners that no search enters
        assert recall(rows, right) > 0.5 and (there.sum(axis=1) == (right != NONE).sum(axis=1)).mean() > 0.9
        return
    assert np.array_equal(there, right != NONE)
    np.testing.assert_allclose(distances[there], far[there], atol=1e-6)
    if name == "Flat":
        assert np.array_equal(rows, right)


def test_a_query_without_key_may_find_everything() -> None:
    vectors = clustered(COUNT)
    for name in FOUND_BY_ALL:
        keys = np.zeros(COUNT, np.int64)
        rows, distances = find(filled(name, vectors), vectors[:3], 4, 64, own=np.full(3, FREE), keys=keys)
        assert rows[:, 0].tolist() == [0, 1, 2] and np.allclose(distances[:, 0], 0, atol=1e-6)
        assert (find(filled(name, vectors), vectors[:3], 4, 64, own=np.zeros(3, np.int64), keys=keys)[0] == NONE).all()


def test_a_search_is_widened_until_there_is_enough() -> None:
    """One list visited holds too few: as many neighbors as there are come from others."""
    vectors = clustered(COUNT)
    rows, _ = find(filled("IVF32,Flat", vectors), vectors, COUNT, 1)
    assert all(sorted(found) == list(range(COUNT)) for found in rows.tolist())


def test_recall_counts_what_was_found() -> None:
    exact = np.array([[1, 2, 3], [4, 5, NONE], [NONE, NONE, NONE]])
    assert recall(exact, exact) == 1
    assert recall(np.array([[3, 9, 1], [NONE, 5, 7], [NONE, NONE, 2]]), exact) == 3 / 5
    assert recall(np.full((3, 3), NONE), exact) == 0 and recall(exact[2:], exact[2:]) == 1


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EmbeddingIndex:
    """An index of the pieces of nine images, of which three are a group; gated by category."""
    MadeEmbedder(gate="category").give_to(monkeypatch)
    write_dataset(tmp_path / "data", range(9), groups={0: "a", 1: "a", 4: "a"})
    bank = build_bank.run(build_bank.BuildBank(), data=tmp_path / "data", out=tmp_path / "x").path
    config = TrainEmbeddingIndex(factory="IVF2,Flat", k=3)
    made = train_embedding_index.run(config, bank=bank, embedder="runs/made", out=tmp_path / "i")
    return EmbeddingIndex.open(made.path, Bank.open(bank))


def test_search_by_vectors(opened: EmbeddingIndex) -> None:
    bank, vectors = opened.bank, MadeEmbedder().vectors(opened.bank.ids)
    assert opened.gated and opened.metric == "cosine" and opened.dimension == 16
    assert (opened.embedder.digest, opened.embedder.step) == ("ab" * 32, 3)
    some = np.array([0, 7, len(bank) - 1])
    rows, distances = opened.search(vectors[some], 4)
    assert rows[:, 0].tolist() == some.tolist() and rows.dtype == np.int64 and distances.dtype == np.float64
    rows, _ = opened.search(vectors[some], len(bank), categories=bank.categories[some])
    for i, row in enumerate(some):
        assert set(rows[i].tolist()) - {NONE} == set(np.flatnonzero(bank.categories == bank.categories[row]).tolist())
    rows, _ = opened.search(vectors[some], len(bank), exclude=("group", "a"))
    assert {bank.source_of(int(row)).id for row in rows[rows != NONE]} == {f"train/000{k}" for k in (2, 3, 5, 6, 7, 8)}
    rows, _ = opened.search(vectors[some], len(bank), exclude=("source", "train/nothing"))
    assert (rows != NONE).all()


def test_queries_that_do_not_fit(opened: EmbeddingIndex) -> None:
    with pytest.raises(ArtifactError, match="the vectors have 8 numbers, those of the index 16"):
        opened.search(np.zeros((1, 8), np.float32), 3)
    wrong = np.ones((3, 16), np.float32)
    wrong[1, 2] = np.nan
    with pytest.raises(NumericalError, match="query 1"):
        opened.search(wrong, 3)


def test_an_index_of_shapes_holds_no_vectors(opened: EmbeddingIndex, tmp_path: Path) -> None:
    made = train_index.run(train_index.TrainIndex(k=1), bank=opened.bank.path, out=tmp_path / "shapes")
    with pytest.raises(ArtifactError, match="this is an index of kind shape, not of vectors"):
        EmbeddingIndex.open(made.path, opened.bank)
