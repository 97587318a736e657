"""The classifier of objects as a trainable: `rgs train classifier --bank B`, learned from a bank of patches.

It judges whether the objects of a scene graph can be recognized in an image that was made of it (the object accuracy
of sg2im's successors), and distances between sets of objects are measured in its features. As every judge, it must have
taken no part in training what it judges.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipelines.bank.bank import Bank
from pipelines.config import Config
from pipelines.data.augment import Size, image_tensor, jitter, resize_image
from pipelines.data.scene import Schema
from pipelines.embed.embedder import batched
from pipelines.embed.pieces import draw_crop, held_out
from pipelines.errors import DataError
from pipelines.metrics.extract import exact, signed
from pipelines.nn.layers.joined import JoinedBatchNorm
from pipelines.systems.base import Adam, Batch, Frozen, Needs, Networks, Phase, Plan, Sampling, Sources, stack
from pipelines.train.schedule import cosine

NET = "C"
STAGES = 3
"""Stages that halve the sides and double the channels."""
BATCH = 64


class ClassifierConfig(Config):
    """The network of a classifier, the crops it is shown and its learning rate."""

    size: Size = (64, 64)
    """Height and width that every crop is resized to."""
    width: int = Field(32, ge=4)
    """Channels of the first convolution; the features have 8 times as many."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate of AdamW at its highest; it falls along half a cosine to a millionth of that."""
    weight_decay: float = Field(0.03, ge=0)
    """Weight decay of AdamW."""
    balance: float = Field(0.5, ge=0, le=1)
    """How evenly classes are drawn: 0 as often as they are in the bank, 1 all equally often."""
    crop: float = Field(0.7, gt=0, le=1)
    """An example shows at least this share of its patch; 1 shows all of it."""
    shrink: float = Field(4.0, ge=1)
    """Half of the examples are first shrunk by a random factor up to this: objects of small images are coarse."""
    jitter: float = Field(0.2, ge=0, lt=1)
    """Brightness, contrast and saturation change by a random factor of at most 1 +- this; 0 leaves colors alone."""
    flip: bool = True
    """Mirror half of the examples."""
    min_area: int = Field(16, ge=1)
    """Patches whose boxes have fewer pixels are neither trained nor measured on: there is little to see."""
    holdout: float = Field(0.1, ge=0, lt=1)
    """Share of the groups (of the sources, where no group is known) that is measured on and not trained on."""
    measured: int = Field(2000, ge=1)
    """How many patches of these are measured on at most."""


