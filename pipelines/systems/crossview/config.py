"""Config and synthesis options of the cross-view system."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from pipelines.config import Config
from pipelines.systems.crossview.networks import doublings
from pipelines.train.schedule import Ttur

Size = tuple[int, int]
View = Literal["aerial", "ground"]


class Sizes(Config):
    """Height and width of each view, powers of two, since the networks double and halve."""

    aerial: Size = (256, 256)
    """Of the view from above."""
    ground: Size = (128, 512)
    """Of the view from the street."""

    def of(self, view: str) -> Size:
        return self.aerial if view == "aerial" else self.ground

    @field_validator("aerial", "ground")
    @classmethod
    def _powers_of_two(cls, size: Size) -> Size:
        if any(side < 16 or side & (side - 1) for side in size):
            raise ValueError("each side must be a power of two from 16, for instance 128x512")
        return size


class Widths(Config):
    """Channels of the generator's blocks, each of which doubles the map, by the view that is made."""

    aerial: tuple[int, ...] = (512, 512, 256, 256, 128, 64)
    """From 4x4 to 256x256."""
    ground: tuple[int, ...] = (512, 512, 256, 128, 64)
    """From 4x16 to 128x512."""

    def of(self, view: str) -> tuple[int, ...]:
        return self.aerial if view == "aerial" else self.ground


class CrossviewWeights(Config):
    """Weights of the loss terms, all of them our inference; a weight of 0 leaves the term out."""

    adversarial: float = Field(1.0, ge=0)
    """What the discriminator says of the fake and its source together."""
    reconstruction: float = Field(10.0, ge=0)
    """Mean absolute distance to the real target."""
    perceptual: float = Field(1.0, ge=0)
    """Features of VGG-19."""
    identity: float = Field(1.0, ge=0)
    """One minus the cosine of the embeddings of the fake and of a real view of the place."""
    diversity: float = Field(1.0, ge=0)
    """Reward for the distance of two fakes of one source at the first step; falls linearly to 0 over the training."""
    low_resolution: float = Field(0.0, ge=0)
    """Distance of a small image, read off after the structure blocks, to the target at that size (1 where used)."""
    penalty: float = Field(2.0, ge=0)
    """Gradient penalty of the discriminator on real matching pairs, the sixth power of the norm (DF-GAN's value)."""


class CrossviewConfig(Config):
    """The cross-view system: networks, losses and schedule. The defaults are those for 256x256 and 128x512."""

    direction: Literal["a2g", "g2a"] = "a2g"
    """From aerial to ground, or from ground to aerial."""
    sizes: Sizes = Sizes()
    """Of both views; photos are resized to them, aspect ignored."""
    encoder: Literal["retrieval", "trainable"] = "retrieval"
    """What makes the embedding: the frozen retrieval embedder, or a plain encoder trained with G (an ablation)."""
    conditioning: Literal["pooled", "head"] = "pooled"
    """The embedder's vector: the mean over its tokens, or what its head makes of them."""
    embedding: int = Field(384, ge=1)
    """Length of that vector; must be the embedder's."""
    projected: int | None = Field(None, ge=1)
    """Length to which a linear layer in G and one in D bring the embedding first (384, where it is a head's 3072)."""
    widths: Widths = Widths()
    """Channels of the generator's blocks."""
    structure: int = Field(3, ge=0)
    """How many blocks, from the smallest map on, paint structure; those after them paint texture."""
    blocks: Literal["both", "S", "T"] = "both"
    """Structure blocks before texture blocks, or blocks of one kind alone (ablations)."""
    modulation: Literal["attentional", "plain", "full"] = "attentional"
    """Where the embedding modulates texture: by a learned map, nowhere (plain AdaIN), everywhere (ablations)."""
    blend: Literal["additive", "convex"] = "additive"
    """Whether the embedding's modulation is added to that of the style, or takes its place where the map says."""
    z_dim: int = Field(128, ge=1)
    """Length of the noise vector."""
    style: int = Field(512, ge=1)
    """Length of the style vector that the mapping network makes."""
    spread: int = Field(64, ge=1)
    """Channels of the embedding that is copied to every pixel, and inside the network of the map."""
    hidden: int = Field(256, ge=1)
    """Width of the network that makes the embedding's modulation."""
    circular: bool = False
    """Let convolutions of ground panoramas see across their left and right edges, which meet."""
    ndf: int = Field(32, ge=1)
    """Base width of the discriminator."""
    ndf_most: int = Field(256, ge=1)
    """Most channels of the discriminator."""
    alpha_d: float = Field(1.0, ge=0)
    """Factor of the embedding in the discriminator; 0 makes it unconditional (an ablation)."""
    encoder_width: int = Field(64, ge=1)
    """Base width of the trainable encoder."""
    identity: Literal["target", "source"] = "target"
    """Whether a fake should have the embedding of the real target, or that of its source under the source's tower."""
    diversity: Literal["distance", "mode_seeking"] = "distance"
    """Reward the distance of two fakes, or the ratio of the distances of their noise and of themselves."""
    rotate: Literal["none", "quarters", "any"] = "none"
    """Turn a panorama and its aerial image together, by quarters of a circle or any angle; perspectives stay."""
    fakes: Literal["fresh", "shared"] = "fresh"
    """D steps first, on a fake of its own; or after G, on the fake that G was trained with, which saves a pass of G."""
    average: float = Field(0.999, ge=0, lt=1)
    """Decay of averaged generator weights, which synthesis then uses; 0 keeps none."""
    weights: CrossviewWeights = CrossviewWeights()
    """Weights of the loss terms."""
    optimizer: Ttur = Ttur()
    """Adam for G and D."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.rotate != "none" and self.sizes.aerial[0] != self.sizes.aerial[1]:
            raise ValueError("only square aerial images can be turned: set rotate: none, or a square aerial size")
        if self.circular and self.target == "aerial":
            raise ValueError("an aerial view does not go on at its other edge: set circular: false")
        blocks, needed = len(self.widths.of(self.target)), doublings(self.size)
        if blocks != needed:
            raise ValueError(f"{needed} blocks make images of {self.size}, not {blocks}: set widths.{self.target}")
        if self.structure > blocks or (self.weights.low_resolution and not self.structure):
            raise ValueError(f"{self.structure} of {blocks} blocks cannot paint structure")
        weights = self.weights
        if not (weights.adversarial or weights.reconstruction or weights.perceptual or weights.identity):
            raise ValueError("with all of these weights at 0 there is nothing to train")
        return self

    @property
    def source(self) -> View:
        return "aerial" if self.direction == "a2g" else "ground"

    @property
    def target(self) -> View:
        return "ground" if self.direction == "a2g" else "aerial"

    @property
    def size(self) -> Size:
        """(h, w) of the images that are made."""
        return self.sizes.of(self.target)

    @property
    def modulated(self) -> bool:
        """Does the embedding modulate any block, so that a strength means something."""
        texture = self.blocks == "T" or (self.blocks == "both" and self.structure < len(self.widths.of(self.target)))
        return texture and self.modulation != "plain"

    @property
    def needs_embedder(self) -> bool:
        """Whether a training does; synthesis needs one where `encoder` is retrieval."""
        return self.encoder == "retrieval" or self.weights.identity > 0


class CrossviewOptions(Config):
    """What synthesis by the cross-view system may be asked beyond photos."""

    strength: float = Field(1.0, ge=0)
    """Factor of the map that says where the embedding modulates texture: 0 leaves style alone."""
    mean: bool = False
    """The image without noise: z = 0, and none inside the layers. All of --num are then alike."""
