"""Bank: an ordered set of pieces with ids, pixels, masks, labels and provenance, read from an artifact.

Columns (one value per piece) are in memory; pixels and masks stay on disk. A piece is named by its row, or by its
id, which stays when other pieces come and go.
"""

from __future__ import annotations

import os
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipelines.artifact import Artifact, open_artifact
from pipelines.bank.shard import PARTS, BadScene, Source, decode_pixels, read_table
from pipelines.bank.storage import ArrayFile, checksum, damaged
from pipelines.data.scene import Schema
from pipelines.errors import ArtifactError

Exclusion = Literal["self", "source", "group"]
"""What may not be retrieved for a piece: itself, its image's pieces, or its group's, where the group is known."""

MAX_OPEN = 32
"""Shard files held open at once; the least recently read is closed."""

COLUMNS = {
    "ids": "id",
    "categories": "category",
    "things": "thing",
    "areas": "area",
    "boxes": "box",
    "sources": "source",
    "ordinals": "ordinal",
}


@dataclass(frozen=True, eq=False)
class ShardTable:
    """One shard without its blobs. columns: by the names of a Bank; `sources` counts within the shard."""

    path: Path
    sources: list[Source]
    bad: list[BadScene]
    columns: dict[str, np.ndarray]
    crc32: np.ndarray
    offsets: dict[str, np.ndarray]


def read_shard_table(path: Path) -> ShardTable:
    """Read and verify a shard's columns. Raises ArtifactError when it is missing or damaged."""
    with ArrayFile(path) as file:
        sources, bad = read_table(file.read("table"), path)
        columns = {name: file.read(stored) for name, stored in COLUMNS.items()}
        columns["things"] = columns["things"].astype(bool)
        offsets = {part: file.read(f"{part}_offset") for part in ("pixels", "mask")}
        return ShardTable(path, sources, bad, columns, file.read("crc32"), offsets)


def shard_paths(artifact: Artifact) -> list[Path]:
    """The shards of a bank, in the order of their numbers."""
    names = [str(file["path"]) for file in artifact.manifest["files"] if str(file["path"]).startswith("shards/")]
    return [artifact.path / name for name in sorted(names, key=lambda name: int(Path(name).stem))]


