"""The object-image fuser: objects' maps, laid into their boxes and weighed by attention, are the scene canvas (4.6).

With m_i an object's map and e_i that of its triple (i, __in_image__, image): q = A1(m), r = A2(e), v = A3(q), all laid
into the object's box on the canvas; beta = softmax of q·r / sqrt(width) over the objects at each pixel, and the canvas
is the sum of beta_i v_i, and of the image node's own map. A 1x1 convolution and bilinear sampling commute, and sampling
is a product with two small matrices (layouts.py): so it is done last, and no object's map is as large as the canvas.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pipelines.systems.retrievegan.layouts import Sampling, Size, Slots, box_sampling, own_coordinates

ROUNDING = 1e-5
"""By how much, in parts of a box, a pixel may lie outside of it by rounding."""


class ObjectImageFuser(nn.Module):
    """masked: an object shares only the pixels that its box covers; off, all pixels of its image (PasteGAN), to which
    it has nothing to give outside of its box."""

    def __init__(self, width: int, *, canvas: Size, masked: bool = True) -> None:
        super().__init__()
        self.canvas, self.masked = canvas, masked
        self.query, self.key, self.value = (nn.Conv2d(width, width, 1) for _ in range(3))

    def forward(self, maps: Tensor, triples: Tensor, boxes: Tensor, at: Slots, image_maps: Tensor) -> Tensor:
        """The canvas (B, width, H, W), in fp32.

        maps: (O, width, h, w) of the objects without image nodes. triples: (O, width, h, w), of each one's triple with
        the image. boxes: (O, 4). image_maps: (B, width, h, w) of the image nodes.
        """
        q = self.query(maps)
        r, v = self.key(triples), self.value(q)
        with torch.autocast(maps.device.type, enabled=False):
            q, r, v, image_maps = (x.float() for x in (q, r, v, image_maps))
            boxes = at_least_a_cell(boxes.float(), self.canvas)
            cells = (maps.shape[2], maps.shape[3])
            sampling = box_sampling(boxes, self.canvas, cells)
            logits = placed_products(q, r, sampling) / math.sqrt(q.shape[1])
            shared = inside(boxes, self.canvas) if self.masked else torch.ones_like(logits, dtype=torch.bool)
            beta = masked_softmax(at.pad(logits), at.pad(shared))
            whole = image_maps.new_tensor([[0.0, 0.0, 1.0, 1.0]])
            image = box_sampling(whole, self.canvas, cells)
            return weighted_sum(beta, v, sampling, at) + image.rows @ image_maps @ image.columns.transpose(1, 2)


def at_least_a_cell(boxes: Tensor, canvas: Size) -> Tensor:
    """Boxes grown about their middles to a cell of the canvas at least: then each covers a pixel of it."""
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).abs() / 2
    least = boxes.new_tensor([0.5 / max(1, canvas[1] - 1), 0.5 / max(1, canvas[0] - 1)])
    half = torch.maximum(half, least)
    return torch.cat([middle - half, middle + half], 1)


def inside(boxes: Tensor, canvas: Size) -> Tensor:
    """(O, H, W) bool: which pixels of the canvas are in a box."""
    x, y = ((u >= -ROUNDING) & (u <= 1 + ROUNDING) for u in own_coordinates(boxes, canvas))
    return y.unsqueeze(2) & x.unsqueeze(1)


def placed_products(q: Tensor, r: Tensor, sampling: Sampling) -> Tensor:
    """q·r at every pixel of the canvas, (O, H, W), of maps (O, c, h, w) that are sampled there.

    With a, b cells of q and c, d of r: the sum over them of rows[a] columns[b] rows[c] columns[d] q_ab·r_cd, and the
    products of all cells are few.
    """
    h, w = q.shape[2:]
    products = torch.bmm(q.flatten(2).transpose(1, 2), r.flatten(2)).view(-1, h, w, h, w)
    products = products.transpose(2, 3).reshape(-1, h * h, w * w)
    return Sampling(pairs(sampling.rows), pairs(sampling.columns)).place(products)


def pairs(weights: Tensor) -> Tensor:
    """(O, n, h) to (O, n, h * h): the products of every two."""
    return (weights.unsqueeze(3) * weights.unsqueeze(2)).flatten(2)


def masked_softmax(logits: Tensor, shared: Tensor) -> Tensor:
    """Softmax over the objects (dim 1) that share a pixel; zero everywhere for a pixel that none does."""
    lowest = torch.finfo(logits.dtype).min
    beta = logits.masked_fill(~shared, lowest).softmax(1)
    return beta * shared


def weighted_sum(beta: Tensor, v: Tensor, sampling: Sampling, at: Slots) -> Tensor:
    """The sum over the objects of an image of beta (B, N, H, W) times their maps v (O, c, h, w) laid out.

    Each row of the canvas is a product of matrices over objects and cells: (c, N w) of maps sampled to that row, and
    (N w, W) of what each pixel takes of each of their cells.
    """
    rows = torch.einsum("oyh,ochw->oycw", sampling.rows, v)
    rows = at.pad(rows).permute(0, 2, 3, 1, 4).flatten(3)  # (B, H, c, N w)
    columns = at.pad(sampling.columns.transpose(1, 2))  # (B, N, w, W)
    takes = beta.unsqueeze(3) * columns.unsqueeze(2)  # (B, N, H, w, W)
    takes = takes.transpose(1, 2).flatten(2, 3)  # (B, H, N w, W)
    return torch.matmul(rows, takes).transpose(1, 2)
