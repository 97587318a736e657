"""Vectors in faiss: train on a sample, add block by block, search, renumber, merge, save. The one user of faiss.

Everything random in faiss has a fixed seed, graphs are built by one thread, and the sums of its clustering do not
depend on the number of threads: the same vectors in the same order and blocks give the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.bank.storage import damaged
from pipelines.errors import ArtifactError, EnvironmentFault
from pipelines.index.factory import Factory, require_sample
from pipelines.index.nearest import ROWS, Metric, Nearest
from pipelines.index.neighbors import NONE


@cache
def library() -> Any:
    """The module faiss, imported after torch: the other way round, workers of a DataLoader hang.

    Raises EnvironmentFault where neither faiss-cpu nor faiss-gpu is installed.
    """
    import torch  # noqa: F401

    try:
        import faiss
    except ImportError as error:
        raise EnvironmentFault(
            "indexes of vectors need faiss, which is not installed",
            fix="pip install 'rgs[cpu]', or 'rgs[gpu]' for NVIDIA GPUs; never both, they share one import package",
        ) from error
    return faiss


@contextmanager
def using(threads: int) -> Iterator[None]:
    """Let faiss use so many threads meanwhile."""
    faiss = library()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def on_gpu() -> bool:
    """Is there a GPU that faiss can use."""
    return bool(library().get_num_gpus() > 0)


@dataclass(eq=False)
class VectorIndex:
    """Vectors by their rows, 0 to n - 1 once all are added. index: of faiss."""

    factory: Factory
    dimension: int
    metric: Metric
    index: Any = field(repr=False)

    @classmethod
    def empty(cls, factory: Factory, dimension: int, metric: Metric) -> VectorIndex:
        faiss = library()
        by = faiss.METRIC_INNER_PRODUCT if metric == "cosine" else faiss.METRIC_L2
        index = faiss.index_factory(dimension, str(factory), by)
        if factory.code == "PQ":
            index.do_polysemous_training = False  # minutes of annealing for a filter by Hamming distance, unused here
        return cls(factory, dimension, metric, index)

    def __len__(self) -> int:
        return int(self.index.ntotal)

    def train(self, sample: np.ndarray, threads: int = 1, *, gpu: bool = True) -> None:
        """Place the lists and the centroids of the codes by m vectors (m, d). Raises ConfigError for too few.

        gpu: let a GPU that faiss can use place the lists.
        """
        if self.factory.kind != "ivf":
            return
        faiss, index = library(), self.index
        require_sample(self.factory, len(sample))
        for clustering in [index.cp, *([index.pq.cp] if self.factory.code == "PQ" else [])]:
            clustering.min_points_per_centroid = 1  # fewer than it likes make it write to stderr
            clustering.max_points_per_centroid = len(sample)  # all that are given
        with using(threads):
            if gpu and on_gpu():
                kind = faiss.IndexFlatIP if self.metric == "cosine" else faiss.IndexFlatL2
                on_card = faiss.index_cpu_to_gpu(_gpu(), 0, kind(self.dimension))
                index.clustering_index = on_card
                index.train(_rows(sample, self.dimension))
                index.clustering_index = None
            else:
                index.train(_rows(sample, self.dimension))

    def reserve(self, count: int) -> None:
        """Take the memory of `count` vectors at once where they lie in one array, which growing would copy."""
        if self.factory.kind == "flat":
            self.index.codes.resize(count * self.index.code_size)

    def add(self, rows: np.ndarray, vectors: np.ndarray, threads: int = 1) -> None:
        """Add m vectors (m, d) at rows (m,). Flat and graphs take rows in their order, without gaps."""
        if not len(rows):
            return
        faiss, index, vectors = library(), self.index, _rows(vectors, self.dimension)
        if self.factory.kind == "ivf":
            self._unmap()
            with using(threads):
                index.add_with_ids(vectors, np.ascontiguousarray(rows, np.int64))
            return
        if rows[0] != len(self) or (np.diff(rows) != 1).any():
            raise ValueError(f"{self.factory} holds {len(self)} vectors and cannot take rows {rows[0]} to {rows[-1]}")
        if self.factory.kind == "flat" and index.codes.size() >= (len(self) + len(rows)) * index.code_size:
            reserved = faiss.rev_swig_ptr(index.get_xb(), (len(self) + len(rows)) * self.dimension)
            reserved.reshape(-1, self.dimension)[rows] = vectors
            index.ntotal += len(rows)
            return
        with using(1):  # several threads link a graph in the order in which they happen to come
            index.add(vectors)

    def replace(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        """Put other vectors (m, d) at rows (m,) that are there; only for «flat»."""
        held = library().rev_swig_ptr(self.index.get_xb(), len(self) * self.dimension)
        held.reshape(-1, self.dimension)[rows] = _rows(vectors, self.dimension)

    def search(
        self, queries: np.ndarray, k: int, width: int, allowed: np.ndarray | None = None, threads: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """What faiss finds for q queries: rows (q, k) int64, NONE where it finds no more, distances (q, k) float32, inf
        for NONE; best first. width: lists visited, or candidates of a graph. allowed: (n,) bool, the rows to find."""
        faiss, index = library(), self.index
        queries = _rows(queries, self.dimension)
        selector = None
        if allowed is not None:
            bits = np.packbits(allowed, bitorder="little")
            selector = faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))
        if self.factory.kind == "ivf":
            parameters = faiss.SearchParametersIVF(nprobe=min(width, self.factory.lists), sel=selector)
        elif self.factory.kind == "hnsw":
            parameters = faiss.SearchParametersHNSW(efSearch=max(width, k), sel=selector)
        else:
            parameters = faiss.SearchParameters(sel=selector)
        with using(threads):
            found, rows = index.search(queries, k, params=parameters)
        distances = np.where(rows == NONE, np.inf, 1 - found if self.metric == "cosine" else found)
        return rows, np.maximum(distances, 0)

    def nearest(
        self,
        queries: np.ndarray,
        k: int,
        own: np.ndarray | None = None,
        keys: np.ndarray | None = None,
        of: np.ndarray | None = None,
        categories: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The exact k nearest of the vectors as they are kept; see `Nearest`. own and of are the queries' keys and
        categories, keys and categories (n,) those of the rows."""
        best = Nearest(_rows(queries, self.dimension), k, self.metric, own, of)
        for first in range(0, len(self), ROWS):
            rows = np.arange(first, min(first + ROWS, len(self)))
            best.offer(
                rows,
                self.vectors(rows),
                None if keys is None else keys[rows],
                None if categories is None else categories[rows],
            )
        return best.result()

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """(m, d) float32: the vectors of some rows, decoded where they are kept as codes."""
        faiss = library()
        if self.factory.kind == "ivf":
            if self.index.direct_map.no():
                self.index.make_direct_map()
            return np.asarray(self.index.reconstruct_batch(np.ascontiguousarray(rows, np.int64)))
        flat = self.index if self.factory.kind == "flat" else faiss.downcast_index(self.index.storage)
        if not len(self):
            return np.zeros((0, self.dimension), np.float32)
        held: np.ndarray = faiss.rev_swig_ptr(flat.get_xb(), len(self) * self.dimension)
        return held.reshape(-1, self.dimension)[rows]

    def carried(self, numbers: np.ndarray) -> VectorIndex:
        """The entries that stay, with the same lists and centroids: numbers (n,) the new row of each, NONE to leave it.

        Only for «ivf»: Flat and graphs are made anew from `vectors`.
        """
        clone, size = self.like(), 0
        for number in range(self.factory.lists):
            ids, codes = self._entries(number)
            stay = numbers[ids] != NONE
            kept, kept_codes = np.ascontiguousarray(numbers[ids[stay]], np.int64), np.ascontiguousarray(codes[stay])
            if len(kept):
                swig = library().swig_ptr
                clone.index.invlists.add_entries(number, len(kept), swig(kept), swig(kept_codes))
            size += len(kept)
        clone.index.ntotal = size
        clone.sort()
        return clone

    def like(self) -> VectorIndex:
        """An empty one; of «ivf» with the same lists and centroids, so that it needs no training."""
        faiss, new = library(), VectorIndex.empty(self.factory, self.dimension, self.metric)
        if self.factory.kind != "ivf":
            return new
        new.index.quantizer.train(np.zeros((1, self.dimension), np.float32))
        new.index.quantizer.add(self.index.quantizer.reconstruct_n(0, self.factory.lists))
        if self.factory.code == "PQ":
            faiss.copy_array_to_vector(faiss.vector_to_array(self.index.pq.centroids), new.index.pq.centroids)
            new.index.precompute_table()
        elif self.factory.code == "SQ8":
            faiss.copy_array_to_vector(faiss.vector_to_array(self.index.sq.trained), new.index.sq.trained)
        new.index.is_trained = True
        return new

    def same_centroids(self, other: VectorIndex) -> bool:
        """Would both keep any vector as the same code in the same list."""
        if (self.factory, self.dimension, self.metric) != (other.factory, other.dimension, other.metric):
            return False
        return all(np.array_equal(a, b) for a, b in zip(self._trained(), other._trained(), strict=True))

    def sort(self) -> None:
        """Put the entries of each list in the order of their rows, as if they had been added so."""
        if self.factory.kind != "ivf":
            return
        self._unmap()
        for number in range(self.factory.lists):
            ids, codes = self._entries(number)
            if (np.diff(ids) < 0).any():
                order = np.argsort(ids, kind="stable")
                ids[:], codes[:] = ids[order], codes[order]

    def save(self, path: Path) -> None:
        """Write the file of faiss. OSError when the disk does not take it."""
        faiss = library()
        self._unmap()
        refused: list[OSError] = []
        with path.open("wb") as handle:

            def write(data: bytes) -> int:
                try:
                    return handle.write(data)
                except OSError as error:
                    refused.append(error)
                    return 0

            try:
                faiss.write_index(self.index, faiss.PyCallbackIOWriter(write, 1 << 22))
            except RuntimeError as error:
                if refused:
                    raise refused[0] from error
                raise
            handle.flush()
            os.fsync(handle.fileno())

    @classmethod
    def load(cls, path: Path, factory: Factory) -> VectorIndex:
        """Read a file whose bytes are known to be those that were written. ArtifactError when it is no such index."""
        faiss = library()
        try:
            index = faiss.read_index(str(path))
        except RuntimeError as error:
            raise damaged(path, "faiss cannot read it") from error
        kinds = {
            "flat": faiss.IndexFlat,
            "hnsw": faiss.IndexHNSWFlat,
            "ivf": {"Flat": faiss.IndexIVFFlat, "SQ8": faiss.IndexIVFScalarQuantizer, "PQ": faiss.IndexIVFPQ},
        }
        kind = kinds[factory.kind]
        if not isinstance(index, kind[factory.code] if isinstance(kind, dict) else kind):
            raise damaged(path, f"it holds no {factory}")
        return cls(factory, index.d, "cosine" if index.metric_type == faiss.METRIC_INNER_PRODUCT else "l2", index)

    def _unmap(self) -> None:
        """Forget where in its list each row is, which `vectors` looked up and which is about to change."""
        if self.factory.kind == "ivf" and not self.index.direct_map.no():
            self.index.set_direct_map_type(library().DirectMap.NoMap)

    def _entries(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows (m,) int64 and codes (m, bytes) uint8 in a list, as they lie in memory."""
        faiss, lists = library(), self.index.invlists
        size, width = lists.list_size(number), self.index.code_size
        if not size:
            return np.zeros(0, np.int64), np.zeros((0, width), np.uint8)
        ids = faiss.rev_swig_ptr(lists.get_ids(number), size)
        return ids, faiss.rev_swig_ptr(lists.get_codes(number), size * width).reshape(size, width)

    def _trained(self) -> list[np.ndarray]:
        if self.factory.kind != "ivf":
            return []
        faiss, index = library(), self.index
        trained = [index.quantizer.reconstruct_n(0, self.factory.lists)]
        if self.factory.code == "PQ":
            trained.append(faiss.vector_to_array(index.pq.centroids))
        elif self.factory.code == "SQ8":
            trained.append(faiss.vector_to_array(index.sq.trained))
        return trained


def merge(parts: Sequence[VectorIndex]) -> VectorIndex:
    """One index with the entries of all, which are emptied: as if all had been added to one, in the order of rows.

    Parts of «ivf» must have the same lists and centroids (`like`), and rows that no other has; those of Flat continue
    each other. Raises ArtifactError where they do not fit, or are graphs, which cannot be merged.
    """
    first = parts[0]
    if first.factory.kind == "hnsw":
        raise ArtifactError(f"indexes {first.factory} cannot be merged", fix="build one from all vectors")
    if not all(first.same_centroids(part) for part in parts):
        raise ArtifactError(
            "the indexes were trained apart, so that their lists differ",
            fix="update one and the same index for each bank, then merge these",
        )
    merged = first.like()
    for part in parts:
        merged.index.merge_from(part.index, 0)
    merged.sort()
    return merged


@cache
def _gpu() -> Any:
    """Scratch memory of the GPU, taken once."""
    return library().StandardGpuResources()


def _rows(vectors: np.ndarray, dimension: int) -> np.ndarray:
    """Vectors as faiss takes them. Raises ArtifactError for another dimension: faiss has an empty message for it."""
    if vectors.ndim != 2 or vectors.shape[1] != dimension:
        raise ArtifactError(
            f"the vectors have {vectors.shape[-1]} numbers, those of the index {dimension}",
            fix="search it with the embedder that it was made with",
        )
    return np.ascontiguousarray(vectors, np.float32)
