"""The graph embedder E_pre of RetrieveGAN's pre-filter: objects that stand alike in their scenes get near vectors.

sg2im's graph encoder learns where the objects of a scene graph are: from its vectors a small network predicts their
boxes. It learns from a bank of patches alone, whose pieces are the objects, and needs no pixel. An index of these
vectors finds the pieces that stood in their pictures as an object stands in a new graph.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import cv2
import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from pipelines.bank.bank import Bank
from pipelines.bank.patches import bank_graph, graph_sources
from pipelines.config import Config
from pipelines.data.graph import SceneGraph
from pipelines.data.scene import Schema
from pipelines.embed.graph_batch import Graph, graph_tensors, join_graphs
from pipelines.embed.graph_encoder import BoxPredictor, GraphEncoder, Pooling, box_loss, tidy_boxes
from pipelines.embed.pieces import held_out
from pipelines.errors import DataError
from pipelines.nn.reduce import all_reduce_sum, world_size
from pipelines.systems.base import Adam, Batch, Frozen, Needs, Networks, Phase, Plan, Sampling, Sources
from pipelines.train.schedule import cosine

ENCODER, BOXES = "encoder", "boxes"
VALIDATION_SEED = 4711
AT_ONCE = 256
"""Graphs that pass the networks together where they are measured."""
PICTURE = 128
"""Side in pixels of the pictures of boxes."""


class GraphsConfig(Config):
    """The graph encoder and what it learns the boxes by."""

    dimension: int = Field(128, ge=2)
    """Numbers in the vector of an object or a predicate."""
    hidden: int = Field(512, ge=1)
    """Width of the layers inside."""
    layers: int = Field(5, ge=1)
    """Triple graph convolutions."""
    pooling: Pooling = "avg"
    """Whether an object takes the mean of what its triples propose for it, or the sum."""
    lr: float = Field(1e-4, gt=0)
    """Learning rate of Adam at its highest; it falls along half a cosine to a millionth of that."""
    warmup: int = Field(0, ge=0)
    """Steps over which the learning rate rises first."""
    clip: float | None = Field(None, gt=0)
    """The largest norm of each network's gradients; null for no limit."""
    holdout: float = Field(0.1, ge=0, lt=1)
    """Share of the groups (of the sources, where no group is known) that is measured on and not trained on."""
    measured: int = Field(1000, ge=1)
    """How many graphs of these are measured on at most."""


