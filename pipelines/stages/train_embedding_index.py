"""Train an index of vectors: what finds the pieces of a bank under an embedder, and the neighbors that each has.

The vectors of a bank are never all in memory beside the index: they come in blocks, are added, compared with some
queries for the recall, and forgotten. An update takes the vectors of pieces that were indexed before from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from pipelines.artifact import Artifact, Input, open_artifact, relative_path, require_free, writing
from pipelines.bank.bank import Bank, Exclusion
from pipelines.bank.storage import read_arrays, write_arrays
from pipelines.config import Config
from pipelines.embed.bank_vectors import bank_vectors
from pipelines.embed.embedder import Embedder
from pipelines.embed.graph_vectors import graph_checksums, require_graphs
from pipelines.errors import ArtifactError, ConfigError, NumericalError
from pipelines.index.embedding_index import FILE, embedder_of, find, read_vectors, recall, require_embedder
from pipelines.index.factory import Factory, parse_factory, require_memory, require_sample, suitable_factory
from pipelines.index.nearest import Nearest
from pipelines.index.neighbors import FILE as NEIGHBORS
from pipelines.index.neighbors import NONE, most_candidates, write_neighbors
from pipelines.index.vectors import VectorIndex, merge
from pipelines.progress import Progress, silent
from pipelines.runtime import pick_device
from pipelines.stages.embedders import open_embedder

BLOCK = 4096
"""How many vectors are added at once."""
IMAGES, OBJECTS = 64, 1024
"""How many pieces pass the embedder together, by their pixels or as the objects of graphs."""
ASKED = 8192
"""How many pieces are searched between two reports of progress."""
PIECES = "pieces.h5"
"""Which pieces the vectors are of: their ids, and the checksums of what was embedded, since a piece that was cut anew
from another picture keeps its id."""
SPILL = ".vectors.tmp"
"""Where vectors wait to be asked for their neighbors while the index keeps codes of them."""


class TrainEmbeddingIndex(Config):
    """Which index finds the vectors of a bank, and which neighbors it keeps."""

    kind: Literal["embedding"] = "embedding"
    """What is compared: vectors under an embedder."""
    factory: str | None = None
    """By faiss's names: Flat (exact), HNSW32, IVF1024,Flat, IVF1024,SQ8, IVF4096,PQ48. By default Flat up to 20,000
    pieces, HNSW32 up to 200,000, IVF,Flat up to 2,000,000, IVF,PQ above; lists: the power of two nearest 2 sqrt(n)."""
    k: int = Field(default=10, ge=1)
    """How many neighbors of each piece are kept; fewer where there are fewer."""
    exclude: Exclusion = "source"
    """What may not be a piece's neighbor: itself, its image's pieces, or its group's where the group is known."""
    probes: int | None = Field(default=None, ge=1)
    """Lists of an IVF that a search visits (default: one in 32, at least 8), candidates kept by one of HNSW (128)."""
    sample: int | None = Field(default=None, ge=1)
    """Pieces that lists and codes are trained on, drawn by their ids. Default: 64 a list, or a centroid of PQ."""
    queries: int = Field(default=1000, ge=0)
    """Pieces, drawn by their ids, whose neighbors are compared with the exact ones for the recall."""


@dataclass
class Work:
    """What an index is made of, checked. old: indexes whose vectors are taken over."""

    config: TrainEmbeddingIndex
    factory: Factory
    bank: Bank
    embedder: Embedder
    inputs: list[Input]
    old: list[Artifact] = field(default_factory=list)
    origin: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    """(n, 2): for each row which of the old indexes has its vector, and in which row; NONE where it is embedded."""

    @property
    def categories(self) -> np.ndarray:
        """(n,) what a piece's neighbors must share with it."""
        return self.bank.categories if self.embedder.gate == "category" else np.zeros(len(self.bank), np.int32)


