"""The generator of OASIS (Schönfeld et al., ICLR 2021); its discriminator is nn's UNet with classes + 1 outputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipelines.errors import ConfigError
from pipelines.nn.layers.neighborhoods import pixel_codes
from pipelines.nn.layers.normalization import ParameterFree, Spade
from pipelines.nn.layers.spade_generator import (
    SpadeSkeleton,
    Stage,
    label_pyramid,
    nearest,
    pad_to_multiple,
)
from pipelines.nn.layers.spectral import spectral_conv

SHRINK = (16, 8, 4, 2, 1)  # the last widths over the base width; the blocks before them are all 16 wide


def oasis_stages(channels: int, blocks: int = 6, width_cap: int | None = None) -> list[Stage]:
    """Blocks of widths 16, 16, 8, 4, 2, 1 times channels (the published six); all but the first upsample.

    5 blocks leave out the first, for 64 pixel images. width_cap: most channels of a block.
    """
    if blocks < len(SHRINK):
        raise ConfigError(f"OASIS has {len(SHRINK)} blocks at least, not {blocks}", where="blocks")
    widths = [channels * m for m in (16,) * (blocks - len(SHRINK)) + SHRINK]
    return [Stage(f"body_{i}", min(w, width_cap or w), upsample=i > 0) for i, w in enumerate(widths)]


class OasisGenerator(SpadeSkeleton):
    """Labels and 3D noise to an image: the noise joins the labels as a map, in the seed and in every SPADE.

    classes: channels of the labels. z_dim: channels of the noise, 0 for none. blocks: the seed is 1/2^(blocks - 1) of
    the image. hidden: channels of the shared map in each SPADE.
    """

    def __init__(
        self,
        classes: int,
        channels: int = 64,
        *,
        z_dim: int = 64,
        blocks: int = 6,
        hidden: int = 128,
        kernel: int = 3,
        width_cap: int | None = None,
        norm: ParameterFree = "batch",
        checkpointing: bool = False,
    ) -> None:
        condition = classes + z_dim

        def spade(stage: str, features: int) -> nn.Module:
            return Spade(features, condition, hidden=hidden, kernel=kernel, norm=norm)

        super().__init__(oasis_stages(channels, blocks, width_cap), spade, spectral_conv, checkpointing=checkpointing)
        self.z_dim = z_dim
        self.fc = nn.Conv2d(condition, self.seed_width, 3, padding=1)

    def forward(self, labels: Tensor, z: Tensor | None = None) -> Tensor:
        """labels: one-hot (n, classes, h, w) of any size. To (n, 3, h, w) in [-1, 1].

        z: noise (n, z_dim), the same everywhere, or (n, z_dim, h, w), to draw some regions anew and keep others.
        """
        h, w = labels.shape[-2:]
        condition = pad_to_multiple(self.join(labels, z), self.factor)
        start = (condition.shape[-2] // self.factor, condition.shape[-1] // self.factor)

        codes = None
        if z is None or z.dim() == 2:  # the noise is the same all over an image
            of_labels = pixel_codes(pad_to_multiple(labels, self.factor))
            image = torch.arange(len(labels), device=labels.device)[:, None, None]
            codes = None if of_labels is None else of_labels * len(labels) + image
        pyramid = label_pyramid(condition, codes)
        return self.paint(self.fc(nearest(condition, start)), pyramid)[..., :h, :w]

    def join(self, labels: Tensor, z: Tensor | None) -> Tensor:
        """cat(noise, labels) (n, z_dim + classes, h, w)."""
        if self.z_dim == 0:
            return labels
        if z is None:
            raise ConfigError(f"this generator needs noise of {self.z_dim} channels", where="z")
        noise = z if z.dim() == 4 else z[:, :, None, None].expand(-1, -1, *labels.shape[-2:])
        return torch.cat([noise, labels], 1)
