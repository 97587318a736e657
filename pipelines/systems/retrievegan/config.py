"""Config and synthesis options of RetrieveGAN."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from pipelines.config import Config
from pipelines.data.augment import Size
from pipelines.systems.retrievegan.discriminators import trunk_side
from pipelines.systems.retrievegan.pool import PoolSettings
from pipelines.systems.retrievegan.retrieval import Distance, QueryUpdate
from pipelines.train.schedule import Ttur


class RetrieveganWeights(Config):
    """Weights of the nine loss terms (recalled from the paper's supplement); a weight of 0 leaves the term out."""

    sel_gt: float = Field(0.1, ge=0)
    """An object's own patch should be chosen where it is among the candidates."""
    sel_occur: float = Field(1e-6, ge=0)
    """Chosen patches should lie close together in the co-occurrence embedder, eq. 5 (0.1 if `occurrence` is mean)."""
    adv_img: float = Field(1.0, ge=0)
    """What the image discriminator says of the fakes, eq. 6."""
    recon_img: float = Field(1.0, ge=0)
    """Mean absolute distance of the image from own patches to the photo."""
    p_img: float = Field(1.0, ge=0)
    """Features of VGG-19, of the same two."""
    adv_obj: float = Field(1.0, ge=0)
    """What the object discriminator says of the fakes' objects."""
    ac_obj: float = Field(0.1, ge=0)
    """Cross entropy of the classes that its auxiliary classifier sees in them."""
    p_obj: float = Field(0.5, ge=0)
    """Features of VGG-19, of the boxes of objects in the image from own patches and in the photo."""
    bbx: float = Field(10.0, ge=0)
    """Distance of the predicted boxes, summed over their coordinates, to the annotated ones."""


class Temperature(Config):
    """Temperature of the selection: it falls linearly, then stays."""

    first: float = Field(1.0, gt=0)
    """At the start of the training."""
    last: float = Field(0.1, gt=0)
    """At the end of the fall, from then on, and in synthesis."""
    share: float = Field(20 / 90, ge=0, le=1)
    """How much of the training it falls for."""
    truth: float | None = Field(1.0, gt=0)
    """Of the ground-truth selection loss, a pass of its own; null: the selection's, where its gradient, which grows
    with 1 / tau, drowns all others."""


class RetrieveganConfig(Config):
    """RetrieveGAN: retrieval, networks, losses and schedule. The defaults are the published ones for 128x128."""

    size: Size = (128, 128)
    """Height and width of the images, aspect ignored; powers of two. There is no mirroring: it turns left to right."""
    patch: int = Field(64, ge=8)
    """Side of the patches that the networks read; the bank's are resized to it."""
    pieces: Literal["retrieved", "random", "none"] = "retrieved"
    """Patches chosen by the learned retrieval, drawn at random (as PasteGAN's), or none (as sg2im); baselines."""
    pool: Literal["prefilter", "bank"] = "prefilter"
    """Choose among the candidates of the index (published), or among all of a class's patches in the bank."""
    candidates: int = Field(10, ge=1)
    """Patches of each object that are embedded in a step: k of the pre-filter, or the likeliest of the bank."""
    bank: PoolSettings = PoolSettings()
    """How the whole bank is searched, where `pool` is bank."""
    tau: Temperature = Temperature()
    """Temperature of the selection over the training."""
    hard: bool = True
    """Paint from one patch, with the gradient of the soft selection; or from a mixture (for analysis)."""
    normalized: bool = True
    """Scale the embeddings of patches to unit length."""
    alpha: float = Field(10.0, gt=0)
    """Factor of the distances: 10 for unit vectors; the published 1 drowns the noise without them."""
    distance: Distance = "l2sq"
    """Squared Euclidean distance, or the distance itself."""
    query_update: QueryUpdate = "half"
    """half: the mean of the query and the patch just chosen (Algorithm 1); mean: of all patches chosen so far."""
    noise: Literal["per_step", "once"] = "per_step"
    """Draw Gumbel noise for each step of a retrieval (Algorithm 1), or keep one draw."""
    occurrence: Literal["sum", "mean"] = "sum"
    """The co-occurrence penalty sums over ordered pairs of an image's patches (published), or averages over them."""
    gt_in_generation: bool = False
    """Let an object's own patch be chosen when the image is painted, too (the paper's words); synthesis has none."""

    embedding: int = Field(128, ge=4)
    """Numbers in the vectors of the graph and of the patches."""
    hidden: int = Field(512, ge=4)
    """Width inside the graph encoder and the box predictor."""
    graph_layers: int = Field(5, ge=1)
    """Layers of the graph encoder."""
    crop_widths: tuple[int, ...] = (64, 128, 256)
    """Channels of the crop encoder and of the patch embedder; each halves the map."""
    channels: int = Field(128, ge=4)
    """Channels of an object's map."""
    refiners: int = Field(4, ge=0)
    """Layers of the graph convolution over object maps."""
    refiner_hidden: int = Field(512, ge=4)
    """Channels inside them."""
    flow: bool = True
    """Let each of them warp an object's map first."""
    canvas: int = Field(64, ge=4)
    """Side of the scene canvas on which the maps are laid out."""
    fuser_mask: bool = True
    """Let only the objects that cover a pixel share it; off lets all objects everywhere (PasteGAN's code)."""
    blocks: int = Field(6, ge=0)
    """Residual blocks over the canvas."""
    decoder: tuple[int, ...] = (1024, 512, 256, 128, 64)
    """Channels of the cascaded refinement network, each of which doubles the map."""
    mask_size: int = Field(0, ge=0)
    """pieces: none: side of a soft mask that is made for each object, a power of two; 0 fills its box."""
    judge_widths: tuple[int, ...] = (64, 128, 256)
    """Channels of both discriminators."""
    object_size: int = Field(64, ge=16)
    """Side to which the object discriminator and its perceptual loss crop boxes."""
    object_features: int = Field(1024, ge=4)
    """Numbers between the object discriminator's trunk and its two answers."""
    norm: Literal["batch", "group"] = "batch"
    """What normalizes inside the generator and the discriminators; small batches want group."""

    warmup: float = Field(0.055, ge=0, le=1)
    """Share of the training in which images are painted from own patches only (5 of 90 epochs)."""
    fakes: Literal["fresh", "shared"] = "fresh"
    """The discriminators see fakes of the stepped generator, or the generator's own of the same step."""
    average: float = Field(0.0, ge=0, lt=1)
    """Decay of averaged weights of all but the discriminators, which synthesis then uses; 0 keeps none (published)."""
    weights: RetrieveganWeights = RetrieveganWeights()
    """Weights of the loss terms."""
    optimizer: Ttur = Ttur()
    """Adam for the generator's side and the discriminators."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if any(side < 32 or side & (side - 1) for side in self.size):
            raise ValueError("each side of the images must be a power of two from 32, for instance 64x64")
        doublings = 2 ** len(self.decoder)
        if min(self.size) < doublings:
            raise ValueError(f"{len(self.decoder)} modules of the decoder make images of {doublings} pixels at least")
        if self.patch < 2 ** len(self.crop_widths):
            raise ValueError(f"patches of {self.patch} pixels cannot be halved {len(self.crop_widths)} times")
        if trunk_side(min(self.object_size, *self.size), len(self.judge_widths)) < 1:
            raise ValueError(
                f"objects of {self.object_size} pixels are too small for {len(self.judge_widths)} judge_widths"
            )
        if self.mask_size == 1 or self.mask_size & (self.mask_size - 1):
            raise ValueError("mask_size must be a power of two from 2, or 0 for no masks")
        if self.gt_in_generation and self.pool == "bank":
            raise ValueError("with pool: bank an object's own patch cannot be among the candidates")
        if self.noise == "once" and self.pool == "bank":
            raise ValueError("pool: bank draws noise at each step: leave noise at per_step")
        if not self.hard and self.pool == "bank":
            raise ValueError("pool: bank follows the patch that each step serves: leave hard at true")
        weights = self.weights
        if not (weights.recon_img or weights.p_img or self.judges_images or self.judges_objects):
            raise ValueError("with all of these weights at 0 no image is learned")
        return self

    @property
    def learns_retrieval(self) -> bool:
        return self.pieces == "retrieved"

    @property
    def needs_index(self) -> bool:
        """Are candidates found by the pre-filter."""
        return self.pieces != "none" and self.pool == "prefilter"

    def warm(self, steps: int) -> int:
        """The first step in which retrieved patches are painted from."""
        step = int(self.warmup * steps)
        while step / steps < self.warmup:
            step += 1
        return step

    @property
    def penalizes_cooccurrence(self) -> bool:
        return self.learns_retrieval and self.weights.sel_occur > 0

    @property
    def judges_images(self) -> bool:
        return self.weights.adv_img > 0

    @property
    def judges_objects(self) -> bool:
        return self.weights.adv_obj > 0 or self.weights.ac_obj > 0

    @property
    def perceives(self) -> bool:
        """Is there a perceptual loss."""
        return self.weights.p_img > 0 or self.weights.p_obj > 0


class RetrieveganOptions(Config):
    """What synthesis by RetrieveGAN may be asked beyond scene graphs."""

    boxes: Literal["predicted", "given"] = "predicted"
    """Place objects where the network thinks, or where the graph says."""
    noise: bool = True
    """Draw patches; without noise each step takes the best one, and only the first query tells images apart."""
