"""Config and synthesis options of SPADE."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipelines.config import Config
from pipelines.data.augment import Framing
from pipelines.train.schedule import Ttur


class SpadeWeights(Config):
    """Weights of the loss terms (published: 10, 10, 0.05); a weight of 0 leaves the term out."""

    feature: float = Field(10.0, ge=0)
    """Feature matching in the discriminator."""
    perceptual: float = Field(10.0, ge=0)
    """Features of VGG-19."""
    kl: float = Field(0.05, ge=0)
    """KL divergence of the image encoder; counts only with `vae`."""


class SpadeConfig(Config):
    """SPADE: networks, losses and schedule. The defaults are the published ones for 256x256."""

    framing: Framing = Framing()
    """Size, crop and mirroring of training images."""
    ngf: int = Field(64, ge=1)
    """Base width of the generator."""
    ndf: int = Field(64, ge=1)
    """Base width of the discriminator."""
    hidden: int = Field(128, ge=1)
    """Channels of the shared map inside each SPADE."""
    upsamplings: int | None = Field(None, ge=4, le=7)
    """How often the seed is doubled; by the training size if not given: 4 at 64 pixels, 5 up to 256, 6 and 7 above."""
    layers: int = Field(4, ge=1)
    """Convolutions of each discriminator before its logits."""
    scales: int = Field(2, ge=1)
    """Discriminators, each at half the size of the one before."""
    norm: Literal["batch", "instance", "group"] = "batch"
    """What normalizes below the modulation; batches under 4 want instance or group."""
    kernel: Literal[1, 3, 5, 7] = 3
    """Side of the convolutions inside each SPADE."""
    spectral: bool = True
    """Divide the weights of the generator's convolutions by their largest singular value."""
    width_cap: int | None = Field(None, ge=8)
    """Most channels of a generator block."""
    edges: bool = False
    """Feed a channel that marks the borders of instances, as published for COCO-Stuff and Cityscapes."""
    vae: bool = False
    """Seed the generator with a latent vector that an image encoder learns, instead of the labels."""
    z_dim: int = Field(256, ge=1)
    """Length of the latent vector."""
    encoder_size: int | None = Field(None, ge=8)
    """Side that the image encoder resizes to, a power of two; by the training size, up to 256, if not given."""
    fakes: Literal["fresh", "shared"] = "fresh"
    """The discriminator sees a fake of the stepped generator (published), or the generator's own of the same step."""
    checkpointing: bool = False
    """Compute modulation maps again in the backward pass instead of keeping them: less memory, more time."""
    average: float = Field(0.0, ge=0, lt=1)
    """Decay of averaged generator weights, which synthesis then uses; 0 keeps none (published)."""
    weights: SpadeWeights = SpadeWeights()
    """Weights of the loss terms."""
    optimizer: Ttur = Ttur()
    """Adam for G and D."""


class SpadeOptions(Config):
    """What synthesis by SPADE may be asked: nothing beyond layouts and, with a VAE, random styles by --num."""
