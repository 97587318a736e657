"""What reads patches: the crop encoder of the generator and the patch embedder E_p of retrieval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.nn.layers.joined import JoinedBatchNorm
from pipelines.nn.layers.normalization import InstanceNorm

SLOPE = 0.1
"""Of PasteGAN's leaky ReLUs."""

Norm = Literal["batch", "group", "instance"]


def norm2d(kind: Norm, features: int) -> nn.Module:
    """batch: over the joined batch of all processes. group: up to 32 groups of 8 channels at least, of each map alone.

    Both have a scale and a shift for each channel; instance has none.
    """
    if kind == "batch":
        return JoinedBatchNorm(features)
    if kind == "instance":
        return InstanceNorm()
    return nn.GroupNorm(math.gcd(32, features, max(1, features // 8)), features)


def block(inputs: int, outputs: int, kernel: int, norm: Norm, stride: int = 1) -> list[nn.Module]:
    """A convolution with «same» padding, its norm, and LeakyReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)
    return [conv, norm2d(norm, outputs), nn.LeakyReLU(SLOPE)]


def trunk(widths: Sequence[int], norm: Norm) -> list[nn.Module]:
    """An image to the last of `widths` channels by 3x3 convolutions, each of which halves it."""
    return [layer for a, b in pairwise([3, *widths]) for layer in block(a, b, 3, norm, stride=2)]


class CropEncoder(nn.Sequential):
    """Crops (O, 3, s, s) to maps (O, channels, s/8, s/8), for three widths (section 4.3)."""

    def __init__(self, channels: int = 128, widths: Sequence[int] = (64, 128, 256), norm: Norm = "batch") -> None:
        super().__init__(*trunk(widths, norm), *block(widths[-1], channels, 1, norm))


class PatchEmbedder(nn.Module):
    """E_p: patches (n, 3, s, s), ImageNet-normalized, to vectors (n, dimension) (section 4.4).

    normalized: of unit length. Group norm by default: a vector is a function of its patch, not of the batch, so that
    vectors of a whole bank can be kept.
    """

    def __init__(
        self,
        dimension: int = 128,
        widths: Sequence[int] = (64, 128, 256),
        *,
        normalized: bool = True,
        norm: Norm = "group",
    ) -> None:
        super().__init__()
        self.normalized = normalized
        self.trunk = nn.Sequential(*trunk(widths, norm))
        self.last = nn.Linear(widths[-1], dimension)

    def forward(self, patches: Tensor) -> Tensor:
        vectors: Tensor = self.last(self.trunk(patches).mean((2, 3))).float()
        return F.normalize(vectors, dim=1) if self.normalized else vectors
