"""RESAIL as a system: its phases, examples, losses and synthesis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.bank.bank import Bank
from pipelines.bank.segments import Decomposition, reframe, resize_owner
from pipelines.compose.color import ColorStatistics, color_statistics
from pipelines.compose.distort import distort_scene
from pipelines.compose.guidance import Guidance
from pipelines.compose.provenance import Origin, provenance
from pipelines.data.augment import draw_view, image_tensor, label_tensor, resize_image
from pipelines.data.scene import Schema
from pipelines.data.transforms import nearest_resize
from pipelines.errors import ConfigError
from pipelines.nn.initialization import init_weights
from pipelines.nn.labels import one_hot
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
from pipelines.systems.resail.config import ResailConfig, ResailOptions
from pipelines.systems.resail.losses import (
    Branch,
    discriminator_terms,
    distorted_terms,
    retrieved_terms,
    segmentation_loss,
)
from pipelines.systems.resail.networks import ResailGenerator, sesame_discriminator
from pipelines.systems.resail.retrieval import (
    NONE,
    decompose_like,
    excluded,
    foreground,
    origins,
    paste,
    paste_own,
    piece_of,
    random_rows,
    rows_of_scene,
    scenes_of_bank,
    search_rows,
)

MEMORY = 512 * 2**20
"""Bytes of prepared scenes that a worker remembers."""


@dataclass(frozen=True)
class Prepared:
    """A training scene at the loaded size, with its segments, their bank rows and neighbors, and its guidance image."""

    image: np.ndarray
    labels: np.ndarray
    parts: Decomposition
    rows: np.ndarray
    neighbors: np.ndarray
    retrieved: np.ndarray

    @property
    def nbytes(self) -> int:
        arrays = (self.image, self.labels, self.parts.owner, self.rows, self.neighbors, self.retrieved)
        return sum(array.nbytes for array in arrays) + 400 * len(self.parts.segments)


class Resail:
    """Retrieval-based spatially adaptive normalization (Shi et al., CVPR 2022)."""

    Config = ResailConfig
    Options = ResailOptions

    @classmethod
    def plan(cls, config: ResailConfig, schema: Schema, steps: int) -> Plan:
        return Plan(
            train=Needs(
                fields=("image", "labels"),
                bank="segments",
                index="shape",
                frozen={"segmenter": "segmenter"} if config.weights.segmentation else {},
            ),
            synthesize=Needs(fields=("labels",), bank="segments", index="shape"),
            phases=(Phase("G", ("G",)), Phase("D", ("D",))),
            optimizers={"G": config.optimizer.generator(steps), "D": config.optimizer.discriminator(steps)},
            averaged={"G": config.average} if config.average else {},
            perceptual=config.weights.perceptual > 0 and config.distorted,
        )

    def __init__(self, config: ResailConfig, schema: Schema) -> None:
        if not config.distorted and config.retrieval == "none":
            raise ConfigError("with neither distorted ground truth nor retrieval there is nothing to train")
        self.config, self.schema = config, schema
        self.classes = len(schema.classes)
        self.branches: tuple[Branch, ...] = ("distorted", "retrieved") if config.distorted else ("retrieved",)
        self._colors: dict[int, ColorStatistics] = {}
        self._scenes: dict[str, Prepared] = {}

    def networks(self) -> dict[str, nn.Module]:
        c = self.config
        generator = ResailGenerator(
            self.classes,
            c.ngf,
            upsamplings=c.upsamplings or upsamplings_for(c.framing.size),
            norm=c.variant,
            hidden=c.hidden,
            kernel=c.kernel,
            guidance_kernel=c.guidance_kernel,
            width_cap=c.width_cap,
            param_free=c.norm,
            conv=spectral_conv if c.spectral else plain_conv,
            checkpointing=c.checkpointing,
        )
        discriminator = sesame_discriminator(self.classes, c.ndf, c.layers, c.scales)
        return {"G": init_weights(generator), "D": init_weights(discriminator)}

    def sampling(self, sources: Sources) -> Sampling:
        """The scenes that the bank was cut from; those that it lists as unusable are left out."""
        assert sources.bank is not None
        return Sampling(scenes_of_bank(sources.bank, [record.id for record in sources.records]))

    def example(self, scene_id: str, sources: Sources, rng: np.random.Generator, step: int) -> dict[str, Any]:
        assert sources.bank is not None
        view = draw_view(self.config.framing, rng)
        scene = self._prepared(scene_id, sources, view.loaded)
        retrieved = scene.retrieved
        if self.config.retrieval == "random":
            own = np.isin(sources.bank.sources, sources.bank.sources[scene.rows])
            rows = random_rows(sources.bank, scene.parts, rng, own)
            retrieved = paste(sources.bank, rows, scene.parts, scene.labels, self.schema).image
        example = {
            "image": image_tensor(view.finish(scene.image)),
            "labels": label_tensor(view.finish(scene.labels)),
            "retrieved": image_tensor(view.finish(retrieved)),
        }
        if self.config.distorted:
            references = [self._color_of(sources.bank, _draw(row[: self.config.top_k], rng)) for row in scene.neighbors]
            front = foreground(scene.labels, self.schema)
            guidance = distort_scene(scene.image, scene.parts, front, references, self.config.distort, rng)
            example["distorted"] = image_tensor(view.finish(guidance.image))
        return example

    def _prepared(self, scene_id: str, sources: Sources, size: tuple[int, int]) -> Prepared:
        """What of a training scene does not depend on chance: read, cut, resized and guided once, then remembered."""
        if scene_id in self._scenes:
            return self._scenes[scene_id]
        assert sources.bank is not None and sources.neighbors is not None
        bank = sources.bank
        image, labels, instances = scene_layers(sources, scene_id)
        parts = decompose_like(bank, labels, instances, self.schema)
        rows = rows_of_scene(bank, scene_id, parts)
        neighbors = sources.neighbors.rows[rows]
        labels = nearest_resize(labels, size)
        parts = reframe(parts, resize_owner(parts.owner, size))
        nearest = neighbors[:, 0] if self.config.retrieval == "shape" else np.full(len(rows), NONE)
        retrieved = paste(bank, nearest, parts, labels, self.schema).image
        scene = Prepared(resize_image(image, size), labels, parts, rows, neighbors, retrieved)
        if (len(self._scenes) + 1) * scene.nbytes <= MEMORY:
            self._scenes[scene_id] = scene
        return scene

    def collate(self, examples: Sequence[dict[str, Any]]) -> Batch:
        return stack(examples)

    def losses(
        self, phase: str, nets: Networks, frozen: Frozen, batch: Batch, memo: dict[str, Any], step: int
    ) -> dict[str, Tensor]:
        real, labels = batch["image"], one_hot(batch["labels"], self.classes)
        terms: dict[str, Tensor] = {}
        if phase == "D":
            for branch in self.branches:
                if self.config.fakes == "fresh":
                    with torch.no_grad():
                        memo[branch] = nets["G"](labels, batch[branch])
                terms |= discriminator_terms(branch, *judge_pair(nets["D"], labels, memo[branch], real))
            return terms
        weights = self.config.weights
        for branch in self.branches:
            fake = nets["G"](labels, batch[branch])
            memo[branch] = fake.detach()
            features = nets["D"](torch.cat([labels, fake], 1))
            segmentation = None
            if weights.segmentation:
                segmentation = segmentation_loss(frozen["segmenter"], fake, batch["labels"], self.classes)
            if branch == "retrieved":
                terms |= retrieved_terms(features, segmentation, lambda_seg=weights.segmentation)
                continue
            real_features = None
            if weights.feature:
                with torch.no_grad():
                    real_features = nets["D"](torch.cat([labels, real], 1))
            terms |= distorted_terms(
                features,
                real_features,
                fake,
                real,
                frozen.get("perceptual"),
                segmentation,
                lambda_feature=weights.feature,
                lambda_vgg=weights.perceptual,
                lambda_seg=weights.segmentation,
            )
        return terms

    def preview(self, nets: Networks, frozen: Frozen, batch: Batch) -> dict[str, Tensor]:
        labels = one_hot(batch["labels"], self.classes)
        columns = {"layout": painted(batch["labels"], self.schema)}
        for branch in self.branches:
            columns[f"{branch} guidance"] = batch[branch]
            columns[f"from {branch}"] = nets["G"](labels, batch[branch])
        return {**columns, "photo": batch["image"]}

    def request(
        self, item: LayoutItem, sources: Sources, options: ResailOptions, rng: np.random.Generator
    ) -> dict[str, Any]:
        labels = item.sized_labels
        guidance, provenance_of = self._guide(item, labels, sources, options, rng)
        return {
            "labels": label_tensor(labels),
            "guidance": image_tensor(guidance.image),
            "provenance": provenance_of,
        }

    def synthesize(self, nets: Networks, frozen: Frozen, batch: Batch, options: ResailOptions) -> Synthesis:
        images = nets["G"](one_hot(batch["labels"], self.classes), batch["guidance"])
        return Synthesis(images, batch["guidance"], batch["provenance"])

    def _guide(
        self,
        item: LayoutItem,
        labels: np.ndarray,
        sources: Sources,
        options: ResailOptions,
        rng: np.random.Generator,
    ) -> tuple[Guidance, tuple[np.ndarray, list[dict[str, Any]]]]:
        """The guidance of a layout at its size, with the index image and the records of its provenance."""
        assert sources.bank is not None
        bank = sources.bank
        parts = decompose_like(bank, item.labels, item.instances, self.schema)
        count = len(parts.segments)
        rows, scores, ranks = np.full(count, NONE), np.full(count, np.inf), [0] * count
        if options.retrieval == "shape":
            assert sources.index is not None
            rank = options.rank + item.variant
            found, distances = search_rows(sources.index, parts, rank, item.exclude)
            # a class with fewer pieces gives its last one
            ranks = [min(rank, max(1, int((row != NONE).sum()))) for row in found]
            chosen = np.array(ranks, dtype=np.int64) - 1
            rows, scores = found[np.arange(count), chosen], distances[np.arange(count), chosen]
        elif options.retrieval == "random":
            rows = random_rows(bank, parts, rng, excluded(bank, item))
        framed = reframe(parts, resize_owner(parts.owner, item.size))
        if options.retrieval == "oracle":
            if item.image is None:
                raise ConfigError(
                    "oracle retrieval needs the layouts' photos", where=item.name, fix="give --data instead of --inputs"
                )
            guidance = paste_own(resize_image(item.image, item.size), framed, labels, self.schema)
            own: list[Origin | None] = [None] * count
            return guidance, provenance(guidance, framed, own, self.schema.names)
        guidance = paste(bank, rows, framed, labels, self.schema)
        return guidance, provenance(guidance, framed, origins(bank, rows, ranks, scores), self.schema.names)

    def _color_of(self, bank: Bank, row: int) -> ColorStatistics | None:
        """Color statistics of a piece, remembered: they are asked again and again."""
        if row == NONE:
            return None
        if row not in self._colors:
            self._colors[row] = color_statistics(piece_of(bank, row))
        return self._colors[row]


def _draw(row: np.ndarray, rng: np.random.Generator) -> int:
    """One of the neighbors that exist."""
    present = row[row != NONE]
    return int(present[rng.integers(len(present))]) if len(present) else NONE
