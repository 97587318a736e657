"""Composition of a guidance image from retrieved pieces (RESAIL supplement A.1).

For a segment M_i of the layout the mask of its piece, resized to the box of M_i, is Mhat_r. A pixel p of Mhat_r

    R1  in M_i                                                            is kept
    R2  outside M_i, the piece is of a background class                   is dropped
    R3  outside M_i, the piece is a thing, p has a background label       is kept: the overflow
    R4  outside M_i, the piece is a thing, p has a foreground label       is dropped

Where two pieces want one pixel, the paper is silent and this module rules: an overflow covers background pieces; the
overflow of the smaller M_i covers that of the larger; a thing inside its own mask covers every overflow. Unlabeled
pixels count as background. What nobody paints is RGB 0, which is -1 once normalized and means «missing».
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from pipelines.data.transforms import nearest_resize

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Piece:
    """A segment cut from an image. crop: (h, w, 3) uint8 RGB, 0 outside the mask. mask: (h, w) bool."""

    crop: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class Placement:
    """A piece and the box (x, y, w, h) in canvas pixels that it is resized to; it may reach outside the canvas."""

    piece: Piece
    box: Box


@dataclass(frozen=True)
class Guidance:
    """image: (h, w, 3) uint8, 0 where nobody painted. owner: (h, w) int32, whose piece fed the pixel, -1 for none."""

    image: np.ndarray
    owner: np.ndarray


def cut(image: np.ndarray, owner: np.ndarray, index: int, box: Box) -> Piece:
    """The piece of `image` that segment `index` of `owner` owns within `box`."""
    x, y, w, h = box
    mask = owner[y : y + h, x : x + w] == index
    crop = np.zeros((h, w, 3), dtype=np.uint8)
    return Piece(_paint(crop, image[y : y + h, x : x + w], mask), mask)


def compose(
    owner: np.ndarray,
    things: np.ndarray,
    areas: np.ndarray,
    foreground: np.ndarray,
    placements: Sequence[Placement | None],
) -> Guidance:
    """Paste each segment's piece on the canvas by R1-R4.

    owner: (h, w), the segment M_i that each pixel belongs to, -1 for none. things, areas: (n,), of the segments.
    foreground: (h, w) bool, the label is of a thing class. placements: n, None leaves the segment's hole.
    Overflows of equal area are painted in the order of their boxes, then of their indices.
    """
    image = np.zeros((*owner.shape, 3), dtype=np.uint8)
    fed = np.full(owner.shape, -1, dtype=np.int32)

    def paint(index: int, window: tuple[slice, slice], piece: Piece, where: np.ndarray) -> None:
        _paint(image[window], piece.crop, where)
        np.copyto(fed[window], index, where=where)

    fitted = [
        (i, p.box, *_fit(p, owner.shape))
        for i, p in enumerate(placements)
        if p is not None and _overlaps(p.box, owner.shape)
    ]
    for i, _, window, piece in fitted:
        if not things[i]:
            paint(i, window, piece, piece.mask & (owner[window] == i))
    fitted = [entry for entry in fitted if things[entry[0]]]
    fitted.sort(key=lambda entry: (-areas[entry[0]], entry[1][1], entry[1][0]))
    for i, _, window, piece in fitted:
        paint(i, window, piece, piece.mask & ~foreground[window] & (owner[window] != i))
    for i, _, window, piece in fitted:
        paint(i, window, piece, piece.mask & (owner[window] == i))
    return Guidance(image, fed)


def resize_piece(piece: Piece, size: tuple[int, int]) -> Piece:
    """Resize a piece to `size` = (h, w), each axis by itself; a piece of that size already is returned as it is.

    The mask is resized by `nearest_resize`. Colors come from pixels of the mask alone, so that no black bleeds in
    and nothing rings at its border: an axis that shrinks takes the mean over the covered pixels of the mask (the
    authors' bicubic without filter would alias), an axis that grows is bicubic over a crop whose mask was widened.
    """
    h, w = size
    smaller = min(h, piece.mask.shape[0]), min(w, piece.mask.shape[1])
    if smaller != piece.mask.shape:
        piece = _shrink(piece, smaller)
    if smaller != size:
        crop = cv2.resize(_widen(piece), (w, h), interpolation=cv2.INTER_CUBIC)
        mask = nearest_resize(piece.mask, size)
        piece = Piece(_paint(np.zeros_like(crop), crop, mask), mask)
    return piece


def _shrink(piece: Piece, size: tuple[int, int]) -> Piece:
    """The mean color of the mask under each pixel of the smaller `size`, weighted by coverage."""
    h, w = size
    mask = nearest_resize(piece.mask, size)
    if piece.mask.all():
        return Piece(cv2.resize(piece.crop, (w, h), interpolation=cv2.INTER_AREA), mask)
    mean = cv2.resize(piece.crop.astype(np.float32), (w, h), interpolation=cv2.INTER_AREA)
    cover = cv2.resize(piece.mask.astype(np.float32), (w, h), interpolation=cv2.INTER_AREA)
    # A pixel of the nearest-resized mask sits on a pixel of the mask, so its cover is far from 0.
    mean = (mean / np.maximum(cover, 1e-6)[..., None] + 0.5).astype(np.uint8)
    return Piece(_paint(np.zeros_like(mean), mean, mask), mask)


def _widen(piece: Piece) -> np.ndarray:
    """The crop with the mask's colors carried 2 pixels outward, as far as the taps of a bicubic kernel reach.

    A pixel outside takes the mean of the mask within its 5x5 neighborhood.
    """
    if piece.mask.all():
        return piece.crop
    total = cv2.boxFilter(piece.crop, cv2.CV_16U, (5, 5), normalize=False, borderType=cv2.BORDER_CONSTANT)
    count = cv2.boxFilter(
        piece.mask.view(np.uint8), cv2.CV_16U, (5, 5), normalize=False, borderType=cv2.BORDER_CONSTANT
    )
    ring = np.flatnonzero((count > 0) & ~piece.mask)
    n = count.ravel()[ring, None]
    wide = piece.crop.copy()
    wide.reshape(-1, 3)[ring] = (total.reshape(-1, 3)[ring] + n // 2) // n
    return wide


def _paint(target: np.ndarray, source: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Copy the pixels of `source` that `where` marks onto `target`, a view too, which is changed and returned.

    OpenCV does this forty times as fast as numpy.
    """
    return cv2.copyTo(source, where.view(np.uint8), target)


def _overlaps(box: Box, canvas: tuple[int, ...]) -> bool:
    x, y, w, h = box
    return w > 0 and h > 0 and x < canvas[1] and y < canvas[0] and x + w > 0 and y + h > 0


def _fit(placement: Placement, canvas: tuple[int, ...]) -> tuple[tuple[slice, slice], Piece]:
    """The piece resized to its box and clipped, with the window of the canvas that it falls on."""
    x, y, w, h = placement.box
    piece = resize_piece(placement.piece, (h, w))
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + w, canvas[1]), min(y + h, canvas[0])
    inner = np.s_[top - y : bottom - y, left - x : right - x]
    return np.s_[top:bottom, left:right], Piece(piece.crop[inner], piece.mask[inner])
