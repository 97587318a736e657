"""Scene graphs as tensors: one by one, and joined into a flat batch of objects and triples.

A row of the object embedding is 0 for `__image__` and class index + 1 for an object; one of the predicate embedding is
0 for `__in_image__` and predicate index + 1 for a relation. The node `__image__` is the last of its graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pipelines.data.graph import SceneGraph

IMAGE_ROW = 0
"""The row of `__image__` among objects, and of `__in_image__` among predicates."""
WHOLE = (0.0, 0.0, 1.0, 1.0)
"""The box of `__image__`."""

Graph = dict[str, Tensor]


def graph_tensors(graph: SceneGraph) -> Graph:
    """A graph of n objects and r relations, with the node `__image__` and a triple to it from every object.

    objects: (n + 1,) int64 rows of the object embedding. boxes: (n + 1, 4) float32, zeros where they are not known, and
    all of the picture for `__image__`. predicates: (r + n,) int64 rows of the predicate embedding. edges: (r + n, 2)
    int64 subject and object; the relations first, then (i, `__in_image__`, n) for every object in order.
    """
    n = len(graph.categories)
    relations = torch.tensor([list(relation) for relation in graph.relations], dtype=torch.int64).reshape(-1, 3)
    inside = torch.stack([torch.arange(n), torch.full((n,), n)], dim=1)
    boxes = torch.zeros(n, 4) if graph.boxes is None else torch.as_tensor(graph.boxes, dtype=torch.float32)
    return {
        "objects": torch.cat([torch.as_tensor(graph.categories, dtype=torch.int64) + 1, torch.tensor([IMAGE_ROW])]),
        "boxes": torch.cat([boxes, torch.tensor([WHOLE], dtype=boxes.dtype)]),
        "predicates": torch.cat([relations[:, 1] + 1, torch.full((n,), IMAGE_ROW)]),
        "edges": torch.cat([relations[:, [0, 2]], inside]),
    }


def join_graphs(graphs: Sequence[Graph]) -> Graph:
    """The graphs of a batch as one of O objects and T triples, whose edges count within the batch.

    Adds obj_to_img: (O,) int64, the image of each object, and real: (O,) bool, what is not `__image__`.
    """
    sizes = torch.tensor([len(graph["objects"]) for graph in graphs])
    first = sizes.cumsum(0) - sizes
    joined = {key: torch.cat([graph[key] for graph in graphs]) for key in ("objects", "boxes", "predicates")}
    joined["edges"] = torch.cat([graph["edges"] + start for graph, start in zip(graphs, first, strict=True)])
    joined["obj_to_img"] = torch.repeat_interleave(sizes)
    joined["real"] = joined["objects"] != IMAGE_ROW
    return joined
