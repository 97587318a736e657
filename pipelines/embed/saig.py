"""SAIG: a convolutional stem, self-attention without feed-forward layers, and two heads (Zhu, Yang et al., 2023).

Keys are the authors': pos_embed, patch_embed.conv_stem.*, blocks.*.norm1|attn.qkv|attn.proj, norm; linear1..3 of SMD.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.data.augment import Size
from pipelines.errors import ArtifactError
from pipelines.nn.layers.joined import JoinedBatchNorm

STRIDE = 16
"""Pixels of an image along one side of a token."""
STEM_STRIDES = (2, 2, 1, 2, 1, 2)
INITIAL_STD = 0.02


@dataclass(frozen=True)
class SaigShape:
    """What a SAIG is beside its grid. stem: channels of its six 3x3 convolutions. width: numbers in a token."""

    stem: tuple[int, ...] = (64, 128, 128, 256, 256, 512)
    width: int = 384
    depth: int = 11
    heads: int = 12
    qkv_bias: bool = True
    eps: float = 1e-6


SHAPES = {
    "saig-s": SaigShape(),
    "saig-d": SaigShape(depth=22),
    "saig-small": SaigShape(stem=(16, 32, 32, 64, 64, 128), width=64, depth=3, heads=4),
}


class Saig(nn.Module):
    """Images (n, 3, h, w) of the one size of its grid to tokens (n, h/16 * w/16, width), row by row."""

    def __init__(self, shape: SaigShape, size: Size) -> None:
        super().__init__()
        self.grid, self.width = (size[0] // STRIDE, size[1] // STRIDE), shape.width
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid[0] * self.grid[1], shape.width))
        self.patch_embed = Stem(shape)
        self.blocks = nn.Sequential(*(Block(shape) for _ in range(shape.depth)))
        self.norm = nn.LayerNorm(shape.width, eps=shape.eps)
        nn.init.trunc_normal_(self.pos_embed, std=INITIAL_STD)
        self.blocks.apply(begin_linear)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patch_embed(images).flatten(2).transpose(1, 2) + self.pos_embed
        normalized: Tensor = self.norm(self.blocks(tokens))
        return normalized


class Stem(nn.Module):
    """Six 3x3 convolutions with batch norm over all processes and ReLU, then a 1x1: a map of stride 16."""

    def __init__(self, shape: SaigShape) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for outputs, stride in zip(shape.stem, STEM_STRIDES, strict=True):
            layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), JoinedBatchNorm(outputs), nn.ReLU()]
            inputs = outputs
        self.conv_stem = nn.Sequential(*layers, nn.Conv2d(inputs, shape.width, 1))

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.conv_stem(images)
        return maps


class Block(nn.Module):
    """x + attention(norm(x)), and nothing else: SAIG has no feed-forward layer."""

    def __init__(self, shape: SaigShape) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(shape.width, eps=shape.eps)
        self.attn = Attention(shape)

    def forward(self, tokens: Tensor) -> Tensor:
        attended: Tensor = self.attn(self.norm1(tokens))
        return tokens + attended


class Attention(nn.Module):
    """Multi-head self-attention, scale 1/sqrt(width of a head); `qkv` holds queries, keys and values in this order."""

    def __init__(self, shape: SaigShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.qkv = nn.Linear(shape.width, 3 * shape.width, bias=shape.qkv_bias)
        self.proj = nn.Linear(shape.width, shape.width)

    def forward(self, tokens: Tensor) -> Tensor:
        n, count, width = tokens.shape
        q, k, v = self.qkv(tokens).view(n, count, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, count, width)
        projected: Tensor = self.proj(attended)
        return projected


class SmdHead(nn.Module):
    """Spatial-mixed descriptor: tokens (n, tokens, width) mixed over their places to (n, outputs * width).

    hidden: four times the tokens, as published, unless given.
    """

    def __init__(self, tokens: int, outputs: int = 8, hidden: int | None = None) -> None:
        super().__init__()
        self.outputs = outputs
        self.linear1 = nn.Linear(tokens, hidden or 4 * tokens)
        self.linear2 = nn.Linear(hidden or 4 * tokens, tokens)
        self.linear3 = nn.Linear(tokens, outputs)
        self.apply(begin_linear)

    def forward(self, tokens: Tensor) -> Tensor:
        mixed = self.linear3(self.linear2(F.gelu(self.linear1(tokens.transpose(1, 2)))))
        return mixed.transpose(1, 2).flatten(1)


class AverageHead(nn.Module):
    """Tokens (n, tokens, width) to their mean (n, width)."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.mean(1)


def begin_linear(module: nn.Module) -> None:
    """Truncated normal weights and zero bias, for a linear layer."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=INITIAL_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def resize_positions(positions: Tensor, grid: Size) -> Tensor:
    """Positions (1, side * side, width) of a square grid, as ImageNet's have, brought to another grid bicubically.

    Positions of as many tokens as the grid has are taken as its own. ArtifactError where the old grid is not square,
    since its sides are not told.
    """
    count, width = positions.shape[1:]
    if count == grid[0] * grid[1]:
        return positions
    side = math.isqrt(count)
    if side * side != count:
        raise ArtifactError(
            f"there are {count} positions, and images of this size have {grid[0]}x{grid[1]}",
            where="pos_embed",
            fix="give the height and width that it was trained with; only square grids can be resized",
        )
    square = positions.reshape(1, side, side, width).permute(0, 3, 1, 2)
    resized = F.interpolate(square, grid, mode="bicubic", align_corners=False)
    return resized.flatten(2).transpose(1, 2)
