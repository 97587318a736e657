"""SPADE as a system: its phases, examples, losses and synthesis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.data.augment import draw_view, image_tensor, label_tensor
from pipelines.data.scene import Schema
from pipelines.data.transforms import nearest_resize
from pipelines.nn.initialization import init_weights
from pipelines.nn.labels import instance_edges, one_hot
from pipelines.nn.layers.patch_discriminator import judge_pair
from pipelines.nn.layers.spade_generator import upsamplings_for
from pipelines.nn.layers.spectral import plain_conv, spectral_conv
from pipelines.systems.base import (
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
from pipelines.systems.spade.config import SpadeConfig, SpadeOptions
from pipelines.systems.spade.losses import discriminator_terms, generator_terms, kl_divergence
from pipelines.systems.spade.networks import SpadeGenerator, VaeEncoder, spade_discriminator


class Spade:
    """Semantic image synthesis with spatially-adaptive normalization (Park et al., CVPR 2019)."""

    Config = SpadeConfig
    Options = SpadeOptions

    @classmethod
    def plan(cls, config: SpadeConfig, schema: Schema, steps: int) -> Plan:
        generators = ("G", "E") if config.vae else ("G",)
        averaged = dict.fromkeys(generators, config.average) if config.average else {}
        adam_g, adam_d = config.optimizer.generator(steps), config.optimizer.discriminator(steps)
        return Plan(
            train=Needs(fields=("image", "labels", "instances") if config.edges else ("image", "labels")),
            synthesize=Needs(fields=("labels",)),
            phases=(Phase("G", generators), Phase("D", ("D",))),
            optimizers={**dict.fromkeys(generators, adam_g), "D": adam_d},
            averaged=averaged,
            perceptual=config.weights.perceptual > 0,
        )

    def __init__(self, config: SpadeConfig, schema: Schema) -> None:
        self.config, self.schema = config, schema
        self.channels = len(schema.classes) + config.edges

    def networks(self) -> dict[str, nn.Module]:
        c = self.config
        generator = SpadeGenerator(
            self.channels,
            c.ngf,
            upsamplings=c.upsamplings or upsamplings_for(c.framing.size),
            size=c.framing.size,
            z_dim=c.z_dim if c.vae else None,
            hidden=c.hidden,
            kernel=c.kernel,
            width_cap=c.width_cap,
            norm=c.norm,
            conv=spectral_conv if c.spectral else plain_conv,
            checkpointing=c.checkpointing,
        )
        nets = {"G": generator, "D": spade_discriminator(self.channels + 3, c.ndf, c.layers, c.scales)}
        if c.vae:
            side = 2 ** (min(c.framing.size).bit_length() - 1)
            nets["E"] = VaeEncoder(c.ngf, c.encoder_size or min(side, 256), c.z_dim)
        return {name: init_weights(net) for name, net in nets.items()}

    def sampling(self, sources: Sources) -> Sampling:
        return Sampling([record.id for record in sources.records])

    def example(self, scene_id: str, sources: Sources, rng: np.random.Generator, step: int) -> dict[str, Any]:
        image, labels, instances = scene_layers(sources, scene_id, need_instances=self.config.edges)
        view = draw_view(self.config.framing, rng)
        example = {
            "image": image_tensor(view.image(image)),
            "labels": label_tensor(view.map(labels)),
            "noise": _noise(rng, self.config.z_dim),
        }
        if instances is not None and self.config.edges:
            example["instances"] = label_tensor(view.map(instances))
        return example

    def collate(self, examples: Sequence[dict[str, Any]]) -> Batch:
        return stack(examples)

    def losses(
        self, phase: str, nets: Networks, frozen: Frozen, batch: Batch, memo: dict[str, Any], step: int
    ) -> dict[str, Tensor]:
        real, labels = batch["image"], self.condition(batch)
        if phase == "D":
            if self.config.fakes == "fresh":
                with torch.no_grad():
                    memo["fake"] = self._fake(nets, batch, labels)[0]
            return discriminator_terms(*judge_pair(nets["D"], labels, memo["fake"], real))
        fake, code = self._fake(nets, batch, labels)
        memo["fake"] = fake.detach()
        weights = self.config.weights
        fake_features = nets["D"](torch.cat([labels, fake], 1))
        real_features = None
        if weights.feature:
            with torch.no_grad():
                real_features = nets["D"](torch.cat([labels, real], 1))
        terms = generator_terms(
            fake_features,
            real_features,
            fake,
            real,
            frozen.get("perceptual"),
            lambda_feature=weights.feature,
            lambda_vgg=weights.perceptual,
        )
        if code is not None and weights.kl:
            terms["kl"] = weights.kl * kl_divergence(*code)
        return terms

    def preview(self, nets: Networks, frozen: Frozen, batch: Batch) -> dict[str, Tensor]:
        fake, _ = self._fake(nets, batch, self.condition(batch))
        return {"layout": painted(batch["labels"], self.schema), "output": fake, "photo": batch["image"]}

    def request(
        self, item: LayoutItem, sources: Sources, options: SpadeOptions, rng: np.random.Generator
    ) -> dict[str, Any]:
        return {
            "labels": label_tensor(item.sized_labels),
            "instances": label_tensor(nearest_resize(item.instances, item.size)),
            "noise": _noise(rng, self.config.z_dim),
        }

    def synthesize(self, nets: Networks, frozen: Frozen, batch: Batch, options: SpadeOptions) -> Synthesis:
        labels = self.condition(batch)
        return Synthesis(nets["G"](labels, batch["noise"]) if self.config.vae else nets["G"](labels))

    def condition(self, batch: Batch) -> Tensor:
        """(n, channels, h, w): one-hot labels, with the borders of instances as a last channel if asked."""
        labels = one_hot(batch["labels"], len(self.schema.classes))
        return torch.cat([labels, instance_edges(batch["instances"])], 1) if self.config.edges else labels

    def _fake(self, nets: Networks, batch: Batch, labels: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """The fake of a batch, and the code (mu, logvar) of its real image where there is an encoder."""
        if not self.config.vae:
            return nets["G"](labels), None
        mu, logvar = nets["E"](batch["image"])
        return nets["G"](labels, mu + (logvar / 2).exp() * batch["noise"]), (mu, logvar)


def _noise(rng: np.random.Generator, length: int) -> Tensor:
    return torch.from_numpy(rng.standard_normal(length, dtype=np.float32))
