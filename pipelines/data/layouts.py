"""Layouts to synthesize from: label maps that a person or program drew, as ids or in the colors of the classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from pipelines.data.instances import decode_instances
from pipelines.data.listing import read_list
from pipelines.data.palette import IGNORED_COLOR
from pipelines.data.pixels import read_index_map, read_map, require_same_size
from pipelines.data.scene import IGNORED, Schema
from pipelines.errors import DataError


def read_layout(path: Path, schema: Schema) -> np.ndarray:
    """Read a layout PNG to class indices (h, w) int16, IGNORED for none.

    A gray PNG holds label ids. An RGB PNG holds colors of classes, exactly; where classes share a color the first of
    them is meant, and black is ignored unless it is a class's. A palette PNG may hold either, as long as only one of
    them fits or both mean the same. Raises DataError on a foreign id or color.
    """
    values, table = read_map(path)
    if values.ndim == 3:
        return _of_colors(values, schema, path)
    if table is None:
        return schema.indices(values, path)
    if values.max() >= len(table):
        raise DataError(f"the value {values.max()} is beyond the palette of {len(table)} colors", where=path)
    by_ids, no_ids = _attempt(lambda: schema.indices(values, path))
    by_colors, no_colors = _attempt(lambda: _of_colors(table[values], schema, path))
    if by_ids is None:
        if by_colors is not None:
            return by_colors
        raise DataError(
            f"the palette PNG holds neither label ids nor colors of the classes: {no_ids}; {no_colors}",
            where=path,
            fix="draw with the colors of `rgs data palette`",
        )
    if by_colors is not None and not np.array_equal(by_ids, by_colors):
        raise DataError(
            "the palette PNG means one layout by its values and another by its colors",
            where=path,
            fix="save it as RGB to mean the colors, as gray to mean label ids",
        )
    return by_ids


def read_instances(path: Path, labels: np.ndarray, schema: Schema, encoding: str) -> np.ndarray:
    """Read the instance map of a layout, in the encoding of `decode_instances`, to (h, w) int32 ids, 0 for none."""
    values = read_index_map(path)
    require_same_size(values, path, "instance map", labels, "layout")
    return decode_instances(values, labels, schema, encoding, path)


def list_layouts(
    inputs: str | Path | Iterable[str | Path], noun: str = "layout", suffixes: tuple[str, ...] = (".png",)
) -> list[Path]:
    """The layouts that are meant: a PNG, the PNGs of a folder by name, the paths in a .txt list or in an iterable.

    noun, suffixes: what they are called, and the files of a folder that are meant; for photos they are others.

    Listed paths keep their order and are relative to the working directory, as in a shell; empty lines are passed over.
    Raises DataError where nothing is found, a file is missing, or two have one stem, by which results are named.
    """
    if isinstance(inputs, str):
        inputs = Path(inputs)
    where = f"the list of {noun}s"
    if not isinstance(inputs, Path):
        paths = [Path(line) for line in (str(item).strip() for item in inputs) if line]
    else:
        where = str(inputs)
        if inputs.is_dir():
            paths = sorted(p for p in inputs.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith("."))
        elif inputs.suffix.lower() == ".txt":
            paths = [Path(line) for line in read_list(inputs)]
        else:
            paths = [inputs]
    if not paths:
        kinds = " and ".join(suffix[1:].upper() + "s" for suffix in suffixes)
        raise DataError(f"there are no {noun}s", where=where, fix=f"give a folder of {kinds}, a .txt list or files")
    first: dict[str, Path] = {}
    for path in paths:
        if not path.is_file():
            raise DataError(f"the {noun} is {'no file' if path.exists() else 'missing'}", where=path)
        if path.stem in first:
            raise DataError(
                f"two {noun}s have the name {path.stem!r}: {first[path.stem]} and {path}",
                where=where,
                fix=f"results are named after {noun}s: rename one",
            )
        first[path.stem] = path
    return paths


def _attempt(read: Callable[[], np.ndarray]) -> tuple[np.ndarray | None, str]:
    """What is read, or None and why not."""
    try:
        return read(), ""
    except DataError as error:
        return None, error.what


def _of_colors(colors: np.ndarray, schema: Schema, path: Path) -> np.ndarray:
    """Class indices of RGB colors (h, w, 3)."""
    packed = _pack(colors)
    present, places, counts = np.unique(packed, return_index=True, return_counts=True)
    meaning = {int(_pack(np.array(IGNORED_COLOR))): IGNORED}
    for index in reversed(range(len(schema.classes))):
        meaning[int(_pack(schema.palette[index]))] = index
    strange = [row for row, color in enumerate(present) if int(color) not in meaning]
    if strange:
        row = max(strange, key=lambda r: counts[r])
        y, x = np.unravel_index(places[row], packed.shape)
        color = colors[y, x]
        distance = np.linalg.norm(schema.palette.astype(float) - color, axis=1)
        near = schema.classes[int(distance.argmin())]
        total = int(counts[strange].sum())
        raise DataError(
            f"{total} pixels have a color of no class, most often {_text(color)}, first at x={x}, y={y};"
            f" the nearest class is {near.name} {_text(near.color)}",
            where=path,
            fix="draw without smoothing in the exact colors of `rgs data palette`, and save as PNG",
        )
    table = np.array([meaning[int(color)] for color in present], dtype=np.int16)
    return table[np.searchsorted(present, packed)]


def _pack(colors: np.ndarray) -> np.ndarray:
    return colors.astype(np.int32) @ np.array([65536, 256, 1], dtype=np.int32)


def _text(color: Iterable[int]) -> str:
    return "({})".format(", ".join(str(int(v)) for v in color))