class CropClassifier(nn.Module):
    """A residual network of basic blocks (He et al., CVPR 2016) for small crops, from random weights.

    classes: logits. width: channels of the stem; each stage doubles them. `feature_size` is d of the features.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        widths = [width * 2**stage for stage in range(STAGES + 1)]
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), JoinedBatchNorm(width), nn.ReLU())
        self.stages = nn.Sequential(*(BasicBlock(a, b) for a, b in pairwise(widths)))
        self.feature_size = widths[-1]
        self.head = nn.Linear(self.feature_size, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits_and_features(images)[0]

    def logits_and_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(n, 3, h, w) in [-1, 1] to logits (n, classes) and features (n, d), the last map averaged over its pixels."""
        features = self.stages(self.stem(images)).mean((2, 3))
        return self.head(features), features


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, the first of stride 2, around a 1x1 shortcut."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, out, 3, stride=2, padding=1, bias=False)
        self.first_norm = JoinedBatchNorm(out)
        self.second = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.second_norm = JoinedBatchNorm(out)
        self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride=2, bias=False), JoinedBatchNorm(out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.second_norm(self.second(F.relu(self.first_norm(self.first(x)))))
        return F.relu(y + self.shortcut(x))


class Classifier:
    """One network «C»: crops (n, 3, h, w) in [-1, 1] to logits (n, classes)."""

    Config = ClassifierConfig

    @classmethod
    def plan(cls, config: ClassifierConfig, schema: Schema, steps: int) -> Plan:
        adam = Adam(cosine(config.lr, steps, 0), weight_decay=config.weight_decay, decoupled=True)
        return Plan(
            train=Needs(fields=(), dataset=False, bank="patches"),
            synthesize=Needs(fields=()),
            phases=(Phase(NET, (NET,)),),
            optimizers={NET: adam},
        )

    def __init__(self, config: ClassifierConfig, schema: Schema) -> None:
        self.config, self.schema = config, schema

    def networks(self) -> dict[str, nn.Module]:
        return {NET: CropClassifier(len(self.schema.classes), self.config.width)}

    def sampling(self, sources: Sources) -> Sampling:
        """The rows of the bank that are not held out, by their numbers, drawn by the frequency of their classes."""
        bank = _bank(sources)
        rows = self._rows(bank, held=False)
        categories = bank.categories[rows]
        if len(np.unique(categories)) < 2:
            raise DataError(
                "there is nothing to tell apart: the patches to learn from are of fewer than two classes",
                where=bank.path,
                fix="give a bank of more classes, or lower model.min_area or model.holdout",
            )
        counts = np.bincount(categories).astype(np.float64)
        return Sampling([str(row) for row in rows], counts[categories] ** -self.config.balance)

    def _rows(self, bank: Bank, held: bool) -> np.ndarray:
        """(k,) int64: the patches that are held out, or the others."""
        rows = np.flatnonzero((bank.areas >= self.config.min_area) & (bank.categories >= 0))
        return rows[held_out(bank, self.config.holdout)[rows] == held]

    def example(self, scene_id: str, sources: Sources, rng: np.random.Generator, step: int) -> dict[str, Any]:
        """image: (3, h, w) float in [-1, 1]. category: int64."""
        bank, row = _bank(sources), int(scene_id)
        return {
            "image": image_tensor(self._look(bank.crop(row), rng)),
            "category": torch.tensor(int(bank.categories[row])),
        }

    def _look(self, patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A random look (h, w, 3) uint8 at a patch: cropped, coarser, mirrored and recolored."""
        x, y, w, h = draw_crop((patch.shape[0], patch.shape[1]), None, self.config.crop, rng)
        look = patch[y : y + h, x : x + w]
        if rng.random() < 0.5:
            factor = rng.uniform(1, self.config.shrink)
            coarse = max(1, round(self.config.size[0] / factor)), max(1, round(self.config.size[1] / factor))
            look = resize_image(look, coarse)
        look = resize_image(look, self.config.size)
        if self.config.flip and rng.random() < 0.5:
            look = np.ascontiguousarray(look[:, ::-1])
        return jitter(look, self.config.jitter, rng)

    def collate(self, examples: Sequence[dict[str, Any]]) -> Batch:
        return stack(examples)

    def losses(
        self, phase: str, nets: Networks, frozen: Frozen, batch: Batch, memo: dict[str, Any], step: int
    ) -> dict[str, Tensor]:
        logits = nets[NET](batch["image"])
        right = (logits.detach().argmax(1) == batch["category"]).float().mean()
        memo.setdefault("observed", {})["accuracy"] = right
        return {"cross_entropy": F.cross_entropy(logits.float(), batch["category"])}

    def preview(self, nets: Networks, frozen: Frozen, batch: Batch) -> dict[str, Tensor]:
        """The crops, the colors of their classes, and those of the classes that they are given."""
        palette = torch.from_numpy(self.schema.palette.copy()).to(batch["image"].device).float() / 127.5 - 1
        predicted = nets[NET](batch["image"]).argmax(1)
        painted = [palette[c][:, :, None, None].expand_as(batch["image"]) for c in (batch["category"], predicted)]
        return {"patch": batch["image"], "class": painted[0], "prediction": painted[1]}

    def validate(self, nets: Networks, sources: Sources, device: torch.device) -> dict[str, float]:
        """Share of held-out patches that are given their class, and the mean of that over the classes among them.

        chance: what the most frequent class for every patch would reach; chance_balanced: what any one class would.
        Nothing where nothing is held out.
        """
        bank = _bank(sources)
        held = self._rows(bank, held=True)
        rows = np.sort(held[np.argsort(bank.ids[held])[: self.config.measured]])  # ids are hashes: a fixed draw
        if not len(rows):
            return {}
        net = nets[NET]
        assert isinstance(net, CropClassifier)
        logits, _ = classify(net, (bank.crop(row) for row in rows.tolist()), self.config.size, device)
        wanted = bank.categories[rows]
        accuracy, balanced = accuracies(logits.argmax(1), wanted)
        counts = np.bincount(wanted)
        return {
            "accuracy": accuracy,
            "accuracy_balanced": balanced,
            "chance": float(counts.max() / counts.sum()),
            "chance_balanced": 1 / int((counts > 0).sum()),
        }


def classify(
    net: CropClassifier, crops: Iterable[np.ndarray], size: Size, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Logits (n, classes) and features (n, d), float64, of crops (h, w, 3) uint8 of any sizes, seen at one size.

    net: in eval mode, on the device. In full fp32 precision on a GPU too.
    """
    assert not net.training
    logits, features = [np.zeros((0, net.head.out_features))], [np.zeros((0, net.feature_size))]
    for part in batched(crops, BATCH):
        with exact(device):
            found = net.logits_and_features(signed(np.stack([resize_image(crop, size) for crop in part]), device))
        logits.append(found[0].double().cpu().numpy())
        features.append(found[1].double().cpu().numpy())
    return np.concatenate(logits), np.concatenate(features)


def accuracies(predicted: np.ndarray, wanted: np.ndarray) -> tuple[float, float]:
    """The share of (n,) predictions that are right, n >= 1, and its mean over the classes that were wanted."""
    right = (predicted == wanted).astype(np.float64)
    counts = np.bincount(wanted)
    shares = np.bincount(wanted, weights=right)[counts > 0] / counts[counts > 0]
    return float(right.mean()), float(shares.mean())


def _bank(sources: Sources) -> Bank:
    assert sources.bank is not None
    return sources.bank
