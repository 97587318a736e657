"""RetrieveGAN as a system: its phases, examples, losses and synthesis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.bank.bank import Bank
from pipelines.bank.patches import bank_graph, graph_rows, graph_sources
from pipelines.data.augment import image_tensor
from pipelines.data.graph import SceneGraph
from pipelines.data.scene import Schema
from pipelines.embed.graph_batch import graph_tensors
from pipelines.embed.graph_encoder import BoxPredictor, GraphEncoder, tidy_boxes
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
from pipelines.systems.retrievegan import examples, losses
from pipelines.systems.retrievegan.config import RetrieveganConfig, RetrieveganOptions
from pipelines.systems.retrievegan.examples import Classes, Patches, Photos
from pipelines.systems.retrievegan.guidance import NONE
from pipelines.systems.retrievegan.losses import from_imagenet, to_imagenet
from pipelines.systems.retrievegan.networks import (
    Generator,
    ImageDiscriminator,
    LayoutGenerator,
    ObjectDiscriminator,
    PatchEmbedder,
    crop_boxes,
)
from pipelines.systems.retrievegan.outputs import guidance_of, records_of
from pipelines.systems.retrievegan.pool import BankPool
from pipelines.systems.retrievegan.retrieval import (
    Selection,
    first_query,
    pick_patches,
    retrieve,
    selection_loss,
    temperature,
)

COOCCURRENCE = "embedder-cooccurrence"


class ObjectEncoder(nn.Module):
    """What a graph says of its objects: a vector for each, one for each triple, and boxes."""

    def __init__(self, categories: int, predicates: int, dimension: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.graph = GraphEncoder(categories, predicates, dimension, hidden, layers)
        self.boxes = BoxPredictor(dimension, hidden)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """v (O, D), p (T, D) and the embeddings of the predicates p0 (T, D) of a flat batch of graphs."""
        v, p = self.graph(batch["objects"], batch["predicates"], batch["edges"])
        return v, p, self.graph.embed_predicates(batch["predicates"])


@dataclass(frozen=True)
class Chosen:
    """The patches of a batch of B images of at most N objects, out of K candidates each.

    rows: (B, N) of the bank, NONE where an object has none. pixels: (B, N, 3, s, s) in [-1, 1], with the gradient of
    the selection. candidates: (B, N, K) rows, and features: (B, N, K, d) of them; selection: what was made of them.
    None where nothing is learned. bound: (B,) how far the selection may be from one over all of the bank.
    """

    rows: Tensor
    pixels: Tensor
    candidates: Tensor | None = None
    features: Tensor | None = None
    selection: Selection | None = None
    bound: Tensor | None = None


class Retrievegan:
    """Image synthesis via differentiable patch retrieval (Tseng et al., ECCV 2020)."""

    Config = RetrieveganConfig
    Options = RetrieveganOptions

    @classmethod
    def plan(cls, config: RetrieveganConfig, schema: Schema, steps: int) -> Plan:
        makers = ("E", "P", "G") if config.learns_retrieval else ("E", "G")
        judges = ("D_img",) * config.judges_images + ("D_obj",) * config.judges_objects
        phases = [Phase("G", makers)]
        if judges:
            phases.insert(0 if config.fakes == "fresh" else 1, Phase("D", judges))
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
        self._photos = Photos(config.size)
        self._patches: Patches | None = None
        self._classes: Classes | None = None
        self._pool: BankPool | None = None

    def networks(self) -> dict[str, nn.Module]:
        c, classes = self.config, len(self.schema.classes)
        nets: dict[str, nn.Module] = {
            "E": ObjectEncoder(classes, len(self.schema.relations), c.embedding, c.hidden, c.graph_layers)
        }
        if c.learns_retrieval:
            nets["P"] = PatchEmbedder(c.embedding, c.crop_widths, normalized=c.normalized)
        if c.pieces == "none":
            nets["G"] = LayoutGenerator(c.size, dimension=c.embedding, decoder=c.decoder, norm=c.norm)
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
            nets["D_img"] = ImageDiscriminator(c.ndf, c.norm)
        if c.judges_objects:
            nets["D_obj"] = ObjectDiscriminator(classes, c.ndf, c.object_features, c.norm)
        return nets

    # ---- data -------------------------------------------------------------------------------------------------------

    def sampling(self, sources: Sources) -> Sampling:
        """The scenes whose objects make a graph by the bank's settings."""
        bank = _bank(sources)
        wanted = [record.id for record in sources.records]
        return Sampling(examples.scenes_with_graphs(bank, wanted, graph_sources(bank)))

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
        if c.needs_index:
            assert sources.neighbors is not None
            candidates = from_neighbors(sources.neighbors, own, c.candidates)
            example |= self._draws(graph, candidates, rng)
        else:
            key = int(bank.exclusion_keys("source")[own[0]])
            example |= self._bank_draws(bank, graph, key, rng)
        if c.learns_retrieval and c.weights.sel_gt:
            example["asks"] = torch.tensor(int(rng.integers(len(graph))))
            example["noise_gt"] = examples.draw_noise(len(graph), c.candidates + 1, c.noise == "per_step", rng)
        return example

    def request(
        self, item: GraphItem, sources: Sources, options: RetrieveganOptions, rng: np.random.Generator
    ) -> dict[str, Any]:
        if options.boxes == "given" and item.graph.boxes is None:
            raise ConfigError(
                "the graph has no boxes", where=item.name, fix="add them, or use --set options.boxes=predicted"
            )
        request = {"graph": graph_tensors(item.graph), "own": torch.full((len(item.graph),), NONE)}
        if self.config.pieces == "none":
            return request
        bank = _bank(sources)
        self._open(bank)
        if self.config.needs_index:
            assert sources.prefilter is not None
            candidates = sources.prefilter.candidates(item.graph, self.config.candidates, item.exclude)
            return request | self._draws(item.graph, candidates, rng)
        return request

    def collate(self, made: Sequence[dict[str, Any]]) -> Batch:
        return examples.collate(made)


def _bank(sources: Sources) -> Bank:
    assert sources.bank is not None
    return sources.bank