@dataclass(eq=False)
class Bank:
    """An open bank of n pieces.

    ids: (n,) uint64. categories: (n,) int32 class indices, -1 for none. things: (n,) bool. areas: (n,) int64 pixels of
    the mask. boxes: (n, 4) int32 (x, y, w, h) in the source. sources: (n,) int32 indices into `source_table`.
    ordinals: (n,) int32, which piece of its source. Rows are in the order of shards, then sources, then ordinals.
    Picklable and copyable; its files are opened anew in each process and by each copy, for one thread alone.
    """

    artifact: Artifact
    kind: str
    schema: Schema
    source_table: list[Source]
    ids: np.ndarray = field(repr=False)
    categories: np.ndarray = field(repr=False)
    things: np.ndarray = field(repr=False)
    areas: np.ndarray = field(repr=False)
    boxes: np.ndarray = field(repr=False)
    sources: np.ndarray = field(repr=False)
    ordinals: np.ndarray = field(repr=False)
    _shards: list[ShardTable] = field(repr=False)
    _first_rows: np.ndarray = field(repr=False)
    _files: OrderedDict[int, ArrayFile] = field(default_factory=OrderedDict, init=False, repr=False)
    _process: int = field(default=0, init=False, repr=False)

    @classmethod
    def open(cls, path: Path) -> Bank:
        """Open a bank. Raises ArtifactError when it is missing, unfinished, no bank, or damaged."""
        artifact = open_artifact(path, "bank")
        shards = [read_shard_table(shard) for shard in shard_paths(artifact)]
        first_sources = np.cumsum([0, *(len(shard.sources) for shard in shards)])
        columns = {name: np.concatenate([shard.columns[name] for shard in shards]) for name in COLUMNS}
        columns["sources"] = np.concatenate(
            [shard.columns["sources"] + np.int32(first) for shard, first in zip(shards, first_sources, strict=False)]
        )
        return cls(
            artifact=artifact,
            kind=str(artifact.statistics["kind"]),
            schema=Schema.from_json(artifact.statistics["schema"]),
            source_table=[source for shard in shards for source in shard.sources],
            **columns,
            _shards=shards,
            _first_rows=np.cumsum([0, *(len(shard.crc32) for shard in shards)]),
        )

    @property
    def path(self) -> Path:
        return self.artifact.path

    @property
    def digest(self) -> str:
        return self.artifact.digest

    @property
    def config(self) -> dict[str, Any]:
        """What it was built with: the fields of BuildBank."""
        return self.artifact.config

    @property
    def view(self) -> str | None:
        """Which view of a place its images are, «aerial» or «ground»; None in a bank of anything else."""
        view: str | None = self.config.get("view")
        return view

    def require_kind(self, kind: str, who: str) -> None:
        """Raises ArtifactError when it is of another kind than `who` needs."""
        if self.kind != kind:
            raise ArtifactError(f"this is a bank of {self.kind}, {who} needs one of {kind}", where=self.path)

    def __len__(self) -> int:
        return len(self.ids)

    def __getstate__(self) -> dict[str, Any]:
        state = {key: value for key, value in self.__dict__.items() if key != "_row_of_id"}
        return {**state, "_files": OrderedDict(), "_process": 0}

    def source_of(self, row: int) -> Source:
        """The image that a piece was cut from."""
        return self.source_table[self.sources[row]]

    def rows_of_source(self, source: str) -> np.ndarray:
        """(k,) int64 rows of an image's pieces in the order of their ordinals; none for an unknown image."""
        number = self._source_numbers.get(source)
        if number is None:
            return np.zeros(0, np.int64)
        return np.arange(*np.searchsorted(self.sources, [number, number + 1]))

    def row_of_id(self, piece: int) -> int:
        """The row of a piece. Raises ArtifactError when the bank has no such piece."""
        row = self._row_of_id.get(piece)
        if row is None:
            raise ArtifactError(f"the bank has no piece {piece:016x}", where=self.path)
        return row

    def crop(self, row: int) -> np.ndarray:
        """(h, w, 3) uint8 RGB of a piece's box, 0 outside its mask; a patch has the size that patches are stored at."""
        shard, image = self._at(row)[0], decode_pixels(self._part(row, "pixels"))
        h, w = self._stored_size(row)
        if image is None or image.shape != (h, w, 3):
            raise damaged(shard.path, f"the pixels of piece {self.ids[row]:016x} are no {h}x{w} image")
        if self.config["codec"] == "jpeg" and self.masked(row):  # it bleeds over the mask's edge
            image[~self.mask(row)] = 0
        return image

    def masked(self, row: int) -> bool:
        """Has a piece a mask of its own, or is it all of its box."""
        shard, _, local = self._at(row)
        start, stop = shard.offsets["mask"][local : local + 2].tolist()
        return bool(start < stop)

    def mask(self, row: int) -> np.ndarray:
        """(h, w) bool: which pixels of the crop belong to the piece."""
        h, w = self._stored_size(row)
        packed = self._part(row, "mask")
        if not len(packed):
            return np.ones((h, w), bool)
        return np.unpackbits(packed, count=h * w).reshape(h, w).astype(bool)

    def canonical(self, rows: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """(len(rows), 2048) uint8: bit-packed 128x128 masks of some rows in any order, or of all; (n, 0) of images."""
        wanted = np.arange(len(self)) if rows is None else np.asarray(rows, dtype=np.int64)
        numbers = np.searchsorted(self._first_rows, wanted, side="right") - 1
        packed: np.ndarray | None = None
        for number in np.unique(numbers):
            chosen = np.flatnonzero(numbers == number)
            shard, local = self._shards[number], wanted[chosen] - self._first_rows[number]
            low, high = int(local.min()), int(local.max()) + 1
            block = self._file(number).slice("canonical", low, high)[local - low]
            for k, row in enumerate(local):
                if zlib.crc32(block[k]) != shard.crc32[row, PARTS.index("canonical")]:
                    raise self._wrong_checksum("canonical", int(wanted[chosen[k]]))
            if packed is None:
                packed = np.empty((len(wanted), block.shape[1]), np.uint8)
            packed[chosen] = block
        return np.zeros((0, 2048), np.uint8) if packed is None else packed

    def exclusion_keys(self, by: Exclusion) -> np.ndarray:
        """(n,) int64: pieces with equal keys may not be retrieved for each other.

        «self»: every piece has its own. «source»: those of one image share one. «group»: those of one group share
        one; images whose group is unknown count as groups of their own.
        """
        if by == "self":
            return np.arange(len(self), dtype=np.int64)
        return self._source_keys(by)[self.sources]

    def exclusion_key(self, by: Literal["source", "group"], name: str) -> int:
        """The key of an image («source») or of a group, -1 when no piece of the bank has it.

        By group, the name of an image is good as well: it means the image's group.
        """
        keys = self._source_keys(by)
        if name in self._source_numbers:
            return int(keys[self._source_numbers[name]])
        if by == "group":
            return next((int(keys[k]) for k, s in enumerate(self.source_table) if s.group and s.group == name), -1)
        return -1

    def checksums(self) -> np.ndarray:
        """(n, 3) uint32: of each piece's stored pixels, mask and canonical mask. A piece that was cut anew from another
        picture keeps its id, not these."""
        return np.concatenate([shard.crc32 for shard in self._shards])

    def _source_keys(self, by: Exclusion) -> np.ndarray:
        """(number of sources,) int64: the number of the first source that shares the group, or its own."""
        if by == "source":
            return np.arange(len(self.source_table), dtype=np.int64)
        first: dict[str, int] = {}
        keys = [first.setdefault(s.group, k) if s.group else k for k, s in enumerate(self.source_table)]
        return np.array(keys, dtype=np.int64)

    @cached_property
    def _source_numbers(self) -> dict[str, int]:
        return {source.id: number for number, source in enumerate(self.source_table)}

    @cached_property
    def _row_of_id(self) -> dict[int, int]:
        return {piece: row for row, piece in enumerate(self.ids.tolist())}

    def _stored_size(self, row: int) -> tuple[int, int]:
        """Height and width of a piece's crop: those of its box, but in banks that store all pieces at one size."""
        patch = self.config.get("patch")
        w, h = (patch, patch) if patch is not None else self.boxes[row, 2:].tolist()
        return h, w

    def _at(self, row: int) -> tuple[ShardTable, int, int]:
        """The shard of a row, the shard's number, and the row within it."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of a bank of {len(self)}")
        number = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        return self._shards[number], number, int(row - self._first_rows[number])

    def _part(self, row: int, part: Literal["pixels", "mask"]) -> np.ndarray:
        """(bytes,) uint8 of a piece's pixels or mask, checked."""
        shard, number, local = self._at(row)
        start, stop = shard.offsets[part][local : local + 2].tolist()
        data = self._file(number).slice(part, start, stop)
        if checksum(data) != shard.crc32[local, PARTS.index(part)]:
            raise self._wrong_checksum(part, row)
        return data

    def _wrong_checksum(self, part: str, row: int) -> ArtifactError:
        where = f"the checksum of the {part} of piece {self.ids[row]:016x} ({self.source_of(row).id}) is wrong"
        return damaged(self._at(row)[0].path, where)

    def _file(self, number: int) -> ArrayFile:
        """The open file of a shard, opened by this very process."""
        if self._process != os.getpid():  # a handle does not survive a fork
            self._files, self._process = OrderedDict(), os.getpid()
        file = self._files.get(number)
        if file is None:
            if len(self._files) == MAX_OPEN:
                self._files.popitem(last=False)[1].close()
            file = self._files[number] = ArrayFile(self._shards[number].path)
        self._files.move_to_end(number)
        return file
