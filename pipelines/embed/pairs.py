"""The cross-view embedder as a trainable: aerial and street photos of one place meet in one space (SAIG's recipe).

Two towers of one architecture, or one tower for both views; a contrastive objective over the joined batch of all
processes. The published recipe: AdamW 1e-4, weight decay 0.03, batch 32, clip 1.0, half a cosine; ASAM with rho 2.0
raised its R@1 by 3 to 5 points.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, Self

import cv2
import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pipelines.config import Config
from pipelines.data.augment import Size, image_tensor, jitter, resize_image
from pipelines.data.pairs import aerial_id
from pipelines.data.scene import SceneRecord, Schema
from pipelines.embed.embedder import batched, embed_images
from pipelines.embed.objectives import Objective, joined_similarities, objective
from pipelines.embed.tower import Head, Tower, build_tower, require_backbone
from pipelines.errors import ConfigError, DataError
from pipelines.metrics.recall import Ranks, one_percent, rank
from pipelines.nn.reduce import gather
from pipelines.systems.base import Adam, Batch, Frozen, Needs, Networks, Phase, Plan, Sampling, Sources, stack
from pipelines.train.schedule import cosine

NET = "embedder"
"""The one network of a run."""
VIEWS = ("aerial", "ground")
MOST_SEMI = 8
"""Semi-positives that a pair may have; VIGOR's have three."""
READERS = 4
BATCH = 32


