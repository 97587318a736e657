"""Which piece fed which pixel: an index image, a record per piece, and per output a line of provenance.jsonl.

A line, as written by `output_record`:

    name        of the output: images/NAME.png; its index image is provenance/NAME.png
    size        [h, w] in pixels
    retrieval   how the pieces were found: «shape», «retrieved» (chosen by a network), «random», «none» (no guidance),
                «oracle» (not from the bank: the layout's own photo was the guidance, so there are no pieces)
    covered     share of the pixels that pieces of the bank fed; the rest had a blank guidance
    sources     what one needs for an attribution: the images of the bank that fed at least one pixel, most first, each
                with source, licence, pixels, share (of the output's pixels), pieces, categories
    pieces      every piece that was placed, in the order of their index: index (its value in the index image), segment,
                category, box ([x, y, w, h] of the segment in the layout), bank_row, id (stable), source, licence,
                rank and score (null where no index was searched), pixels (0 where other pieces hide it)

It tells what guided each output, exactly. What the generator's weights learned from is in the manifest of the run.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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
    Where no index was searched they are 0 and infinite.
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
                "index": k,
                "segment": i,
                "category": names[segment.category],
                "box": list(segment.box),
                "bank_row": origin.row,
                "id": origin.id,
                "source": origin.source,
                "licence": origin.licence,
                "rank": origin.rank or None,
                "score": origin.score if math.isfinite(origin.score) else None,
                "pixels": int(pixels[k]),
            }
        )
    return index, records


def output_record(name: str, retrieval: str, index: np.ndarray, pieces: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The line of provenance.jsonl of one output: its pieces, and their sources summed up (see the module)."""
    sources = by_source(pieces, index.size)
    return {
        "name": name,
        "size": list(index.shape),
        "retrieval": retrieval,
        "covered": share(sum(source["pixels"] for source in sources), index.size),
        "sources": sources,
        "pieces": list(pieces),
    }


def by_source(pieces: Iterable[Mapping[str, Any]], total: int) -> list[dict[str, Any]]:
    """The pieces that fed pixels, summed up by source, most pixels first. total: the pixels that shares are of."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for piece in pieces:
        if piece["pixels"]:
            groups.setdefault(piece["source"], []).append(piece)
    rows = []
    for source, group in groups.items():
        pixels = sum(piece["pixels"] for piece in group)
        rows.append(
            {
                "source": source,
                "licence": group[0]["licence"],
                "pixels": pixels,
                "share": share(pixels, total),
                "pieces": len(group),
                "categories": by_pixels((piece["category"], piece["pixels"]) for piece in group),
            }
        )
    return sorted(rows, key=lambda row: (-row["pixels"], row["source"]))


def by_pixels(counts: Iterable[tuple[str, int]]) -> list[str]:
    """Names, those with the most pixels first. counts: (name, pixels), a name as often as it likes."""
    totals: Counter[str] = Counter()
    for name, pixels in counts:
        totals[name] += pixels
    return sorted(totals, key=lambda name: (-totals[name], name))


def share(pixels: int, total: int) -> float:
    """A fraction in six digits, a millionth of an image being less than a pixel of most."""
    return round(pixels / total, 6)
