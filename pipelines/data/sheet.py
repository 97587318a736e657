"""Contact sheets: rows of images under headings, as one picture. Deterministic."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

MARGIN = 4
HEADING = 20
PAPER = 255
INK = 40
FONT = cv2.FONT_HERSHEY_SIMPLEX


def contact_sheet(rows: Sequence[Sequence[np.ndarray]], columns: Sequence[str], cell: int = 128) -> np.ndarray:
    """Rows of (h, w, 3) uint8 RGB images under the names of their columns: (H, W, 3) uint8.

    Each image is fitted into a square of `cell` pixels, its aspect kept; small ones grow by a whole factor with hard
    pixels. Raises ValueError when a row has not one image per column.
    """
    if any(len(row) != len(columns) for row in rows):
        raise ValueError(f"every row needs {len(columns)} images, one per column")
    top = HEADING + MARGIN
    sheet = _paper(top + len(rows) * (cell + MARGIN), MARGIN + len(columns) * (cell + MARGIN))
    for j, name in enumerate(columns):
        _write(sheet, name, MARGIN + j * (cell + MARGIN), cell)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            _place(sheet, image, top + i * (cell + MARGIN), MARGIN + j * (cell + MARGIN), cell)
    return sheet


def grid(images: Sequence[np.ndarray], columns: int | None = None, cell: int = 128) -> np.ndarray:
    """Images (h, w, 3) uint8 RGB side by side without headings; about as many rows as columns if None."""
    columns = max(1, columns or math.ceil(math.sqrt(len(images))))
    sheet = _paper(MARGIN + -(-len(images) // columns) * (cell + MARGIN), MARGIN + columns * (cell + MARGIN))
    for number, image in enumerate(images):
        i, j = divmod(number, columns)
        _place(sheet, image, MARGIN + i * (cell + MARGIN), MARGIN + j * (cell + MARGIN), cell)
    return sheet


def fit(image: np.ndarray, cell: int) -> np.ndarray:
    """The image, scaled to fit a square of `cell`: area average where it shrinks, whole factors where it grows."""
    longest = max(image.shape[:2])
    if longest > cell:
        h, w = (max(1, round(side * cell / longest)) for side in image.shape[:2])
        return cv2.resize(np.ascontiguousarray(image), (w, h), interpolation=cv2.INTER_AREA)
    factor = cell // longest
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def _place(sheet: np.ndarray, image: np.ndarray, top: int, left: int, cell: int) -> None:
    fitted = fit(image, cell)
    h, w = fitted.shape[:2]
    y, x = top + (cell - h) // 2, left + (cell - w) // 2
    sheet[y : y + h, x : x + w] = fitted


def _paper(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), PAPER, dtype=np.uint8)


def _write(sheet: np.ndarray, text: str, left: int, width: int) -> None:
    """A heading, made smaller until it fits its column."""
    scale = 0.45
    while scale > 0.2 and cv2.getTextSize(text, FONT, scale, 1)[0][0] > width:
        scale -= 0.05
    cv2.putText(sheet, text, (left, HEADING - 4), FONT, scale, (INK, INK, INK), 1, cv2.LINE_AA)