class PairsConfig(Config):
    """The towers of a cross-view embedder, what they are shown, and what they learn from it."""

    backbone: str = "saig-s"
    """saig-s, saig-d, saig-small, or torchvision:NAME, any classification model of torchvision, from random weights."""
    head: Head = "gap"
    """gap averages the tokens; smd (of SAIG only) mixes them over their places into a vector 8 times as long."""
    towers: Literal["two", "one"] = "two"
    """two share nothing but their architecture; one sees both views."""
    aerial: Size = (256, 256)
    """Height and width of the aerial images as the tower sees them."""
    ground: Size = (128, 512)
    """Height and width of the street images as the tower sees them."""
    objective: Objective = "triplet"
    """triplet (soft margin, all triplets), semi_hard (the hardest of them), infonce (one list) or clip (symmetric)."""
    beta: float = Field(10.0, gt=0)
    """triplet, semi_hard: how steeply the soft margin rises."""
    temperature: float = Field(0.02, gt=0)
    """infonce, clip: what similarities are divided by."""
    negatives: Literal["all", "source"] = "all"
    """Which other places of a batch are negatives: all of them, or those of the same source alone."""
    lr: float = Field(1e-4, gt=0)
    """Learning rate of AdamW at its highest; it falls along half a cosine to a millionth of that."""
    warmup: int = Field(0, ge=0)
    """Steps over which the learning rate rises first; published: none."""
    weight_decay: float = Field(0.03, ge=0)
    """Weight decay of AdamW."""
    clip: float | None = Field(1.0, gt=0)
    """The largest norm of the gradients; null for no limit."""
    rho: float | None = Field(None, gt=0)
    """Radius of adaptive sharpness-aware minimization, published 2.0; a step then costs twice the time."""
    rotate: Literal["none", "quarters", "any"] = "none"
    """Turn a panorama and its aerial image together, by quarters of a circle or any angle; perspectives stay."""
    jitter: float = Field(0.0, ge=0, lt=1)
    """Brightness, contrast and saturation of each view change by a random factor of at most 1 +- this."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for size in (self.aerial, self.ground):
            require_backbone(self.backbone, self.head, size)
        if self.towers == "one" and self.aerial != self.ground:
            raise ValueError("one tower sees both views at one size: set aerial and ground alike, or towers: two")
        if self.rotate != "none" and self.aerial[0] != self.aerial[1]:
            raise ValueError("only square aerial images can be turned: set rotate: none, or a square aerial size")
        return self


class PairEmbedder:
    """One network «embedder», an nn.ModuleDict of the towers «aerial» and «ground», which may be the same one."""

    Config = PairsConfig
    kind: Literal["crossview"] = "crossview"

    @classmethod
    def plan(cls, config: PairsConfig, schema: Schema, steps: int) -> Plan:
        adam = Adam(
            cosine(config.lr, steps, config.warmup),
            weight_decay=config.weight_decay,
            decoupled=True,
            clip=config.clip,
            rho=config.rho,
        )
        return Plan(
            train=Needs(fields=(), views=VIEWS),
            synthesize=Needs(fields=()),
            phases=(Phase(NET, (NET,)),),
            optimizers={NET: adam},
        )

    def __init__(self, config: PairsConfig, schema: Schema) -> None:
        self.config, self.schema = config, schema
        self.loss = objective(config.objective, config.beta, config.temperature)

    def networks(self) -> dict[str, nn.Module]:
        config = self.config
        aerial = build_tower(config.backbone, config.head, config.aerial)
        ground = aerial if config.towers == "one" else build_tower(config.backbone, config.head, config.ground)
        return {NET: nn.ModuleDict({"aerial": aerial, "ground": ground})}

    def towers(self, nets: Networks) -> dict[str, Tower]:
        """The tower of each view."""
        both = nets[NET]
        assert isinstance(both, nn.ModuleDict)
        return {view: tower for view, tower in both.items() if isinstance(tower, Tower)}

    def sampling(self, sources: Sources) -> Sampling:
        """Pairs, each in a batch of other places; what has no street view is a distractor and trains nothing."""
        pairs = [record for record in sources.records if has_both(record)]
        if not pairs:
            raise DataError("no scene has both an aerial and a ground view", fix="check --data and --split")
        return Sampling([record.id for record in pairs], groups=[place_of(record) for record in pairs])

    def example(self, scene_id: str, sources: Sources, rng: np.random.Generator, step: int) -> dict[str, Any]:
        """aerial, ground: (3, h, w) float in [-1, 1]. place, item, source: int64 names; semi: (8,), -1 for none."""
        record = sources.record(scene_id)
        views = {view: self._read(record, view, sources) for view in VIEWS}
        if self.config.rotate != "none" and str(record.extra.get("street_kind", "")).startswith("panorama"):
            turn = float(rng.integers(4)) / 4 if self.config.rotate == "quarters" else rng.random()
            views["ground"], views["aerial"] = turn_pair(views["ground"], views["aerial"], turn)
        if self.config.jitter:
            views = {view: jitter(views[view], self.config.jitter, rng) for view in VIEWS}
        return {**{view: image_tensor(views[view]) for view in VIEWS}, **identity(record)}

    def _read(self, record: SceneRecord, view: str, sources: Sources) -> np.ndarray:
        """(h, w, 3) uint8 at the size of the view's tower."""
        assert sources.dataset is not None
        size = self.config.aerial if view == "aerial" else self.config.ground
        return resize_image(sources.dataset.read_view(record, view), size)

    def collate(self, examples: Sequence[dict[str, Any]]) -> Batch:
        return stack(examples)

    def losses(
        self, phase: str, nets: Networks, frozen: Frozen, batch: Batch, memo: dict[str, Any], step: int
    ) -> dict[str, Tensor]:
        towers = self.towers(nets)
        similarities = joined_similarities(*(towers[view](batch[view]) for view in VIEWS))
        if len(similarities) < 2:
            raise ConfigError("a batch of one pair has no negatives", fix="give --batch 2 or more")
        allowed = allowed_negatives(
            *(gather(batch[key]) for key in ("place", "item", "semi", "source")),
            within_source=self.config.negatives == "source",
        )
        return {"contrastive": self.loss(similarities, allowed)}

    def preview(self, nets: Networks, frozen: Frozen, batch: Batch) -> dict[str, Tensor]:
        """The street view, its aerial view, and the aerial view of the batch that is nearest to it."""
        towers = self.towers(nets)
        similarities = towers["ground"](batch["ground"]) @ towers["aerial"](batch["aerial"]).T
        nearest = batch["aerial"][similarities.argmax(1)]
        return {"ground": batch["ground"], "aerial": batch["aerial"], "retrieved": nearest}

    def validate(self, nets: Networks, sources: Sources, device: torch.device) -> dict[str, float]:
        """Recall of ground -> aerial over the aerial images of the validation split, distractors included.

        Ties count against the query, but in recall@1_published. tie_alarm is 1 where the two differ, as they do for an
        embedder that maps everything to one point. Where there are several sources, also recall@1[SOURCE] within the
        aerial images of each that has more than one.
        """
        records = sources.validation
        if not records:
            return {}
        items = {aerial_id(record): record for record in records if "aerial" in record.views}
        pairs = {record.id: record for record in records if has_both(record)}
        if not pairs:
            raise DataError("no scene of the validation split has both an aerial and a ground view")
        vectors: dict[str, dict[str, np.ndarray]] = {}
        for view, shown in (("aerial", items), ("ground", pairs)):
            tower, images = self.towers(nets)[view], self._stream(shown.values(), view, sources)
            found = embed_images(tower, images, BATCH, device, f"the {view} tower")
            vectors[view] = dict(zip(shown, found, strict=True))
        ranks = _ranks(records, **vectors)
        measured = {f"recall@{k}": ranks.recall(k) for k in (1, 5, 10)}
        measured["recall@1%"] = ranks.recall(one_percent(ranks.gallery))
        measured["recall@1_published"] = ranks.recall(1, "for")
        measured["tie_alarm"] = float(measured["recall@1"] != measured["recall@1_published"])
        measured["chance@1"] = ranks.chance(1)
        asked = sorted({record.domain for record in pairs.values()})
        for source in asked if len(asked) > 1 else ():
            within = _ranks([record for record in records if record.domain == source], **vectors)
            if within.gallery > 1:
                measured[f"recall@1[{source}]"] = within.recall(1)
        return measured

    def _stream(self, records: Iterable[SceneRecord], view: str, sources: Sources) -> Iterator[np.ndarray]:
        """The views in order, decoded a batch ahead by threads."""
        with ThreadPoolExecutor(READERS) as pool:
            for part in batched(records, BATCH):
                yield from pool.map(lambda record: self._read(record, view, sources), part)


