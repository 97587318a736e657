"""An embedder of the pieces of one bank, which learns from the bank alone.

Two views of one piece, each cropped, mirrored and recolored at random, belong together; the other pieces of the batch
do not (SimCLR's task, Chen et al., ICML 2020, under one of the objectives of objectives.py). Outside a segment's mask
is neutral gray. The vectors then index a bank of segments or photos by what its pieces look like.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pipelines.bank.bank import Bank, Exclusion
from pipelines.config import Config
from pipelines.data.augment import Size, image_tensor, jitter, resize_image
from pipelines.data.scene import Schema
from pipelines.embed.bank_vectors import PIECE, on_neutral
from pipelines.embed.embedder import embed_images
from pipelines.embed.objectives import Objective, joined_similarities, objective
from pipelines.embed.tower import Head, Tower, build_tower, require_backbone
from pipelines.errors import ConfigError, DataError
from pipelines.metrics.recall import one_percent, rank
from pipelines.nn.reduce import gather
from pipelines.systems.base import Adam, Batch, Frozen, Needs, Networks, Phase, Plan, Sampling, Sources, stack
from pipelines.train.schedule import cosine

NET = "embedder"
RATIO = 4 / 3
"""A crop is drawn up to this much wider or higher than its piece (SimCLR's and Inception's range)."""
TRIES = 8
"""Crops drawn until one holds enough of the piece; after that all of it is shown."""
FULLNESS = 0.5
"""How full of the piece a crop must be, as a part of how full of it its box is."""
BATCH = 64
VALIDATION_SEED = 4711


class PiecesConfig(Config):
    """The tower of an embedder of pieces, the views it is shown, and what it learns from them."""

    backbone: str = "saig-small"
    """saig-s, saig-d, saig-small, or torchvision:NAME, any classification model of torchvision, from random weights."""
    head: Head = "gap"
    """gap averages the tokens; smd (of SAIG only) mixes them over their places into a vector 8 times as long."""
    size: Size = (64, 64)
    """Height and width that every piece is resized to."""
    objective: Objective = "clip"
    """triplet (soft margin, all triplets), semi_hard (the hardest of them), infonce (one list) or clip (symmetric)."""
    beta: float = Field(10.0, gt=0)
    """triplet, semi_hard: how steeply the soft margin rises."""
    temperature: float = Field(0.1, gt=0)
    """infonce, clip: what similarities are divided by."""
    negatives: Literal["all", "category"] = "all"
    """Which other pieces of a batch are negatives: all of them, or those of the same class alone."""
    distinct: Exclusion = "self"
    """What is no negative of a piece: self, pieces of the same source, or of the same group, where it is known."""
    gate: Literal["none", "category"] = "none"
    """category: an index of these vectors finds pieces of the query's class alone."""
    crop: float = Field(0.4, gt=0, le=1)
    """A view shows at least this share of the piece's box; 1 shows all of it."""
    jitter: float = Field(0.3, ge=0, lt=1)
    """Brightness, contrast and saturation of a view change by a random factor of at most 1 +- this."""
    flip: bool = True
    """Mirror half of the views."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate of AdamW at its highest; it falls along half a cosine to a millionth of that."""
    warmup: int = Field(0, ge=0)
    """Steps over which the learning rate rises first."""
    weight_decay: float = Field(0.03, ge=0)
    """Weight decay of AdamW."""
    clip: float | None = Field(1.0, gt=0)
    """The largest norm of the gradients; null for no limit."""
    min_area: int = Field(16, ge=1)
    """Pieces of fewer pixels are neither trained nor measured on: there is little to see. All are embedded."""
    holdout: float = Field(0.1, ge=0, lt=1)
    """Share of the groups (of the sources, where no group is known) that is measured on and not trained on."""
    measured: int = Field(1000, ge=2)
    """How many pieces of these are measured on at most."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        require_backbone(self.backbone, self.head, self.size)
        return self


class PieceEmbedder:
    """One network «embedder», the tower of the view «piece»."""

    Config = PiecesConfig
    kind: Literal["pieces"] = "pieces"

    @classmethod
    def plan(cls, config: PiecesConfig, schema: Schema, steps: int) -> Plan:
        adam = Adam(
            cosine(config.lr, steps, config.warmup),
            weight_decay=config.weight_decay,
            decoupled=True,
            clip=config.clip,
        )
        return Plan(
            train=Needs(fields=(), dataset=False, bank="any"),
            synthesize=Needs(fields=()),
            phases=(Phase(NET, (NET,)),),
            optimizers={NET: adam},
        )

    def __init__(self, config: PiecesConfig, schema: Schema) -> None:
        self.config, self.schema = config, schema
        self.loss = objective(config.objective, config.beta, config.temperature)
        self._keys: np.ndarray | None = None

    def networks(self) -> dict[str, nn.Module]:
        return {NET: build_tower(self.config.backbone, self.config.head, self.config.size)}

    def towers(self, nets: Networks) -> dict[str, Tower]:
        """The tower of each view."""
        tower = nets[NET]
        assert isinstance(tower, Tower)
        return {PIECE: tower}

    def sampling(self, sources: Sources) -> Sampling:
        """The rows of the bank that are not held out, by their numbers."""
        bank = _bank(sources)
        if "category" in (self.config.gate, self.config.negatives) and (bank.categories < 0).any():
            raise ConfigError(
                "gate and negatives by category need pieces with classes, and those of this bank have none",
                where=bank.path,
                fix="leave them at gate=none and negatives=all, or give a bank of segments",
            )
        return Sampling([str(row) for row in self._rows(bank, held=False)])

    def _rows(self, bank: Bank, held: bool) -> np.ndarray:
        """(k,) int64: the pieces that are held out, or the others."""
        rows = np.flatnonzero(bank.areas >= self.config.min_area)
        return rows[held_out(bank, self.config.holdout)[rows] == held]

    def example(self, scene_id: str, sources: Sources, rng: np.random.Generator, step: int) -> dict[str, Any]:
        """first, second: (3, h, w) float in [-1, 1], two views of the piece. key, category: int64."""
        bank, row = _bank(sources), int(scene_id)
        if self._keys is None:
            self._keys = bank.exclusion_keys(self.config.distinct)
        first, second = self._two_views(bank, row, rng)
        return {
            "first": image_tensor(first),
            "second": image_tensor(second),
            "key": torch.tensor(int(self._keys[row])),
            "category": torch.tensor(int(bank.categories[row])),
        }

    def _two_views(self, bank: Bank, row: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Two random views (h, w, 3) uint8 of a piece."""
        image, mask = bank.crop(row), bank.mask(row) if bank.masked(row) else None
        if mask is not None:
            image = on_neutral(image, mask)
        return self._view(image, mask, rng), self._view(image, mask, rng)

    def _view(self, image: np.ndarray, mask: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
        x, y, w, h = draw_crop((image.shape[0], image.shape[1]), mask, self.config.crop, rng)
        view = resize_image(image[y : y + h, x : x + w], self.config.size)
        if self.config.flip and rng.random() < 0.5:
            view = np.ascontiguousarray(view[:, ::-1])
        return jitter(view, self.config.jitter, rng)

    def collate(self, examples: Sequence[dict[str, Any]]) -> Batch:
        return stack(examples)

    def losses(
        self, phase: str, nets: Networks, frozen: Frozen, batch: Batch, memo: dict[str, Any], step: int
    ) -> dict[str, Tensor]:
        tower = nets[NET]
        similarities = joined_similarities(tower(batch["first"]), tower(batch["second"]))
        if len(similarities) < 2:
            raise ConfigError("a batch of one piece has no negatives", fix="give --batch 2 or more")
        key, category = gather(batch["key"]), gather(batch["category"])
        allowed = key[:, None] != key
        if self.config.negatives == "category":
            allowed &= category[:, None] == category
        return {"contrastive": self.loss(similarities, allowed)}

    def preview(self, nets: Networks, frozen: Frozen, batch: Batch) -> dict[str, Tensor]:
        """A view, the other view of its piece, and the other view of the batch that is nearest to it."""
        tower = nets[NET]
        nearest = (tower(batch["first"]) @ tower(batch["second"]).T).argmax(1)
        return {"view": batch["first"], "other": batch["second"], "retrieved": batch["second"][nearest]}

    def validate(self, nets: Networks, sources: Sources, device: torch.device) -> dict[str, float]:
        """Recall of one view of a held-out piece given another, among the held-out pieces, ties against the query.

        recall@1_published counts ties for it; tie_alarm is 1 where the two differ, as they do for an embedder that maps
        everything to one point. Nothing where nothing is held out.
        """
        bank = _bank(sources)
        held = self._rows(bank, held=True)
        rows = np.sort(held[np.argsort(bank.ids[held])[: self.config.measured]])  # ids are hashes: a fixed draw
        if len(rows) < 2:
            return {}
        tower = self.towers(nets)[PIECE]
        views = embed_images(tower, self._views_of(bank, rows), BATCH, device, "the tower")
        ranks = rank(views[::2], views[1::2], np.arange(len(rows)))
        measured = {f"recall@{k}": ranks.recall(k) for k in (1, 5, 10)}
        measured["recall@1%"] = ranks.recall(one_percent(len(rows)))
        measured["recall@1_published"] = ranks.recall(1, "for")
        measured["tie_alarm"] = float(measured["recall@1"] != measured["recall@1_published"])
        measured["chance@1"] = ranks.chance(1)
        return measured

    def _views_of(self, bank: Bank, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Two views of each piece in turn, the same at every call."""
        for row in rows.tolist():
            yield from self._two_views(bank, row, np.random.default_rng([VALIDATION_SEED, int(bank.ids[row])]))


def draw_crop(size: Size, mask: np.ndarray | None, least: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A random part (x, y, w, h) of a piece of some size (h, w): its share of the area is uniform in least..1.

    mask: (h, w) bool, None for all; the part is not much emptier of the piece than its box is.
    """
    h, w = size
    for _ in range(TRIES):
        share = rng.uniform(least, 1)
        stretch = min(RATIO, 1 / share)  # so that both sides fit
        wider = math.exp(rng.uniform(-1, 1) * math.log(stretch))
        part_h, part_w = max(1, round(h * math.sqrt(share / wider))), max(1, round(w * math.sqrt(share * wider)))
        y, x = int(rng.integers(h - part_h + 1)), int(rng.integers(w - part_w + 1))
        if mask is None or mask[y : y + part_h, x : x + part_w].mean() >= FULLNESS * mask.mean():
            return x, y, part_w, part_h
    return 0, 0, w, h


def held_out(bank: Bank, share: float) -> np.ndarray:
    """(n,) bool: the pieces of that share of the groups, at least of one; a source of unknown group stands alone.

    Which groups depends on the hashes of their names, so that it stays much the same when others come and go.
    """
    keys = bank.exclusion_keys("group")
    if share == 0:
        return np.zeros(len(bank), bool)
    names = {key: bank.source_table[key].group or bank.source_table[key].id for key in np.unique(keys).tolist()}
    if len(names) < 2:  # a key is the number of the group's first source
        raise DataError(
            "all pieces are of one group, so that none can be held out", where=bank.path, fix="set model.holdout=0"
        )
    drawn = sorted(names, key=lambda key: hashlib.sha256(names[key].encode()).digest())
    count = min(len(drawn) - 1, max(1, round(share * len(drawn))))
    return np.isin(keys, drawn[:count])


def _bank(sources: Sources) -> Bank:
    assert sources.bank is not None
    return sources.bank
