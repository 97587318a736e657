"""The co-occurrence embedder F_occur of RetrieveGAN: patches that were seen in one picture get near vectors.

Two different objects of one picture are anchor and positive, the objects of the other pictures of a batch negatives.
L = max(0, m + d(a, p) - d(a, n)), with d the Euclidean distance of unit vectors. Learned from a bank alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pipelines.bank.bank import Bank
from pipelines.config import Config
from pipelines.data.augment import Size
from pipelines.data.scene import Schema
from pipelines.embed.bank_vectors import PIECE, piece_image
from pipelines.embed.embedder import embed_images
from pipelines.embed.pieces import held_out
from pipelines.embed.tower import Tower
from pipelines.errors import ConfigError, DataError
from pipelines.nn.layers.joined import JoinedBatchNorm
from pipelines.nn.reduce import gather
from pipelines.systems.base import Adam, Batch, Frozen, Needs, Networks, Phase, Plan, Sampling, Sources, stack
from pipelines.train.schedule import cosine

NET = "embedder"
SLOPE = 0.1
"""Of the leaky ReLUs of PasteGAN's crop encoder."""
TINY = 1e-12
"""What is added to squared distances: the square root has no gradient at 0."""
BATCH = 256

Negatives = Literal["all", "semi_hard"]
Half = Literal["first", "second"]