def run(
    config: TrainEmbeddingIndex,
    *,
    bank: Path,
    embedder: str | None = None,
    update: Sequence[Path] = (),
    out: Path,
    memory: int | None = None,
    threads: int = 1,
    device: str = "auto",
    workers: int = 0,
    progress: Progress = silent,
) -> Artifact:
    """Write the index of a bank's vectors and the neighbors of its pieces.

    embedder: a run, RUN or RUN@STEP; that of the first index to update if None. update: indexes made with it, whose
    pieces keep their vectors, lists and codes; only pieces that are in none of them are embedded, and nothing is
    trained. memory: bytes that may be taken, what is available if None. workers: threads that read pieces ahead.

    Raises ArtifactError when `out` exists or bank, embedder and indexes do not fit, EnvironmentFault when the index
    needs more memory than there is, before anything is embedded, NumericalError naming a piece without finite vector.
    """
    work = _prepare(config, bank, embedder, update, out)
    require_memory(_memory(work), work.factory, len(work.bank), work.embedder.dimension, memory)
    pieces, categories = work.bank, work.categories
    keys = pieces.exclusion_keys(work.config.exclude)
    k = max(1, min(work.config.k, most_candidates(categories, keys)))
    statistics: dict[str, Any] = {}
    with writing(out, "index", work.config, work.inputs, statistics) as partial:
        blocks = _Blocks(work, str(pick_device(device)), workers)
        index, held = _begun(work, blocks, threads)
        measurable = work.factory.kind != "flat" and all(old.factory.whole for old in blocks.old)
        asked = drawn(pieces.ids, work.config.queries if measurable else 0)
        exact = Nearest(blocks.of(asked), k, work.embedder.metric, keys[asked], categories[asked])
        kept = _Kept(index, partial / SPILL)
        progress("embedding", 0, len(pieces))
        for rows, vectors in blocks.stream(np.arange(len(pieces))):
            fresh = ~held[rows]
            index.add(rows[fresh], vectors[fresh], threads)
            kept.write(vectors)
            exact.offer(rows, vectors, keys[rows], categories[rows])
            progress("embedding", int(rows[-1]) + 1, len(pieces))
        index.sort()
        index.save(partial / FILE)

        found = np.full((len(pieces), k), NONE, np.int64)
        distances = np.full((len(pieces), k), np.inf)
        gated = work.embedder.gate == "category"
        progress("searching", 0, len(pieces))
        order = np.argsort(categories, kind="stable")  # a category at a time: it may be searched apart
        for first in range(0, len(pieces), ASKED):
            q = order[first : first + ASKED]
            found[q], distances[q] = find(
                index,
                kept.read(q),
                k,
                work.config.probes or 1,
                own=keys[q],
                keys=keys,
                of=categories[q] if gated else None,
                categories=categories if gated else None,
                threads=threads,
            )
            progress("searching", first + len(q), len(pieces))
        kept.forget()
        write_arrays(partial / PIECES, _identities(pieces, work.embedder))
        write_neighbors(partial, pieces.ids, found, distances)
        statistics |= _statistics(work, found, distances)
        statistics["recall"] = {
            "k": k,
            "probes": work.config.probes,
            "queries": len(asked),
            **_recall(work, recall(found[asked], exact.rows) if len(asked) else None),
        }
    return open_artifact(out, "index")


def plan(
    config: TrainEmbeddingIndex,
    *,
    bank: Path,
    embedder: str | None = None,
    update: Sequence[Path] = (),
    out: Path,
    memory: int | None = None,
) -> dict[str, Any]:
    """What `run` would do: the resolved config, the inputs with their digests, and the bytes that it would write."""
    work = _prepare(config, bank, embedder, update, out)
    count, dimension = len(work.bank), work.embedder.dimension
    require_memory(_memory(work), work.factory, count, dimension, memory)
    files = {
        FILE: work.factory.bytes(count, dimension),
        NEIGHBORS: count * (8 + (4 + 8) * work.config.k),
        PIECES: sum(array.nbytes for array in _identities(work.bank, work.embedder).values()),
    }
    return {
        "config": work.config.model_dump(mode="json"),
        "inputs": [i.to_json() for i in work.inputs],
        "pieces": count,
        "to_embed": int((work.origin[:, 0] == NONE).sum()),
        "files": files,
        "bytes": sum(files.values()),
        "scratch_bytes": 0 if work.factory.whole else 4 * count * dimension,
        "memory_bytes": _memory(work),
    }


def drawn(ids: np.ndarray, count: int) -> np.ndarray:
    """(min(count, n),) int64 rows of pieces drawn by their ids: the same pieces in whatever order a bank has them.

    They are in the order of the draw, so that a smaller sample is the beginning of a larger one.
    """
    mixed = ids.astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return np.argsort(mixed ^ (mixed >> np.uint64(31)), kind="stable")[:count]


