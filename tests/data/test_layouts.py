from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.data.layouts import list_layouts, read_instances, read_layout
from pipelines.data.palette import paint_labels
from pipelines.data.scene import Category, Schema
from pipelines.errors import DataError

from .trees import CAR, CLASSES, IDS, NONE, PERSON, ROAD, png, scene_layers, write_map, write_picture

SCHEMA = Schema(tuple(Category(c["id"], c["name"], tuple(c["color"]), c["thing"]) for c in CLASSES), (9,))
LABELS, INSTANCES = scene_layers()


def indexed(path: Path, values: np.ndarray, palette: np.ndarray) -> Path:
    path.write_bytes(png(values, 8, 3, palette))
    return path


def test_ids_and_colors_read_alike(tmp_path: Path) -> None:
    colors = paint_labels(LABELS, SCHEMA)
    voc = np.arange(30).reshape(10, 3) + 200  # a palette of some other program, over the right ids
    gimp = np.vstack([SCHEMA.palette, [[0, 0, 0]]])  # the classes' colors in the order of the palette
    other = np.zeros((10, 3), int)
    other[[4, 1, 2, 3, 9]] = gimp  # ids and colors at once
    opaque = np.dstack([colors, np.full(LABELS.shape, 255, np.uint8)])
    Image.fromarray(opaque).save(tmp_path / "alpha.png")
    for path in (
        write_map(tmp_path / "gray.png", IDS[LABELS]),
        write_picture(tmp_path / "colors.png", colors),
        tmp_path / "alpha.png",
        indexed(tmp_path / "voc.png", IDS[LABELS], voc),
        indexed(tmp_path / "both.png", IDS[LABELS], other),
        indexed(tmp_path / "gimp.png", LABELS % 5 + 20, np.vstack([np.zeros((20, 3), int), gimp])),
    ):
        layout = read_layout(path, SCHEMA)
        assert layout.dtype == np.int16 and np.array_equal(layout, LABELS), path.name


def test_a_palette_that_means_two_layouts_is_refused(tmp_path: Path) -> None:
    values = np.array([[1, 2], [3, 4]])
    path = indexed(tmp_path / "a.png", values, np.vstack([[[0, 0, 0]], SCHEMA.palette]))
    with pytest.raises(DataError, match="one layout by its values and another by its colors"):
        read_layout(path, SCHEMA)
    path = indexed(tmp_path / "a.png", values + 20, np.full((30, 3), 7))
    with pytest.raises(DataError, match="neither label ids nor colors"):
        read_layout(path, SCHEMA)
    with pytest.raises(DataError, match=r"beyond the palette|damaged"):
        read_layout(indexed(tmp_path / "a.png", values + 20, np.full((3, 3), 7)), SCHEMA)


def test_a_foreign_color_names_its_place_and_the_nearest_class(tmp_path: Path) -> None:
    colors = paint_labels(LABELS, SCHEMA)
    colors[5, 7] = (1, 1, 1)
    colors[20, 10:13] = (218, 22, 58)
    with pytest.raises(DataError) as error:
        read_layout(write_picture(tmp_path / "a.png", colors), SCHEMA)
    assert error.value.what == (
        "4 pixels have a color of no class, most often (218, 22, 58), first at x=10, y=20;"
        " the nearest class is person (220, 20, 60)"
    )
    assert error.value.where == str(tmp_path / "a.png")


def test_a_foreign_id_and_a_jpeg_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="label id 5 is outside the classes"):
        read_layout(write_map(tmp_path / "a.png", np.full((3, 3), 5)), SCHEMA)
    with pytest.raises(DataError, match="cannot be a JPEG"):
        read_layout(write_picture(tmp_path / "a.jpg", paint_labels(LABELS, SCHEMA)), SCHEMA)


def test_classes_that_share_a_color_read_as_the_first(tmp_path: Path) -> None:
    black = Schema(
        tuple(Category(i, f"c{i}", color, False) for i, color in enumerate([(0, 0, 0), (9, 9, 9), (0, 0, 0)])), (255,)
    )
    path = write_picture(tmp_path / "a.png", np.array([[[0, 0, 0], [9, 9, 9]]], dtype=np.uint8))
    assert read_layout(path, black).tolist() == [[0, 1]]


def test_instances_of_a_layout(tmp_path: Path) -> None:
    path = write_map(tmp_path / "a.png", INSTANCES)
    assert np.array_equal(read_instances(path, LABELS, SCHEMA, "index"), INSTANCES)
    assert set(LABELS[INSTANCES > 0]) == {CAR, PERSON}
    with pytest.raises(DataError, match="the instance map is 32x24 but the layout is 31x24"):
        read_instances(path, LABELS[:, :31], SCHEMA, "index")
    with pytest.raises(DataError, match="several classes"):
        read_instances(write_map(tmp_path / "b.png", np.full((24, 32), 3)), LABELS, SCHEMA, "index")
    assert ROAD in LABELS and NONE in LABELS


def test_layouts_are_listed_in_a_stable_order(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        write_map(tmp_path / "in" / f"{name}.png", IDS[LABELS])
    (tmp_path / "in/notes.md").write_text("")
    (tmp_path / "in/.hidden.png").write_text("")
    a, b, c = (tmp_path / "in" / f"{name}.png" for name in "abc")
    assert list_layouts(tmp_path / "in") == list_layouts(str(tmp_path / "in")) == [a, b, c]
    assert list_layouts(b) == [b]
    assert list_layouts([f"{c}\n", "", str(a)]) == [c, a]
    (tmp_path / "list.txt").write_text(f"{b}\n{a}\n")
    assert list_layouts(tmp_path / "list.txt") == [b, a]


def test_layouts_that_cannot_be_listed(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for inputs in (tmp_path / "empty", [], ["", " \n"]):
        with pytest.raises(DataError, match="no layouts"):
            list_layouts(inputs)
    for inputs in (tmp_path / "none.png", [tmp_path / "none.png"]):
        with pytest.raises(DataError, match="the layout is missing"):
            list_layouts(inputs)
    for name in ("x/a.png", "y/a.png"):
        write_map(tmp_path / name, IDS[LABELS])
    with pytest.raises(DataError, match="two layouts have the name 'a'"):
        list_layouts([tmp_path / "x/a.png", tmp_path / "y/a.png"])
    with pytest.raises(DataError, match="is no file"):
        list_layouts([tmp_path / "x"])
