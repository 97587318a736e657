"""EmbeddingIndex: finds the pieces of a bank whose vectors under one embedder are nearest to given ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from pipelines.artifact import Artifact, Input, sha256_file
from pipelines.bank.bank import Bank
from pipelines.bank.storage import damaged
from pipelines.errors import ArtifactError, NumericalError
from pipelines.index.factory import FLAT_AT_MOST, parse_factory, require_memory
from pipelines.index.nearest import FREE, Metric, Nearest
from pipelines.index.neighbors import NONE, open_index
from pipelines.index.vectors import VectorIndex
from pipelines.manifest import MANIFEST, unreadable

FILE = "index.faiss"
FEW = FLAT_AT_MOST
"""A category of so few pieces is searched one by one: a graph or lists of all categories would mostly pass others."""
SPARE = 128
"""How many pieces of a query's own key are fetched and dropped; where there are more, they are masked out before."""
WIDER = 4
"""By how much a search is widened that found fewer than there are."""


@dataclass(frozen=True, eq=False)
class EmbeddingIndex:
    """The vectors of a bank, open for search. Rows are rows of the bank."""

    artifact: Artifact
    bank: Bank
    vectors: VectorIndex = field(repr=False)

    @classmethod
    def open(cls, path: Path, bank: Bank) -> EmbeddingIndex:
        """Open an index of this very bank.

        Raises ArtifactError when it is of another kind or another bank, or damaged, EnvironmentFault when there is no
        faiss, or not the memory that it needs.
        """
        artifact = open_index(path, bank)
        vectors = read_vectors(artifact)
        if len(vectors) != len(bank):
            raise damaged(path / FILE, f"it holds {len(vectors)} vectors of {len(bank)} pieces")
        return cls(artifact, bank, vectors)

    @property
    def metric(self) -> Metric:
        return self.vectors.metric

    @property
    def dimension(self) -> int:
        return self.vectors.dimension

    @property
    def gated(self) -> bool:
        """Are pieces found for those of their own category only."""
        return bool(self.artifact.statistics["gate"] == "category")

    @property
    def embedder(self) -> Input:
        """The run whose vectors these are."""
        return embedder_of(self.artifact)

    def search(
        self,
        vectors: np.ndarray,
        k: int,
        exclude: tuple[Literal["source", "group"], str] | None = None,
        categories: np.ndarray | None = None,
        threads: int = 1,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest pieces of each of q vectors: rows (q, k) int64, NONE where there are fewer, distances (q, k).

        vectors: (q, dimension) float32 of the index's embedder. exclude: («source» or «group», name) whose pieces may
        not be found; one that is not in the bank excludes nothing. categories: (q,) class indices, to find pieces of
        the same class only; needed where the index is gated. Distances are 1 - cosine, or squared l2, float64, inf for
        NONE; of Flat they are exact, and among equals the lower row is first.
        """
        if not np.isfinite(vectors).all():
            first = int((~np.isfinite(vectors)).any(axis=1).argmax())
            raise NumericalError(
                f"the vector of query {first} (counted from 0) is not finite", where=self.artifact.path
            )
        own, keys = None, None
        if exclude is not None:
            keys = self.bank.exclusion_keys(exclude[0])
            own = np.full(len(vectors), self.bank.exclusion_key(*exclude), np.int64)
        return find(
            self.vectors,
            vectors,
            k,
            width_of(self.artifact),
            own=own,
            keys=keys,
            of=categories,
            categories=None if categories is None else self.bank.categories,
            threads=threads,
        )


def read_vectors(artifact: Artifact) -> VectorIndex:
    """The vectors in an index artifact. Raises ArtifactError when it has none or they are damaged."""
    if artifact.config["kind"] != "embedding":
        raise ArtifactError(
            f"this is an index of kind {artifact.config['kind']}, not of vectors",
            where=artifact.path,
            fix="make one: rgs train index --kind embedding --embedder RUN --bank … --out …",
        )
    path = artifact.path / FILE
    recorded = next((file for file in artifact.manifest["files"] if file["path"] == FILE), None)
    if recorded is None:
        raise unreadable(artifact.path / MANIFEST, f"it names no {FILE}")
    dimension, count = int(artifact.statistics["dimension"]), int(artifact.statistics["items"])
    factory = parse_factory(str(artifact.config["factory"]), dimension)
    require_memory(int(recorded["bytes"]), factory, count, dimension, None)
    if sha256_file(path) != recorded["sha256"]:  # faiss trusts what a file claims, so it is given no other
        raise damaged(path, "its sha256 is not that of the manifest")
    vectors = VectorIndex.load(path, factory)
    if (len(vectors), vectors.dimension) != (count, dimension):
        raise damaged(path, f"it holds {len(vectors)} vectors of {vectors.dimension} numbers")
    return vectors


def width_of(artifact: Artifact) -> int:
    """How wide an index searches: what it was measured with."""
    probes = artifact.config["probes"]
    return 1 if probes is None else int(probes)


def embedder_of(artifact: Artifact) -> Input:
    """The run whose vectors an index holds, pinned by the sha256 of its weights."""
    given = artifact.input("embedder")
    if given is None:
        raise unreadable(artifact.path / MANIFEST, "it names no embedder")
    return given


def require_embedder(artifact: Artifact, sha256: str, dimension: int) -> None:
    """Raises ArtifactError where an embedder is not the one that an index was made with."""
    made_with = embedder_of(artifact)
    if made_with.digest != sha256:
        raise ArtifactError(
            f"index {artifact.path} was made with weights {made_with.digest[:4]}… of {made_with.path} "
            f"(step {made_with.step}) but the embedder's are {sha256[:4]}…",
            where=artifact.path,
            fix="name the run and step that it was made with, or train the index anew with the other embedder",
        )
    if (held := int(artifact.statistics["dimension"])) != dimension:
        raise ArtifactError(
            f"the embedder gives vectors of {dimension} numbers, and the index holds some of {held}",
            where=artifact.path,
            fix="train the index anew",
        )


def find(
    index: VectorIndex,
    queries: np.ndarray,
    k: int,
    width: int,
    *,
    own: np.ndarray | None = None,
    keys: np.ndarray | None = None,
    of: np.ndarray | None = None,
    categories: np.ndarray | None = None,
    threads: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of an index for each of q queries, rows (q, k) int64 and distances (q, k) float64.

    own (q,) and keys (n,): a query finds no row of its own key, whatever its rank. of (q,) and categories (n,): a query
    finds rows of its category alone. width: lists visited or candidates kept; more where fewer than k were found.
    """
    if index.factory.kind == "flat":
        return index.nearest(queries, k, own, keys, of, categories)
    rows = np.full((len(queries), k), NONE, np.int64)
    distances = np.full((len(queries), k), np.inf)
    for some, allowed in _by_category(len(queries), of, categories):
        mine = None if own is None else own[some]
        if allowed is not None and np.count_nonzero(allowed) <= FEW:
            members = np.flatnonzero(allowed)
            best = Nearest(queries[some], k, index.metric, mine)
            best.offer(members, index.vectors(members), None if keys is None else keys[members])
            rows[some], distances[some] = best.result()
        else:
            rows[some], distances[some] = _find(index, queries[some], k, width, mine, keys, allowed, threads)
    return rows, distances


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    """The share of the exact neighbors (q, k) that were found, NONE not counted; 1 where there are none."""
    there = exact != NONE
    hits = (exact[:, :, None] == found[:, None, :]).any(axis=2) & there
    return float(hits.sum() / there.sum()) if there.any() else 1.0


def _by_category(
    count: int, of: np.ndarray | None, categories: np.ndarray | None
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """(indices of queries, the rows (n,) bool that they may find): one for each category, or one for all."""
    if of is None or categories is None:
        yield np.arange(count), None
        return
    for category in np.unique(of):
        yield np.flatnonzero(of == category), categories == category


def _find(
    index: VectorIndex,
    queries: np.ndarray,
    k: int,
    width: int,
    own: np.ndarray | None,
    keys: np.ndarray | None,
    allowed: np.ndarray | None,
    threads: int,
) -> tuple[np.ndarray, np.ndarray]:
    """`find` among the allowed rows by faiss.

    As many more are fetched as a query must not find, and dropped by their keys; many are masked out before.
    """
    total = len(index) if allowed is None else np.count_nonzero(allowed)
    if own is None or keys is None:
        return _widened(index, queries, k, k, width, None, None, allowed, np.full(len(queries), total), threads)
    counts = np.bincount(keys if allowed is None else keys[allowed], minlength=int(own.max(initial=0)) + 1)
    barred = np.where(own == FREE, 0, counts[own])
    rows = np.full((len(queries), k), NONE, np.int64)
    distances = np.full((len(queries), k), np.inf)
    for key in np.unique(own[barred > SPARE]):
        some = np.flatnonzero(own == key)
        others = keys != key if allowed is None else allowed & (keys != key)
        left = np.full(len(some), np.count_nonzero(others))
        rows[some], distances[some] = _widened(index, queries[some], k, k, width, None, None, others, left, threads)
    spare = 2 ** np.ceil(np.log2(np.maximum(barred, 1))).astype(np.int64) * (barred > 0)
    for more in np.unique(spare[barred <= SPARE]):
        some = np.flatnonzero((spare == more) & (barred <= SPARE))
        rows[some], distances[some] = _widened(
            index, queries[some], k, k + int(more), width, own[some], keys, allowed, total - barred[some], threads
        )
    return rows, distances


def _widened(
    index: VectorIndex,
    queries: np.ndarray,
    k: int,
    fetched: int,
    width: int,
    own: np.ndarray | None,
    keys: np.ndarray | None,
    allowed: np.ndarray | None,
    there: np.ndarray,
    threads: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Search, drop the rows of each query's own key, and search wider for those that found fewer than k of `there`."""
    rows = np.full((len(queries), k), NONE, np.int64)
    distances = np.full((len(queries), k), np.inf)
    most = index.factory.lists if index.factory.kind == "ivf" else len(index)
    left = np.arange(len(queries))
    while len(left):
        got, far = index.search(queries[left], fetched, width, allowed, threads)
        drop = got == NONE
        if own is not None and keys is not None:
            drop |= (keys[got] == own[left, None]) & (own[left, None] != FREE)
        far = np.where(drop, np.inf, far).astype(np.float64)
        got = np.where(drop, NONE, got)
        order = np.lexsort((got, far))[:, :k]
        rows[left], distances[left] = np.take_along_axis(got, order, 1), np.take_along_axis(far, order, 1)
        if width >= most:
            break
        width *= WIDER
        left = left[(rows[left] != NONE).sum(axis=1) < np.minimum(k, there[left])]
    return rows, distances
