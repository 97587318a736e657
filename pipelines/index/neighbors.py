"""Neighbors: for every piece of a bank the pieces most like it, searched once and kept with the index."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipelines.artifact import Artifact, open_artifact
from pipelines.bank.bank import Bank
from pipelines.bank.storage import damaged, read_arrays, write_arrays
from pipelines.errors import ArtifactError

FILE = "neighbors.h5"
NONE = -1
"""The row of a neighbor that does not exist: the class has too few pieces outside the query's image."""


@dataclass(frozen=True, eq=False)
class Neighbors:
    """Rows and scores of the neighbors of n pieces, best first.

    ids: (n,) uint64 of the queries, in the order of the bank's rows. rows: (n, k) int32 rows of the bank, NONE where
    there are fewer. scores: (n, k) float64, lower is more alike, inf where there is none. Wholly in memory; picklable.
    """

    artifact: Artifact
    bank: Bank
    ids: np.ndarray = field(repr=False)
    rows: np.ndarray = field(repr=False)
    scores: np.ndarray = field(repr=False)

    @classmethod
    def open(cls, path: Path, bank: Bank) -> Neighbors:
        """The neighbors in an index of this very bank. Raises ArtifactError when it was built from another."""
        artifact = open_index(path, bank)
        arrays = read_arrays(path / FILE, ("id", "rows", "scores"))
        if not np.array_equal(arrays["id"], bank.ids):
            raise damaged(path / FILE, "its pieces are not those of the bank")
        return cls(artifact, bank, arrays["id"], arrays["rows"], arrays["scores"])

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def k(self) -> int:
        return self.rows.shape[1]

    def of(self, piece: int) -> tuple[np.ndarray, np.ndarray]:
        """(m,) rows and scores of the m <= k neighbors that a piece has, by its id. ArtifactError if unknown."""
        row = self.bank.row_of_id(piece)
        there = self.rows[row] != NONE
        return self.rows[row][there], self.scores[row][there]


def write_neighbors(folder: Path, ids: np.ndarray, rows: np.ndarray, scores: np.ndarray) -> None:
    """Write the neighbors of an index; see `Neighbors` for the arrays."""
    write_arrays(
        folder / FILE,
        {"id": ids.astype(np.uint64), "rows": rows.astype(np.int32), "scores": scores.astype(np.float64)},
    )


def most_candidates(categories: np.ndarray, keys: np.ndarray) -> int:
    """How many candidates the piece with the most has: those of its class with another key."""
    both = categories.astype(np.int64) * (keys.max() + 1) + keys
    _, of_class, in_class = np.unique(categories, return_inverse=True, return_counts=True)
    _, of_both, in_both = np.unique(both, return_inverse=True, return_counts=True)
    return int((in_class[of_class] - in_both[of_both]).max())


def open_index(path: Path, bank: Bank) -> Artifact:
    """An index artifact that was built from this very bank. Raises ArtifactError when it was built from another."""
    artifact = open_artifact(path, "index")
    built_from = artifact.input("bank")
    if built_from is None or built_from.digest != bank.digest:
        of = "no bank" if built_from is None else f"bank {built_from.digest[:4]}…"
        again = f"--kind {artifact.config['kind']}"
        if made_with := artifact.input("embedder"):
            again += f" --embedder {path.parent / made_with.path}@{made_with.step}"
        raise ArtifactError(
            f"index {path} was built from {of} but {bank.path} is {bank.digest[:4]}…",
            where=path,
            fix=f"rebuild it with: rgs train index {again} --bank {bank.path} --out {path}",
        )
    return artifact
