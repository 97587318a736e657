"""VIGOR as it is published: splits/CITY/*.txt, CITY/panorama and CITY/satellite. Three formats read it:

vigor            the same-area lists: panoramas of every city in train and in test
vigor-cross      the cross-area lists: train is New York and Seattle, test San Francisco and Chicago
vigor_centered   the same-area lists with, of each panorama's tile, the square whose middle is the panorama's place;
                 it is no VIGOR-GEN, whose tiles were fetched anew

A line of a list is a panorama and four times (tile, offset, offset): the positive tile, then three that show the
place near their border. Of `vigor` and `vigor-cross` the gallery of test is every tile of its cities, so the tiles that
are no positive are records with an aerial view alone. The group of a panorama is its positive tile; the published
same-area lists divide such groups between train and test.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipelines.data.listing import Fault, ListedDataset, read_list
from pipelines.data.pairs import AERIAL, GROUND, Listed, lies_within, paired_dataset
from pipelines.data.scene import SceneRecord, View
from pipelines.errors import DataError

Area = Literal["same", "cross"]

CITIES = ("Chicago", "NewYork", "SanFrancisco", "Seattle")
_LISTS: dict[Area, dict[str, tuple[str, tuple[str, ...]]]] = {
    "same": {
        "train": ("same_area_balanced_train.txt", CITIES),
        "test": ("same_area_balanced_test.txt", CITIES),
    },
    "cross": {
        "train": ("pano_label_balanced.txt", ("NewYork", "Seattle")),
        "test": ("pano_label_balanced.txt", ("SanFrancisco", "Chicago")),
    },
}
"""The list of each split, and the cities that it is of."""
_GALLERY = "satellite_list.txt"
SAME_AREA = ("vigor", "vigor_centered")
"""The formats whose published lists divide groups between train and test."""

TILE = 640
"""Pixels of a tile's side, in which the offsets are given."""
SIDE = 0.5
"""Side of a centered square in parts of the tile's. A positive tile has its panorama in its middle quarter, so the
square of half its side, about 36 m, stays in the tile."""
MAX_RESIDUAL = 0.25
"""The share of the offsets' size that the positions in the file names may leave unexplained."""
MAX_APART = TILE / 10
"""Pixels by which the offset of one panorama may differ from what its file names say."""


@dataclass(frozen=True)
class Label:
    """One line of a list: a panorama, its four tiles, the positive first, and its offset in that tile as written."""

    city: str
    split: str
    file: Path
    line: int
    panorama: str
    tiles: tuple[str, ...]
    offset: tuple[float, float]

    @property
    def id(self) -> str:
        return f"{self.city}/{Path(self.panorama).stem}"

    @property
    def aerial_ids(self) -> list[str]:
        return [_aerial_id(self.city, tile) for tile in self.tiles]


def recognizes_vigor(root: Path) -> bool:
    return any((root / "splits" / city / _GALLERY).is_file() for city in CITIES)


def open_vigor(root: Path, area: Area = "same") -> ListedDataset:
    """List the panoramas of an area, and the other tiles of the gallery of its test.

    Raises DataError for a line that cannot be understood, or no panorama. A tile that its city's list lacks is the
    fault of its panorama.
    """
    labels, galleries, faults = _read_lists(root, area)
    known = {city: set(tiles) for city, tiles in galleries.items()}
    listed = []
    for label in labels:
        unlisted = next((tile for tile in label.tiles if tile not in known[label.city]), None)
        fault = f"the tile {unlisted!r} is not in {_GALLERY}" if unlisted else ""
        listed.append(Listed(_paired(root, label), label.file, f"line {label.line}", fault))
    positives = {label.aerial_ids[0] for label in labels if label.split == "test"}
    for city in _LISTS[area]["test"][1]:
        for line, tile in enumerate(galleries.get(city, ()), start=1):
            if (name := _aerial_id(city, tile)) not in positives:
                view = View(root / city / "satellite" / tile)
                record = _record(name, city, "test", name, {AERIAL: view}, {"aerial_id": name})
                listed.append(Listed(record, root / "splits" / city / _GALLERY, f"line {line}"))
    return paired_dataset("vigor" if area == "same" else "vigor-cross", root, listed, root / "splits", faults)


