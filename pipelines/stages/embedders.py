"""Open an embedder: what a run of `rgs train embedder` maps images with."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from pipelines.embed.embedder import Embedder, Kind
from pipelines.embed.graph_encoder import GraphEncoder
from pipelines.embed.tower import Tower
from pipelines.errors import ArtifactError
from pipelines.systems.base import Networks
from pipelines.systems.trained import LoadedRun, load_networks
from pipelines.train.run import parse_reference


@runtime_checkable
class Embeds(Protocol):
    """A trainable whose networks are towers."""

    kind: Kind

    def towers(self, nets: Networks) -> dict[str, Tower]: ...


@runtime_checkable
class EmbedsGraphs(Protocol):
    """A trainable with an encoder of scene graphs."""

    kind: Kind

    def encoder(self, nets: Networks) -> GraphEncoder: ...


def open_embedder(reference: str) -> Embedder:
    """The embedder of a run, at its newest step or at RUN@STEP. Raises ArtifactError for a run of anything else."""
    path, step = parse_reference(reference)
    loaded = load_networks(path, step)
    if isinstance(loaded.trainable, EmbedsGraphs):
        encoder = loaded.trainable.encoder(loaded.nets)
        return Embedder(
            kind=loaded.trainable.kind,
            towers={},
            dimension=encoder.dimension,
            label=f"{path.name} (graph)",
            weights=loaded.weights,
            metric="l2",
            gate="category",
            encoder=encoder,
            schema=loaded.schema,
        )
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
        label=f"{path.name} ({_about(loaded)})",
        weights=loaded.weights,
        gate=getattr(loaded.config, "gate", "none"),
    )


def _about(loaded: LoadedRun) -> str:
    """Which network it is: its backbone and head, where it could have others, else its kind."""
    chosen = [str(getattr(loaded.config, name)) for name in ("backbone", "head") if hasattr(loaded.config, name)]
    return ", ".join(chosen) or str(getattr(loaded.trainable, "kind", loaded.name))
