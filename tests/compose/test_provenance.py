"""The index image and its records."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pipelines.bank.segments import Decomposition, Segment
from pipelines.compose.guidance import Guidance
from pipelines.compose.provenance import Origin, provenance
from pipelines.errors import DataError


def segments(count: int) -> tuple[Segment, ...]:
    return tuple(Segment(i % 2, bool(i % 2), (i, 0, 1, 1), 1, 0) for i in range(count))


def test_index_and_records() -> None:
    owner = np.array([[0, 0, -1], [3, 0, 3]], np.int32)
    d = Decomposition(owner, segments(4))
    origins = [
        Origin(7, "a-0", "train/1", "CC BY 4.0", 1, 0.25),
        None,
        Origin(8, "b-1", "train/2", "", 1, 1.5),
        Origin(9, "c-2", "train/1", "CC BY 4.0", 2, 0.5),
    ]
    index, records = provenance(Guidance(np.zeros((2, 3, 3), np.uint8), owner), d, origins, ["wall", "door"])
    assert index.dtype == np.uint16
    assert index.tolist() == [[1, 1, 0], [3, 1, 3]]
    assert json.loads(json.dumps(records)) == [
        {
            "segment": 0,
            "category": "wall",
            "box": [0, 0, 1, 1],
            "bank_row": 7,
            "id": "a-0",
            "source": "train/1",
            "licence": "CC BY 4.0",
            "rank": 1,
            "score": 0.25,
            "pixels": 3,
        },
        {
            "segment": 2,
            "category": "wall",
            "box": [2, 0, 1, 1],
            "bank_row": 8,
            "id": "b-1",
            "source": "train/2",
            "licence": "",
            "rank": 1,
            "score": 1.5,
            "pixels": 0,
        },
        {
            "segment": 3,
            "category": "door",
            "box": [3, 0, 1, 1],
            "bank_row": 9,
            "id": "c-2",
            "source": "train/1",
            "licence": "CC BY 4.0",
            "rank": 2,
            "score": 0.5,
            "pixels": 2,
        },
    ]


def test_nothing_placed() -> None:
    owner = np.full((2, 2), -1, np.int32)
    index, records = provenance(Guidance(np.zeros((2, 2, 3), np.uint8), owner), Decomposition(owner, ()), [], [])
    assert records == [] and (index == 0).all()


def test_too_many_pieces_for_sixteen_bits() -> None:
    n = 65536
    owner = np.zeros((1, 1), np.int32)
    origin = Origin(0, "a", "b", "", 1, 0.0)
    with pytest.raises(DataError, match="65536 pieces"):
        provenance(
            Guidance(np.zeros((1, 1, 3), np.uint8), owner), Decomposition(owner, segments(n)), [origin] * n, ["x"] * 2
        )
