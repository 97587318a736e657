"""Pieces, and the shards that hold them on disk.

A shard holds the pieces of a run of sources, in order: encoded pixels and bit-packed masks each in one uint8 blob
with offsets, canonical masks bit-packed, one column per property, a CRC-32 for each part of each piece, and a table
of its sources in JSON. A shard says nothing of the bank it is in, so banks can share it. Patches and whole images
fit the same columns: category -1 where a piece has no class, an empty mask where it is its whole box, canonical
masks of width 0 where shapes are of no use.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from pipelines.artifact import write_atomic
from pipelines.bank.storage import checksum, damaged, encode_arrays, read_arrays
from pipelines.errors import ArtifactError, DataError

FORMAT = "rgs/shard@1"
PARTS = ("pixels", "mask", "canonical")
"""What the three columns of crc32 cover."""
COLUMNS = ("id", "source", "ordinal", "category", "thing", "area", "box", "crc32", "pixels_offset", "mask_offset")

Codec = Literal["png", "jpeg"]


@dataclass(frozen=True)
class Piece:
    """One piece of a source. box: (x, y, w, h) in pixels of the source. area: pixels of its mask.

    ordinal: which piece of its source. pixels: the encoded crop, black outside the mask. mask: packed bits of the
    box in row order, empty where it is all of it. canonical: packed bits of the mask at 128x128. category: class index,
    -1 for none.
    """

    ordinal: int
    category: int
    thing: bool
    area: int
    box: tuple[int, int, int, int]
    pixels: bytes
    mask: bytes
    canonical: bytes


@dataclass(frozen=True)
class Source:
    """An image that pieces were cut from. digest: see pipelines/data/digest.py. labeled: pixels that have a class.

    domain: which of the dataset's sources it comes from, "" where unknown and in banks of segments. graph: what scene
    graphs need beside the pieces, in banks of patches alone: «centres», (x, y) of each piece in parts of the picture,
    and «relations», annotated (subject, predicate, object) by ordinals; what is empty is left out.
    """

    id: str
    group: str
    licence: str
    height: int
    width: int
    labeled: int
    digest: str
    domain: str = ""
    graph: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def to_json(self) -> dict[str, Any]:
        """What a shard stores. Shards were written before there were domains and graphs: none is left out."""
        return {key: value for key, value in asdict(self).items() if key not in ("domain", "graph") or value}


@dataclass(frozen=True)
class BadScene:
    """A scene that could not be used, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Shard:
    """What one shard file holds: its sources, each with its pieces, and the scenes that could not be used."""

    sources: Sequence[tuple[Source, Sequence[Piece]]]
    bad: Sequence[BadScene] = ()


def piece_id(source: str, ordinal: int) -> int:
    """The id of a piece: 64 bits of the sha256 of its source and ordinal, stable when other pieces come and go."""
    return int.from_bytes(hashlib.sha256(f"{source}\0{ordinal}".encode()).digest()[:8], "little")


def encode_pixels(image: np.ndarray, codec: Codec) -> bytes:
    """(h, w, 3) uint8 RGB as PNG of level 1, or JPEG of quality 95."""
    suffix, *options = {
        "png": (".png", cv2.IMWRITE_PNG_COMPRESSION, 1),
        "jpeg": (".jpg", cv2.IMWRITE_JPEG_QUALITY, 95),
    }[codec]
    done, data = cv2.imencode(str(suffix), cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [int(o) for o in options])
    if not done:
        raise DataError(f"a crop of {image.shape[0]}x{image.shape[1]} pixels cannot be stored as {codec}")
    return data.tobytes()


