"""Embedder: a trained network that maps images, or the objects of scene graphs, to vectors, pinned to its weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, TypeVar

import numpy as np
import torch

from pipelines.data.augment import resize_image
from pipelines.data.graph import SceneGraph
from pipelines.data.scene import Schema
from pipelines.embed.graph_batch import graph_tensors, join_graphs
from pipelines.embed.graph_encoder import GraphEncoder
from pipelines.embed.tower import Tower
from pipelines.errors import ConfigError, NumericalError
from pipelines.metrics.extract import exact
from pipelines.train.run import Weights

Item = TypeVar("Item")
Kind = Literal["crossview", "pieces", "graph", "cooccurrence"]


@dataclass(frozen=True)
class Embedder:
    """What a run of `rgs train embedder` maps images with.

    kind: «crossview», whose views are «aerial» and «ground»; «pieces» or «cooccurrence», whose one view is «piece»; or
    «graph», which has no view but an encoder, and embeds the objects of scene graphs. towers: by view, in eval mode, as
    is the encoder. dimension: numbers in a vector. metric: what they are compared by. gate: «category» where only
    pieces of one class may be neighbors. schema: the classes and relations that an encoder knows. label: how a person
    calls it. weights: the step of the run, pinned by its sha256.
    """

    kind: Kind
    towers: Mapping[str, Tower]
    dimension: int
    label: str
    weights: Weights
    metric: Literal["cosine", "l2"] = "cosine"
    gate: Literal["none", "category"] = "none"
    encoder: GraphEncoder | None = None
    schema: Schema | None = None

    @property
    def sha256(self) -> str:
        return self.weights.sha256

    def embed(
        self, images: Iterable[np.ndarray], view: str, batch: int = 64, device: torch.device | str = "cpu"
    ) -> np.ndarray:
        """(n, dimension) float32 unit vectors of images (h, w, 3) uint8 of any sizes; at most `batch` are held at once.

        Raises ConfigError for a view that it does not have, NumericalError for a vector that is not finite.
        """
        return embed_images(self.tower(view), images, batch, device, self.label)

    def tower(self, view: str) -> Tower:
        if self.kind == "graph":
            raise ConfigError(
                f"{self.label} embeds the objects of scene graphs, no images",
                fix="name a run of rgs train embedder --kind crossview, pieces or cooccurrence",
            )
        if view not in self.towers:
            raise ConfigError(f"{self.label} embeds no {view} images", fix=f"its views: {', '.join(self.towers)}")
        return self.towers[view]


@torch.inference_mode()
def embed_images(
    tower: Tower, images: Iterable[np.ndarray], batch: int, device: torch.device | str, label: str
) -> np.ndarray:
    """(n, dimension) float32: what `Embedder.embed` does, with a tower in eval mode; label names it in errors.

    In full fp32 precision on a GPU too: vectors of TF32 differ by more than what counts as a tie.
    """
    device = torch.device(device)
    tower.to(device)
    found = [np.empty((0, tower.dimension), np.float32)]
    for part in batched(images, batch):
        pixels = torch.from_numpy(np.stack([resize_image(image, tower.size) for image in part])).to(device)
        scaled = pixels.permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1)  # as image_tensor, on the device
        with exact(device):
            vectors = tower(scaled).float().cpu().numpy()
        if not np.isfinite(vectors).all():
            first = sum(map(len, found)) + int((~np.isfinite(vectors)).any(axis=1).argmax())
            raise NumericalError(
                f"{label} gives image {first} (counted from 0) a vector that is not finite",
                fix="train it again with a lower learning rate, or use weights of an earlier step (RUN@STEP)",
            )
        found.append(vectors)
    return np.concatenate(found)


def embed_graphs(encoder: GraphEncoder, graphs: Sequence[SceneGraph]) -> np.ndarray:
    """(n, dimension) float32: the vectors of all objects of some graphs, one graph after the other.

    On the encoder's device, in full fp32 precision on a GPU too. What is not finite is for the caller to refuse.
    """
    device = next(encoder.parameters()).device
    batch = {key: tensor.to(device) for key, tensor in join_graphs([graph_tensors(g) for g in graphs]).items()}
    with exact(device):
        v, _ = encoder(batch["objects"], batch["predicates"], batch["edges"])
    vectors: np.ndarray = v[batch["real"]].float().cpu().numpy()
    return vectors


def batched(items: Iterable[Item], batch: int) -> Iterator[list[Item]]:
    """Lists of `batch` items, the last one shorter."""
    coming = iter(items)
    while part := list(islice(coming, batch)):
        yield part
