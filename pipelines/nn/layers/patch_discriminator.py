"""PatchGAN at several scales, as SPADE uses it: scores overlapping patches of cat(labels, image)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.nn.layers.normalization import InstanceNorm
from pipelines.nn.layers.spectral import SpectralConv2d

SLOPE = 0.2
WIDEST = 512

Features = list[list[Tensor]]
"""Per scale, full size first: the activations of each layer, and last the logits (n, 1, h, w)."""


def normalized_conv(inputs: int, outputs: int, stride: int, kernel: int = 4, padding: int = 2) -> nn.Sequential:
    """Spectrally normalized convolution and instance norm, which makes its bias idle: there is none."""
    conv = SpectralConv2d(inputs, outputs, kernel, stride, padding, bias=False)
    return nn.Sequential(conv, InstanceNorm())


def patch_layers(inputs: int, ndf: int, layers: int) -> list[nn.Sequential]:
    """The convolutions of one scale but the last, each with its LeakyReLU: ndf, 2 ndf, … wide, at most 512."""
    first = nn.Conv2d(inputs, ndf, 4, stride=2, padding=2)
    sequence = [nn.Sequential(first, nn.LeakyReLU(SLOPE, inplace=True))]
    width = ndf
    for n in range(1, layers):
        wider, stride = min(2 * width, WIDEST), 1 if n == layers - 1 else 2
        sequence.append(nn.Sequential(normalized_conv(width, wider, stride), nn.LeakyReLU(SLOPE, inplace=True)))
        width = wider
    return sequence


def patch_width(ndf: int, layers: int) -> int:
    """Channels of the last activation of `patch_layers`, for ndf up to 512."""
    return min(ndf * 2 ** (layers - 1), WIDEST)


class PatchDiscriminator(nn.Module):
    """One scale: `layers` convolutions 4x4, then one to the logits. Keys model0, model1, …"""

    def __init__(self, inputs: int, ndf: int = 64, layers: int = 4) -> None:
        super().__init__()
        for n, layer in enumerate(patch_layers(inputs, ndf, layers)):
            self.add_module(f"model{n}", layer)
        logits = nn.Conv2d(patch_width(ndf, layers), 1, 4, padding=2)
        self.add_module(f"model{layers}", nn.Sequential(logits))

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for layer in self.children():
            x = layer(x)
            features.append(x)
        return features


class MultiscaleDiscriminator(nn.Module):
    """The same kind of network on the input at full, half, … size. Keys discriminator_0, discriminator_1, …

    make: builds the network of one scale, called with cat(labels, image) (n, c, h, w), gives its features.
    """

    def __init__(self, make: Callable[[], nn.Module], scales: int = 2) -> None:
        super().__init__()
        for i in range(scales):
            self.add_module(f"discriminator_{i}", make())

    def forward(self, x: Tensor) -> Features:
        features: Features = []
        for i, discriminator in enumerate(self.children()):
            if i > 0:
                x = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
            features.append(discriminator(x))
        return features


def judge_pair(discriminator: nn.Module, labels: Tensor, fake: Tensor, real: Tensor) -> tuple[Features, Features]:
    """Features of fake and real under the same labels (n, c, h, w), by one forward on the joined batch."""
    pair = torch.cat([torch.cat([labels, fake], 1), torch.cat([labels, real], 1)])
    features = discriminator(pair)
    n = len(labels)
    return [[f[:n] for f in scale] for scale in features], [[f[n:] for f in scale] for scale in features]
