"""An embedder that is no network: the vector of a piece is a function of its id, and a test may plant others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.bank.bank import Bank
from pipelines.stages import train_embedding_index
from pipelines.train.run import Weights

DIMENSION = 16


@dataclass
class MadeEmbedder:
    """planted: vectors of some pieces by id. embedded: the ids of all pieces that were embedded, in order."""

    sha256: str = "ab" * 32
    gate: str = "none"
    metric: str = "cosine"
    kind: str = "pieces"
    dimension: int = DIMENSION
    label: str = "made"
    step: int = 3
    planted: dict[int, np.ndarray] = field(default_factory=dict)
    embedded: list[int] = field(default_factory=list)

    @property
    def weights(self) -> Weights:
        return Weights(Path("runs/made"), self.step, self.sha256, {})

    def vectors(self, ids: np.ndarray) -> np.ndarray:
        """(n, dimension) float32 of length 1, near one of eight centers."""
        centers = np.random.default_rng(0).normal(size=(8, self.dimension))
        found = np.empty((len(ids), self.dimension), np.float32)
        for at, piece in enumerate(ids.tolist()):
            rng = np.random.default_rng(piece)
            vector = centers[piece % 8] + 0.4 * rng.normal(size=self.dimension)
            found[at] = self.planted.get(piece, vector / np.linalg.norm(vector))
        return found

    def give_to(self, patch: pytest.MonkeyPatch) -> MadeEmbedder:
        """Be the embedder that every reference opens."""

        def vectors(
            bank: Bank, embedder: MadeEmbedder, rows: np.ndarray, batch: int, workers: int, device: Any
        ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for first in range(0, len(rows), 7):
                part = rows[first : first + 7]
                embedder.embedded += bank.ids[part].tolist()
                yield part, embedder.vectors(bank.ids[part])

        patch.setattr(train_embedding_index, "open_embedder", lambda reference: self)
        patch.setattr(train_embedding_index, "bank_vectors", vectors)
        return self
