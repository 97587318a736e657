"""The decoder of sg2im and PasteGAN: a cascaded refinement network (Chen and Koltun, ICCV 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.errors import ConfigError
from pipelines.systems.retrievegan.crops import Norm, norm2d
from pipelines.systems.retrievegan.layouts import Size


class RefinementModule(nn.Module):
    """Twice a convolution, a norm and LeakyReLU, of the layout and the features so far, in this order."""

    def __init__(self, inputs: int, outputs: int, norm: Norm, slope: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in (inputs, outputs):
            layers += [nn.Conv2d(width, outputs, 3, padding=1), norm2d(norm, outputs), nn.LeakyReLU(slope)]
        self.net = nn.Sequential(*layers)

    def forward(self, layout: Tensor, features: Tensor) -> Tensor:
        refined: Tensor = self.net(torch.cat([layout, features], 1))
        return refined


class RefinementNetwork(nn.Module):
    """A layout (n, layout_width, h, w) to an image (n, 3, H, W) of any range, there is no tanh (section 4.7).

    widths: channels of the modules; each doubles the features and sees the whole layout at its own size. The features
    begin as zeros of 1/2^modules of the image.
    """

    def __init__(
        self, layout_width: int, widths: Sequence[int], *, norm: Norm = "instance", slope: float = 0.01
    ) -> None:
        super().__init__()
        self.refinement_modules = nn.ModuleList(
            RefinementModule(layout_width + before, after, norm, slope) for before, after in pairwise([1, *widths])
        )
        last = widths[-1]
        self.output_conv = nn.Sequential(
            nn.Conv2d(last, last, 3, padding=1), nn.LeakyReLU(slope), nn.Conv2d(last, 3, 1)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, layout: Tensor, size: Size | None = None) -> Tensor:
        """size: (H, W) of the image, that of the layout if not given; a multiple of 2^modules, else ConfigError."""
        size = size or (layout.shape[2], layout.shape[3])
        doublings = len(self.refinement_modules)
        if any(side % 2**doublings or side == 0 for side in size):
            raise ConfigError(
                f"{doublings} modules make no image of {size[0]}x{size[1]}",
                where="size",
                fix=f"give sides that are multiples of {2**doublings}",
            )
        height, width = (side >> doublings for side in size)
        features = layout.new_zeros(len(layout), 1, height, width)
        for module in self.refinement_modules:
            height, width = 2 * height, 2 * width
            features = F.interpolate(features, size=(height, width), mode="nearest")
            features = module(resized(layout, (height, width)), features)
        image: Tensor = self.output_conv(features)
        return image


def resized(layout: Tensor, size: Size) -> Tensor:
    """The means of its cells where the layout is larger than `size`, its nearest cells where it is smaller."""
    if layout.shape[2] == size[0] and layout.shape[3] == size[1]:
        return layout
    if layout.shape[2] >= size[0] and layout.shape[3] >= size[1]:
        return F.adaptive_avg_pool2d(layout, size)
    return F.interpolate(layout, size=size, mode="nearest")