def open_vigor_centered(root: Path) -> ListedDataset:
    """List the panoramas of the same-area lists, each with a square of its positive tile that it is the middle of.

    What the two offsets of a line mean is not published. Of the eight readings (which of them points along the rows,
    and the sign of each) the one is taken that the positions in the file names confirm. Raises DataError where none
    or several do. A panorama whose offset differs from its names, or whose square would leave the tile, is left out
    with a warning.
    """
    labels, _, faults = _read_lists(root, "same")
    directions = np.array([_direction(label) for label in labels]).reshape(-1, 2)
    offsets = np.array([label.offset for label in labels]).reshape(-1, 2)
    listed = []
    if labels:
        reading = find_reading(offsets, directions, root / "splits")
        pixels = reading.pixels(offsets)
        apart = np.linalg.norm(pixels - reading.scale * directions, axis=1)
        for label, (right, down), far in zip(labels, pixels / TILE, apart, strict=True):
            corner = 0.5 + right - SIDE / 2, 0.5 + down - SIDE / 2
            if far > MAX_APART:
                why = f"its offset is {far:.0f} pixels from where the file names place it"
            elif min(corner) < 0 or max(corner) + SIDE > 1:
                why = "the square around it would leave its tile"
            else:
                record = _paired(root, label, (*corner, corner[0] + SIDE, corner[1] + SIDE))
                listed.append(Listed(record, label.file, f"line {label.line}"))
                continue
            faults.append(Fault(_panorama(root, label), f"{why}; the panorama is left out", "warning"))
    return paired_dataset("vigor_centered", root, listed, root / "splits", faults)


@dataclass(frozen=True)
class Reading:
    """How offsets are read. order: which of the two points right and which down; signs: of those two; scale: pixels
    per unit of the directions; residual: share of the offsets' size that the directions do not explain."""

    order: tuple[int, ...]
    signs: tuple[int, ...]
    scale: float
    residual: float

    def pixels(self, offsets: np.ndarray) -> np.ndarray:
        """(n, 2) pixels from the tile's middle, right and down, of offsets (n, 2) as written."""
        return offsets[:, self.order] * np.array(self.signs)

    def __str__(self) -> str:
        names = [("first", "second")[which] for which in self.order]
        right, down = (f"{'-' if sign < 0 else '+'}{name}" for name, sign in zip(names, self.signs, strict=True))
        return f"right = {right}, down = {down}"


def find_reading(offsets: np.ndarray, directions: np.ndarray, where: Path) -> Reading:
    """The reading of offsets (n, 2) that agrees with the directions (n, 2) from tile to panorama, right and down.

    The scale is fitted by least squares. Raises DataError with what was found where no reading agrees, or several.
    """
    size = math.sqrt(float((offsets**2).sum()))
    squares = float((directions**2).sum())
    readings = []
    for order, signs in product(((0, 1), (1, 0)), product((1, -1), repeat=2)):
        pixels = offsets[:, order] * np.array(signs)
        scale = max(0.0, float((pixels * directions).sum()) / squares) if squares else 0.0
        residual = math.sqrt(float(((pixels - scale * directions) ** 2).sum())) / size if size else float(squares > 0)
        readings.append(Reading(order, signs, scale, residual))
    best, second = sorted(readings, key=lambda reading: reading.residual)[:2]
    if size == squares == 0:
        return best  # every panorama is in the middle of its tile
    if best.residual > MAX_RESIDUAL or best.residual > second.residual / 2 or second.residual < 1e-6:
        raise DataError(
            f"the offsets of {len(offsets)} panoramas contradict the positions in the file names: {best} leaves "
            f"{best.residual:.0%} of them unexplained, {second} {second.residual:.0%}",
            where=where,
            fix=f"one reading must leave less than {MAX_RESIDUAL:.0%} and half of any other; use --format vigor",
        )
    return best