def _prepare(config: TrainEmbeddingIndex, bank: Path, embedder: str | None, update: Sequence[Path], out: Path) -> Work:
    """Open what is given and check that it fits, and resolve what the config leaves open."""
    require_free(out)
    pieces = Bank.open(bank)
    before = [open_artifact(path, "index") for path in update]
    for artifact in before:
        if artifact.config["kind"] != "embedding":
            raise ArtifactError("only an index of vectors can be updated", where=artifact.path, fix="train it anew")
    if embedder is None:
        if not before:
            raise ConfigError("an index of vectors needs an embedder", where="--embedder", fix="give --embedder RUN")
        made_with = embedder_of(before[0])
        embedder = f"{before[0].path.parent / made_with.path}@{made_with.step}"
    opened = open_embedder(embedder)
    if opened.kind == "graph":
        require_graphs(pieces, opened)
    for artifact in before:
        require_embedder(artifact, opened.sha256, opened.dimension)
    if before:
        config = _inherit(config, before[0])
    factory = (
        suitable_factory(len(pieces), opened.dimension)
        if config.factory is None
        else parse_factory(config.factory, opened.dimension)
    )
    inputs = [
        Input("bank", relative_path(bank, out.parent), pieces.digest),
        opened.weights.as_input("embedder", out.parent),
        *(artifact.as_input("index", out.parent) for artifact in before),
    ]
    resolved = _resolved(config, factory, len(pieces), bool(before))
    held = [read_arrays(artifact.path / PIECES, ("id", "crc32")) for artifact in before]
    return Work(resolved, factory, pieces, opened, inputs, before, _origin(_identities(pieces, opened), held))


def _resolved(config: TrainEmbeddingIndex, factory: Factory, count: int, updates: bool) -> TrainEmbeddingIndex:
    """The config with what it leaves open filled in. Raises ConfigError for what the factory has no use for."""
    for name, useless in (("probes", factory.kind == "flat"), ("sample", factory.training() == 0)):
        if useless and getattr(config, name) is not None:
            raise ConfigError(f"{factory} has no {name}", where=name, fix=f"leave {name} out")
    values: dict[str, Any] = {"factory": str(factory)}
    if factory.kind != "flat" and config.probes is None:
        values["probes"] = factory.probes()
    if factory.training() and not updates:
        values["sample"] = min(count, config.sample or factory.training())
        require_sample(factory, values["sample"])
    return config.model_copy(update=values)


def _inherit(config: TrainEmbeddingIndex, old: Artifact) -> TrainEmbeddingIndex:
    """The config of the index to update, with what was given; another factory or sample than its is a ConfigError."""
    given = config.model_dump(mode="json", include=config.model_fields_set)
    for key in ("factory", "sample"):
        if given.get(key) not in (None, old.config[key]):
            raise ConfigError(
                f"{key} is {given[key]} but the index to update was made with {old.config[key]}",
                where=old.path,
                fix=f"leave {key} out, or train a new index",
            )
    return TrainEmbeddingIndex.model_validate({**old.config, **{k: v for k, v in given.items() if v is not None}})


def _identities(bank: Bank, embedder: Embedder) -> dict[str, np.ndarray]:
    """What is in PIECES. What a graph embedder sees of a piece is the graph of its picture."""
    if embedder.kind == "graph":
        return {"id": bank.ids, "crc32": graph_checksums(bank)[:, None]}
    return {"id": bank.ids, "crc32": bank.checksums()}


