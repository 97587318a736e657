"""Open an embedder: what a run of `rgs train embedder` maps images with."""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

from pipelines.embed.embedder import Embedder
from pipelines.embed.tower import Tower
from pipelines.errors import ArtifactError
from pipelines.systems.base import Networks
from pipelines.systems.trained import load_networks
from pipelines.train.run import parse_reference


@runtime_checkable
class Embeds(Protocol):
    """A trainable whose networks are towers."""

    kind: Literal["crossview", "pieces"]

    def towers(self, nets: Networks) -> dict[str, Tower]: ...


def open_embedder(reference: str) -> Embedder:
    """The embedder of a run, at its newest step or at RUN@STEP. Raises ArtifactError for a run of anything else."""
    path, step = parse_reference(reference)
    loaded = load_networks(path, step)
    if not isinstance(loaded.trainable, Embeds):
        raise ArtifactError(
            f"this is a run of {loaded.name}, which embeds nothing",
            where=path,
            fix="name a run of rgs train embedder",
        )
    towers = loaded.trainable.towers(loaded.nets)
    return Embedder(
        kind=loaded.trainable.kind,
        towers=towers,
        dimension=next(iter(towers.values())).dimension,
        label=f"{path.name} ({loaded.config.backbone}, {loaded.config.head})",
        weights=loaded.weights,
        gate=getattr(loaded.config, "gate", "none"),
    )
