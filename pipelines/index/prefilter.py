"""Pre-filter of RetrieveGAN: the k candidates of each object, by the features of its scene graph.

An object's candidates are of its class. Where the class has fewer than k pieces that may be used they are repeated in
order, so that there are k all the same; where it has none there is no candidate, and every row is NONE.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipelines.artifact import Artifact
from pipelines.data.graph import SceneGraph
from pipelines.embed.embedder import embed_graphs
from pipelines.embed.graph_encoder import GraphEncoder
from pipelines.errors import ArtifactError, ConfigError
from pipelines.index.embedding_index import EmbeddingIndex
from pipelines.index.neighbors import NONE, Neighbors


@dataclass(frozen=True, eq=False)
class Prefilter:
    """Finds candidates for the objects of any graph. index: of graph features. encoder: what they were made with."""

    index: EmbeddingIndex
    encoder: GraphEncoder

    def __post_init__(self) -> None:
        require_pool(self.index.artifact)
        if self.encoder.dimension != self.index.dimension:
            raise ArtifactError(
                f"the graph encoder gives vectors of {self.encoder.dimension} numbers, and the index holds some of "
                f"{self.index.dimension}",
                where=self.index.artifact.path,
                fix="name the run that the index was made with",
            )

    def candidates(
        self,
        graph: SceneGraph,
        k: int,
        exclude: tuple[Literal["source", "group"], str] | None = None,
        threads: int = 1,
    ) -> np.ndarray:
        """(n, k) int64 rows of the bank for the n objects of a graph, nearest first, equals by row.

        exclude: («source» or «group», name) whose pieces may not be used.
        """
        vectors = embed_graphs(self.encoder, [graph])
        rows, _ = self.index.search(vectors, k, exclude, graph.categories, threads)
        return repeated(rows)


def from_neighbors(neighbors: Neighbors, rows: np.ndarray, k: int) -> np.ndarray:
    """(n, k) int64 candidates for n pieces of the bank that was indexed: their neighbors, none of their own picture.

    Raises ConfigError where the index keeps fewer than k though there are more, ArtifactError for an index that finds
    pieces of any class or of the same picture.
    """
    artifact = neighbors.artifact
    require_pool(artifact)
    if artifact.statistics["exclude"] == "self":
        raise ArtifactError(
            "the neighbors of a piece in this index may be of its own picture",
            where=artifact.path,
            fix="train the index with --exclude source or --exclude group",
        )
    if k > int(artifact.config["k"]):
        raise ConfigError(
            f"{k} candidates are asked for and the index keeps {artifact.config['k']} neighbors of a piece",
            where=artifact.path,
            fix=f"train the index with --k {k}, or ask for fewer",
        )
    found = neighbors.rows[np.asarray(rows, dtype=np.int64)].astype(np.int64)
    short = np.full((len(found), max(0, k - found.shape[1])), NONE, np.int64)  # no piece has as many as k
    return repeated(np.concatenate([found[:, :k], short], axis=1))


def repeated(rows: np.ndarray) -> np.ndarray:
    """(n, k) rows whose NONEs at the end are replaced by what comes before them, again and again in order."""
    k = rows.shape[1]
    counts = (rows != NONE).sum(axis=1, keepdims=True)
    again: np.ndarray = np.take_along_axis(rows, np.arange(k)[None] % np.maximum(counts, 1), axis=1)
    return again


def require_pool(artifact: Artifact) -> None:
    """Raises ArtifactError unless an index finds pieces of the same class alone."""
    if artifact.statistics["gate"] != "category":
        raise ArtifactError(
            "this index finds pieces of any class, and the candidates of an object are of its own",
            where=artifact.path,
            fix="index the vectors of an embedder of kind graph",
        )
