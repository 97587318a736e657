"""Config and synthesis options of RESAIL."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipelines.compose.distort import Distort
from pipelines.config import Config
from pipelines.data.augment import Framing
from pipelines.train.schedule import Ttur


class ResailWeights(Config):
    """Weights of the loss terms (published: 10, 10, 5); a weight of 0 leaves the term out."""

    feature: float = Field(10.0, ge=0)
    """Feature matching of F_d, the fake from distorted ground truth."""
    perceptual: float = Field(10.0, ge=0)
    """Features of VGG-19, of F_d."""
    segmentation: float = Field(5.0, ge=0)
    """Class-balanced cross-entropy of a frozen segmenter, of both fakes."""


class ResailConfig(Config):
    """RESAIL: guidance, networks, losses and schedule. The defaults are the published ones for 256x256."""

    framing: Framing = Framing()
    """Size, crop and mirroring of training images; guidance is composed at the loaded size."""
    retrieval: Literal["shape", "random", "none"] = "shape"
    """Guide F_r by the nearest shapes, by random pieces of the same class (an ablation), or by nothing."""
    top_k: int = Field(10, ge=1)
    """Of how many neighbors the color reference of the distortion is drawn; clamped to those that exist."""
    distorted: bool = True
    """Train on F_d too, which is guided by the distorted ground truth. Off is an ablation: no paired loss is left."""
    distort: Distort = Distort()
    """How the ground truth is distorted."""
    variant: Literal["resail", "spade_guided", "pix2pixhd_plus", "sean_plus", "spade"] = "resail"
    """The normalization layer; all but resail are the ablation of the paper's supplement."""
    ngf: int = Field(64, ge=1)
    """Base width of the generator."""
    ndf: int = Field(64, ge=1)
    """Base width of the discriminator."""
    hidden: int = Field(128, ge=1)
    """Channels inside each normalization layer."""
    upsamplings: int | None = Field(None, ge=4, le=7)
    """How often the seed is doubled; by the training size if not given: 4 at 64 pixels, 5 up to 256, 6 and 7 above."""
    layers: int = Field(4, ge=1)
    """Convolutions of each discriminator before its logits."""
    scales: int = Field(2, ge=1)
    """Discriminators, each at half the size of the one before."""
    norm: Literal["batch", "instance", "group"] = "batch"
    """What normalizes below the modulation; batches under 4 want instance or group."""
    kernel: Literal[1, 3, 5, 7] = 3
    """Side of the convolutions of the label branch inside each normalization layer."""
    guidance_kernel: Literal[1, 3, 5, 7] = 3
    """Side of the convolutions of the guidance branch inside each normalization layer."""
    spectral: bool = True
    """Divide the weights of the generator's convolutions by their largest singular value."""
    width_cap: int | None = Field(None, ge=8)
    """Most channels of a generator block."""
    fakes: Literal["fresh", "shared"] = "fresh"
    """The discriminator sees fakes of the stepped generator (published), or the generator's own of the same step."""
    checkpointing: bool = False
    """Compute modulation maps again in the backward pass instead of keeping them: less memory, more time."""
    average: float = Field(0.0, ge=0, lt=1)
    """Decay of averaged generator weights, which synthesis then uses; 0 keeps none (published)."""
    weights: ResailWeights = ResailWeights()
    """Weights of the loss terms."""
    optimizer: Ttur = Ttur()
    """Adam for G and D."""


class ResailOptions(Config):
    """What synthesis by RESAIL may be asked beyond layouts."""

    retrieval: Literal["shape", "random", "oracle", "none"] = "shape"
    """Guide by the nearest shapes, by random pieces of the class, by the layout's own photo, or by nothing."""
    rank: int = Field(1, ge=1)
    """Which neighbor guides the first image of a layout; further ones (--num) take the ranks after it."""
