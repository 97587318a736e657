"""The picture of a provenance: guidance, a map of the sources that fed it, the output, and a legend with licences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipelines.data.palette import Color
from pipelines.data.transforms import nearest_resize
from pipelines.errors import ConfigError

PANEL = 320
"""Longest side in pixels of each of the three images."""
GAP = 12
LINE = 22
"""Height in pixels of a row of the legend."""
LISTED = 12
"""Sources that have a color and a row of their own; the others share one."""

COLORS: tuple[Color, ...] = (
    (230, 97, 40),
    (42, 128, 214),
    (58, 163, 82),
    (232, 178, 32),
    (150, 86, 196),
    (18, 176, 180),
    (222, 76, 138),
    (150, 104, 60),
    (128, 158, 32),
    (84, 92, 206),
    (188, 44, 56),
    (36, 112, 112),
)
"""Of the listed sources, in the order of their pixels; neighbors in the list differ in hue and in lightness."""
OTHERS: Color = (168, 172, 178)
UNFED: Color = (38, 40, 46)
INK: Color = (28, 30, 36)
FADED: Color = (112, 116, 124)
RULE: Color = (222, 224, 228)
PAPER: Color = (255, 255, 255)


@dataclass(frozen=True)
class Column:
    """A column of the legend: its title, its place and width in pixels, and whether its text ends at the right."""

    title: str
    left: int
    width: int
    right: bool = False


COLUMNS = (
    Column("source", 34, 236),
    Column("of the image", 270, 86, right=True),
    Column("pieces", 356, 60, right=True),
    Column("classes", 434, 330),
    Column("licence", 776, 220),
)
WIDTH = GAP + 3 * (PANEL + GAP)


def attribution_picture(
    guidance: np.ndarray, output: np.ndarray, index: np.ndarray, record: Mapping[str, Any]
) -> np.ndarray:
    """(H, W, 3) uint8 RGB: who fed this output, for people.

    guidance and output: (h, w, 3) uint8 RGB. index: (h, w) index image. record: the output's line of provenance.jsonl.
    The legend lists the sources with the most pixels, LISTED at most; it says what the rest amounts to.
    """
    listed, others = record["sources"][:LISTED], record["sources"][LISTED:]
    panels = {
        "guidance: the retrieved pieces": _to_panel(guidance),
        "where they come from": source_map(guidance, index, record),
        "output": _to_panel(output),
    }
    top = GAP + 2 * LINE
    legend = top + panels["output"].shape[0] + GAP
    rows = len(listed) + bool(others) + (record["covered"] < 1) + 1
    page = Image.new("RGB", (WIDTH, legend + rows * LINE + GAP), PAPER)
    pen = ImageDraw.Draw(page)
    pen.text((GAP, GAP - 2), _shorten(record["name"], 300, 15, True), INK, font(15, True))
    pen.text((WIDTH - GAP, GAP), _summary(record), FADED, font(12), anchor="ra")
    for k, (title, picture) in enumerate(panels.items()):
        left = GAP + k * (PANEL + GAP)
        pen.text((left, GAP + LINE + 2), title, FADED, font(12))
        page.paste(Image.fromarray(picture), (left + (PANEL - picture.shape[1]) // 2, top))
    for column in COLUMNS:
        _cell(pen, column, legend, column.title, FADED)
    y = legend
    for k, source in enumerate(listed):
        y += LINE
        _swatch(pen, y, COLORS[k], str(k + 1))
        texts = (source["source"], percent(source["share"]), str(source["pieces"]), ", ".join(source["categories"]))
        _row(pen, y, (*texts, source["licence"] or "not stated"))
    if others:
        y += LINE
        _swatch(pen, y, OTHERS)
        pixels = sum(source["share"] for source in others)
        licences = ", ".join(sorted({source["licence"] or "not stated" for source in others}))
        count = sum(source["pieces"] for source in others)
        _row(pen, y, (f"{len(others)} other sources", percent(pixels), str(count), "", licences))
    if record["covered"] < 1:
        y += LINE
        _swatch(pen, y, UNFED)
        _row(pen, y, ("no piece", percent(1 - record["covered"]), "", "filled in by the generator", ""))
    return np.asarray(page)


def source_map(guidance: np.ndarray, index: np.ndarray, record: Mapping[str, Any]) -> np.ndarray:
    """(H, W, 3) uint8 RGB of PANEL pixels at most: the guidance in the colors of its sources, edges of pieces drawn.

    Each listed source has its number where it is widest, if there is room for it.
    """
    numbers = {source["source"]: k for k, source in enumerate(record["sources"][:LISTED])}
    count = len(record["pieces"])
    of_piece = np.full(count + 1, LISTED, np.int64)  # the color's number by the value of the index image
    of_piece[1:] = [numbers.get(piece["source"], LISTED) for piece in record["pieces"]]
    of_piece[0] = LISTED + 1
    ground = _to_panel(guidance)
    large = nearest_resize(index.astype(np.int32), ground.shape[:2])
    owner = of_piece[large]
    light = cv2.cvtColor(ground, cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None] / 255
    table = np.array([*COLORS, OTHERS, UNFED], np.float32)
    painted = table[owner] * (0.55 + 0.6 * light)  # the drawing of the pieces stays visible
    painted[owner > LISTED] = UNFED
    edges = np.zeros(large.shape, bool)
    edges[:, 1:] |= large[:, 1:] != large[:, :-1]
    edges[1:] |= large[1:] != large[:-1]
    painted[edges] *= 0.6
    picture = Image.fromarray(painted.clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for k in numbers.values():
        middle, room = _widest(owner == k)
        if room >= 9:
            pen.text(middle, str(k + 1), PAPER, font(14, True), anchor="mm", stroke_width=2, stroke_fill=INK)
    return np.asarray(picture)


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write (h, w, 3) uint8 RGB as PNG or JPEG, by the ending of the name. Raises ConfigError for any other."""
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ConfigError("a picture is written as PNG or JPEG", where=path, fix="end its name in .png or .jpg")
    data = BytesIO()
    kind = "PNG" if path.suffix.lower() == ".png" else "JPEG"
    Image.fromarray(picture).save(data, kind, quality=85, subsampling=0)  # the latter two mean something to JPEG only
    path.write_bytes(data.getvalue())


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which writes most alphabets and comes with matplotlib."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def percent(share: float) -> str:
    """A share as people read it: 12.3 %, and not 0.0 % where there is something."""
    return "< 0.1 %" if 0 < share < 0.001 else f"{100 * share:.1f} %"


