"""The U-Net of OASIS: a residual encoder and decoder that gives every pixel its logits.

OASIS' discriminator, with classes + 1 outputs, and the segmenter of RESAIL, with as many as classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.nn.layers.spade_generator import double, pad_to_multiple
from pipelines.nn.layers.spectral import spectral_conv

SLOPE = 0.2
WIDTHS = (128, 128, 256, 256, 512, 512)


class Down(nn.Module):
    """Residual block to half the size. The first one sees pixels: no activation before it, pooled shortcut."""

    def __init__(self, inputs: int, outputs: int, first: bool) -> None:
        super().__init__()
        self.first = first
        activation = [] if first else [nn.LeakyReLU(SLOPE)]
        self.conv1 = nn.Sequential(*activation, spectral_conv(inputs, outputs, 3))
        self.conv2 = nn.Sequential(nn.LeakyReLU(SLOPE), spectral_conv(outputs, outputs, 3))
        self.learned_shortcut = first or inputs != outputs
        if self.learned_shortcut:
            self.conv_s = spectral_conv(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        # a 1x1 convolution and an average commute; pooling first is a quarter of the work
        shortcut = F.avg_pool2d(x, 2)
        if self.learned_shortcut:
            shortcut = self.conv_s(shortcut)
        return shortcut + F.avg_pool2d(self.conv2(self.conv1(x)), 2)


class Up(nn.Module):
    """Residual block to twice the size."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.conv1 = nn.Sequential(nn.LeakyReLU(SLOPE), upsample, spectral_conv(inputs, outputs, 3))
        self.conv2 = nn.Sequential(nn.LeakyReLU(SLOPE), spectral_conv(outputs, outputs, 3))
        self.learned_shortcut = inputs != outputs
        if self.learned_shortcut:
            self.conv_s = spectral_conv(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        # a 1x1 convolution and repeating pixels commute; the small map is a quarter of the work
        shortcut = double(self.conv_s(x) if self.learned_shortcut else x)
        return shortcut + self.conv2(self.conv1(x))


class UNet(nn.Module):
    """Logits (n, outputs, h, w) of an image (n, 3, h, w) of any size; sides are padded to multiples of 2^len(widths).

    widths: channels of the encoder's blocks; the decoder mirrors them and ends at half the first.
    """

    def __init__(self, outputs: int, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        down = [3, *widths]
        self.body_down = nn.ModuleList(Down(down[i], down[i + 1], first=i == 0) for i in range(len(widths)))
        up = [widths[0] // 2, *widths]
        self.body_up = nn.ModuleList(
            Up(up[i + 1] if i == len(widths) - 1 else 2 * up[i + 1], up[i]) for i in reversed(range(len(widths)))
        )
        self.layer_up_last = nn.Conv2d(up[0], outputs, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = pad_to_multiple(image, 2 ** len(self.body_down))
        skips = []
        for block in self.body_down:
            x = block(x)
            skips.append(x)
        x = self.body_up[0](skips.pop())
        for block in self.body_up[1:]:
            x = block(torch.cat([skips.pop(), x], 1))
        return self.layer_up_last(x)[..., : image.shape[-2], : image.shape[-1]]
