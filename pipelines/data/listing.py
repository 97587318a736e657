"""What the readers share: a dataset as a list of records, files matched by stem, and sidecars read with care."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipelines.data.pixels import IMAGE_SUFFIXES, read_image, require_same_size, size_text
from pipelines.data.scene import Scene, SceneRecord, Schema, View
from pipelines.errors import ConfigError, DataError


@dataclass(frozen=True)
class Fault:
    """What is wrong with a file of a dataset; a warning leaves the dataset usable."""

    file: Path
    reason: str
    kind: Literal["error", "warning"] = "error"


Layers = tuple[np.ndarray | None, np.ndarray | None]
"""Class indices (h, w) int16 and instances (h, w) int32 of a scene, None where it has none."""


@dataclass(frozen=True)
class ListedDataset:
    """A Dataset whose records were listed when it was opened; `decode` reads a record's labels and instances.

    faults: what is wrong with files that belong to no single scene. A fault of one scene is in its record's
    extra["fault"] as (file, reason), and `read` raises it; extra["size"] is (height, width) as its annotations say.
    notes: what the reader decided that the files do not say.
    """

    format: str
    root: Path
    schema: Schema
    listed: tuple[SceneRecord, ...]
    decode: Callable[[SceneRecord], Layers]
    faults: tuple[Fault, ...] = ()
    notes: tuple[str, ...] = ()

    def splits(self) -> list[str]:
        return sorted({record.split for record in self.listed})

    def records(self, split: str | None = None) -> Sequence[SceneRecord]:
        """Records sorted by id: all, those of a split, or those of a list of scene ids, given as a path ending in .txt.

        Raises ConfigError for a split that is not there, DataError for a listed scene that is not.
        """
        if split is None:
            return self.listed
        if split.endswith(".txt"):
            return self._listed_in(Path(split))
        chosen = tuple(record for record in self.listed if record.split == split)
        if not chosen:
            there = ", ".join(self.splits()) or "none"
            raise ConfigError(f"there is no split {split!r}", where=self.root, fix=f"splits here: {there}")
        return chosen

    def read(self, record: SceneRecord) -> Scene:
        """Decode and validate one scene. Raises DataError naming the file that is wrong."""
        if "fault" in record.extra:
            file, reason = record.extra["fault"]
            raise DataError(reason, where=file)
        for path in (record.image, record.labels, record.instances):
            if path is not None:
                require_inside(self.root, path)
        views = {name: self.read_view(record, name) for name in record.views}
        image = None if record.image is None else read_image(record.image)
        labels, instances = self.decode(record)
        if instances is not None and labels is not None:
            require_same_size(instances, record.instances, "instance map", labels, "label map")
        if labels is not None and image is not None:
            require_same_size(labels, record.labels or record.image, "label map", image, "image")
        pixels = image if image is not None else labels
        if pixels is not None and record.extra.get("size", pixels.shape[:2]) != pixels.shape[:2]:
            height, width = record.extra["size"]
            raise DataError(
                f"the annotations say {width}x{height} but the picture is {size_text(pixels)}",
                where=record.image or record.labels,
                fix="use the pictures that the annotations were made for",
            )
        return Scene(record, image, labels, instances, views)

    def read_view(self, record: SceneRecord, name: str) -> np.ndarray:
        """(h, w, 3) uint8 RGB: one view of a place, without decoding the others. DataError where it has no such."""
        if "fault" in record.extra:
            file, reason = record.extra["fault"]
            raise DataError(reason, where=file)
        if name not in record.views:
            there = ", ".join(record.views) or "none"
            raise DataError(f"the scene {record.id} has no {name} view", where=self.root, fix=f"its views: {there}")
        require_inside(self.root, record.views[name].path)
        return decode_view(record.views[name])

    @cached_property
    def _ids(self) -> list[str]:
        return [record.id for record in self.listed]

    def _listed_in(self, path: Path) -> tuple[SceneRecord, ...]:
        chosen = []
        for scene in sorted(read_list(path)):
            place = bisect_left(self._ids, scene)
            if place == len(self._ids) or self._ids[place] != scene:
                raise DataError(f"the list names the scene {scene!r}, which {self.root} lacks", where=path)
            chosen.append(self.listed[place])
        return tuple(chosen)


def decode_view(view: View) -> np.ndarray:
    """(h, w, 3) uint8 RGB: the part of its picture that a view is. Raises DataError where nothing is left of it."""
    picture = read_image(view.path)
    h, w = picture.shape[:2]
    x0, y0, x1, y1 = (round(part * side) for part, side in zip(view.box, (w, h, w, h), strict=True))
    if x1 <= x0 or y1 <= y0:
        raise DataError(f"nothing is left of a view of a picture of {size_text(picture)}", where=view.path)
    return np.ascontiguousarray(picture[y0:y1, x0:x1])


def by_id(records: Iterable[SceneRecord]) -> tuple[SceneRecord, ...]:
    return tuple(sorted(records, key=lambda record: record.id))


def pictures(folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> tuple[dict[str, list[Path]], list[Fault]]:
    """The pictures of a folder by stem (several where stems repeat), and a warning for every other file in it.

    Hidden files are passed over; a folder that does not exist is empty.
    """
    found: dict[str, list[Path]] = {}
    strays = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith("."):
            continue
        if path.suffix.lower() in suffixes:
            found.setdefault(path.stem, []).append(path)
        else:
            strays.append(Fault(path, f"the file is no {' or '.join(suffixes)} and is not read", "warning"))
    return found, strays


def partner(found: dict[str, list[Path]], stem: str, expected: Path) -> tuple[Path, tuple[Path, str] | None]:
    """The one picture of this stem, else the path where it is expected; and a fault where the stem repeats."""
    paths = found.get(stem, [])
    if len(paths) > 1:
        names = " and ".join(path.name for path in paths)
        return paths[0], (paths[1], f"the stem {stem!r} repeats: {names}")
    return (paths[0] if paths else expected), None


def inside(folder: Path, name: str, sidecar: Path) -> Path:
    """The file that a sidecar names, which must stay in the folder: no absolute path, no .., no link that leads out.

    The folder itself may be a link. Raises DataError naming the sidecar.
    """
    path = folder / name
    plain = Path(name).name == name != ".." and "\0" not in name
    if not (plain and not path.is_symlink()) and ("\0" in name or not _resolves_inside(path, folder)):
        raise DataError(
            f"it names the file {name!r}, which lies outside {folder}", where=sidecar, fix="name files within"
        )
    return path


def require_inside(root: Path, path: Path) -> None:
    """Raise DataError for a picture that is a link out of the dataset; the folder that it is in may be one."""
    if path.is_symlink() and not (_resolves_inside(path, root) or _resolves_inside(path, path.parent)):
        raise DataError(
            "the link leads out of the dataset", where=path, fix="put a copy of the picture here, or link its folder"
        )


def _resolves_inside(path: Path, folder: Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links in a circle
        return False


def read_json(path: Path) -> Any:
    """Parse a JSON sidecar. Raises DataError naming the line of a syntax error."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"the file cannot be read ({error.strerror})", where=path) from error
    except json.JSONDecodeError as error:
        raise DataError(f"no valid JSON: {error.msg}", where=f"{path}, line {error.lineno}") from error
    except (ValueError, RecursionError) as error:  # no UTF-8, a number of thousands of digits, deep nesting
        raise DataError(f"no valid JSON: {error}", where=path) from error


def read_list(path: Path) -> list[str]:
    """The lines of a list of scenes, without empty ones. Raises DataError on repeats and unreadable files."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the list cannot be read ({error})", where=path) from error
    names = [line for line in lines if line]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"the list names {twice!r} twice", where=path)
    return names


def box_of(value: Any) -> tuple[float, float, float, float]:
    """Four finite numbers x, y, w, h with w, h >= 0. Raises ValueError otherwise."""
    x, y, w, h = (float(v) for v in value)
    if not all(map(isfinite, (x, y, w, h))) or w < 0 or h < 0:
        raise ValueError(f"{value} is no box x, y, w, h")
    return x, y, w, h
