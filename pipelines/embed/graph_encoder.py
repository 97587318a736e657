"""The scene graph encoder of sg2im (Johnson et al., CVPR 2018) and its predictor of boxes.

A triple is (subject, predicate, object). Each layer looks at every triple, proposes a vector for its subject and one
for its object, gives its predicate a new one, and makes an object's new vector of the mean of what was proposed for it.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pooling = Literal["avg", "sum"]
MIDDLE = (0.25, 0.25, 0.75, 0.75)
"""The box that an untrained predictor gives about: a coordinate that began below 0 would never learn (ReLU)."""
SLIGHT = 0.1
"""How strongly the vector of an object moves that box at first, beside Kaiming's weights."""


class GraphTripleConv(nn.Module):
    """One layer: vectors of objects (O, inputs) and predicates (T, inputs) to (O, outputs) and (T, outputs), all >= 0.

    h_t = net1([v_s; p_t; v_o]) holds a vector for the subject (hidden), the new predicate (outputs) and a vector for
    the object (hidden); v'_i = net2(the mean of those for i); «sum» does not divide. An object in no triple gets
    net2(0).
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, pooling: Pooling = "avg") -> None:
        super().__init__()
        self.hidden, self.outputs, self.pooling = hidden, outputs, pooling
        self.net1 = mlp(3 * inputs, hidden, 2 * hidden + outputs)
        self.net2 = mlp(hidden, hidden, outputs)

    def forward(self, objects: Tensor, predicates: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        """edges: (T, 2) int64, rows of subject and object among the objects."""
        subject, target = edges[:, 0], edges[:, 1]
        triples = self.net1(torch.cat([objects[subject], predicates, objects[target]], dim=1))
        for_subject, new_predicates, for_object = triples.split([self.hidden, self.outputs, self.hidden], dim=1)
        pooled = triples.new_zeros(len(objects), self.hidden)
        pooled = pooled.index_add(0, subject, for_subject).index_add(0, target, for_object)
        if self.pooling == "avg":
            pooled = pooled / torch.bincount(edges.flatten(), minlength=len(objects)).clamp(min=1)[:, None]
        return self.net2(pooled.to(triples.dtype)), new_predicates


class GraphTripleConvNet(nn.Module):
    """Layers of one width, as GraphTripleConv."""

    def __init__(self, dimension: int, hidden: int, layers: int, pooling: Pooling = "avg") -> None:
        super().__init__()
        self.gconvs = nn.ModuleList(GraphTripleConv(dimension, hidden, dimension, pooling) for _ in range(layers))

    def forward(self, objects: Tensor, predicates: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        for gconv in self.gconvs:
            objects, predicates = gconv(objects, predicates, edges)
        return objects, predicates


class GraphEncoder(nn.Module):
    """A flat batch of graphs (graph_batch.py) to a vector for each object and each triple.

    categories, predicates: how many classes and relations there are; one row more of each is for `__image__` and
    `__in_image__`. dimension: numbers in a vector. hidden: width of the layers inside.
    """

    def __init__(
        self,
        categories: int,
        predicates: int,
        dimension: int = 128,
        hidden: int = 512,
        layers: int = 5,
        pooling: Pooling = "avg",
    ) -> None:
        super().__init__()
        self.dimension = dimension
        self.objects = nn.Embedding(categories + 1, dimension)
        self.predicates = nn.Embedding(predicates + 1, dimension)
        self.net = GraphTripleConvNet(dimension, hidden, layers, pooling)

    def forward(self, objects: Tensor, predicates: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        """objects (O,) and predicates (T,): rows of the embeddings. edges: (T, 2). Returns (O, D) and (T, D), >= 0."""
        v, p = self.net(self.objects(objects), self.predicates(predicates), edges)
        return v, p

    def embed_predicates(self, predicates: Tensor) -> Tensor:
        """(T, D): the embeddings with which the predicates of the triples begin."""
        vectors: Tensor = self.predicates(predicates)
        return vectors


class BoxPredictor(nn.Module):
    """Vectors of objects (O, dimension) to boxes (O, 4), (x0, y0, x1, y1) in parts of the picture.

    Coordinates are at least 0, and nothing more is certain of them; see `tidy_boxes`.
    """

    def __init__(self, dimension: int = 128, hidden: int = 512) -> None:
        super().__init__()
        self.net = mlp(dimension, hidden, 4)
        last = self.net[2]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight.mul_(SLIGHT)
            last.bias.copy_(torch.tensor(MIDDLE))

    def forward(self, vectors: Tensor) -> Tensor:
        boxes: Tensor = self.net(vectors)
        return boxes


def tidy_boxes(boxes: Tensor, height: int) -> Tensor:
    """(O, 4) boxes within the picture whose corners are in order and at least one pixel of `height` apart."""
    first, last = boxes[:, :2], boxes[:, 2:]
    low = torch.minimum(first, last).clamp(0, 1 - 1 / height)
    high = torch.maximum(torch.maximum(first, last), low + 1 / height).clamp(max=1)
    return torch.cat([low, high], dim=1)


def box_loss(predicted: Tensor, boxes: Tensor) -> Tensor:
    """(O,) L_bbx of each object: the sum over its four coordinates of their distance."""
    return F.l1_loss(predicted, boxes, reduction="none").sum(dim=1)


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Linear, ReLU, Linear, ReLU; Kaiming-normal weights and PyTorch's own biases."""
    net = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs), nn.ReLU())
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
    return net