def _to_panel(image: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 with its longest side scaled to PANEL."""
    factor = PANEL / max(image.shape[:2])
    h, w = (max(1, round(side * factor)) for side in image.shape[:2])
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return cv2.resize(np.ascontiguousarray(image), (w, h), interpolation=way)


def _summary(record: Mapping[str, Any]) -> str:
    if record["retrieval"] == "oracle":
        return "oracle: the guidance is the layout's own photo, no piece of the bank"
    pieces = sum(source["pieces"] for source in record["sources"])
    sources = len(record["sources"])
    return (
        f"{pieces} pieces of {sources} source{'s' * (sources != 1)} fed {percent(record['covered'])} of the image"
        f" (retrieval: {record['retrieval']})"
    )


def _widest(mask: np.ndarray) -> tuple[tuple[int, int], float]:
    """The (x, y) of a mask that lies farthest from its edge, and how far that is."""
    distance = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), mask.shape)
    return (int(x), int(y)), float(distance[y, x])


def _swatch(pen: ImageDraw.ImageDraw, top: int, color: Color, text: str = "") -> None:
    pen.rounded_rectangle((GAP, top + 3, GAP + 18, top + LINE - 3), 3, fill=color)
    pen.text((GAP + 9, top + LINE / 2), text, PAPER, font(10, True), anchor="mm")


def _row(pen: ImageDraw.ImageDraw, top: int, texts: tuple[str, ...]) -> None:
    pen.line((GAP, top, WIDTH - GAP, top), RULE)
    for column, text in zip(COLUMNS, texts, strict=True):
        _cell(pen, column, top, text, INK)


def _cell(pen: ImageDraw.ImageDraw, column: Column, top: int, text: str, color: Color) -> None:
    x = column.left + (column.width if column.right else 0)
    anchor = "rm" if column.right else "lm"
    pen.text((x, top + LINE / 2), _shorten(text, column.width - 6, 12), color, font(12), anchor=anchor)


def _shorten(text: str, width: int, size: int, bold: bool = False) -> str:
    """The text on one line, its end left out where it is wider than `width` pixels."""
    text, drawn = " ".join(text.split()), font(size, bold)
    if drawn.getlength(text) <= width:
        return text
    while text and drawn.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