class CooccurrenceConfig(Config):
    """The network that judges whether patches were seen together, and what it learns from."""

    size: Size = (32, 32)
    """Height and width that every patch is resized to."""
    crop_widths: tuple[int, ...] = Field((64, 128, 256), min_length=1)
    """Channels of the convolutions, each of which halves the patch (published: of PasteGAN's crop encoder)."""
    dimension: int = Field(128, ge=2)
    """Numbers in a vector."""
    margin: float = Field(0.5, gt=0)
    """m: by how much a negative should be farther away than the positive."""
    negatives: Negatives = "all"
    """all: every patch of another group in the batch. semi_hard: for each anchor the nearest of those that are farther
    than the positive already; the farthest of all where none is."""
    distinct: Literal["source", "group"] = "group"
    """What is no negative: patches of the same picture, or of its group, where that is known."""
    half: Half | None = None
    """Learn from this half of the groups alone, told apart by their names: two embedders that share no picture can be a
    loss and its measure."""
    holdout: float = Field(0.1, ge=0, lt=1)
    """Share of the groups (of the sources, where no group is known) that is measured on and not trained on."""
    measured: int = Field(1000, ge=3)
    """How many patches of these are measured on at most."""
    lr: float = Field(1e-4, gt=0)
    """Learning rate of Adam at its highest; it falls along half a cosine to a millionth of that."""
    warmup: int = Field(0, ge=0)
    """Steps over which the learning rate rises first."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        least = 2 ** len(self.crop_widths)
        if min(self.size) < least:
            raise ValueError(f"{len(self.crop_widths)} convolutions need patches of {least} pixels at least")
        return self


class CooccurrenceEmbedder:
    """One network «embedder»: patches (n, 3, h, w) in [-1, 1] to unit vectors (n, dimension)."""

    Config = CooccurrenceConfig
    kind: Literal["cooccurrence"] = "cooccurrence"

    @classmethod
    def plan(cls, config: CooccurrenceConfig, schema: Schema, steps: int) -> Plan:
        return Plan(
            train=Needs(fields=(), dataset=False, bank="patches"),
            synthesize=Needs(fields=()),
            phases=(Phase(NET, (NET,)),),
            optimizers={NET: Adam(cosine(config.lr, steps, config.warmup))},
        )

    def __init__(self, config: CooccurrenceConfig, schema: Schema) -> None:
        self.config, self.schema = config, schema
        self._keys: np.ndarray | None = None

    def networks(self) -> dict[str, nn.Module]:
        return {NET: build_patch_tower(self.config.size, self.config.crop_widths, self.config.dimension)}

    def towers(self, nets: Networks) -> dict[str, Tower]:
        """The tower of each view."""
        tower = nets[NET]
        assert isinstance(tower, Tower)
        return {PIECE: tower}

    def sampling(self, sources: Sources) -> Sampling:
        """The pictures with two patches or more that are learned from."""
        bank = _bank(sources)
        numbers = self._sources(bank, held=False)
        keys = bank.exclusion_keys(self.config.distinct)[np.isin(bank.sources, numbers)]
        if len(np.unique(keys)) == 1:
            raise DataError(
                "all pictures to learn from are of one group, so that there are no negatives",
                where=bank.path,
                fix="set model.distinct=source, or give a bank of more groups",
            )
        return Sampling([bank.source_table[number].id for number in numbers])

    def _sources(self, bank: Bank, held: bool) -> list[int]:
        """The numbers of the sources of two pieces or more that are held out, or those that are learned from."""
        rows = held_out(bank, self.config.holdout) == held
        if self.config.half and not held:
            rows &= in_half(bank, self.config.half)
        counts = np.bincount(bank.sources[rows], minlength=len(bank.source_table))
        return np.flatnonzero(counts >= 2).tolist()

    def example(self, scene_id: str, sources: Sources, rng: np.random.Generator, step: int) -> dict[str, Any]:
        """first, second: (h, w, 3) uint8, two objects of one picture. key: int64, equal where they are no negatives of
        each other."""
        bank = _bank(sources)
        if self._keys is None:
            self._keys = bank.exclusion_keys(self.config.distinct)
        rows = bank.rows_of_source(scene_id)
        first, second = rng.choice(rows, 2, replace=False).tolist()
        return {
            "first": torch.from_numpy(piece_image(bank, first, self.config.size)),
            "second": torch.from_numpy(piece_image(bank, second, self.config.size)),
            "key": torch.tensor(int(self._keys[first])),
        }

    def collate(self, examples: Sequence[dict[str, Any]]) -> Batch:
        return stack(examples)

    def losses(
        self, phase: str, nets: Networks, frozen: Frozen, batch: Batch, memo: dict[str, Any], step: int
    ) -> dict[str, Tensor]:
        vectors = nets[NET](_scaled(torch.cat([batch["first"], batch["second"]])))
        first, second = (gather(part.contiguous()) for part in vectors.chunk(2))
        keys = gather(batch["key"])
        if len(keys) < 2:
            raise ConfigError("a batch of one picture has no negatives", fix="give --batch 2 or more")
        return {"triplet": triplet_loss(first, second, keys, self.config.margin, self.config.negatives)}

    def preview(self, nets: Networks, frozen: Frozen, batch: Batch) -> dict[str, Tensor]:
        """A patch, another one of its picture, and the one of the batch's second ones that it is nearest to."""
        tower, first, second = nets[NET], _scaled(batch["first"]), _scaled(batch["second"])
        nearest = torch.cdist(tower(first), tower(second)).argmin(1)
        return {"patch": first, "seen_with": second, "nearest": second[nearest]}

    def validate(self, nets: Networks, sources: Sources, device: torch.device) -> dict[str, float]:
        """How often patches of one held-out picture are nearer to each other than to those of other groups.

        triplet_accuracy: the share of all triplets (a, p, n) with d(a, p) < d(a, n), so that ties count against it and
        chance is 0.5. triplet_accuracy_same_class: of those whose negative is of the class of the positive, so that
        knowing which classes go together is no help. Nothing where nothing is held out.
        """
        bank = _bank(sources)
        return self.measure(nets, bank, self._sources(bank, held=True), device)

    def measure(self, nets: Networks, bank: Bank, numbers: Sequence[int], device: torch.device) -> dict[str, float]:
        """`validate` on sources of a bank by their numbers; some, if they have more than `measured` patches."""
        rows = _some(bank, numbers, self.config.measured)
        keys = bank.exclusion_keys(self.config.distinct)[rows]
        if len(np.unique(keys)) < 2:
            return {}
        tower = self.towers(nets)[PIECE]
        images = (piece_image(bank, row, tower.size) for row in rows.tolist())
        vectors = embed_images(tower, images, BATCH, device, "the tower")
        return triplet_accuracy(vectors, bank.sources[rows], keys, bank.categories[rows])


