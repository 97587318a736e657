"""Read back what the training loop wrote: the networks of a run, ready to compute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import nn

from pipelines.data.scene import Schema
from pipelines.errors import ArtifactError
from pipelines.systems.base import Trainable
from pipelines.systems.table import find_trainable
from pipelines.train.checkpoint import AVERAGE, load_into, read_weights
from pipelines.train.run import Weights, open_weights


class Imported(dict[str, nn.Module]):
    """The one network of an imported run; asking for another is an ArtifactError that says so."""

    def __init__(self, nets: Mapping[str, nn.Module], run: Path) -> None:
        super().__init__(nets)
        self.run = run

    def __missing__(self, name: str) -> nn.Module:
        raise ArtifactError(
            f"the run was imported and holds {', '.join(self)} alone, but {name} is needed",
            where=self.run,
            fix=f"import {name} for this; a training can start from this run by --init",
        )


@dataclass(frozen=True)
class LoadedRun:
    """A trainable rebuilt from its run; nets are in eval mode, frozen, averaged weights where the run keeps them.

    They are all networks of the trainable, but the one that was imported of a run of `rgs import`.
    """

    weights: Weights
    name: str
    trainable: Trainable
    config: Any
    schema: Schema
    nets: dict[str, nn.Module]

    @property
    def digest(self) -> str:
        return self.weights.sha256


def as_frozen(loaded: LoadedRun) -> nn.Module:
    """What a role of another training leans on: the run's one network, or an nn.ModuleDict of several."""
    if len(loaded.nets) == 1:
        return next(iter(loaded.nets.values()))
    return nn.ModuleDict(loaded.nets)


def load_networks(
    path: Path, step: int | None = None, *, trainable: str | None = None, averaged: bool = True
) -> LoadedRun:
    """The networks of a run at its newest step or a given one.

    trainable: refuse a run of anything else. averaged: take the averaged weights of networks that have them.
    Raises ArtifactError when the run is damaged, of another kind, or its weights do not fit its config.
    """
    weights = open_weights(path, step, trainable)
    name = str(weights.manifest["trainable"])
    kind = find_trainable(name)
    schema = Schema.from_json(weights.manifest.get("schema", {}))
    try:
        config = kind.Config.model_validate(weights.manifest["config"]["model"])
    except (KeyError, ValidationError) as error:
        raise ArtifactError(
            f"the run has a config of {name} that this rgs does not understand: {error}",
            where=path,
            fix="use the rgs that trained it, or upgrade rgs",
        ) from error
    built = kind(config, schema)
    tensors = read_weights(weights.file)
    imported = weights.manifest.get("imported")
    nets = {n: net for n, net in built.networks().items() if imported is None or n == imported["part"]}
    for net_name, net in nets.items():
        source = net_name + AVERAGE if averaged and net_name + AVERAGE in tensors else net_name
        if source not in tensors:
            raise ArtifactError(f"the weights hold no network {net_name}", where=weights.file)
        load_into(net, tensors[source], weights.file, source)
        net.eval().requires_grad_(False)
    return LoadedRun(weights, name, built, config, schema, Imported(nets, path) if imported else nets)
