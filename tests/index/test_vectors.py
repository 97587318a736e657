"""Indexes of vectors: exact search against the definition, bytes, merging, renumbering, and life beside torch."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.errors import ArtifactError, ConfigError, EnvironmentFault
from pipelines.index import factory as factories
from pipelines.index import vectors as module
from pipelines.index.factory import parse_factory, require_memory, smaller_factory, suitable_factory
from pipelines.index.nearest import Metric, Nearest
from pipelines.index.neighbors import NONE
from pipelines.index.vectors import VectorIndex, library, merge
from tests.index.made_vectors import clustered, nearest

METRICS: tuple[Metric, ...] = ("cosine", "l2")
EVERY = ["Flat", "HNSW8", "IVF8,Flat", "IVF8,SQ8", "IVF8,PQ4", "IVF8,PQ8x4"]


def made(name: str, vectors: np.ndarray, metric: Metric = "cosine", block: int = 300) -> VectorIndex:
    index = VectorIndex.empty(parse_factory(name, vectors.shape[1]), vectors.shape[1], metric)
    index.train(vectors[: len(vectors) // 2])
    index.reserve(len(vectors))
    for first in range(0, len(vectors), block):
        index.add(np.arange(first, min(first + block, len(vectors))), vectors[first : first + block])
    return index


def content(index: VectorIndex, path: Path) -> bytes:
    index.save(path)
    return path.read_bytes()


@pytest.mark.parametrize("metric", METRICS)
def test_exact_search_equals_the_definition(metric: Metric) -> None:
    vectors = clustered(120)
    vectors[[3, 50, 51, 119]] = vectors[7]  # equal vectors, in both halves of the stream
    queries = vectors[[7, 3, 80, 0]]
    best = Nearest(queries, 6, metric)
    best.offer(np.arange(60, 120), vectors[60:])  # the order of the blocks does not matter
    best.offer(np.arange(60), vectors[:60])
    rows, distances = best.result()
    for i, query in enumerate(queries):
        expected = nearest(query, vectors, 6, metric)
        assert rows[i].tolist() == [row for row, _ in expected]
        np.testing.assert_allclose(distances[i], [max(0.0, far) for _, far in expected], atol=1e-15)
    assert rows[0, :5].tolist() == rows[1, :5].tolist() == [3, 7, 50, 51, 119]


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 40), st.sampled_from(METRICS))
@settings(max_examples=40, deadline=None)
def test_exact_search_of_wild_vectors(seed: int, k: int, count: int, metric: Metric) -> None:
    """Few values, so that there are many ties; keys and categories at random."""
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-1, 2, (count, 4)).astype(np.float32)
    if metric == "cosine":
        vectors[:, 0] += 3 * (np.abs(vectors).sum(axis=1) == 0)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    keys, categories = rng.integers(0, 4, count), rng.integers(0, 3, count)
    best = Nearest(vectors, k, metric, keys, categories)
    cut = int(rng.integers(0, count + 1))
    for part in (np.arange(cut), np.arange(cut, count)):
        best.offer(part, vectors[part], keys[part], categories[part])
    rows, distances = best.result()
    for i in range(count):
        barred = (keys == keys[i]) | (categories != categories[i])
        expected = nearest(vectors[i], vectors, k, metric, barred)
        assert len([row for row in rows[i] if row != NONE]) == len(expected)
        # irrational entries: what is equal in exact arithmetic may differ by float64's rounding, and the other way
        np.testing.assert_allclose(distances[i, : len(expected)], [max(0.0, far) for _, far in expected], atol=1e-12)
        assert not barred[rows[i, : len(expected)]].any() and np.isinf(distances[i, len(expected) :]).all()
        assert len(set(rows[i, : len(expected)].tolist())) == len(expected)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", EVERY)
def test_bytes_are_those_that_were_predicted(name: str, metric: Metric, tmp_path: Path) -> None:
    vectors = clustered(1500, 32)
    index = made(name, vectors, metric)
    assert len(content(index, tmp_path / "i")) == pytest.approx(index.factory.bytes(1500, 32), rel=0.02)
    again = VectorIndex.load(tmp_path / "i", index.factory)
    assert (len(again), again.dimension, again.metric) == (1500, 32, metric)
    assert content(again, tmp_path / "j") == (tmp_path / "i").read_bytes()
    one, other = index.search(vectors[:9], 5, 8), again.search(vectors[:9], 5, 8)
    assert np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])


@pytest.mark.parametrize("name", EVERY)
def test_the_same_vectors_give_the_same_bytes(name: str, tmp_path: Path) -> None:
    vectors = clustered(900)
    first = content(made(name, vectors, block=900), tmp_path / "i")
    index = VectorIndex.empty(parse_factory(name, 16), 16, "cosine")
    index.train(vectors[:450], threads=2)
    index.add(np.arange(900), vectors, threads=2)
    assert content(index, tmp_path / "i") == first
    if not name.startswith("HNSW"):  # a graph links the vectors of a block in the order of their levels
        assert content(made(name, vectors, block=70), tmp_path / "i") == first


@pytest.mark.parametrize("name", ["Flat", "IVF8,Flat", "IVF8,SQ8", "IVF8,PQ4"])
def test_merged_parts_are_what_is_built_at_once(name: str, tmp_path: Path) -> None:
    vectors = clustered(900)
    whole = made(name, vectors)
    expected = content(whole, tmp_path / "i")
    parts = []
    for first, last in pairwise((0, 200, 650, 900)):
        part = whole.like()
        own = np.arange(first, last)
        part.add(own if part.factory.kind == "ivf" else own - first, vectors[first:last])
        parts.append(part)
    order = [2, 0, 1] if whole.factory.kind == "ivf" else [0, 1, 2]
    assert content(merge([parts[i] for i in order]), tmp_path / "j") == expected
    assert [len(part) for part in parts] == [0, 0, 0]


def test_what_cannot_be_merged() -> None:
    vectors = clustered(600)
    with pytest.raises(ArtifactError, match="HNSW8 cannot be merged"):
        merge([made("HNSW8", vectors), made("HNSW8", vectors)])
    with pytest.raises(ArtifactError, match="trained apart"):
        merge([made("IVF8,Flat", vectors), made("IVF8,Flat", vectors[::-1])])
    with pytest.raises(ArtifactError, match="trained apart"):
        merge([made("IVF8,PQ4", vectors), made("IVF8,SQ8", vectors)])


@pytest.mark.parametrize("name", ["IVF8,Flat", "IVF8,SQ8", "IVF8,PQ4"])
def test_entries_that_stay_keep_their_codes(name: str, tmp_path: Path) -> None:
    """Rows renumbered, others gone, new ones added: what adding the same to the same lists at once gives."""
    vectors = clustered(600)
    old = made(name, vectors)
    stay = np.flatnonzero(np.arange(600) % 3 != 0)
    rows = np.arange(600)[::-1][: len(stay)]  # in another order than they had
    numbers = np.full(600, NONE, np.int64)
    numbers[stay] = rows
    index = old.carried(numbers)
    fresh = np.setdiff1d(np.arange(600), rows)
    index.add(fresh, clustered(len(fresh), seed=5))
    index.sort()
    placed = np.empty((600, 16), np.float32)
    placed[rows], placed[fresh] = vectors[stay], clustered(len(fresh), seed=5)
    at_once = old.like()
    at_once.add(np.arange(600), placed)
    assert content(index, tmp_path / "i") == content(at_once, tmp_path / "j")
    assert len(old) == 600
    if name == "IVF8,Flat":
        assert np.array_equal(index.vectors(np.arange(600)), placed)


@pytest.mark.parametrize("name", EVERY[1:])
def test_masked_rows_are_not_found(name: str) -> None:
    vectors = clustered(900)
    index = made(name, vectors)
    allowed = np.arange(900) % 7 == 0
    rows, distances = index.search(vectors[:40], 12, 900, allowed)
    assert allowed[rows[rows != NONE]].all() and (rows != NONE).mean() > 0.9
    assert np.isinf(distances[rows == NONE]).all() and (np.diff(distances, axis=1)[rows[:, 1:] != NONE] >= 0).all()


def test_factories_by_name_and_by_size() -> None:
    for name in ("Flat", "HNSW32", "IVF1024,Flat", "IVF64,SQ8", "IVF4096,PQ48", "IVF16,PQ96x4"):
        assert str(parse_factory(name, 384)) == name
    assert str(parse_factory("HNSW32,Flat", 384)) == "HNSW32" and str(parse_factory("IVF4,PQ8x8", 64)) == "IVF4,PQ8"
    sizes = {1: "Flat", 20_000: "Flat", 20_001: "HNSW32", 1_000_000: "IVF2048,Flat", 10_000_000: "IVF8192,PQ48"}
    assert {count: str(suitable_factory(count, 384)) for count in sizes} == sizes
    assert suitable_factory(10**7, 97).parts == 1  # a prime has no other
    for wrong in ("", "LSH", "IVF,Flat", "IVF0,Flat", "HNSW2", "IVF8,PQ7", "IVF8,PQ8x5", "IVF8,HNSW32", "Flat,IVF8"):
        with pytest.raises(ConfigError):
            parse_factory(wrong, 384)


def test_too_few_vectors_to_train_on() -> None:
    with pytest.raises(ConfigError, match="IVF8,PQ4 needs 256 vectors to train on, and there are 100"):
        VectorIndex.empty(parse_factory("IVF8,PQ4", 16), 16, "cosine").train(clustered(100))


def test_vectors_of_another_dimension_and_rows_out_of_order() -> None:
    index = made("Flat", clustered(50))
    for use in (lambda v: index.search(v, 3, 1), lambda v: index.nearest(v, 3), lambda v: index.add(np.arange(2), v)):
        with pytest.raises(ArtifactError, match="the vectors have 8 numbers, those of the index 16"):
            use(np.zeros((2, 8), np.float32))
    with pytest.raises(ValueError, match="cannot take rows"):
        index.add(np.array([60]), clustered(1))


def test_more_memory_than_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = parse_factory("Flat", 384)
    require_memory(10**9, flat, 10**6, 384, 2 * 10**9)
    with pytest.raises(
        EnvironmentFault, match=r"1540000000 bytes of memory \(1.54 GB\), and 1 GB are allowed"
    ) as caught:
        require_memory(1_540_000_000, flat, 10**6, 384, 10**9)
    assert caught.value.fix is not None and caught.value.fix.startswith("--factory IVF2048,SQ8 needs")
    fits = smaller_factory(10**6, 384, 10**8)
    assert fits is not None and fits.code == "PQ" and fits.memory(10**6, 384) <= 10**8
    with pytest.raises(EnvironmentFault) as caught:
        require_memory(2 * 10**9, flat, 10**6, 384, 1000)
    assert caught.value.fix == "give it a machine with more memory, or a smaller bank"
    monkeypatch.setattr(factories, "available_memory", lambda: 10**6)
    with pytest.raises(EnvironmentFault, match="1 MB are available"):
        require_memory(10**7, flat, 1, 384, None)


def test_this_machine_tells_its_memory() -> None:
    there = factories.available_memory()
    assert there is not None and 10**7 < there < 10**14


def test_without_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "faiss":
            raise ImportError(name)
        return real(name, *rest)

    library.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(EnvironmentFault, match="not installed") as caught:
        library()
    assert "rgs[cpu]" in str(caught.value.fix)
    monkeypatch.undo()
    library()


def test_a_gpu_trains_the_lists_and_the_file_is_of_the_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine is pretended whose GPU computes as the CPU does; what faiss-gpu itself does is not tested here."""
    faiss, moved = library(), []

    def to_gpu(resources: object, number: int, index: Any) -> Any:
        moved.append(index)
        return index

    vectors = clustered(600)
    expected = content(made("IVF8,Flat", vectors), tmp_path / "i")
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", to_gpu, raising=False)
    module._gpu.cache_clear()
    assert content(made("IVF8,Flat", vectors), tmp_path / "j") == expected
    assert [type(index).__name__ for index in moved] == ["IndexFlatIP"]


