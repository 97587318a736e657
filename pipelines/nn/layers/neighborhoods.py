"""Two 3x3 convolutions of a label map, computed once for each distinct neighborhood instead of for each pixel.

What SPADE's label branch (conv, ReLU, conv) says of a pixel depends on the 5x5 labels around it, and most pixels of a
layout lie inside a region, or on a straight border as many others do: eight facades of 128x128 have 3 distinct 3x3 and
10 distinct 5x5 neighborhoods to a hundred pixels. So the first convolution is a product with the V distinct 3x3
patches; the second multiplies the V hidden vectors by each of its nine taps, sums nine of these products for each of
the U distinct 5x5 neighborhoods, and gives every pixel the sum of its own. The values are those of the convolutions, to
rounding, borders and ignored pixels included: a pixel outside the image is a label of its own.

Which neighborhoods there are depends on the labels alone; all layers of a size share the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

WORTH = 0.4
"""Distinct 3x3 neighborhoods per pixel up to which this beats the convolution."""
LARGEST = 2**62
"""Codes stay below it, in int64."""


@dataclass(frozen=True)
class Incidence:
    """A sparse matrix of zeros and ones and its transpose: which columns a row has, which rows a column has.

    The columns of row i are columns[starts[i] : starts[i + 1]]; the last row ends with the list.
    """

    starts: Tensor
    columns: Tensor
    transposed_starts: Tensor
    transposed_columns: Tensor


class _SumOfRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, incidence: Incidence) -> Tensor:
        ctx.incidence = incidence
        return F.embedding_bag(incidence.columns, table, incidence.starts, mode="sum")

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        a, gradient = ctx.incidence, gradients[0].contiguous()
        return F.embedding_bag(a.transposed_columns, gradient, a.transposed_starts, mode="sum"), None


def sum_of_rows(table: Tensor, incidence: Incidence) -> Tensor:
    """incidence (rows, columns) times table (columns, c): each row the sum of the table's rows that it lists."""
    return _SumOfRows.apply(table, incidence)


@dataclass(frozen=True)
class Neighborhoods:
    """The distinct neighborhoods of a map (n, channels, h, w)."""

    patches: Tensor
    """(V, 9 channels): the distinct 3x3 patches, zero outside the image, laid out as a convolution's weight."""
    taps: Incidence
    """(U, 9 V): the hidden vectors around the center of a 5x5 neighborhood; column 9 v + k is v under tap k."""
    pixels: Incidence
    """(n h w, U): the 5x5 neighborhood of each pixel."""
    shape: tuple[int, int, int]
    """n, h, w."""

    def convolve(self, shared: Tensor, shared_bias: Tensor | None, heads: Tensor, bias: Tensor) -> Tensor:
        """conv3x3(relu(conv3x3(map))) with zero padding, as (n, outputs, h, w) with channels last in memory.

        shared: weight (hidden, channels, 3, 3); heads: weight (outputs, hidden, 3, 3).
        """
        hidden = F.relu(F.linear(self.patches, shared.flatten(1), shared_bias))
        taps = heads.flatten(2).permute(2, 0, 1).flatten(0, 1)
        products = F.linear(hidden, taps).view(-1, len(heads))
        table = sum_of_rows(products, self.taps)
        rows = sum_of_rows(table + bias.to(table.dtype), self.pixels)
        return rows.view(*self.shape, -1).permute(0, 3, 1, 2)


def pixel_codes(labels: Tensor) -> Tensor | None:
    """A number for every pixel of a map (n, channels, h, w) of zeros and ones, equal where all channels are: (n, h, w).

    None for a map of other values.
    """
    if labels.requires_grad or not bool(((labels == 0) | (labels == 1)).all()):
        return None
    codes = torch.zeros(len(labels), *labels.shape[2:], dtype=torch.int64, device=labels.device)
    for bits in labels.detach().float().split(24, 1):  # exact in float32
        powers = 2 ** torch.arange(bits.shape[1], device=labels.device)
        word = (bits * powers.float()[:, None, None]).sum(1).long()
        codes = _distinct(codes.flatten() * 2**24 + word.flatten())[0].view_as(codes)
    return codes


def neighborhoods(labels: Tensor, codes: Tensor) -> Neighborhoods | None:
    """The distinct neighborhoods of labels (n, channels, h, w); codes (n, h, w) are equal where all channels are.

    None where they are so many that a convolution is faster, or the map is a line.
    """
    n, h, w = codes.shape
    if min(h, w) < 2:
        return None
    ring = F.pad(codes + 1, (1, 1, 1, 1))  # 0 is outside
    three = _joined([ring[:, y : y + h, x : x + w] for y in range(3) for x in range(3)])
    patch, order, starts = _distinct(three)
    if len(starts) > WORTH * len(patch):
        return None
    image, y, x = _positions(order[starts], h, w)
    window = torch.arange(3, device=labels.device)
    padded = F.pad(labels, (1, 1, 1, 1)).permute(0, 2, 3, 1)
    rows, columns = y[:, None, None] + window[:, None], x[:, None, None] + window
    patches = padded[image[:, None, None], rows, columns].permute(0, 3, 1, 2).flatten(1)

    # four overlapping 3x3 neighborhoods make the 5x5 one; outside the image there is no hidden vector
    ring = F.pad(patch.view(n, h, w) + 1, (1, 1, 1, 1))
    five = _joined([ring[:, y : y + h, x : x + w] for y in (0, 2) for x in (0, 2)])
    neighborhood, order, starts = _distinct(five)
    image, y, x = _positions(order[starts], h, w)
    around = ring[image[:, None, None], y[:, None, None] + window[:, None], x[:, None, None] + window].flatten(1)
    inside = around > 0
    columns = ((around - 1) * 9 + torch.arange(9, device=labels.device))[inside]
    count = inside.sum(1)
    listed, position = columns.sort(stable=True)
    row = torch.arange(len(count), device=labels.device).repeat_interleave(count)[position]
    taps = Incidence(_starts(count), columns, _starts(torch.bincount(listed, minlength=9 * len(patches))), row)
    every = torch.arange(n * h * w, device=labels.device)
    return Neighborhoods(patches, taps, Incidence(every, neighborhood, starts, order), (n, h, w))


def _joined(codes: list[Tensor]) -> Tensor:
    """One code per position, flat, equal where all the given codes, not negative, are."""
    joined, span = codes[0].flatten(), int(codes[0].max()) + 1
    base = max(int(code.max()) for code in codes) + 1
    for code in codes[1:]:
        if span * base > LARGEST:
            joined, _, starts = _distinct(joined)
            span = len(starts)
        joined, span = joined * base + code.flatten(), span * base
    return joined


def _distinct(codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For flat codes: which distinct one each is; the positions ordered by that; where each distinct one starts."""
    ordered, order = codes.sort(stable=True)
    first = torch.ones_like(ordered, dtype=torch.bool)
    torch.ne(ordered[1:], ordered[:-1], out=first[1:])
    inverse = torch.empty_like(order)
    inverse[order] = first.cumsum(0) - 1
    return inverse, order, first.nonzero().flatten()


def _starts(counts: Tensor) -> Tensor:
    """Where each of consecutive lists of these lengths begins."""
    return F.pad(counts.cumsum(0)[:-1], (1, 0))


def _positions(flat: Tensor, h: int, w: int) -> tuple[Tensor, Tensor, Tensor]:
    return flat // (h * w), flat // w % h, flat % w
