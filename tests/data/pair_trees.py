"""Small datasets of aerial and street pictures that tests write, in the layouts of their publishers."""

from __future__ import annotations

import csv
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import savemat

from .trees import photo, write_picture

AERIAL, STREET = (24, 24), (16, 48)
"""Heights and widths of the pictures."""


def write_pairs(root: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> Path:
    """pairs.csv of these rows, and a picture for every file that they name which lies inside and is not there."""
    root.mkdir(parents=True, exist_ok=True)
    header = list(columns or dict.fromkeys(name for row in rows for name in row))
    with (root / "pairs.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, header, restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    for row in rows:
        for column, (height, width) in (("aerial", AERIAL), ("street", STREET)):
            name = str(row.get(column, ""))
            if name and ".." not in name and not name.startswith("/") and not (root / name).exists():
                write_picture(root / name, photo(seed_of(name), height, width))
    return root


def pair(name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "aerial": f"aerial/{name}.png", "street": f"street/{name}.png", **more}


def seed_of(name: str) -> int:
    return zlib.crc32(name.encode())


def write_cvusa(root: Path, lists: Mapping[str, Sequence[str]], annotated: bool = True) -> Path:
    """The two split files, of these stems, and all pictures."""
    (root / "splits").mkdir(parents=True)
    for split, stems in lists.items():
        lines = []
        for stem in stems:
            names = [f"bingmap/19/{stem}.jpg", f"streetview/panos/{stem}.jpg"]
            write_picture(root / names[0], photo(seed_of(stem), *AERIAL))
            write_picture(root / names[1], photo(seed_of(stem) + 1, *STREET))
            lines.append(",".join([*names, *([f"streetview/annotations/{stem}.png"] if annotated else [])]))
        (root / "splits" / f"{split}-19zl.csv").write_text("".join(f"{line}\n" for line in lines))
    return root


def write_cvact(
    root: Path, ids: Any, train: Sequence[float], val: Sequence[float], missing: Sequence[str] = ()
) -> Path:
    """ACT_data.mat of these ids and places from 1, and the pictures of all ids but the missing ones.

    A panorama is of one gray in its middle half and red above and below.
    """
    root.mkdir(parents=True, exist_ok=True)
    column = {"trainSet": ("trainInd", train), "valSet": ("valInd", val)}
    lists = {name: {field: np.array(values, float).reshape(-1, 1)} for name, (field, values) in column.items()}
    savemat(root / "ACT_data.mat", {"panoIds": ids, "utm": np.zeros((3, 2)), **lists})
    for name in (str(name) for name in np.ravel(np.array(ids, dtype=object))):
        if name not in missing:
            red = np.zeros((32, 64, 3), np.uint8)
            red[..., 0] = 128 + seed_of(name) % 127
            red[8:24] = seed_of(name) % 120
            write_picture(root / "streetview" / f"{name}_grdView.png", red)
            write_picture(root / "satview_polish" / f"{name}_satView_polish.jpg", photo(seed_of(name), *AERIAL))
    return root


class Tile:
    """A tile of VIGOR: a city, the position of its middle, and its file name."""

    def __init__(self, city: str, latitude: float, longitude: float) -> None:
        self.city, self.latitude, self.longitude = city, latitude, longitude
        self.name = f"satellite_{latitude:.9f}_{longitude:.9f}.png"
        self.id = f"{city}/{self.name[:-4]}"

    def panorama(self, name: str, right: float, down: float) -> str:
        """The file name of a panorama so many of the tile's 640 pixels from its middle.

        By meters on the ground: a tile of zoom 20 has 156543.03 cos(latitude) / 2**20 meters in a pixel, and a degree
        of latitude 111,319.5 meters.
        """
        meters = 156_543.03392 * math.cos(math.radians(self.latitude)) / 2**20
        latitude = self.latitude - down * meters / 111_319.49
        longitude = self.longitude + right * meters / (111_319.49 * math.cos(math.radians(self.latitude)))
        return f"{name},{latitude:.9f},{longitude:.9f},.jpg"


def tiles(city: str, count: int, latitude: float = 40.7, longitude: float = -74.0) -> list[Tile]:
    return [Tile(city, latitude + k / 1000, longitude + k % 3 / 1000) for k in range(count)]


def write_vigor(
    root: Path, galleries: Mapping[str, Sequence[Tile]], lists: Mapping[str, Mapping[str, Sequence[str]]]
) -> Path:
    """splits/CITY with the tiles and, by file name, the lines of each list; and all pictures."""
    for city, there in galleries.items():
        folder = root / "splits" / city
        folder.mkdir(parents=True)
        (folder / "satellite_list.txt").write_text("".join(f"{tile.name}\n" for tile in there))
        for tile in there:
            write_picture(root / city / "satellite" / tile.name, photo(seed_of(tile.name), 64, 64))
        for name, lines in lists[city].items():
            (folder / name).write_text("".join(f"{line}\n" for line in lines))
            for line in lines:
                panorama = line.split(" ")[0]
                write_picture(root / city / "panorama" / panorama, photo(seed_of(panorama), *STREET))
    return root


def label(panorama: str, there: Sequence[Tile], first: float = 0.0, second: float = 0.0) -> str:
    """A line: the panorama, its positive tile with its offsets, and three semi-positive tiles."""
    rest = " ".join(f"{tile.name} -200.5 210.25" for tile in there[1:4])
    return f"{panorama} {there[0].name} {first} {second} {rest}"