def _origin(pieces: Mapping[str, np.ndarray], old: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
    """(n, 2) int64: see `Work.origin`; the first index that has a piece with the same content counts."""
    origin = np.full((len(pieces["id"]), 2), NONE, np.int64)
    for number, before in reversed(list(enumerate(old))):
        order = np.argsort(before["id"], kind="stable")
        at = order[np.searchsorted(before["id"], pieces["id"], sorter=order).clip(max=len(order) - 1)]
        there = (before["id"][at] == pieces["id"]) & (before["crc32"][at] == pieces["crc32"]).all(axis=1)
        origin[there, 0], origin[there, 1] = number, at[there]
    return origin


def _begun(work: Work, blocks: _Blocks, threads: int) -> tuple[VectorIndex, np.ndarray]:
    """The index before vectors are added, and (n,) bool which rows it holds already: lists keep what they held."""
    count = len(work.bank)
    if work.factory.kind != "ivf" or not blocks.old:
        index = VectorIndex.empty(work.factory, work.embedder.dimension, work.embedder.metric)
        index.reserve(count)
        index.train(blocks.of(drawn(work.bank.ids, work.config.sample or 0)), threads, gpu=blocks.device != "cpu")
        return index, np.zeros(count, bool)
    parts = []
    for number, read in enumerate(blocks.old):
        numbers = np.full(len(read), NONE, np.int64)
        mine = np.flatnonzero(work.origin[:, 0] == number)
        numbers[work.origin[mine, 1]] = mine
        parts.append(read.carried(numbers))
    return merge(parts), work.origin[:, 0] != NONE


class _Blocks:
    """The vectors of a bank's pieces, from the indexes that have them or else from the embedder, block by block."""

    def __init__(self, work: Work, device: str, workers: int) -> None:
        self._work, self.device, self._workers = work, device, workers
        self.old = [read_vectors(artifact) for artifact in work.old]

    def of(self, rows: np.ndarray) -> np.ndarray:
        """(m, d) float32: the vectors of some rows, in any order."""
        order = np.argsort(rows, kind="stable")
        vectors = np.empty((len(rows), self._work.embedder.dimension), np.float32)
        done = 0
        for _, block in self.stream(rows[order]):
            vectors[order[done : done + len(block)]] = block
            done += len(block)
        return vectors

    def stream(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(rows, vectors) of at most BLOCK rows each, in the order given. NumericalError names what is not finite."""
        origin, bank = self._work.origin, self._work.bank
        embedded = self._embedded(rows[origin[rows, 0] == NONE])
        for first in range(0, len(rows), BLOCK):
            part = rows[first : first + BLOCK]
            vectors = np.empty((len(part), self._work.embedder.dimension), np.float32)
            for number, read in enumerate(self.old):
                kept = origin[part, 0] == number
                vectors[kept] = read.vectors(origin[part[kept], 1])
            for at in np.flatnonzero(origin[part, 0] == NONE):
                vectors[at] = next(embedded)
            finite = np.isfinite(vectors).all(axis=1)
            if not finite.all():
                row = int(part[~finite][0])
                raise NumericalError(
                    f"the vector of piece {bank.ids[row]:016x} of {bank.source_of(row).id} is not finite",
                    where=bank.path,
                    fix="train the embedder anew with a lower learning rate, or name weights of an earlier step",
                )
            yield part, vectors

    def _embedded(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """One vector after the other of some rows."""
        if not len(rows):
            return
        for _, vectors in bank_vectors(
            self._work.bank,
            self._work.embedder,
            rows,
            OBJECTS if self._work.embedder.kind == "graph" else IMAGES,
            workers=self._workers,
            device=self.device,
        ):
            yield from vectors


class _Kept:
    """The vectors once more, to ask for their neighbors: of the index, or of a file beside it where that has codes."""

    def __init__(self, index: VectorIndex, spill: Path) -> None:
        self._index = index
        self._file = None if index.factory.whole else spill.open("w+b")
        self._spill = spill

    def write(self, vectors: np.ndarray) -> None:
        """Take down the vectors of the rows that follow."""
        if self._file is not None:
            self._file.write(vectors.tobytes())

    def read(self, rows: np.ndarray) -> np.ndarray:
        """(m, d) float32: the vectors of some rows, once all were written."""
        if self._file is None:
            return self._index.vectors(rows)
        self._file.flush()
        return np.array(np.memmap(self._file, np.float32, "r").reshape(-1, self._index.dimension)[rows])

    def forget(self) -> None:
        """Remove the file."""
        if self._file is not None:
            self._file.close()
            self._spill.unlink()


def _memory(work: Work) -> int:
    """Bytes that making the index takes, at most: itself, what it is trained on, its neighbors, blocks, old indexes."""
    count, dimension, config = len(work.bank), work.embedder.dimension, work.config
    vectors = 2 * (config.sample or 0) + config.queries + 4 * BLOCK
    neighbors = count * (16 + 3 * 12) * config.k
    direct = 8 * count if work.factory.kind == "ivf" else 0
    old = sum((artifact.path / FILE).stat().st_size for artifact in work.old)
    return work.factory.memory(count, dimension) + 4 * vectors * dimension + neighbors + direct + old


def _recall(work: Work, share: float | None) -> dict[str, Any]:
    """The measured recall; else why there is none, or need be none."""
    if work.factory.kind == "flat":
        return {"recall": 1.0, "by": "definition: the search is exact"}
    if share is None:
        why = "no queries" if not work.config.queries else "the vectors taken over are codes"
        return {"recall": None, "by": f"not measured: {why}"}
    return {"recall": share}


def _statistics(work: Work, rows: np.ndarray, distances: np.ndarray) -> dict[str, Any]:
    found = rows[:, 0] != NONE
    kept = int((work.origin[:, 0] != NONE).sum())
    return {
        "kind": work.config.kind,
        "bank_kind": work.bank.kind,
        "items": len(work.bank),
        "dimension": work.embedder.dimension,
        "metric": work.embedder.metric,
        "gate": work.embedder.gate,
        "embedder": work.embedder.label,
        "factory": str(work.factory),
        "kept": kept,
        "embedded": len(work.bank) - kept,
        "k": rows.shape[1],
        "exclude": work.config.exclude,
        "mean_distance_rank1": float(distances[found, 0].mean()) if found.any() else None,
        "without_candidate": int((~found).sum()),
    }