class GraphEmbedder:
    """Two networks, «encoder» (graph_encoder.py) and «boxes», the predictor that teaches it."""

    Config = GraphsConfig
    kind: Literal["graph"] = "graph"

    @classmethod
    def plan(cls, config: GraphsConfig, schema: Schema, steps: int) -> Plan:
        adam = Adam(cosine(config.lr, steps, config.warmup), clip=config.clip)
        return Plan(
            train=Needs(fields=(), dataset=False, bank="patches", graph=True),
            synthesize=Needs(fields=()),
            phases=(Phase("graph", (ENCODER, BOXES)),),
            optimizers={ENCODER: adam, BOXES: adam},
        )

    def __init__(self, config: GraphsConfig, schema: Schema) -> None:
        self.config, self.schema = config, schema

    def networks(self) -> dict[str, nn.Module]:
        c = self.config
        classes, relations = len(self.schema.classes), len(self.schema.relations)
        return {
            ENCODER: GraphEncoder(classes, relations, c.dimension, c.hidden, c.layers, c.pooling),
            BOXES: BoxPredictor(c.dimension, c.hidden),
        }

    def encoder(self, nets: Networks) -> GraphEncoder:
        """What maps the objects of a graph to vectors."""
        encoder = nets[ENCODER]
        assert isinstance(encoder, GraphEncoder)
        return encoder

    def sampling(self, sources: Sources) -> Sampling:
        """The pictures whose graphs are learned from."""
        return Sampling(self._sources(_bank(sources), held=False))

    def _sources(self, bank: Bank, held: bool) -> list[str]:
        """The sources that make graphs and are held out, or the others."""
        makes = graph_sources(bank)
        mine = set(np.unique(bank.sources[held_out(bank, self.config.holdout) == held]).tolist())
        return [source for source in makes if bank.sources[bank.rows_of_source(source)[0]] in mine]

    def example(self, scene_id: str, sources: Sources, rng: np.random.Generator, step: int) -> dict[str, Any]:
        """The tensors of one graph (graph_batch.py), its relations drawn anew each time."""
        return dict(graph_tensors(_graph(_bank(sources), scene_id, rng)))

    def collate(self, examples: Sequence[dict[str, Any]]) -> Batch:
        return dict(join_graphs(examples))

    def losses(
        self, phase: str, nets: Networks, frozen: Frozen, batch: Batch, memo: dict[str, Any], step: int
    ) -> dict[str, Tensor]:
        """bbx: L_bbx, the mean over all objects of the joined batch; the box of `__image__` is no question."""
        real = batch["real"]
        total = all_reduce_sum(real.sum())
        loss = box_loss(self._predicted(nets, batch)[real].float(), batch["boxes"][real])
        return {"bbx": loss.sum() * world_size() / total}

    def _predicted(self, nets: Networks, batch: Graph) -> Tensor:
        v, _ = nets[ENCODER](batch["objects"], batch["predicates"], batch["edges"])
        boxes: Tensor = nets[BOXES](v)
        return boxes

    def preview(self, nets: Networks, frozen: Frozen, batch: Batch) -> dict[str, Tensor]:
        """The boxes of each graph in the colors of their classes, and those that are predicted."""
        predicted = tidy_boxes(self._predicted(nets, batch).float(), PICTURE)
        return {"boxes": self._painted(batch["boxes"], batch), "predicted": self._painted(predicted, batch)}

    def _painted(self, boxes: Tensor, batch: Batch) -> Tensor:
        """(n, 3, PICTURE, PICTURE) in [-1, 1]: the outlines of all boxes of each graph."""
        count = int(batch["obj_to_img"].max()) + 1
        pictures = np.zeros((count, PICTURE, PICTURE, 3), np.uint8)
        corners = (boxes.cpu().numpy() * (PICTURE - 1)).round().astype(int)
        kept = batch["real"].cpu().numpy()
        rows = (batch["objects"].cpu().numpy() - 1)[kept]
        for image, category, (x0, y0, x1, y1) in zip(
            batch["obj_to_img"].cpu().numpy()[kept], rows, corners[kept].tolist(), strict=True
        ):
            cv2.rectangle(pictures[image], (x0, y0), (x1, y1), self.schema.palette[category].tolist(), 2)
        return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1

    def validate(self, nets: Networks, sources: Sources, device: torch.device) -> dict[str, float]:
        """How near the boxes predicted for graphs of held-out groups are; nothing where nothing is held out.

        box_iou: the mean over objects of intersection over union. box_l1: that of the sum over coordinates of their
        distance. class_mean_iou, class_mean_l1: the same for the mean box of each class among the pieces that are
        learned from, which knows nothing of the graph.
        """
        bank = _bank(sources)
        names = sorted(self._sources(bank, held=True), key=lambda name: hashlib.sha256(name.encode()).digest())
        names = names[: self.config.measured]
        if not names:
            return {}
        rng = np.random.default_rng(VALIDATION_SEED)
        graphs = [graph_tensors(_graph(bank, name, rng)) for name in names]
        means = self._class_means(bank)
        found: list[Tensor] = []
        for first in range(0, len(graphs), AT_ONCE):
            batch = {key: tensor.to(device) for key, tensor in join_graphs(graphs[first : first + AT_ONCE]).items()}
            real = batch["real"]
            boxes = batch["boxes"][real]
            predicted = self._predicted(nets, batch)[real]
            usual = means.to(boxes)[batch["objects"][real] - 1]
            measures = (box_iou(predicted, boxes), box_loss(predicted, boxes))
            found.append(torch.stack([*measures, box_iou(usual, boxes), box_loss(usual, boxes)]))
        values = torch.cat(found, 1).mean(1).tolist()
        return dict(zip(("box_iou", "box_l1", "class_mean_iou", "class_mean_l1"), values, strict=True))

    def _class_means(self, bank: Bank) -> Tensor:
        """(C, 4) the mean box of each class among the pieces that are not held out; of a class without any, of all."""
        sides = np.array([[source.width, source.height] * 2 for source in bank.source_table])[bank.sources]
        boxes = bank.boxes.astype(np.float64)
        boxes[:, 2:] += boxes[:, :2]
        learned = ~held_out(bank, self.config.holdout)
        boxes, categories = (boxes / sides)[learned], bank.categories[learned]
        counts = np.bincount(categories, minlength=len(self.schema.classes))
        sums = np.stack([np.bincount(categories, column, len(counts)) for column in boxes.T], axis=1)
        means = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], boxes.mean(0))
        return torch.from_numpy(means)


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """(O,) intersection over union of boxes (O, 4), row by row; 0 where both are empty or corners are out of order."""
    low, high = torch.maximum(first[:, :2], second[:, :2]), torch.minimum(first[:, 2:], second[:, 2:])
    both = (high - low).clamp(min=0).prod(1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1) for boxes in (first, second)]
    return both / (areas[0] + areas[1] - both).clamp(min=1e-12)


def _graph(bank: Bank, source: str, rng: np.random.Generator) -> SceneGraph:
    graph = bank_graph(bank, source, rng)
    if graph is None:
        raise DataError(f"the source {source} makes no graph", where=bank.path, fix="build the bank anew")
    return graph


def _bank(sources: Sources) -> Bank:
    assert sources.bank is not None
    return sources.bank
