"""The cross-view system: its phases, examples, losses and synthesis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.data.augment import image_tensor, resize_image
from pipelines.data.scene import Schema
from pipelines.embed.pairs import VIEWS, has_both, place_of, turn_pair
from pipelines.embed.tower import Tower
from pipelines.errors import ConfigError
from pipelines.systems.base import (
    Batch,
    Frozen,
    Needs,
    Networks,
    Phase,
    PhotoItem,
    Plan,
    Sampling,
    Sources,
    Synthesis,
    stack,
)
from pipelines.systems.crossview.config import CrossviewConfig, CrossviewOptions, View
from pipelines.systems.crossview.losses import discriminator_terms, diversity, identity_loss
from pipelines.systems.crossview.networks import (
    CrossviewGenerator,
    OneWayDiscriminator,
    PlainEncoder,
    Region,
    noise_maps,
    scaled,
)

EMBEDDER = "embedder-crossview"


def tower_of(frozen: Frozen, view: View) -> Tower:
    """The frozen embedder's tower for a view."""
    towers = frozen["embedder"]
    assert isinstance(towers, nn.ModuleDict)
    tower = towers[view]
    assert isinstance(tower, Tower)
    return tower


class Crossview:
    """Retrieval-guided cross-view image synthesis (Yang et al., 2024)."""

    Config = CrossviewConfig
    Options = CrossviewOptions

    @classmethod
    def plan(cls, config: CrossviewConfig, schema: Schema, steps: int) -> Plan:
        makers = ("G", "E") if config.encoder == "trainable" else ("G",)
        adam_g, adam_d = config.optimizer.generator(steps), config.optimizer.discriminator(steps)
        phases, optimizers = [Phase("G", makers)], dict.fromkeys(makers, adam_g)
        if config.weights.adversarial:
            # in fp32, since the gradient penalty is a sixth power
            phases.insert(0 if config.fakes == "fresh" else 1, Phase("D", ("D",), precision="fp32"))
            optimizers["D"] = adam_d
        embedder = {"embedder": EMBEDDER}
        return Plan(
            train=Needs(fields=(), views=VIEWS, frozen=embedder if config.needs_embedder else {}),
            synthesize=Needs(
                fields=(), views=(config.source,), frozen=embedder if config.encoder == "retrieval" else {}
            ),
            phases=tuple(phases),
            optimizers=optimizers,
            averaged=dict.fromkeys(makers, config.average) if config.average else {},
            perceptual=config.weights.perceptual > 0,
        )

    def __init__(self, config: CrossviewConfig, schema: Schema) -> None:
        self.config, self.schema = config, schema
        self.noise_length = sum(h * w for h, w in noise_maps(config.size))

    def networks(self) -> dict[str, nn.Module]:
        c = self.config
        nets: dict[str, nn.Module] = {
            "G": CrossviewGenerator(
                c.embedding,
                c.widths.of(c.target),
                size=c.size,
                structure=c.structure,
                blocks=c.blocks,
                projected=c.projected,
                z_dim=c.z_dim,
                style=c.style,
                spread=c.spread,
                hidden=c.hidden,
                modulation=c.modulation,
                blend=c.blend,
                circular=c.circular,
                low_resolution=c.weights.low_resolution > 0,
            )
        }
        if c.weights.adversarial:
            nets["D"] = OneWayDiscriminator(
                c.embedding, c.size, c.ndf, c.ndf_most, projected=c.projected, alpha=c.alpha_d
            )
        if c.encoder == "trainable":
            nets["E"] = PlainEncoder(c.sizes.of(c.source), c.encoder_width, c.embedding)
        return nets

    def check(self, frozen: Frozen) -> None:
        """The embedder's vectors must have the length that the networks are built for."""
        if self.config.encoder == "trainable":
            return
        tower = tower_of(frozen, self.config.source)
        found = tower.width if self.config.conditioning == "pooled" else tower.dimension
        if found != self.config.embedding:
            raise ConfigError(
                f"the embedder's vectors have {found} numbers and the config says {self.config.embedding}",
                where="model.embedding",
                fix=f"--set model.embedding={found}, or train with another embedder",
            )

    def sampling(self, sources: Sources) -> Sampling:
        """Every pair; a batch holds no place twice, since it is the mismatch of its neighbor."""
        pairs = [record for record in sources.records if has_both(record)]
        return Sampling([record.id for record in pairs], groups=[place_of(record) for record in pairs])

    def example(self, scene_id: str, sources: Sources, rng: np.random.Generator, step: int) -> dict[str, Any]:
        assert sources.dataset is not None
        record = sources.record(scene_id)
        views = {view: self._sized(sources.dataset.read_view(record, view), view) for view in VIEWS}
        if self.config.rotate != "none" and str(record.extra.get("street_kind", "")).startswith("panorama"):
            turn = float(rng.integers(4)) / 4 if self.config.rotate == "quarters" else rng.random()
            views["ground"], views["aerial"] = turn_pair(views["ground"], views["aerial"], turn)
        source, target = (image_tensor(views[view]) for view in (self.config.source, self.config.target))
        example = {"source": source, "target": target, **self._noise(rng)}
        if self.config.weights.diversity:
            example |= {f"other_{name}": noise for name, noise in self._noise(rng).items()}
        return example

    def collate(self, examples: Sequence[dict[str, Any]]) -> Batch:
        return stack(examples)

    def losses(
        self, phase: str, nets: Networks, frozen: Frozen, batch: Batch, memo: dict[str, Any], step: int
    ) -> dict[str, Tensor]:
        config, real = self.config, batch["target"]
        if phase == "D":
            if config.fakes == "fresh":
                with torch.no_grad():
                    memo["c"] = self.condition(nets, frozen, batch["source"])
                    memo["fake"] = nets["G"](memo["c"], batch["z"], batch["noise"])[0]
            return discriminator_terms(
                nets["D"],
                real,
                memo["fake"].float(),
                memo["c"].float(),
                conditional=config.alpha_d > 0,
                penalty=config.weights.penalty,
            )
        # the frozen embedder says the same to both phases; a trained encoder is asked again, for its gradient
        known = memo.get("c") if config.encoder == "retrieval" else None
        c = self.condition(nets, frozen, batch["source"]) if known is None else known
        fake, low = nets["G"](c, batch["z"], batch["noise"])
        memo["c"], memo["fake"] = c.detach(), fake.detach()
        regions = [module for module in nets["G"].modules() if isinstance(module, Region)]
        memo["observed"] = {f"map_{i}": region.seen for i, region in enumerate(regions) if region.seen is not None}
        return self._generator_terms(nets, frozen, batch, c, fake, low, memo["progress"])

    def _generator_terms(
        self, nets: Networks, frozen: Frozen, batch: Batch, c: Tensor, fake: Tensor, low: Tensor | None, progress: float
    ) -> dict[str, Tensor]:
        """What G pays, weighted (section 5); progress: the share of the training that is done."""
        weights, real, terms = self.config.weights, batch["target"], {}
        if weights.adversarial:
            # a trained encoder learns from what G makes of c, not from what D says to c
            terms["g_adversarial"] = -weights.adversarial * nets["D"](fake, c.detach()).float().mean()
        if weights.reconstruction:
            terms["g_reconstruction"] = weights.reconstruction * F.l1_loss(fake.float(), real)
        if weights.perceptual:
            terms["g_perceptual"] = weights.perceptual * frozen["perceptual"](fake, real)
        if weights.identity:
            terms["g_identity"] = weights.identity * self._identity(frozen, batch, fake)
        if low is not None:
            small = F.interpolate(real, low.shape[2:], mode="area")
            terms["g_low_resolution"] = weights.low_resolution * F.l1_loss(low.float(), small)
        if weights.diversity:
            with torch.no_grad():
                other = nets["G"](c, batch["other_z"], batch["other_noise"])[0]
            loss = diversity(fake.float(), other.float(), batch["z"], batch["other_z"], self.config.diversity)
            terms["g_diversity"] = (1 - progress) * weights.diversity * loss
        return terms

    def _identity(self, frozen: Frozen, batch: Batch, fake: Tensor) -> Tensor:
        made = self._embed(frozen, self.config.target, fake)
        view, image = (
            (self.config.target, batch["target"])
            if self.config.identity == "target"
            else (self.config.source, batch["source"])
        )
        with torch.no_grad():
            wanted = self._embed(frozen, view, image)
        return identity_loss(made.float(), wanted.float())

    def preview(self, nets: Networks, frozen: Frozen, batch: Batch) -> dict[str, Tensor]:
        c = self.condition(nets, frozen, batch["source"])
        output, _ = nets["G"](c, batch["z"], batch["noise"])
        return {"source": batch["source"], "output": output, "target": batch["target"]}

    def request(
        self, item: PhotoItem, sources: Sources, options: CrossviewOptions, rng: np.random.Generator
    ) -> dict[str, Any]:
        if options.strength != 1 and not self.config.modulated:
            raise ConfigError(
                "this generator has no block that the embedding modulates, so a strength changes nothing",
                where="options.strength",
                fix="leave it out",
            )
        noise = self._noise(rng)
        if options.mean:
            noise = {name: torch.zeros_like(values) for name, values in noise.items()}
        return {"source": image_tensor(self._sized(item.photo, self.config.source)), **noise}

    def synthesize(self, nets: Networks, frozen: Frozen, batch: Batch, options: CrossviewOptions) -> Synthesis:
        c = self.condition(nets, frozen, batch["source"])
        images, _ = nets["G"](c, batch["z"], batch["noise"], options.strength)
        return Synthesis(images)

    def condition(self, nets: Networks, frozen: Frozen, source: Tensor) -> Tensor:
        """c (n, embedding) of source views (n, 3, h, w): the embedding, scaled. In fp32, as an index keeps it."""
        if self.config.encoder == "trainable":
            return nets["E"](source)
        with torch.no_grad(), torch.autocast(source.device.type, enabled=False):
            return scaled(self._embed(frozen, self.config.source, source))

    def _embed(self, frozen: Frozen, view: View, images: Tensor) -> Tensor:
        """(n, d) unit vectors of views; a gradient goes through the tower to the images."""
        tower, images = tower_of(frozen, view), images.float()  # resizing knows no bf16
        return tower.pooled(images) if self.config.conditioning == "pooled" else tower(images)

    def _sized(self, image: np.ndarray, view: str) -> np.ndarray:
        """(h, w, 3) uint8 at the size of the view."""
        return resize_image(image, self.config.sizes.of(view))

    def _noise(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """z of the mapping network, and the noise maps of the layers one after the other."""
        lengths = {"z": self.config.z_dim, "noise": self.noise_length}
        return {
            name: torch.from_numpy(rng.standard_normal(length, dtype=np.float32)) for name, length in lengths.items()
        }
