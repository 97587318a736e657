"""Ground truth distorted segment by segment until it resembles a guidance image (RESAIL supplement A.2)."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, sqrt

import cv2
import numpy as np
from pydantic import Field, model_validator

from pipelines.bank.segments import Decomposition
from pipelines.compose.color import ColorStatistics, color_statistics, transfer_color
from pipelines.compose.guidance import Box, Guidance, Piece, Placement, compose, cut
from pipelines.compose.warp import boundary_points, move_points, warp_piece
from pipelines.config import Config


class Distort(Config):
    """What is done to each segment of the ground truth, in this order: color, resolution, shape."""

    color: bool = True
    """Give a segment the color statistics of its reference, another segment of the class."""
    resolution: bool = True
    """Shrink a segment by a random factor and enlarge it again."""
    shape: bool = True
    """Warp a segment by moving points of its outline."""
    tau_min: float = Field(default=0.5, gt=0, le=1)
    """The least factor of resolution; tau is drawn from U(tau_min, 1)."""
    points: int = Field(default=10, ge=3)
    """Points on the outline; a segment with no more outline pixels than these is not warped."""
    moved: int = Field(default=3, ge=0)
    """How many of the points move, at most all of them."""
    move: float = Field(default=0.4, ge=0)
    """Bound of a move per axis, in units of move_scale times the square root of the segment's area."""
    move_scale: float = Field(default=0.22, ge=0)
    """Length of a unit move, as a share of the square root of the segment's area."""

    @model_validator(mode="after")
    def _enough_points(self) -> Distort:
        if self.moved > self.points:
            raise ValueError(f"moved ({self.moved}) is more than points ({self.points})")
        return self


BORDER = 8
"""Pixels of black around a segment while it is resampled, as if it lay alone on a canvas."""


def distort_scene(
    image: np.ndarray,
    decomposition: Decomposition,
    foreground: np.ndarray,
    references: Sequence[Piece | ColorStatistics | None],
    config: Distort,
    rng: np.random.Generator,
) -> Guidance:
    """Distort each segment of an image and put all together again by the rules of a guidance image.

    image: (h, w, 3) uint8. foreground: (h, w) bool, the label is of a thing class. references: for each segment
    another one of its class, or its color statistics; without any a segment keeps its color. A warped mask
    plays the part of a retrieved one, while M_i stays. The result is a function of the arguments and the state
    of `rng`; segments that own no pixel are left out and draw nothing.
    """
    placements = [
        _distort(cut(image, decomposition.owner, i, segment.box), segment.box, reference, config, rng, image.shape)
        if segment.area
        else None
        for i, (segment, reference) in enumerate(zip(decomposition.segments, references, strict=True))
    ]
    return compose(decomposition.owner, decomposition.things, decomposition.areas, foreground, placements)


def lower_resolution(piece: Piece, tau: float) -> Piece:
    """Shrink the crop to a share `tau` of its sides and enlarge it again, both bicubic; the mask stays.

    As published the segment lies on black, which bleeds into its border. tau = 1 changes nothing.
    """
    h, w = piece.mask.shape
    alone = cv2.copyMakeBorder(piece.crop, BORDER, BORDER, BORDER, BORDER, cv2.BORDER_CONSTANT)
    H, W = alone.shape[:2]
    small = cv2.resize(alone, (max(1, int(W * tau)), max(1, int(H * tau))), interpolation=cv2.INTER_CUBIC)
    back = cv2.resize(small, (W, H), interpolation=cv2.INTER_CUBIC)[BORDER : BORDER + h, BORDER : BORDER + w]
    return Piece(cv2.copyTo(back, piece.mask.view(np.uint8), np.zeros_like(piece.crop)), piece.mask)


def _distort(
    piece: Piece,
    box: Box,
    reference: Piece | ColorStatistics | None,
    config: Distort,
    rng: np.random.Generator,
    canvas: tuple[int, ...],
) -> Placement:
    if config.color and reference is not None:
        known = color_statistics(reference) if isinstance(reference, Piece) else reference
        piece = transfer_color(piece, known)
    if config.resolution:
        piece = lower_resolution(piece, rng.uniform(config.tau_min, 1))
    if config.shape:
        return _reshape(piece, box, config, rng, canvas)
    return Placement(piece, box)


def _reshape(piece: Piece, box: Box, config: Distort, rng: np.random.Generator, canvas: tuple[int, ...]) -> Placement:
    """The piece warped by random moves of its outline; as it is where it is too small or no spline exists."""
    unmoved = Placement(piece, box)
    reach = config.move * config.move_scale * sqrt(np.count_nonzero(piece.mask))
    source = boundary_points(piece.mask, config.points) if reach >= 1 else None  # moves are cut to whole pixels
    if source is None:
        return unmoved
    target = move_points(source, config.moved, reach, rng)
    if target is None:
        return unmoved
    # Between its points a spline overshoots their moves, in one of a hundred segments by more than this pad, which
    # then cuts it. What leaves the canvas need not be computed.
    x, y, w, h = box
    pad = 2 * ceil(reach)
    margins = min(pad, x), min(pad, y), min(pad, canvas[1] - x - w), min(pad, canvas[0] - y - h)
    warped = warp_piece(piece, source, target, margins)
    if warped is None:
        return unmoved
    left, top, right, bottom = margins
    return Placement(warped, (x - left, y - top, w + left + right, h + top + bottom))