def _ranks(records: Sequence[SceneRecord], aerial: Mapping[str, np.ndarray], ground: Mapping[str, np.ndarray]) -> Ranks:
    """Ranks of each pair's aerial image among those of the records; its semi-positives are neither right nor wrong.

    aerial: vectors by the name of the image. ground: vectors by the id of the pair.
    """
    items = dict.fromkeys(aerial_id(record) for record in records if "aerial" in record.views)
    number = {item: i for i, item in enumerate(items)}
    pairs = [record for record in records if has_both(record)]
    semi = [[number[i] for i in semi_of(record) if i in number and i != aerial_id(record)] for record in pairs]
    queries, gallery = np.stack([ground[r.id] for r in pairs]), np.stack([aerial[item] for item in items])
    return rank(queries, gallery, np.array([number[aerial_id(record)] for record in pairs]), semi)


def turn_pair(ground: np.ndarray, aerial: np.ndarray, turn: float) -> tuple[np.ndarray, np.ndarray]:
    """Turn the world of a panorama and its square aerial image by `turn` (0 to 1) of a circle, clockwise on the map.

    In a panorama column j of W looks 2 pi j / W clockwise from south (SAFA's polar formula), so its content moves to
    the right. The turn is rounded to whole columns; corners that come from outside of the aerial image mirror it.
    """
    columns = round(turn * ground.shape[1])
    rolled = np.roll(ground, columns, axis=1)
    quarters, rest = divmod(4 * columns, ground.shape[1])
    if rest == 0:
        return rolled, np.ascontiguousarray(np.rot90(aerial, -quarters))
    side = len(aerial)
    center = (side - 1) / 2
    rotation = cv2.getRotationMatrix2D((center, center), -360 * columns / ground.shape[1], 1.0)
    turned = cv2.warpAffine(aerial, rotation, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return rolled, turned


def allowed_negatives(place: Tensor, item: Tensor, semi: Tensor, source: Tensor, *, within_source: bool) -> Tensor:
    """(n, n) bool, rows aerial and columns ground: which pairs of a batch are certainly of two places.

    place, item, source: (n,) names. semi: (n, k) items that also show the place of a ground view, -1 for none.
    """
    allowed = (place[:, None] != place) & (item[:, None] != item)
    allowed &= (item[:, None, None] != semi[None]).all(2)
    return allowed & (source[:, None] == source) if within_source else allowed


def has_both(record: SceneRecord) -> bool:
    return all(view in record.views for view in VIEWS)


def place_of(record: SceneRecord) -> str:
    return record.group or record.id


def semi_of(record: SceneRecord) -> list[str]:
    return [str(item) for item in record.extra.get("semi", ())]


def identity(record: SceneRecord) -> dict[str, Tensor]:
    """What tells whether two pairs may be negatives of each other, as numbers that processes can exchange."""
    semi = [name_number(item) for item in semi_of(record)]
    if len(semi) > MOST_SEMI:
        raise DataError(f"the pair {record.id} has {len(semi)} semi-positives, at most {MOST_SEMI} are possible")
    return {
        "place": torch.tensor(name_number(place_of(record))),
        "item": torch.tensor(name_number(aerial_id(record))),
        "source": torch.tensor(name_number(record.domain)),
        "semi": torch.tensor(semi + [-1] * (MOST_SEMI - len(semi))),
    }


def name_number(name: str) -> int:
    """A number in 0..2^63 - 1 that stands for a name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1