def build_patch_tower(size: Size, widths: Sequence[int], dimension: int) -> Tower:
    """F_occur: the crop encoder of PasteGAN, its mean over the patch, a linear layer, unit length."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip((3, *widths), widths, strict=False):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), JoinedBatchNorm(outputs), nn.LeakyReLU(SLOPE)]
    return Tower(PatchTokens(*layers), MeanLinear(widths[-1], dimension), (size[0], size[1]), widths[-1], dimension)


class PatchTokens(nn.Sequential):
    """Layers that give maps (n, width, h, w), as tokens (n, h w, width)."""

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = super().forward(images)
        return maps.flatten(2).transpose(1, 2)


class MeanLinear(nn.Module):
    """Tokens (n, tokens, width) to a linear map of their mean, (n, dimension)."""

    def __init__(self, width: int, dimension: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, dimension)

    def forward(self, tokens: Tensor) -> Tensor:
        vectors: Tensor = self.linear(tokens.mean(1))
        return vectors


def triplet_loss(first: Tensor, second: Tensor, keys: Tensor, margin: float, negatives: Negatives = "all") -> Tensor:
    """The mean of max(0, m + d(a, p) - d(a, n)) over triplets of a batch of n pairs.

    first, second: (n, d) unit vectors of the pairs, each of which is the anchor and the positive in turn. keys: (n,)
    int64; pairs of equal keys are no negatives of each other. An anchor without negatives weighs nothing.
    """
    vectors, keys = torch.cat([first, second]).float(), keys.repeat(2)
    with torch.autocast(vectors.device.type, enabled=False):
        distances = (2 - 2 * vectors @ vectors.T).clamp(min=0).add(TINY).sqrt()
    positive = torch.cat([distances.diagonal(len(first)), distances.diagonal(-len(first))])[:, None]  # d(a, p)
    allowed = keys[:, None] != keys
    if negatives == "semi_hard":
        allowed = _semi_hard(distances.detach(), positive.detach(), allowed)
    losses = (margin + positive - distances).clamp(min=0)
    return (losses * allowed).sum() / allowed.sum().clamp(min=1)


def _semi_hard(distances: Tensor, positive: Tensor, allowed: Tensor) -> Tensor:
    """(n, n) bool: for each anchor the nearest negative beyond its positive, else the farthest of all."""
    beyond = distances.masked_fill(~allowed | (distances <= positive), torch.inf)
    farthest = distances.masked_fill(~allowed, -torch.inf).argmax(1)
    chosen = torch.where(beyond.isfinite().any(1), beyond.argmin(1), farthest)
    return torch.zeros_like(allowed).scatter(1, chosen[:, None], True) & allowed


def triplet_accuracy(
    vectors: np.ndarray, sources: np.ndarray, keys: np.ndarray, categories: np.ndarray
) -> dict[str, float]:
    """The measures of `validate`, of vectors (n, d), their sources, groups and classes (n,), over all triplets."""
    right, asked = np.zeros(2), np.zeros(2)
    for a, vector in enumerate(vectors):
        distances = ((vectors - vector) ** 2).sum(1)
        positives = np.flatnonzero((sources == sources[a]) & (np.arange(len(keys)) != a))
        far = keys != keys[a]
        nearer = distances[positives, None] < distances[far]  # (positives, negatives)
        alike = categories[positives, None] == categories[far]
        right += nearer.sum(), (nearer & alike).sum()
        asked += nearer.size, alike.sum()
    names = ("triplet_accuracy", "triplet_accuracy_same_class")
    return {name: float(r / n) for name, r, n in zip(names, right, asked, strict=True) if n}


def in_half(bank: Bank, half: Half) -> np.ndarray:
    """(n,) bool: the pieces of one half of the groups, by the hashes of their names; the other half has the others."""
    keys = bank.exclusion_keys("group")
    second = {
        key: hashlib.sha256(f"half\0{source.group or source.id}".encode()).digest()[0] & 1
        for key, source in ((key, bank.source_table[key]) for key in np.unique(keys).tolist())
    }
    return np.array([second[key] == (half == "second") for key in keys.tolist()], bool)


def _some(bank: Bank, numbers: Sequence[int], count: int) -> np.ndarray:
    """(m,) int64 rows of whole sources, at most `count` in all but of one at least, by the hashes of their names."""
    order = sorted(numbers, key=lambda number: hashlib.sha256(bank.source_table[number].id.encode()).digest())
    rows: list[np.ndarray] = [bank.rows_of_source(bank.source_table[number].id) for number in order]
    sizes = np.cumsum([len(part) for part in rows])
    kept = rows[: max(1, int(np.searchsorted(sizes, count, side="right")))]
    return np.sort(np.concatenate(kept)) if kept else np.zeros(0, np.int64)


def _scaled(images: Tensor) -> Tensor:
    """(n, h, w, 3) uint8 to (n, 3, h, w) in [-1, 1]."""
    return images.permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1


def _bank(sources: Sources) -> Bank:
    assert sources.bank is not None
    return sources.bank
