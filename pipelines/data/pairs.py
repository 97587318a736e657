"""Pairs of an aerial and a street picture of one place: the format `pairs`, a table of files, and what all formats of
pairs share.

pairs.csv has one header line and one line per pair. Needed: id, aerial, street (paths from the table's folder; without
a street picture the line is an aerial that only the gallery has). Known: split («train» where the column is missing),
source, group, aerial_id, semi (aerial ids that nearly match, separated by «;»), street_kind, x and y, heading
(radians), lat, lon and yaw (degrees), licence. Other columns are kept as text in the record's extra.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from posixpath import normpath
from typing import Any

from pipelines.data.listing import Fault, Layers, ListedDataset, by_id
from pipelines.data.scene import SceneRecord, Schema, View
from pipelines.errors import DataError

AERIAL, GROUND = "aerial", "ground"
"""The names of the two views of a place."""

TABLE = "pairs.csv"
NEEDED = ("id", "aerial", "street")
NUMBERS = ("lat", "lon", "yaw", "heading")
RESERVED = ("fault", "size")
"""Keys of a record's extra that mean something to every reader."""


@dataclass(frozen=True)
class Listed:
    """A record and where its list has it, «line 7»; fault: what is wrong there, "" for nothing."""

    record: SceneRecord
    file: Path
    place: str
    fault: str = ""

    def told(self) -> SceneRecord:
        """The record with the fault in it, as `ListedDataset` wants it."""
        if not self.fault:
            return self.record
        return replace(self.record, extra={**self.record.extra, "fault": (self.file, f"{self.place}: {self.fault}")})


def recognizes_pairs(root: Path) -> bool:
    return (root / TABLE).is_file()


def open_pairs(root: Path) -> ListedDataset:
    """List the pairs of pairs.csv. Pairs that share an aerial picture or a group are one group, the place.

    Raises DataError for a table that cannot be understood or has no pair; what is wrong with one line, and a picture
    that is listed twice, is the fault of its record.
    """
    table = root / TABLE
    rows = read_rows(table)
    _, header = next(rows, (0, []))
    _require_columns(header, table)
    listed = [_pair(root, table, line, dict(zip(header, row, strict=True)), "split" in header) for line, row in rows]
    return paired_dataset("pairs", root, _with_places(listed), table)


def paired_dataset(
    format: str, root: Path, listed: Sequence[Listed], source: Path, faults: Sequence[Fault] = ()
) -> ListedDataset:
    """The dataset of these records, in the order of their lists. A repeated pair is a fault of one of its records.

    source: what is named where there is no pair at all, which raises DataError.
    """
    if not any(GROUND in item.record.views for item in listed):
        first = f" ({len(faults)} left out, the first: {faults[0].file}: {faults[0].reason})" if faults else ""
        raise DataError(f"there is no pair{first}", where=source, fix="list an aerial and a street picture of a place")
    records = by_id(_without_repeats(listed))
    domains = tuple(sorted({record.domain for record in records if record.domain}))
    return ListedDataset(format, root, Schema((), domains=domains), records, _no_layers, tuple(faults))


def read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The lines of a CSV as (line number, stripped cells), without empty lines; all must be as long as the first.

    UTF-8 with or without a byte order mark, any line endings. Raises DataError naming the line.
    """
    reader = None
    width = 0
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            for cells in reader:
                if not any(cells):
                    continue
                width = width or len(cells)
                if len(cells) != width:
                    raise DataError(
                        f"the line has {len(cells)} cells, the first line {width}",
                        where=f"{path}, line {reader.line_num}",
                        fix="give every line the same cells; quote a cell that holds a comma",
                    )
                yield reader.line_num, [cell.strip() for cell in cells]
    except UnicodeDecodeError as error:
        raise DataError(f"the table is not UTF-8 ({error.reason})", where=path, fix="save it as UTF-8") from error
    except csv.Error as error:
        line = reader.line_num if reader else 1
        raise DataError(f"the table cannot be read ({error})", where=f"{path}, line {line}") from error
    except OSError as error:
        raise DataError(f"the table cannot be read ({error.strerror})", where=path) from error


def aerial_id(record: SceneRecord) -> str:
    """The name of the aerial picture of a record, several street pictures of which may be listed; else the record's."""
    return str(record.extra.get("aerial_id", record.id))


def lies_within(name: str) -> bool:
    """Does a relative path stay in its folder, by its words alone? Links are followed, and judged, where it is read."""
    return bool(name) and "\0" not in name and not name.startswith("/") and ".." not in name.split("/")


def _require_columns(header: Sequence[str], table: Path) -> None:
    if not header:
        raise DataError("the table is empty", where=table, fix=f"begin it with the line {','.join(NEEDED)}")
    if missing := [name for name in NEEDED if name not in header]:
        there = ", ".join(header)
        raise DataError(
            f"the columns {', '.join(missing)} are missing", where=table, fix=f"name them in the first line: {there}"
        )
    if twice := [name for number, name in enumerate(header) if name in header[:number]]:
        raise DataError(f"two columns have the name {twice[0]!r}", where=table, fix="give each its own")
    if taken := [name for name in RESERVED if name in header]:
        raise DataError(f"no column may be called {taken[0]!r}", where=table, fix="give it another name")


