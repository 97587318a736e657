"""Which piece fed which pixel: an index image and one record per piece."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.bank.segments import Decomposition
from pipelines.compose.guidance import Guidance
from pipelines.errors import DataError


@dataclass(frozen=True)
class Origin:
    """Where a retrieved piece comes from. row, id: in the bank. source: the scene it was cut from.

    licence: of that scene. rank: its place among the neighbors, 1 is the best. score: under the index.
    """

    row: int
    id: str
    source: str
    licence: str
    rank: int
    score: float


def provenance(
    guidance: Guidance, decomposition: Decomposition, origins: Sequence[Origin | None], names: Sequence[str]
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """The index image and the records of a guidance image.

    origins: of each segment's piece, None where none was placed. names: of the classes. Returns (h, w) uint16, 0
    where nobody painted and k where the k-th record did, counted from 1; and a record per placed piece in the order
    of the segments, one that ended up hidden too, with 0 pixels. Raises DataError beyond 65535 pieces.
    """
    placed = [i for i, origin in enumerate(origins) if origin is not None]
    if len(placed) > np.iinfo(np.uint16).max:
        raise DataError(f"{len(placed)} pieces do not fit a 16-bit index image", fix="raise decompose.min_area")
    line = np.zeros(len(origins) + 1, dtype=np.uint16)  # the last entry answers for owner -1
    line[placed] = np.arange(1, len(placed) + 1)
    index = line[guidance.owner]
    pixels = np.bincount(index.ravel(), minlength=len(placed) + 1)
    records = []
    for k, i in enumerate(placed, start=1):
        segment, origin = decomposition.segments[i], origins[i]
        assert origin is not None
        records.append(
            {
                "segment": i,
                "category": names[segment.category],
                "box": list(segment.box),
                "bank_row": origin.row,
                "id": origin.id,
                "source": origin.source,
                "licence": origin.licence,
                "rank": origin.rank,
                "score": origin.score,
                "pixels": int(pixels[k]),
            }
        )
    return index, records
