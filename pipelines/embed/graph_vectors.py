"""The vectors of a bank's patches under a graph embedder: of each, how its own picture's graph describes it.

A vector depends on all pieces of the picture, and on no pixel: the graph has all of them, more than a training would
show, and its random relations are drawn by the picture's name.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from pipelines.bank.bank import Bank
from pipelines.bank.patches import bank_objects, graph_settings
from pipelines.data.graph import SceneGraph, make_graph
from pipelines.embed.embedder import Embedder, embed_graphs
from pipelines.errors import ArtifactError, NumericalError


def source_graph(bank: Bank, source: str) -> SceneGraph:
    """The graph of all pieces of a source, in the order of its rows; the same at every call."""
    objects, annotated = bank_objects(bank, source)
    everything = {"min_objects": 1, "max_objects": len(objects), "overflow": "drop"}
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(source.encode()).digest()[:8], "little"))
    graph = make_graph(objects, annotated, graph_settings(bank).model_copy(update=everything), rng)
    if graph is None:  # people annotated no relation of its objects
        graph = SceneGraph(np.array([item.category for item in objects], dtype=np.int64), ())
    return graph


def graph_vectors(
    bank: Bank, embedder: Embedder, parts: Sequence[np.ndarray], device: torch.device | str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (rows (m,), vectors (m, dimension) float32) of each part; the pieces of a source pass the encoder together.

    Raises ArtifactError when the bank is not of patches of the classes and relations that the embedder knows,
    NumericalError naming the piece whose vector is not finite.
    """
    require_graphs(bank, embedder)
    assert embedder.encoder is not None
    embedder.encoder.to(device)
    for rows in parts:
        names = [bank.source_table[number].id for number in np.unique(bank.sources[rows])]
        of = np.concatenate([bank.rows_of_source(name) for name in names])
        vectors = embed_graphs(embedder.encoder, [source_graph(bank, name) for name in names])
        vectors = vectors[np.searchsorted(of, rows)]
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            row = int(rows[~finite][0])
            raise NumericalError(
                f"the vector of piece {bank.ids[row]:016x} of {bank.source_of(row).id} is not finite",
                where=bank.path,
                fix="train the embedder anew with a lower learning rate, or with train.precision=fp32",
            )
        yield rows, vectors


def require_graphs(bank: Bank, embedder: Embedder) -> None:
    """Raises ArtifactError unless the pieces of a bank are objects of graphs in the words that the embedder knows."""
    bank.require_kind("patches", "a graph embedder")
    known, schema = embedder.schema, bank.schema
    assert known is not None
    for what, mine, others in (
        ("class", known.names, schema.names),
        ("relation", list(known.relations), list(schema.relations)),
    ):
        if mine != others:
            pairs = zip([*mine, None], [*others, None], strict=False)
            own, other = next(((a, b) for a, b in pairs if a != b), (len(mine), len(others)))
            raise ArtifactError(
                f"the bank has the {what} {other!r} where {embedder.label} knows {own!r}",
                where=bank.path,
                fix="train the embedder on a bank of the same classes and relations",
            )


def graph_checksums(bank: Bank) -> np.ndarray:
    """(n,) uint32: of the graph of each piece's source, so that a vector of another graph is not taken for this one."""
    relations = graph_settings(bank).relations
    sums = np.zeros(len(bank.source_table), np.uint32)
    for number in np.unique(bank.sources).tolist():
        source = bank.source_table[number]
        rows = bank.rows_of_source(source.id)
        objects = [bank.categories[rows].tolist(), bank.boxes[rows].tolist(), bank.ordinals[rows].tolist()]
        told = [source.id, source.height, source.width, relations, source.graph, objects]
        sums[number] = zlib.crc32(json.dumps(told, sort_keys=True).encode())
    return sums[bank.sources]
