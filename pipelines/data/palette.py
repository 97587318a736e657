"""Colors of classes: filling them in, painting label maps with them, the swatch sheet and a blank layout to draw on."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from pipelines.data.scene import IGNORED, Schema
from pipelines.errors import ConfigError

Color = tuple[int, int, int]

IGNORED_COLOR: Color = (0, 0, 0)
"""How ignored pixels are painted, and read back where no class is black."""

_GOLDEN_ANGLE = (5**0.5 - 1) / 2


def distinct_colors(count: int, taken: Iterable[Color] = ()) -> list[Color]:
    """`count` RGB colors unlike each other, black and those taken; the same at every call.

    Hues step by the golden angle; saturation and value change with each turn, so that near hues differ in them.
    """
    used = {IGNORED_COLOR, *taken}
    colors: list[Color] = []
    step = 0
    while len(colors) < count:
        hue = step * _GOLDEN_ANGLE % 1
        value = (0.95, 0.7, 0.5)[step % 3]
        saturation = (0.85, 0.5, 0.65, 1.0)[step // 3 % 4]
        red, green, blue = (round(255 * v) for v in colorsys.hsv_to_rgb(hue, saturation, value))
        if (red, green, blue) not in used:
            used.add((red, green, blue))
            colors.append((red, green, blue))
        step += 1
    return colors


def paint_labels(labels: np.ndarray, schema: Schema) -> np.ndarray:
    """Paint class indices (h, w) in the classes' colors: (h, w, 3) uint8 RGB, ignored pixels black."""
    table = np.vstack([schema.palette, np.array([IGNORED_COLOR], dtype=np.uint8)])
    return table[np.where(labels == IGNORED, len(schema.classes), labels)]


def paint_palette(schema: Schema, columns: int | None = None) -> np.ndarray:
    """A sheet of all classes, (h, w, 3) uint8 RGB: swatch, label id, name, thing or stuff, and #rrggbb.

    columns: how many side by side; as many as make about 24 rows if None.
    """
    count = len(schema.classes)
    columns = columns or -(-count // 24)
    rows = -(-count // columns)
    longest = max(len(name) for name in schema.names)
    width, height, swatch = 70 + 9 * (longest + 22), 28, 44
    sheet = np.full((rows * height + 12, columns * width + 12, 3), 255, dtype=np.uint8)
    for number, category in enumerate(schema.classes):
        top, left = 6 + number % rows * height, 6 + number // rows * width
        cv2.rectangle(sheet, (left, top + 2), (left + swatch, top + height - 3), category.color, cv2.FILLED)
        cv2.rectangle(sheet, (left, top + 2), (left + swatch, top + height - 3), (128, 128, 128), 1)
        color = "#{:02x}{:02x}{:02x}".format(*category.color)
        text = f"{category.id:>3} {category.name} ({'thing' if category.thing else 'stuff'}) {color}"
        place = (left + swatch + 10, top + height - 9)
        cv2.putText(sheet, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return sheet


def write_palette(schema: Schema, path: Path, columns: int | None = None) -> None:
    """Write the swatch sheet of a schema as a PNG."""
    _write_png(path, paint_palette(schema, columns))


def write_blank_layout(schema: Schema, size: tuple[int, int], path: Path, fill: str | None = None) -> None:
    """Write an RGB PNG to draw on in the classes' colors and give to `read_layout`.

    size: (height, width) in pixels. fill: the name of the class that covers it; ignored (black) if None. Raises
    ConfigError for an unknown class or an empty size.
    """
    height, width = size
    if height < 1 or width < 1:
        raise ConfigError(f"a layout cannot be {width}x{height}", fix="give a width and height of 1 or more")
    if fill is not None and fill not in schema.names:
        raise ConfigError(f"there is no class {fill!r}", fix=f"classes: {', '.join(schema.names)}")
    index = IGNORED if fill is None else schema.names.index(fill)
    _write_png(path, paint_labels(np.full((height, width), index, dtype=np.int16), schema))


def _write_png(path: Path, rgb: np.ndarray) -> None:
    _, data = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    path.write_bytes(data.tobytes())
