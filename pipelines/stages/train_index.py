"""Train an index: what finds the pieces of a bank, and the neighbors that each piece of it has in the bank."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from pipelines.artifact import Artifact, Input, open_artifact, relative_path, require_free, writing
from pipelines.bank.bank import Bank, Exclusion
from pipelines.config import Config
from pipelines.errors import ArtifactError
from pipelines.index.neighbors import NONE, most_candidates, write_neighbors
from pipelines.index.shape_index import Area, compared_areas, score_of, write_shapes
from pipelines.index.shape_search import ShapeSearch
from pipelines.progress import Progress, silent

QUERIES = 8192
"""How many pieces are searched between two reports of progress."""


BYTES_PER_SHAPE = 2400
"""What a shape takes at most, with the counts that bound its distances."""


class TrainIndex(Config):
    """How an index scores pieces, and which neighbors it keeps."""

    kind: Literal["shape"] = "shape"
    """What is compared: shape, the exact geometric score of RESAIL (eq. 2 to 4)."""
    k: int = Field(default=10, ge=1)
    """How many neighbors of each piece are kept; fewer where its class has fewer."""
    gamma: float = Field(default=1.0, ge=0)
    """Weight of sigma_shape beside sigma_scale (eq. 4)."""
    strict: bool = False
    """Areas of exactly 1:2 count as different scales, as in the authors' code; by the paper's eq. 2 they do not."""
    area: Area = "mask"
    """What sigma_scale compares: pixels of the masks (paper) or areas of their boxes (authors' code)."""
    exclude: Exclusion = "source"
    """What may not be a piece's neighbor: itself, its image's pieces, or its group's where the group is known."""


def run(config: TrainIndex, *, bank: Path, out: Path, threads: int = 1, progress: Progress = silent) -> Artifact:
    """Write the index of a bank and the neighbors of its pieces. threads do not change the digest.

    Raises ArtifactError when `out` exists, or the bank is damaged or holds pieces that have no shapes.
    """
    require_free(out)
    pieces = _open_bank(bank)
    inputs = [pieces.artifact.as_input("bank", out.parent)]
    statistics: dict[str, Any] = {}
    with writing(out, "index", config, inputs, statistics) as partial:
        masks = pieces.canonical()
        areas = compared_areas(config.area, pieces.areas, pieces.boxes)
        shapes = ShapeSearch(masks, areas, pieces.categories, score=score_of(config.model_dump()))
        write_shapes(partial, shapes)

        keys = pieces.exclusion_keys(config.exclude)
        k = max(1, min(config.k, most_candidates(pieces.categories, keys)))
        rows = np.full((len(pieces), k), NONE, np.int64)
        scores = np.full((len(pieces), k), np.inf)
        progress("searching", 0, len(pieces))
        order = np.argsort(pieces.categories, kind="stable")  # a class at a time, so that its shapes stay in cache
        for start in range(0, len(pieces), QUERIES):
            q = order[start : start + QUERIES]
            rows[q], scores[q] = shapes.search(
                masks[q], areas[q], pieces.categories[q], k, exclude=keys[q], keys=keys, threads=threads
            )
            progress("searching", min(start + QUERIES, len(pieces)), len(pieces))
        write_neighbors(partial, pieces.ids, rows, scores)
        statistics.update(_statistics(config, pieces, rows, scores))
    return open_artifact(out, "index")


def plan(config: TrainIndex, *, bank: Path, out: Path) -> dict[str, Any]:
    """What `run` would do: the config, the input with its digest, and the bytes it would write at most
    (equal shapes are stored once)."""
    require_free(out)
    pieces = _open_bank(bank)
    given = Input("bank", relative_path(bank, out.parent), pieces.digest)
    per_piece = BYTES_PER_SHAPE + 8 + config.k * (4 + 8)
    return {
        "config": config.model_dump(mode="json"),
        "inputs": [given.to_json()],
        "pieces": len(pieces),
        "bytes": len(pieces) * per_piece,
    }


def _open_bank(path: Path) -> Bank:
    bank = Bank.open(path)
    if bank.kind != "segments":
        raise ArtifactError(
            f"the bank is one of {bank.kind}, which have no shapes", where=path, fix="give a bank of segments"
        )
    return bank


def _statistics(config: TrainIndex, bank: Bank, rows: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    found = rows[:, 0] != NONE
    return {
        "kind": config.kind,
        "bank_kind": bank.kind,
        "items": len(bank),
        "k": rows.shape[1],
        "exclude": config.exclude,
        "mean_sigma_rank1": float(scores[found, 0].mean()) if found.any() else None,
        "without_candidate": int((~found).sum()),
    }
