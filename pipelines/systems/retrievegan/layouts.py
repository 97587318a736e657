"""Placing maps into boxes of a canvas, and cropping boxes out of images: bilinear, and differentiable in both.

A canvas of W columns has them at X = 0, 1/(W-1), …, 1, corners on corners (align_corners=True, section 4.6). A box's
own coordinate there is u = (X - x0) / (x1 - x0), and a map of w cells has them at u = 0, 1/(w-1), …, 1. Boxes are
upright, so that bilinear sampling is one small matrix for the columns and one for the rows; outside of the box values
fade to zero over one cell. Everything is computed in fp32, whatever the precision around it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

Size = tuple[int, int]

SPREAD = 8
"""Cells along each side of the constant map that a vector is spread over (section 4.6b)."""
NARROWEST = 1e-6
"""The least extent of a box, in parts of the canvas, so that nothing is divided by zero."""


class Slots(NamedTuple):
    """Where the objects of a flat batch are in a padded one of B images by N places.

    images: B. places: N, the most objects of an image. rows: (O,) int64 image * N + place. present: (B, N) bool.
    """

    images: int
    places: int
    rows: Tensor
    present: Tensor

    def pad(self, x: Tensor) -> Tensor:
        """(O, …) to (B, N, …), zeros where there is no object."""
        padded = x.new_zeros(self.images * self.places, *x.shape[1:]).index_copy(0, self.rows, x)
        return padded.view(self.images, self.places, *x.shape[1:])

    def flat(self, x: Tensor) -> Tensor:
        """(B, N, …) to (O, …)."""
        return x.flatten(0, 1)[self.rows]


def slots(obj_to_img: Tensor, images: int) -> Slots:
    """obj_to_img: (O,) int64 image of each object, in any order."""
    counts = torch.bincount(obj_to_img, minlength=images)
    order = obj_to_img.argsort(stable=True)
    ahead = (counts.cumsum(0) - counts)[obj_to_img[order]]
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device) - ahead
    places = int(counts.max()) if len(counts) else 0
    present = torch.arange(places, device=order.device) < counts[:, None]
    return Slots(images, places, obj_to_img * places + place, present)


def count_images(obj_to_img: Tensor) -> int:
    """How many images a flat batch has, when each has an object."""
    return int(obj_to_img.max()) + 1 if len(obj_to_img) else 0


class Sampling(NamedTuple):
    """Bilinear sampling of maps of h by w cells by a canvas of H by W: canvas = rows @ map @ columns^T.

    rows: (O, H, h). columns: (O, W, w).
    """

    rows: Tensor
    columns: Tensor

    def place(self, maps: Tensor) -> Tensor:
        """(O, h, w) maps on the canvas (O, H, W)."""
        return self.rows @ maps @ self.columns.transpose(1, 2)


def box_sampling(boxes: Tensor, canvas: Size, cells: Size) -> Sampling:
    """boxes: (O, 4) x0, y0, x1, y1 in parts of the canvas. cells: (h, w) of the maps."""
    x, y = own_coordinates(boxes, canvas)
    return Sampling(hats(y * (cells[0] - 1), cells[0]), hats(x * (cells[1] - 1), cells[1]))


def own_coordinates(boxes: Tensor, canvas: Size) -> tuple[Tensor, Tensor]:
    """u of every column (O, W) and v of every row (O, H) in each box: 0 to 1 inside of it."""
    boxes = boxes.float()
    extent = boxes[:, 2:] - boxes[:, :2]
    extent = torch.where(extent.abs() < NARROWEST, NARROWEST, extent)
    across, down = (ticks(side, boxes) for side in (canvas[1], canvas[0]))
    u = (across - boxes[:, :1]) / extent[:, :1]
    v = (down - boxes[:, 1:2]) / extent[:, 1:]
    return u, v


def ticks(count: int, like: Tensor) -> Tensor:
    """`count` numbers from 0 to 1."""
    return torch.linspace(0, 1, count, device=like.device, dtype=like.dtype)


def hats(positions: Tensor, cells: int) -> Tensor:
    """Linear interpolation among `cells` values at 0, 1, …: positions (…,) to weights (…, cells)."""
    at = torch.arange(cells, device=positions.device, dtype=positions.dtype)
    return (1 - (positions.unsqueeze(-1) - at).abs()).clamp(min=0)


def boxes_to_layout(vectors: Tensor, boxes: Tensor, obj_to_img: Tensor, height: int, width: int) -> Tensor:
    """Each object's vector all over its box, summed over the objects of an image: (B, D, height, width).

    vectors: (O, D). boxes: (O, 4) x0, y0, x1, y1 in parts of the image. obj_to_img: (O,) int64; every image has an
    object. A vector counts as a constant map of 8 by 8, so that it fades over a seventh of its box around the box.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        sampling = box_sampling(boxes, (height, width), (SPREAD, SPREAD))
        covered = sampling.rows.sum(2).unsqueeze(2) * sampling.columns.sum(2).unsqueeze(1)
        return _summed(vectors, covered, obj_to_img)


def masks_to_layout(
    vectors: Tensor, boxes: Tensor, masks: Tensor, obj_to_img: Tensor, height: int, width: int
) -> Tensor:
    """Each object's vector times its mask (O, M, M), laid into its box; otherwise as `boxes_to_layout`."""
    with torch.autocast(vectors.device.type, enabled=False):
        masks = masks.float()
        sampling = box_sampling(boxes, (height, width), (masks.shape[1], masks.shape[2]))
        return _summed(vectors, sampling.place(masks), obj_to_img)


def _summed(vectors: Tensor, covered: Tensor, obj_to_img: Tensor) -> Tensor:
    """vectors (O, D) times what they cover (O, H, W), by images: the sum is within a product of matrices."""
    at = slots(obj_to_img, count_images(obj_to_img))
    layout = at.pad(vectors.float()).transpose(1, 2) @ at.pad(covered.flatten(1))
    return layout.unflatten(2, covered.shape[1:])


def crop_boxes(images: Tensor, boxes: Tensor, obj_to_img: Tensor, size: int) -> Tensor:
    """Boxes cut out of images and resized bilinearly: (O, c, size, size).

    images: (B, c, h, w). boxes: (O, 4) x0, y0, x1, y1 in parts of their image; outside of it is zero.
    """
    with torch.autocast(images.device.type, enabled=False):
        images, boxes = images.float(), boxes.float()
        height, width = images.shape[2:]
        t = ticks(size, boxes)
        x = boxes[:, :1] + t * (boxes[:, 2:3] - boxes[:, :1])
        y = boxes[:, 1:2] + t * (boxes[:, 3:] - boxes[:, 1:2])
        at = slots(obj_to_img, len(images))
        rows = at.pad(hats(y * (height - 1), height))
        columns = at.pad(hats(x * (width - 1), width))
        cut = torch.einsum("bnyh,bchw->bncyw", rows, images)
        return at.flat(torch.einsum("bncyw,bnxw->bncyx", cut, columns))
