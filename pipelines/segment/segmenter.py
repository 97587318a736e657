"""The segmenter as a trainable: `rgs train segmenter --arch unet|deeplabv3|lraspp`.

`unet` is RESAIL's loss network (Shi et al., CVPR 2022, Lseg): the U-Net of OASIS trained with class-balanced
cross-entropy and Adam 2e-4; the paper gives no further recipe. `deeplabv3` and `lraspp` are judges of another family,
trained with plain cross-entropy. A run that served as a loss network must not judge what it helped to train.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from pipelines.config import Config
from pipelines.data.augment import Size, View, image_tensor, jitter, label_tensor
from pipelines.data.scene import Schema
from pipelines.errors import DataError
from pipelines.nn.losses.segmentation import balanced_cross_entropy, class_weights
from pipelines.nn.reduce import all_reduce_sum
from pipelines.segment.networks import Architecture, MobileNetSegmenter, SegmenterNet, UNetSegmenter
from pipelines.systems.base import Adam, Batch, Frozen, Needs, Networks, Phase, Plan, Sampling, Sources, stack
from pipelines.train.schedule import linear_decay


class SegmenterConfig(Config):
    """The network of a segmenter, its examples and its learning rate."""

    arch: Architecture = "unet"
    """unet (RESAIL's loss network), deeplabv3 or lraspp (torchvision's, over MobileNetV3-Large)."""
    size: Size = (128, 128)
    """Height and width of the training images."""
    width: int = Field(128, ge=8, multiple_of=4)
    """unet: channels of its first block; 128 is published, a quarter of it trains on a CPU."""
    min_side: int = Field(192, ge=32)
    """deeplabv3, lraspp: smaller images are enlarged until their shorter side has this many pixels."""
    lr: float | None = Field(None, gt=0)
    """Learning rate of Adam (0.9, 0.999); 2e-4 for unet and 1e-3 for the others when not given."""
    decay_from: float = Field(0.5, ge=0, le=1)
    """Share of the steps after which the learning rate falls linearly to 0; 1 keeps it."""
    balanced: bool | None = None
    """Weigh classes by the inverse of their pixels in the batch; when not given, unet does and the others do not."""
    flip: bool = True
    """Mirror half of the examples."""
    zoom: float = Field(1.5, ge=1, le=4)
    """Examples are enlarged by a random factor from 1 to this, then cropped at random; 1 shows whole scenes."""
    jitter: float = Field(0.1, ge=0, lt=1)
    """Brightness, contrast and saturation change by a random factor of at most 1 +- this; 0 leaves colors alone."""


class Segmenter:
    """One network «S»: images (n, 3, h, w) in [-1, 1] to logits (n, classes, h, w)."""

    Config = SegmenterConfig

    @classmethod
    def plan(cls, config: SegmenterConfig, schema: Schema, steps: int) -> Plan:
        lr = config.lr or (2e-4 if config.arch == "unet" else 1e-3)
        return Plan(
            train=Needs(fields=("image", "labels")),
            synthesize=Needs(fields=()),
            phases=(Phase("S", ("S",)),),
            optimizers={"S": Adam(linear_decay(lr, steps, config.decay_from), (0.9, 0.999))},
        )

    def __init__(self, config: SegmenterConfig, schema: Schema) -> None:
        self.config, self.schema = config, schema
        self.balanced = config.arch == "unet" if config.balanced is None else config.balanced

    def networks(self) -> dict[str, nn.Module]:
        return {"S": build_network(self.config, len(self.schema.classes))}

    def sampling(self, sources: Sources) -> Sampling:
        return Sampling([record.id for record in sources.records])

    def example(self, scene_id: str, sources: Sources, rng: np.random.Generator, step: int) -> dict[str, Any]:
        """image: (3, h, w) float in [-1, 1]. labels: (h, w) int64, -1 where ignored."""
        assert sources.dataset is not None
        scene = sources.dataset.read(sources.record(scene_id))
        if scene.image is None or scene.labels is None:
            missing = "image" if scene.image is None else "label map"
            raise DataError(
                f"scene {scene_id} has no {missing}", where=sources.dataset.root, fix="train on a labelled split"
            )
        view = self._draw_view(rng)
        image = jitter(view.image(scene.image), self.config.jitter, rng)
        return {"image": image_tensor(image), "labels": label_tensor(view.map(scene.labels))}

    def _draw_view(self, rng: np.random.Generator) -> View:
        """A random zoom and crop; the crop always holds whole pixels of the scene, never padding."""
        h, w = self.config.size
        zoom = rng.uniform(1, self.config.zoom)
        loaded = (round(h * zoom), round(w * zoom))
        corner = (int(rng.integers(loaded[0] - h + 1)), int(rng.integers(loaded[1] - w + 1)))
        return View(loaded, corner, (h, w), bool(self.config.flip and rng.random() < 0.5))

    def collate(self, examples: Sequence[dict[str, Any]]) -> Batch:
        return stack(examples)

    def losses(
        self, phase: str, nets: Networks, frozen: Frozen, batch: Batch, memo: dict[str, Any], step: int
    ) -> dict[str, Tensor]:
        labels, classes = batch["labels"], len(self.schema.classes)
        weights = class_weights(labels, classes) if self.balanced else equal_weights(labels, classes)
        return {"cross_entropy": balanced_cross_entropy(nets["S"](batch["image"]), labels, weights)}

    def preview(self, nets: Networks, frozen: Frozen, batch: Batch) -> dict[str, Tensor]:
        predicted = nets["S"](batch["image"]).argmax(1)
        return {
            "image": batch["image"],
            "labels": self._painted(batch["labels"]),
            "prediction": self._painted(predicted),
        }

    def _painted(self, labels: Tensor) -> Tensor:
        """(n, h, w) class indices to their colors, (n, 3, h, w) in [-1, 1]; ignored pixels black."""
        palette = torch.from_numpy(np.vstack([self.schema.palette, np.zeros((1, 3), dtype=np.uint8)]))
        colors = palette.to(labels.device)[labels]  # -1 is the last row
        return colors.permute(0, 3, 1, 2).float() / 127.5 - 1


def build_network(config: SegmenterConfig, classes: int) -> SegmenterNet:
    """The network that the config names, with random weights."""
    if config.arch == "unet":
        return UNetSegmenter(classes, config.width)
    return MobileNetSegmenter(classes, config.arch, config.min_side)


def equal_weights(labels: Tensor, classes: int) -> Tensor:
    """Weights (classes,) that make `balanced_cross_entropy` the mean over the labelled pixels of the joined batch."""
    counts = all_reduce_sum(torch.stack([(labels >= 0).sum(), labels.new_tensor(labels.numel())]))
    return (counts[1] / counts[0].clamp(min=1)).float().expand(classes)