def _pair(root: Path, table: Path, line: int, row: dict[str, str], has_splits: bool) -> Listed:
    """The record of one line, all but its group. A line that is wrong has both views, so that none takes it for a
    lone aerial, but names no picture: reading it tells the fault."""
    if not row["id"]:
        raise DataError("the line has no id", where=f"{table}, line {line}")
    fault = ""
    views = {AERIAL: View(table), GROUND: View(table)}
    extra: dict[str, Any] = {"aerial_id": row.get("aerial_id") or normpath(row["aerial"])}
    try:
        if has_splits and not row["split"]:
            raise ValueError("the split is empty")
        extra |= _extra(row)
        views = _views(root, row)
    except ValueError as error:
        fault = str(error)
    record = SceneRecord(
        id=row["id"],
        split=row.get("split") or "train",
        image=None,
        group=row.get("group", ""),
        domain=row.get("source", ""),
        licence=row.get("licence") or row.get("license") or "",
        views=views,
        extra=extra,
    )
    return Listed(record, table, f"line {line}", fault)


def _views(root: Path, row: dict[str, str]) -> dict[str, View]:
    """The views that a line names. Raises ValueError for a path out of the dataset."""
    if not row["aerial"]:
        raise ValueError("there is no aerial picture")
    views = {}
    for view, column in ((AERIAL, "aerial"), (GROUND, "street")):
        name = row[column]
        if name and not lies_within(name):
            raise ValueError(f"the {column} picture {name!r} lies outside the dataset")
        if name:
            views[view] = View(root / name)
    return views


def _extra(row: dict[str, str]) -> dict[str, Any]:
    """What else a line tells, cells that are not empty. Raises ValueError for a number that is none."""
    known = {*NEEDED, *NUMBERS, "split", "group", "source", "licence", "license", "x", "y", "semi", "aerial_id"}
    extra: dict[str, Any] = {name: cell for name, cell in row.items() if cell and name not in known}
    if row.get("semi"):
        extra["semi"] = [name.strip() for name in row["semi"].split(";") if name.strip()]
    extra |= {name: _number(name, row[name]) for name in NUMBERS if row.get(name)}
    if row.get("x") or row.get("y"):
        extra["position"] = [_number(name, row.get(name, "")) for name in ("x", "y")]
    return extra


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not isfinite(value):
        raise ValueError(f"{name} is {text!r}, no number")
    return value


@dataclass
class _Places:
    """Groups that turn out to be one are joined: a forest of names, each pointing to one nearer to its root."""

    parent: dict[str, str] = field(default_factory=dict)

    def root(self, name: str) -> str:
        while (above := self.parent.setdefault(name, name)) != name:
            self.parent[name] = name = self.parent[above]
        return name

    def join(self, one: str, other: str) -> None:
        first, second = sorted((self.root(one), self.root(other)))
        self.parent[second] = first


def _with_places(listed: Sequence[Listed]) -> list[Listed]:
    """The records with their place as group: that of the table, else of the aerial picture, joined where both differ.

    An aerial picture of two groups, or of two aerial ids, is the fault of the later line.
    """
    places = _Places()
    faults: dict[int, str] = {}
    group_of: dict[str, str] = {}
    file_of: dict[str, Path] = {}
    id_of: dict[Path, str] = {}
    for number, (record, fault) in enumerate((item.record, item.fault) for item in listed):
        if fault:
            continue
        aerial, path = record.extra["aerial_id"], record.views[AERIAL].path
        group = record.group or group_of.get(aerial, aerial)
        if file_of.setdefault(aerial, path) != path:
            faults[number] = f"the aerial id {aerial!r} is that of another picture, {file_of[aerial].name}"
        elif id_of.setdefault(path, aerial) != aerial:
            faults[number] = f"the aerial picture {path.name} has another aerial id, {id_of[path]!r}"
        elif group_of.setdefault(aerial, group) != group:
            faults[number] = f"the aerial picture {path.name} is in another group, {group_of[aerial]!r}"
        places.join(group, group_of.setdefault(aerial, group))
        places.join(group, group_of[id_of.setdefault(path, aerial)])
    placed = []
    for number, item in enumerate(listed):
        aerial = item.record.extra["aerial_id"]
        group = places.root(item.record.group or group_of.get(aerial, aerial))
        record = item.record if item.record.group == group else replace(item.record, group=group)
        placed.append(Listed(record, item.file, item.place, faults.get(number, item.fault)))
    return placed


def _without_repeats(listed: Iterable[Listed]) -> Iterator[SceneRecord]:
    """The records, each id once; faults are put into them, and so is that an id or a street picture repeats."""
    first: dict[str, Listed] = {}
    repeated: dict[str, Listed] = {}
    owner: dict[Path, str] = {}
    for item in listed:
        name, fault = item.record.id, item.fault
        if name in first:
            repeated.setdefault(name, item)
            continue
        ground = item.record.views.get(GROUND)
        if ground is not None and (other := owner.setdefault(ground.path, name)) != name:
            fault = fault or f"the street picture {ground.path.name} is also that of {other!r}"
        first[name] = replace(item, fault=fault) if fault else item
    for name, item in first.items():
        again = repeated.get(name)
        fault = f"the pair {name!r} is listed a second time"
        yield (replace(again, record=item.record, fault=fault) if again else item).told()


def _no_layers(record: SceneRecord) -> Layers:
    return None, None
