"""OASIS as a system: its phases, examples, losses and synthesis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.data.augment import draw_view, image_tensor, label_tensor
from pipelines.data.scene import Schema
from pipelines.nn.initialization import init_weights, settle
from pipelines.nn.labels import one_hot
from pipelines.nn.layers.unet import UNet
from pipelines.nn.losses.labelmix import labelmix_mask, mix
from pipelines.systems.base import (
    Adam,
    Batch,
    Frozen,
    LayoutItem,
    Needs,
    Networks,
    Phase,
    Plan,
    Sampling,
    Sources,
    Synthesis,
    painted,
    scene_layers,
    stack,
)
from pipelines.systems.oasis.config import OasisConfig, OasisOptions
from pipelines.systems.oasis.losses import discriminator_terms, generator_terms, labelmix_terms
from pipelines.systems.oasis.networks import OasisGenerator


class Oasis:
    """Semantic image synthesis by adversarial supervision alone (Sushko et al., ICLR 2021)."""

    Config = OasisConfig
    Options = OasisOptions

    @classmethod
    def plan(cls, config: OasisConfig, schema: Schema, steps: int) -> Plan:
        return Plan(
            train=Needs(fields=("image", "labels")),
            synthesize=Needs(fields=("labels",)),
            phases=(Phase("G", ("G",)), Phase("D", ("D",))),
            optimizers={
                "G": Adam(lambda step: config.lr_g, config.betas),
                "D": Adam(lambda step: config.lr_d, config.betas),
            },
            averaged={"G": config.average} if config.average else {},
            perceptual=config.perceptual > 0,
        )

    def __init__(self, config: OasisConfig, schema: Schema) -> None:
        self.config, self.schema = config, schema
        self.classes = len(schema.classes)

    def networks(self) -> dict[str, nn.Module]:
        c = self.config
        generator = OasisGenerator(
            self.classes,
            c.channels,
            z_dim=c.z_dim,
            blocks=c.blocks,
            hidden=c.hidden,
            kernel=c.kernel,
            width_cap=c.width_cap,
            checkpointing=c.checkpointing,
        )
        discriminator = UNet(self.classes + 1, c.discriminator_widths)
        # torch's own weights: those of init_weights are so small that Adam's first steps leave the singular vectors
        # behind, and the network rests at a uniform guess for more than a hundred steps
        return {"G": init_weights(generator), "D": settle(discriminator)}

    def sampling(self, sources: Sources) -> Sampling:
        return Sampling([record.id for record in sources.records])

    def example(self, scene_id: str, sources: Sources, rng: np.random.Generator, step: int) -> dict[str, Any]:
        image, labels, _ = scene_layers(sources, scene_id)
        view = draw_view(self.config.framing, rng)
        return {
            "image": image_tensor(view.image(image)),
            "labels": label_tensor(view.map(labels)),
            "noise": self._noise(rng),
            "coins": torch.from_numpy(rng.integers(0, 2, self.classes + 1)),
        }

    def collate(self, examples: Sequence[dict[str, Any]]) -> Batch:
        return stack(examples)

    def losses(
        self, phase: str, nets: Networks, frozen: Frozen, batch: Batch, memo: dict[str, Any], step: int
    ) -> dict[str, Tensor]:
        real, labels = batch["image"], batch["labels"]
        hot = one_hot(labels, self.classes)
        if phase == "G":
            fake = nets["G"](hot, batch["noise"])
            terms = generator_terms(nets["D"](fake), labels)
            if self.config.perceptual:
                terms["g_vgg"] = self.config.perceptual * frozen["perceptual"](fake, real)
            return terms
        with torch.no_grad():
            fake = nets["G"](hot, batch["noise"])
        on_real, on_fake = nets["D"](real), nets["D"](fake)
        terms = discriminator_terms(on_real, on_fake, labels)
        if self.config.labelmix:
            mask = labelmix_mask(labels, batch["coins"])
            on_mixed = nets["D"](mix(mask, real, fake))
            terms |= labelmix_terms(on_mixed, mask, on_real, on_fake, lambda_labelmix=self.config.labelmix)
        return terms

    def preview(self, nets: Networks, frozen: Frozen, batch: Batch) -> dict[str, Tensor]:
        fake = nets["G"](one_hot(batch["labels"], self.classes), batch["noise"])
        return {"layout": painted(batch["labels"], self.schema), "output": fake, "photo": batch["image"]}

    def request(
        self, item: LayoutItem, sources: Sources, options: OasisOptions, rng: np.random.Generator
    ) -> dict[str, Any]:
        return {"labels": label_tensor(item.sized_labels), "noise": self._noise(rng)}

    def synthesize(self, nets: Networks, frozen: Frozen, batch: Batch, options: OasisOptions) -> Synthesis:
        return Synthesis(nets["G"](one_hot(batch["labels"], self.classes), batch["noise"]))

    def _noise(self, rng: np.random.Generator) -> Tensor:
        return torch.from_numpy(rng.standard_normal(self.config.z_dim, dtype=np.float32))