def test_a_file_that_is_something_else(tmp_path: Path) -> None:
    made("IVF8,Flat", clustered(300)).save(tmp_path / "i")
    with pytest.raises(ArtifactError, match="holds no HNSW8"):
        VectorIndex.load(tmp_path / "i", parse_factory("HNSW8", 16))
    (tmp_path / "i").write_bytes(b"nothing of the kind")
    with pytest.raises(ArtifactError, match="faiss cannot read it"):
        VectorIndex.load(tmp_path / "i", parse_factory("Flat", 16))


TOGETHER = """
import numpy as np
from pipelines.index.factory import parse_factory
from pipelines.index.nearest import Nearest
from pipelines.index.vectors import VectorIndex

index = VectorIndex.empty(parse_factory("IVF8,Flat", 16), 16, "cosine")
import torch
from torch.utils.data import DataLoader, Dataset

class Numbers(Dataset):
    def __len__(self):
        return 24
    def __getitem__(self, i):
        return torch.randn(16, 16) @ torch.randn(16, 16) + i

vectors = np.random.default_rng(0).normal(size=(2000, 16)).astype(np.float32)
index.train(vectors, threads=2)
index.add(np.arange(2000), vectors, threads=2)
first = index.search(vectors[:200], 5, 4, threads=2)[0]
for _ in range(2):  # workers are forked twice, with threads of faiss and of torch alive
    loader = DataLoader(Numbers(), batch_size=8, num_workers=2, multiprocessing_context="fork")
    for batch in loader:
        (batch @ batch).sum().item()
        again = index.search(vectors[:200], 5, 4, threads=2)[0]
        assert np.array_equal(again, first)
        best = Nearest(vectors[:50], 5, "cosine")
        best.offer(np.arange(2000), vectors)
        np.linalg.norm(vectors @ vectors[:64].T)
print("done")
"""


def test_faiss_torch_and_workers_share_a_process() -> None:
    """faiss before and after the fork of workers that use torch, threads of all of them, nobody waits for ever."""
    done = subprocess.run(
        [sys.executable, "-c", TOGETHER],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0 and done.stdout == "done\n", done.stderr
