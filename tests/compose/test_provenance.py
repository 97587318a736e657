"""The index image and its records."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.bank.segments import Decomposition, Segment
from pipelines.compose.guidance import Guidance
from pipelines.compose.provenance import Origin, by_source, output_record, provenance
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
            "index": 1,
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
            "index": 2,
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
            "index": 3,
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


def test_where_no_index_was_searched_rank_and_score_are_null() -> None:
    d = Decomposition(np.zeros((1, 2), np.int32), segments(1))
    origins = [Origin(3, "a", "train/1", "", 0, float("inf"))]
    _, records = provenance(Guidance(np.zeros((1, 2, 3), np.uint8), d.owner), d, origins, ["wall", "door"])
    text = json.dumps(records, allow_nan=False)  # «Infinity» is no JSON
    assert json.loads(text)[0]["rank"] is None and json.loads(text)[0]["score"] is None


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


def piece(source: str, pixels: int, category: str = "wall", licence: str = "CC0") -> dict[str, object]:
    return {"source": source, "licence": licence, "pixels": pixels, "category": category}


def test_the_line_of_an_output_sums_up_its_sources() -> None:
    pieces = [piece("a", 1), piece("b", 4, "door", ""), piece("a", 2, "door"), piece("hidden", 0), piece("c", 3)]
    record = output_record("x", "shape", np.zeros((4, 5), np.uint16), pieces)
    assert json.loads(json.dumps(record)) == {
        "name": "x",
        "size": [4, 5],
        "retrieval": "shape",
        "covered": 0.5,
        "sources": [
            {"source": "b", "licence": "", "pixels": 4, "share": 0.2, "pieces": 1, "categories": ["door"]},
            {"source": "a", "licence": "CC0", "pixels": 3, "share": 0.15, "pieces": 2, "categories": ["door", "wall"]},
            {"source": "c", "licence": "CC0", "pixels": 3, "share": 0.15, "pieces": 1, "categories": ["wall"]},
        ],
        "pieces": pieces,
    }


@given(st.lists(st.tuples(st.sampled_from("abcdé"), st.integers(0, 50), st.sampled_from("xyz"))))
def test_no_pixel_is_lost_or_counted_twice(drawn: list[tuple[str, int, str]]) -> None:
    rows = by_source([piece(s, n, c) for s, n, c in drawn], 10_000)
    assert {row["source"] for row in rows} == {s for s, n, _ in drawn if n}
    assert sum(row["pixels"] for row in rows) == sum(n for _, n, _ in drawn)
    assert sum(row["pieces"] for row in rows) == sum(n > 0 for _, n, _ in drawn)
    assert [row["pixels"] for row in rows] == sorted((row["pixels"] for row in rows), reverse=True)
    for row in rows:
        assert set(row["categories"]) == {c for s, n, c in drawn if s == row["source"] and n}
