"""RetrieveGAN as a system: its phases, examples, losses and synthesis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.bank.bank import Bank, Exclusion
from pipelines.bank.patches import bank_graph, graph_rows, graph_sources
from pipelines.data.augment import image_tensor
from pipelines.data.scene import Schema
from pipelines.embed.graph_batch import graph_tensors
from pipelines.embed.graph_encoder import tidy_boxes
from pipelines.errors import ArtifactError, ConfigError
from pipelines.index.prefilter import from_neighbors
from pipelines.systems.base import (
    Batch,
    Frozen,
    GraphItem,
    Needs,
    Networks,
    Phase,
    Plan,
    Sampling,
    Sources,
    Synthesis,
)
from pipelines.systems.retrievegan.choice import Chooser, Chosen
from pipelines.systems.retrievegan.config import RetrieveganConfig, RetrieveganOptions
from pipelines.systems.retrievegan.encoder import ObjectEncoder, Understood
from pipelines.systems.retrievegan.examples import Photos, collate, draw_noise, draws, scenes_with_graphs
from pipelines.systems.retrievegan.guidance import NONE, explain, served
from pipelines.systems.retrievegan.losses import from_imagenet, to_imagenet
from pipelines.systems.retrievegan.networks import (
    Generator,
    ImageDiscriminator,
    LayoutGenerator,
    ObjectDiscriminator,
    PatchEmbedder,
)
from pipelines.systems.retrievegan.objectives import Painted, discriminator_terms, generator_terms
from pipelines.systems.retrievegan.retrieval import temperature

COOCCURRENCE = "embedder-cooccurrence"
DIGITS = 6
"""Of the coordinates of boxes that are written down."""


class Retrievegan:
    """Image synthesis via differentiable patch retrieval (Tseng et al., ECCV 2020)."""

    Config = RetrieveganConfig
    Options = RetrieveganOptions

    @classmethod
    def plan(cls, config: RetrieveganConfig, schema: Schema, steps: int) -> Plan:
        makers = ("E", "P", "G") if config.learns_retrieval else ("E", "G")
        judges = ("D_img",) * config.judges_images + ("D_obj",) * config.judges_objects
        phases = [Phase("G", makers)]
        if config.learns_retrieval and not config.weights.sel_gt and (warm := config.warm(steps)):
            phases = [
                Phase("G", ("E", "G"), stop=warm),
                Phase("G", makers, start=warm),
            ]  # P has nothing to learn before
        if judges:
            phases.insert(0 if config.fakes == "fresh" else len(phases), Phase("D", judges))
        adam_g, adam_d = config.optimizer.generator(steps), config.optimizer.discriminator(steps)
        index = "embedding" if config.needs_index else None
        return Plan(
            train=Needs(
                fields=("image",),
                graph=True,
                bank="patches",
                index=index,
                frozen={"cooccurrence": COOCCURRENCE} if config.penalizes_cooccurrence else {},
            ),
            synthesize=Needs(fields=(), graph=True, bank=None if config.pieces == "none" else "patches", index=index),
            phases=tuple(phases),
            optimizers={**dict.fromkeys(makers, adam_g), **dict.fromkeys(judges, adam_d)},
            averaged=dict.fromkeys(makers, config.average) if config.average else {},
            perceptual=config.perceives,
        )

    def __init__(self, config: RetrieveganConfig, schema: Schema) -> None:
        self.config, self.schema = config, schema
        self._photos, self._chooser = Photos(config.size), Chooser(config)

    def networks(self) -> dict[str, nn.Module]:
        c, classes = self.config, len(self.schema.classes)
        nets: dict[str, nn.Module] = {
            "E": ObjectEncoder(classes, len(self.schema.relations), c.embedding, c.hidden, c.graph_layers)
        }
        if c.learns_retrieval:
            nets["P"] = PatchEmbedder(c.embedding, c.crop_widths, normalized=c.normalized)
        if c.pieces == "none":
            nets["G"] = LayoutGenerator(
                c.size, dimension=c.embedding, mask_size=c.mask_size, decoder=c.decoder, norm=c.norm
            )
        else:
            nets["G"] = Generator(
                c.size,
                dimension=c.embedding,
                widths=c.crop_widths,
                channels=c.channels,
                refiners=c.refiners,
                refiner_hidden=c.refiner_hidden,
                flow=c.flow,
                canvas=c.canvas,
                masked=c.fuser_mask,
                blocks=c.blocks,
                decoder=c.decoder,
                norm=c.norm,
            )
        if c.judges_images:
            nets["D_img"] = ImageDiscriminator(c.judge_widths, c.norm)
        if c.judges_objects:
            nets["D_obj"] = ObjectDiscriminator(classes, c.judge_widths, c.object_features, c.norm)
        return nets

    def sampling(self, sources: Sources) -> Sampling:
        """The scenes whose objects make a graph by the bank's settings."""
        bank = _bank(sources)
        wanted = [record.id for record in sources.records]
        return Sampling(scenes_with_graphs(bank, wanted, graph_sources(bank)))

    def example(self, scene_id: str, sources: Sources, rng: np.random.Generator, step: int) -> dict[str, Any]:
        c, bank = self.config, _bank(sources)
        graph = bank_graph(bank, scene_id, rng)
        if graph is None:
            raise ArtifactError(f"the bank makes no graph of the scene {scene_id}", where=bank.path)
        own = graph_rows(bank, scene_id, graph)
        example = {
            "image": image_tensor(self._photos.read(sources, scene_id)),
            "graph": graph_tensors(graph),
            "own": torch.from_numpy(own),
        }
        if c.pieces == "none":
            return example
        candidates = None
        if c.needs_index:
            assert sources.neighbors is not None
            candidates = from_neighbors(sources.neighbors, own, c.candidates)
        excluded: tuple[Exclusion, int] = ("source", int(bank.sources[own[0]]))
        example |= draws(c, bank, graph.categories, candidates, excluded, rng, more=int(c.gt_in_generation))
        if c.learns_retrieval and c.weights.sel_gt:
            example["asks"] = torch.tensor(int(rng.integers(len(own))))
            example["noise_gt"] = draw_noise(len(own), c.candidates + 1, c, rng)
        return example

    def collate(self, made: Sequence[dict[str, Any]]) -> Batch:
        return collate(made)

    def refresh(
        self, nets: Networks, sources: Sources, step: int, state: dict[str, Tensor] | None, device: torch.device
    ) -> dict[str, Tensor] | None:
        """Open the patches; where the pool is the bank, embed a part of it anew, at first all of it."""
        if sources.bank is None:
            return None
        self._chooser.open(sources.bank)
        if not (self.config.learns_retrieval and self.config.pool == "bank"):
            return None
        return self._chooser.refresh(nets["P"], state, device)

    def losses(
        self, phase: str, nets: Networks, frozen: Frozen, batch: Batch, memo: dict[str, Any], step: int
    ) -> dict[str, Tensor]:
        photo = to_imagenet(batch["image"])
        if phase == "D":
            if "fakes" not in memo:
                with torch.no_grad():
                    memo["fakes"] = self._paint_all(nets, batch, memo["progress"]).fakes
            return discriminator_terms(self.config, nets, batch, photo, memo["fakes"])
        painted = self._paint_all(nets, batch, memo["progress"])
        if self.config.fakes == "shared":
            memo["fakes"] = [fake.detach() for fake in painted.fakes]
        memo["observed"] = {name: value.to(photo.device) for name, value in painted.observed.items()}
        terms = generator_terms(self.config, nets, frozen, batch, photo, painted)
        chosen = painted.chosen
        if chosen is not None and chosen.candidates is not None and self.config.weights.sel_gt:
            tau = painted.tau if self.config.tau.truth is None else self.config.tau.truth
            loss = self._chooser.selection_loss(nets["P"], batch, chosen.candidates, tau)
            terms["sel_gt"] = self.config.weights.sel_gt * loss
        return terms

    def _paint_all(self, nets: Networks, batch: Batch, progress: float) -> Painted:
        """The image from the objects' own patches, and once the warm-up is over that from retrieved ones."""
        c = self.config
        tau = temperature(progress, c.tau.first, c.tau.last, c.tau.share)
        graph: Understood = nets["E"](batch)

        def paint(patches: Tensor | None, there: Tensor) -> Tensor:
            return self._paint(nets, batch, graph, batch["boxes"], patches, there)

        if c.pieces == "none":
            return Painted(graph.boxes, tau, [paint(None, batch["own"] != NONE)], None, {})
        fakes = [paint(self._chooser.own(batch), batch["own"] != NONE)]
        if progress < c.warmup and not (c.learns_retrieval and c.weights.sel_gt):
            return Painted(graph.boxes, tau, fakes, None, {})
        chosen = self._chooser.choose(nets, batch, tau)
        if progress >= c.warmup:
            fakes.append(paint(chosen.pixels, chosen.rows != NONE))
        without = (chosen.rows == NONE) & batch["counted"]
        observed = {"without_candidates": without.float().sum(1).mean()}
        if chosen.candidates is not None:
            observed |= {"tau": torch.tensor(tau), **chosen.candidates.observed}
        return Painted(graph.boxes, tau, fakes, chosen, observed)

    def _paint(
        self,
        nets: Networks,
        batch: Batch,
        graph: Understood,
        boxes: Tensor,
        patches: Tensor | None,
        there: Tensor,
    ) -> Tensor:
        """Images (B, 3, H, W), ImageNet-normalized, of objects in boxes (O, 4).

        patches: (B, N, 3, s, s) in [-1, 1], there: (B, N) which objects have one; the others, and the image itself,
        have a crop of zeros.
        """
        side = self.config.patch
        crops = boxes.new_zeros(len(boxes), 3, side, side)
        if patches is not None:
            normalized = torch.where(there[..., None, None, None], to_imagenet(patches), 0.0)
            crops[batch["real"]] = normalized[batch["counted"]]
        image: Tensor = nets["G"](graph.v, graph.p, graph.p0, batch["edges"], batch["obj_to_img"], boxes, crops)
        return image

    def preview(self, nets: Networks, frozen: Frozen, batch: Batch) -> dict[str, Tensor]:
        painted = self._paint_all(nets, batch, 1.0)
        images = [from_imagenet(fake) for fake in painted.fakes]
        columns = {"from own patches" if self.config.pieces != "none" else "output": images[0]}
        if painted.chosen is not None:
            pasted = [
                image_tensor(guidance.image) for guidance, _ in self._explain(batch, batch["boxes"], painted.chosen)
            ]
            columns |= {"retrieved patches": torch.stack(pasted).to(images[0].device), "from retrieved": images[1]}
        return {**columns, "photo": batch["image"]}

    def request(
        self, item: GraphItem, sources: Sources, options: RetrieveganOptions, rng: np.random.Generator
    ) -> dict[str, Any]:
        c, graph = self.config, item.graph
        if options.boxes == "given" and graph.boxes is None:
            raise ConfigError(
                "the graph has no boxes", where=item.name, fix="add them, or use --set options.boxes=predicted"
            )
        request: dict[str, Any] = {"graph": graph_tensors(graph)}
        if c.pieces == "none":
            return request
        bank, candidates = _bank(sources), None
        excluded: tuple[Exclusion, int] = ("source", NONE)
        if item.exclude is not None:
            excluded = item.exclude[0], bank.exclusion_key(*item.exclude)
        if c.needs_index:
            assert sources.prefilter is not None
            candidates = sources.prefilter.candidates(graph, c.candidates, item.exclude)
        return request | draws(c, bank, graph.categories, candidates, excluded, rng)

    def synthesize(self, nets: Networks, frozen: Frozen, batch: Batch, options: RetrieveganOptions) -> Synthesis:
        graph: Understood = nets["E"](batch)
        boxes = batch["boxes"]
        if options.boxes == "predicted":
            boxes = torch.where(batch["real"].unsqueeze(1), graph.boxes.float(), boxes)
        boxes = tidy_boxes(boxes, min(self.config.size))
        if self.config.pieces == "none":
            image = self._paint(nets, batch, graph, boxes, None, batch["counted"])
            return Synthesis(from_imagenet(image), graphs=self._told(batch, boxes, options, None))
        chosen = self._chooser.choose(nets, batch, self.config.tau.last, noisy=options.noise)
        image = self._paint(nets, batch, graph, boxes, chosen.pixels, chosen.rows != NONE)
        explained = self._explain(batch, boxes, chosen)
        canvas = torch.stack([image_tensor(guidance.image) for guidance, _ in explained]).to(image.device)
        records = [provenance for _, provenance in explained]
        return Synthesis(from_imagenet(image), canvas, records, self._told(batch, boxes, options, chosen))

    def _explain(self, batch: Batch, boxes: Tensor, chosen: Chosen) -> list[Any]:
        """Of each image the guidance, and what its provenance says."""
        patches = self._chooser.patches
        explained = []
        for k, (categories, placed) in enumerate(_by_image(batch, batch["objects"] - 1, boxes)):
            rows, ranks = (values[k, : len(placed)].cpu().numpy() for values in (chosen.rows, chosen.ranks))
            pixels = patches.pixels(np.maximum(rows, 0))
            explained.append(
                explain(patches.bank, rows, ranks, pixels, categories, placed, self.config.size, self.schema)
            )
        return explained

    def _told(
        self, batch: Batch, boxes: Tensor, options: RetrieveganOptions, chosen: Chosen | None
    ) -> list[dict[str, Any]]:
        """Of each image the boxes that were used and the patches of its objects."""
        told = []
        for k, (placed,) in enumerate(_by_image(batch, boxes)):
            rows = np.full(len(placed), NONE) if chosen is None else chosen.rows[k, : len(placed)].cpu().numpy()
            patches = served(self._chooser.patches.bank, rows) if chosen is not None else [None] * len(rows)
            told.append({"boxes": placed.round(DIGITS).tolist(), "used": options.boxes, "patches": patches})
        return told


def _by_image(batch: Batch, *values: Tensor) -> Iterator[tuple[np.ndarray, ...]]:
    """Of each image of a flat batch the values (O, …) of its objects without the image itself."""
    counts = batch["counted"].sum(1).cpu().tolist()
    parts = [value[batch["real"]].cpu().split(counts) for value in values]
    for image in zip(*parts, strict=True):
        yield tuple(part.numpy() for part in image)


def _bank(sources: Sources) -> Bank:
    assert sources.bank is not None
    return sources.bank