def _direction(label: Label) -> tuple[float, float]:
    """From the middle of the positive tile to the panorama, right and down, in degrees of longitude.

    On the map's projection (Mercator) a degree of latitude is 1 / cos(latitude) of that. Raises DataError for names
    that have no position.
    """
    try:
        latitude, longitude = (float(text) for text in label.panorama.split(",")[-3:-1])
        tile_latitude, tile_longitude = (float(text) for text in Path(label.tiles[0]).stem.split("_")[-2:])
    except ValueError as error:
        raise DataError(
            f"no positions in the names {label.panorama!r} and {label.tiles[0]!r}",
            where=f"{label.file}, line {label.line}",
            fix="keep the names PREFIX,LAT,LON,.jpg and satellite_LAT_LON.png",
        ) from error
    return longitude - tile_longitude, (tile_latitude - latitude) / math.cos(math.radians(tile_latitude))


def _paired(root: Path, label: Label, square: tuple[float, float, float, float] | None = None) -> SceneRecord:
    """The record of a panorama and its positive tile, or the square of that, which no other panorama shares."""
    tile, *semi = label.aerial_ids
    aerial = View(root / label.city / "satellite" / label.tiles[0])
    extra: dict[str, Any] = {"aerial_id": tile, "semi": semi}
    if square is not None:
        aerial, extra = View(aerial.path, square), {"aerial_id": label.id, "tile": tile}
    views = {AERIAL: aerial, GROUND: View(_panorama(root, label))}
    return _record(label.id, label.city, label.split, tile, views, {**extra, "street_kind": "panorama"})


def _record(name: str, city: str, split: str, group: str, views: dict[str, View], extra: dict[str, Any]) -> SceneRecord:
    extra = {**extra, "city": city}
    return SceneRecord(name, split, None, group=group, domain="vigor", views=views, extra=extra)


def _panorama(root: Path, label: Label) -> Path:
    return root / label.city / "panorama" / label.panorama


def _aerial_id(city: str, tile: str) -> str:
    return f"{city}/{Path(tile).stem}"


def _read_lists(root: Path, area: Area) -> tuple[list[Label], dict[str, list[str]], list[Fault]]:
    """The labels of an area, the tiles of each of its cities, and a warning for each city that is not there."""
    galleries: dict[str, list[str]] = {}
    labels: list[Label] = []
    faults: list[Fault] = []
    for split, (name, cities) in _LISTS[area].items():
        for city in cities:
            folder = root / "splits" / city
            if (folder / _GALLERY).is_file():
                galleries[city] = galleries.get(city) or _tiles(folder / _GALLERY)
                labels += _read_labels(folder / name, city, split)
            elif not any(fault.file == folder for fault in faults):
                faults.append(Fault(folder, f"the city has no {_GALLERY} and is left out", "warning"))
    return labels, galleries, faults


def _tiles(path: Path) -> list[str]:
    tiles = read_list(path)
    if strange := [name for name in tiles if not _is_name(name)]:
        raise DataError(f"the tile {strange[0]!r} is no file name", where=path)
    return tiles


def _read_labels(path: Path, city: str, split: str) -> Iterator[Label]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the list cannot be read ({error})", where=path) from error
    for number, line in enumerate(lines, start=1):
        if words := line.split():
            yield _label(words, city, split, path, number)


def _label(words: Sequence[str], city: str, split: str, path: Path, number: int) -> Label:
    where = f"{path}, line {number}"
    if len(words) != 13:
        raise DataError(
            f"the line has {len(words)} words", where=where, fix="13: a panorama and 4 times tile, offset, offset"
        )
    panorama, tiles = words[0], tuple(words[1::3])
    if strange := [name for name in (panorama, *tiles) if not _is_name(name)]:
        raise DataError(f"{strange[0]!r} is no file name", where=where)
    try:
        first, second = float(words[2]), float(words[3])
        finite = all(math.isfinite(float(word)) for place in (2, 3) for word in words[place::3])
    except ValueError as error:
        raise DataError(f"an offset is no number ({error})", where=where) from error
    if not finite:
        raise DataError("an offset is not finite", where=where)
    return Label(city, split, path, number, panorama, tiles, (first, second))


def _is_name(name: str) -> bool:
    return lies_within(name) and "/" not in name