def decode_pixels(data: np.ndarray | bytes) -> np.ndarray | None:
    """(h, w, 3) uint8 RGB, or None when the bytes are no image."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def write_shard(path: Path, shard: Shard) -> None:
    """Write a shard file, whole or not at all."""
    write_atomic(path, encode_shard(shard))


def encode_shard(shard: Shard) -> bytes:
    """The bytes of a shard's file; they depend on the shard alone."""
    rows = [(number, source, piece) for number, (source, pieces) in enumerate(shard.sources) for piece in pieces]
    pieces = [piece for _, _, piece in rows]
    table = {
        "format": FORMAT,
        "sources": [source.to_json() for source, _ in shard.sources],
        "bad": [asdict(bad) for bad in shard.bad],
    }
    width = len(pieces[0].canonical) if pieces else 0
    return encode_arrays(
        {
            "table": np.frombuffer(json.dumps(table, sort_keys=True, ensure_ascii=False).encode(), np.uint8),
            "id": np.array([piece_id(source.id, piece.ordinal) for _, source, piece in rows], np.uint64),
            "source": np.array([number for number, _, _ in rows], np.int32),
            "ordinal": np.array([piece.ordinal for piece in pieces], np.int32),
            "category": np.array([piece.category for piece in pieces], np.int32),
            "thing": np.array([piece.thing for piece in pieces], np.uint8),
            "area": np.array([piece.area for piece in pieces], np.int64),
            "box": np.array([piece.box for piece in pieces], np.int32).reshape(-1, 4),
            "crc32": np.array([[checksum(getattr(p, part)) for part in PARTS] for p in pieces], np.uint32).reshape(
                -1, len(PARTS)
            ),
            "pixels": _blob([piece.pixels for piece in pieces]),
            "pixels_offset": _offsets([piece.pixels for piece in pieces]),
            "mask": _blob([piece.mask for piece in pieces]),
            "mask_offset": _offsets([piece.mask for piece in pieces]),
            "canonical": _blob([piece.canonical for piece in pieces]).reshape(len(pieces), width),
        },
    )


def read_shard(path: Path) -> Shard:
    """A whole shard, every checksum verified. Raises ArtifactError when it is missing or damaged."""
    arrays = read_arrays(path, ("table", *COLUMNS, *PARTS))
    sources, bad = read_table(arrays["table"], path)
    pieces: list[list[Piece]] = [[] for _ in sources]
    for row, number in enumerate(arrays["source"].tolist()):
        parts = {part: _cut(arrays, part, row).tobytes() for part in ("pixels", "mask")}
        parts["canonical"] = arrays["canonical"][row].tobytes()
        for part, recorded in zip(PARTS, arrays["crc32"][row], strict=True):
            if checksum(parts[part]) != recorded:
                raise damaged(path, f"the checksum of the {part} of piece {row} is wrong")
        pieces[number].append(
            Piece(
                ordinal=int(arrays["ordinal"][row]),
                category=int(arrays["category"][row]),
                thing=bool(arrays["thing"][row]),
                area=int(arrays["area"][row]),
                box=tuple(arrays["box"][row].tolist()),
                **parts,
            )
        )
    return Shard(list(zip(sources, pieces, strict=True)), bad)


def read_table(table: np.ndarray, path: Path) -> tuple[list[Source], list[BadScene]]:
    """The sources and bad scenes of a shard. Raises ArtifactError when a newer rgs wrote it."""
    data: Mapping[str, Any] = json.loads(table.tobytes())
    if data["format"] != FORMAT:
        raise ArtifactError(f"this rgs reads {FORMAT}, the shard is {data['format']}", where=path, fix="upgrade rgs")
    return [Source(**source) for source in data["sources"]], [BadScene(**bad) for bad in data["bad"]]


def without_sources(shard: Shard, removed: Collection[str]) -> Shard:
    """The shard without the named sources."""
    return Shard(
        [(source, pieces) for source, pieces in shard.sources if source.id not in removed],
        [bad for bad in shard.bad if bad.id not in removed],
    )


def _cut(arrays: Mapping[str, np.ndarray], part: str, row: int) -> np.ndarray:
    offsets = arrays[f"{part}_offset"]
    return arrays[part][offsets[row] : offsets[row + 1]]


def _blob(parts: Sequence[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(parts), np.uint8)


def _offsets(parts: Sequence[bytes]) -> np.ndarray:
    return np.cumsum([0, *map(len, parts)], dtype=np.int64)
