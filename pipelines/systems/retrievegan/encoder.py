"""What a scene graph says of its objects: a vector for each, one for each triple, and boxes."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from pipelines.embed.graph_encoder import BoxPredictor, GraphEncoder
from pipelines.systems.base import Batch


class Understood(NamedTuple):
    """v: (O, D) of the objects. p: (T, D) of the triples; p0: (T, D), the embeddings that they began with.

    boxes: (O, 4), predicted, (x0, y0, x1, y1) in parts of the image; of no meaning for `__image__`.
    """

    v: Tensor
    p: Tensor
    p0: Tensor
    boxes: Tensor


class ObjectEncoder(nn.Module):
    """The graph encoder and the box predictor of the generator, trained with it."""

    def __init__(self, categories: int, predicates: int, dimension: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.graph = GraphEncoder(categories, predicates, dimension, hidden, layers)
        self.boxes = BoxPredictor(dimension, hidden)

    def forward(self, batch: Batch) -> Understood:
        """batch: a flat batch of graphs, as `join_graphs` makes it."""
        v, p = self.graph(batch["objects"], batch["predicates"], batch["edges"])
        return Understood(v, p, self.graph.embed_predicates(batch["predicates"]), self.boxes(v))
