"""The skeleton of the SPADE generators: residual blocks that are told at every layer what to paint where.

A seed at 1/2^U of the image passes blocks whose width halves as their size doubles; every normalization in a block is
modulated by maps (labels, guidance, …) at the size of its features. What the maps are, how a norm uses them, which
convolution and which upsampling are given as callables, so that SPADE, RESAIL and OASIS are this one network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.errors import ConfigError
from pipelines.nn.layers.neighborhoods import neighborhoods, pixel_codes
from pipelines.nn.layers.normalization import Maps, Modulation

Size = tuple[int, int]
Conditions = Callable[[Size], Maps]
"""The pyramid of conditions: the maps at a size. Wrap it in functools.cache and each resize is made once."""
Norm = Callable[[str, int], nn.Module]
"""(name of the stage, features) -> a module called with (h, maps)."""
Conv = Callable[[int, int, int, bool], nn.Module]
"""(inputs, outputs, kernel, bias) -> a convolution that keeps the size."""

SLOPE = 0.2


class Stage(NamedTuple):
    """A block of the generator: its name in the state dict, its channels out, is there an upsampling before it."""

    name: str
    width: int
    upsample: bool


def nearest(x: Tensor, size: Size) -> Tensor:
    """Nearest resize: for a whole factor it picks the top left pixel of each cell."""
    return x if tuple(x.shape[-2:]) == tuple(size) else F.interpolate(x, size, mode="nearest")


def bilinear(x: Tensor, size: Size) -> Tensor:
    """Bilinear resize, pixel centers aligned, without antialiasing."""
    same = tuple(x.shape[-2:]) == tuple(size)
    return x if same else F.interpolate(x, size, mode="bilinear", align_corners=False)


def label_pyramid(labels: Tensor, codes: Tensor | None = None) -> Conditions:
    """Labels (n, channels, h, w) and their distinct neighborhoods, once for each size.

    codes: (n, h, w) integers that are equal where all channels are; found here for a map of zeros and ones.
    """
    codes = pixel_codes(labels) if codes is None else codes

    @cache
    def conditions(size: Size) -> Maps:
        resized = nearest(labels, size)
        if codes is None:
            return Maps(labels=resized, neighborhoods=None)
        small = nearest(codes[:, None].double(), size)[:, 0].long()  # the pixels that `resized` has
        return Maps(labels=resized, neighborhoods=neighborhoods(resized, small))

    return conditions


def double(x: Tensor) -> Tensor:
    """Twice the size, by repeating pixels."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column until both sides are multiples; crop what is made of it to the old size."""
    h, w = x.shape[-2:]
    return F.pad(x, (0, -w % multiple, 0, -h % multiple), mode="replicate") if h % multiple or w % multiple else x


def spade_stages(ngf: int, upsamplings: int, width_cap: int | None = None) -> list[Stage]:
    """The blocks of SPADE for a start at 1/2^upsamplings of the image; widths 16, 16, 16, 8, 4, 2, 1 times ngf.

    5, 6, 7 upsamplings are the published «normal», «more», «most»; 4 drops the first block, for 64 pixel images.
    width_cap: most channels of a block.
    """
    if upsamplings not in range(4, 8):
        raise ConfigError(f"a SPADE generator upsamples 4 to 7 times, not {upsamplings}", where="upsamplings")
    plan = [
        ("head_0", 16 * ngf, False),
        ("G_middle_0", 16 * ngf, True),
        ("G_middle_1", 16 * ngf, upsamplings > 5),
        ("up_0", 8 * ngf, True),
        ("up_1", 4 * ngf, True),
        ("up_2", 2 * ngf, True),
        ("up_3", ngf, True),
    ]
    if upsamplings == 7:
        plan.append(("up_4", ngf // 2, True))
    if upsamplings == 4:
        plan = [("G_middle_0", 16 * ngf, False), *plan[2:]]
    return [Stage(name, min(width, width_cap or width), up) for name, width, up in plan]


class SpadeBlock(nn.Module):
    """Residual block: norm, LeakyReLU, conv, twice; where the width changes, norm and a 1x1 conv on the shortcut."""

    def __init__(self, inputs: int, outputs: int, norm: Callable[[int], nn.Module], conv: Conv) -> None:
        super().__init__()
        middle = min(inputs, outputs)
        self.conv_0 = conv(inputs, middle, 3, True)
        self.conv_1 = conv(middle, outputs, 3, True)
        self.norm_0 = norm(inputs)
        self.norm_1 = norm(middle)
        self.learned_shortcut = inputs != outputs
        if self.learned_shortcut:
            self.conv_s = conv(inputs, outputs, 1, False)
            self.norm_s = norm(inputs)

    def forward(self, x: Tensor, maps: Maps) -> Tensor:
        shortcut = self.conv_s(self.norm_s(x, maps)) if self.learned_shortcut else x
        h = self.conv_0(F.leaky_relu(self.norm_0(x, maps), SLOPE, inplace=True))
        h = self.conv_1(F.leaky_relu(self.norm_1(h, maps), SLOPE, inplace=True))
        return shortcut + h


class SpadeSkeleton(nn.Module):
    """Blocks named by their stages, then conv_img. A subclass adds `fc`, which makes the seed, and its forward.

    checkpointing: less memory for more time; see `Modulation`.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        norm: Norm,
        conv: Conv,
        upsample: Callable[[Tensor], Tensor] = double,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.stages = tuple(stages)
        self.upsample = upsample
        width = self.seed_width
        for stage in stages:
            block = SpadeBlock(width, stage.width, lambda n, name=stage.name: norm(name, n), conv)  # type: ignore[misc]
            self.add_module(stage.name, block)
            width = stage.width
        self.conv_img = nn.Conv2d(width, 3, 3, padding=1)
        for module in self.modules():
            if isinstance(module, Modulation):
                module.checkpointing = checkpointing

    @property
    def seed_width(self) -> int:
        """Channels of the seed: those of the first block, whose shortcut is therefore the identity."""
        return self.stages[0].width

    @property
    def factor(self) -> int:
        """Size of the image over the size of the seed, for an upsampling by two."""
        return 2 ** sum(stage.upsample for stage in self.stages)

    def paint(self, seed: Tensor, conditions: Conditions) -> Tensor:
        """From a seed (n, seed_width, h, w) to an image (n, 3, factor h, factor w) in [-1, 1]."""
        x = seed.contiguous(memory_format=torch.channels_last)
        for stage in self.stages:
            if stage.upsample:
                x = self.upsample(x)
            x = self.get_submodule(stage.name)(x, conditions(cast(Size, tuple(x.shape[-2:]))))
        return torch.tanh(self.conv_img(F.leaky_relu(x, SLOPE))).contiguous()


def upsamplings_for(size: Size) -> int:
    """The published number of upsamplings for a training size (h, w), by its longer side: 4 up to 64 pixels (one
    block fewer), 5 up to 256, 6 up to 512, 7 above."""
    longer = max(size)
    return 4 if longer <= 64 else 5 if longer <= 256 else 6 if longer <= 512 else 7
