"""Config and synthesis options of OASIS."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipelines.config import Config
from pipelines.data.augment import Framing


class OasisConfig(Config):
    """OASIS: networks, losses and schedule. The defaults are the published ones for 256x256."""

    framing: Framing = Framing()
    """Size, crop and mirroring of training images."""
    channels: int = Field(64, ge=1)
    """Base width of the generator."""
    blocks: int = Field(6, ge=5)
    """Residual blocks of the generator; the seed is 1/2^(blocks - 1) of the image."""
    hidden: int = Field(128, ge=1)
    """Channels of the shared map inside each SPADE."""
    kernel: Literal[1, 3, 5, 7] = 3
    """Side of the convolutions inside each SPADE."""
    width_cap: int | None = Field(None, ge=8)
    """Most channels of a generator block."""
    discriminator_widths: tuple[int, ...] = (128, 128, 256, 256, 512, 512)
    """Channels of the blocks of the segmentation discriminator, each at half the size of the one before."""
    z_dim: int = Field(64, ge=0)
    """Channels of the 3D noise; 0 for none."""
    labelmix: float = Field(10.0, ge=0)
    """Weight of the LabelMix consistency; 0 leaves it out."""
    perceptual: float = Field(0.0, ge=0)
    """Weight of the VGG-19 loss; OASIS needs none."""
    lr_g: float = Field(1e-4, gt=0)
    """Learning rate of the generator."""
    lr_d: float = Field(4e-4, gt=0)
    """Learning rate of the discriminator."""
    betas: tuple[float, float] = (0.0, 0.999)
    """Adam's betas."""
    checkpointing: bool = False
    """Compute modulation maps again in the backward pass instead of keeping them: less memory, more time."""
    average: float = Field(0.9999, ge=0, lt=1)
    """Decay of the averaged generator weights, which synthesis uses; 0 keeps none."""


class OasisOptions(Config):
    """What synthesis by OASIS may be asked: nothing beyond layouts; --num draws other noise."""
