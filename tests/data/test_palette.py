from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.data.layouts import read_layout
from pipelines.data.palette import distinct_colors, paint_labels, paint_palette, write_blank_layout, write_palette
from pipelines.data.pixels import read_image
from pipelines.data.scene import Category, Schema
from pipelines.errors import ConfigError

from .trees import CLASSES, NONE

SCHEMA = Schema(tuple(Category(c["id"], c["name"], tuple(c["color"]), c["thing"]) for c in CLASSES), (9,))


def test_distinct_colors_are_distinct_and_always_the_same() -> None:
    colors = distinct_colors(400)
    assert len({*colors, (0, 0, 0)}) == 401
    assert distinct_colors(400) == colors and distinct_colors(7) == colors[:7]
    assert not set(distinct_colors(300, colors[:50])) & set(colors[:50])
    first = np.array(distinct_colors(20), dtype=float)
    apart = np.linalg.norm(first[:, None] - first[None], axis=2) + 1e9 * np.eye(20)
    assert apart.min() > 20


def test_labels_are_painted_in_the_colors_of_their_classes() -> None:
    painted = paint_labels(np.array([[0, 3], [NONE, 2]], dtype=np.int16), SCHEMA)
    assert painted.dtype == np.uint8
    assert painted.tolist() == [[[70, 130, 180], [220, 20, 60]], [[0, 0, 0], [0, 0, 142]]]


@pytest.mark.parametrize("columns", [None, 1, 3])
def test_the_sheet_shows_every_color(tmp_path: Path, columns: int | None) -> None:
    many = Schema(tuple(Category(i, f"class {i}", c, i % 2 == 0) for i, c in enumerate(distinct_colors(60))))
    for schema in (SCHEMA, many):
        write_palette(schema, tmp_path / "sheet.png", columns)
        sheet = read_image(tmp_path / "sheet.png")
        assert np.array_equal(sheet, paint_palette(schema, columns))
        shown = {tuple(color) for color in np.unique(sheet.reshape(-1, 3), axis=0).tolist()}
        assert {category.color for category in schema.classes} <= shown


def test_a_blank_layout_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "blank.png"
    for fill, index in (("road", 1), ("person", 3), (None, NONE)):
        write_blank_layout(SCHEMA, (20, 30), path, fill)
        assert np.array_equal(read_layout(path, SCHEMA), np.full((20, 30), index))
    with pytest.raises(ConfigError, match="no class 'water'"):
        write_blank_layout(SCHEMA, (20, 30), path, "water")
    with pytest.raises(ConfigError, match="cannot be 0x20"):
        write_blank_layout(SCHEMA, (20, 0), path)
