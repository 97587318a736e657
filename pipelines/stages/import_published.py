"""rgs import: a network that its authors published becomes a run, which synthesis and --init take like any other.

Nothing in the file is executed. The run holds the one network, and its manifest says so under «imported».
"""

from __future__ import annotations

import importlib
import pickle
import re
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pipelines.artifact import (
    Artifact,
    Input,
    filling,
    open_artifact,
    relative_path,
    require_free,
    sha256_file,
)
from pipelines.data.folder import read_classes
from pipelines.data.scene import Schema
from pipelines.errors import ArtifactError, ConfigError
from pipelines.stages.train import config_of
from pipelines.systems.table import find_system, find_trainable
from pipelines.train.run import RunWriter
from pipelines.weights import read

WRAPPINGS = ("state_dict", "model_state_dict", "model", "net", "network")
PARALLEL = "module."
DEPTH = 4


@dataclass(frozen=True)
class Published:
    """A published network: its file, what it is, the authors' options, and the classes of its labels.

    part: which network of the system («G», «D», …). classes: a classes.json, a class for each channel of the labels;
    None for a system without labels. licence: the terms under which the weights were published, "" if not told.
    """

    file: Path
    system: str
    part: str
    options: Mapping[str, Any]
    classes: Path | None = None
    licence: str = ""


@dataclass(frozen=True)
class Prepared:
    """The network with its weights, and what its run will say: trainable is what it is a run of."""

    trainable: str
    network: nn.Module
    config: Any
    schema: Schema
    source: Input
    facts: dict[str, Any]
    statistics: dict[str, Any]


def run(published: Published, out: Path) -> Artifact:
    """Write the run of one published network, at step 0.

    Raises ConfigError where options and classes disagree or the system has no such part; ArtifactError where the file
    cannot be read without executing it, or holds other tensors than the options say.
    """
    prepared = prepare(published, out)
    with filling(out) as partial:
        writer = RunWriter(partial, prepared.trainable, prepared.config, [prepared.source], prepared.facts)
        writer.begin()
        writer.checkpoint(0, {published.part: prepared.network}, {}, {}, 1, "finished", prepared.statistics)
    return open_artifact(out, "run")


def plan(published: Published, out: Path) -> dict[str, Any]:
    """What `run` would do: the resolved config, the input with its digest, what was found in the file."""
    prepared = prepare(published, out)
    return {
        "imports": f"{published.part} of {prepared.trainable}",
        "config": prepared.config.model_dump(mode="json"),
        "inputs": [prepared.source.to_json()],
        "classes": len(prepared.schema.classes),
        **prepared.statistics,
        "bytes": sum(t.numel() * t.element_size() for t in prepared.network.state_dict().values()),
        "out": str(out),
    }


def prepare(published: Published, out: Path) -> Prepared:
    """Read everything and check that it fits together, before anything is written."""
    require_free(out)
    authors = published_module(published.system)
    trainable: str = getattr(authors, "TRAINABLE", published.system)
    schema = schema_of(published, authors)
    state, unwrapped = unwrap(read_file(published.file), published.part, published.file)
    require_numbers(state, published.file)
    model = authors.settings(published.part, state, published.options)
    network = authors.load(published.part, state, published.options)
    require_buildable(network, published, trainable, model, schema)
    digest = sha256_file(published.file)
    facts: dict[str, Any] = {
        "schema": schema.to_json(),
        "trained_with": {},
        "imported": {
            "part": published.part,
            "file": published.file.name,
            "sha256": digest,
            "options": dict(published.options),
            "licence": published.licence,
        },
    }
    types = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in state.values())
    statistics = {
        "tensors": len(state),
        "types": dict(types),
        "parameters": sum(p.numel() for p in network.parameters()),
        "unwrapped": unwrapped,
    }
    source = Input("published", relative_path(published.file, out.parent), digest)
    config = config_of(trainable).model_validate({"model": model})
    return Prepared(trainable, network, config, schema, source, facts, statistics)


def published_module(system: str) -> ModuleType:
    """The module `published` of a system: load, settings, Options and, where it has labels, classes.

    TRAINABLE, where there is one: what its networks are runs of, if not of the system itself.
    """
    return importlib.import_module(find_system(system).__module__.rpartition(".")[0] + ".published")


def schema_of(published: Published, authors: ModuleType) -> Schema:
    """What the labels of the network mean. ConfigError where classes are missing, or given for one without labels."""
    if hasattr(authors, "classes") != (published.classes is not None):
        raise ConfigError(
            f"networks of {published.system} read {'labels' if published.classes is None else 'no labels'}",
            where="--classes",
            fix="give a classes.json" if published.classes is None else "leave it out",
        )
    if published.classes is None:
        return Schema(())
    schema, _ = read_classes(published.classes)
    require_classes(schema, authors, published)
    return schema


def require_classes(schema: Schema, authors: ModuleType, published: Published) -> None:
    """ConfigError unless there is a class for each channel of the labels, but the one of instance edges."""
    wanted, found = authors.classes(published.options), len(schema.classes)
    if found == wanted:
        return
    channels = published.options["semantic_nc"]
    fixes = ["list a class for each channel, in their order, also «unknown» where the network was trained with one"]
    if schema.ignored:
        fixes.append(f"an ignored id (here {', '.join(map(str, schema.ignored))}) has no channel")
    if hasattr(authors.Options, "no_instance"):
        edges = "there is a channel of instance edges (no_instance: false), which is no class"
        fixes.append(edges if wanted < channels else "if the last channel is instance edges, say no_instance: false")
    raise ConfigError(
        f"{found} classes are listed, and the network has {wanted}: semantic_nc is {channels}",
        where=published.classes,
        fix="; ".join(fixes),
    )


def read_file(file: Path) -> Mapping[str, Any]:
    """What a .safetensors file, or a .pth file by any other name, holds; nothing in it is executed."""
    if not file.is_file():
        raise ArtifactError("there is no such file", where=file, fix="check the path")
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except (OSError, SafetensorError) as error:
            raise ArtifactError(
                f"the weights cannot be read: {error}", where=file, fix="fetch the file again"
            ) from error
    try:
        with warnings.catch_warnings(action="ignore"):  # torch warns of pickle protocols before it refuses
            return read(file)
    except ArtifactError as error:
        if not isinstance(error.__cause__, pickle.UnpicklingError):
            raise
        named = re.search(r"(?i)unsupported global:?\s+(?:GLOBAL\s+)?([\w.]+)", str(error.__cause__))
        what = f"Python objects ({named[1].rstrip('.')}) beside tensors" if named else "no tensors, or more than those"
        raise ArtifactError(
            f"the file holds {what}; reading such could execute anything, so it is refused",
            where=file,
            fix="get the authors' plain state dict; or, only if you trust the file, convert it where nothing can be "
            "harmed: torch.save(torch.load(FILE, weights_only=False)[KEY], 'plain.pth'), KEY of its state dict",
        ) from error


def unwrap(state: Mapping[str, Any], part: str, where: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors by the authors' names, and what was taken off: keys around the state dict, the prefix «module.».

    Raises ArtifactError where no state dict is found, or where it is not clear which of several is meant.
    """
    taken: list[str] = []
    while not any(isinstance(value, Tensor) for value in state.values()):
        own = [k for k in (part, f"net{part}", f"net_{part}") if isinstance(state.get(k), Mapping)]
        inside = own or [k for k in WRAPPINGS if isinstance(state.get(k), Mapping)]
        if len(inside) != 1 or len(taken) == DEPTH:
            held = ", ".join(sorted(map(str, state))[:8]) or "nothing"
            raise ArtifactError(
                f"it is not clear where the state dict of {part} is: the file holds {held}",
                where=where,
                fix="save that state dict alone: torch.save(torch.load(FILE)[KEY], 'plain.pth')",
            )
        taken += inside
        state = state[inside[0]]
    strange = [key for key, value in state.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if strange:
        raise ArtifactError(
            f"beside tensors there are {len(strange)} other entries, the first is {strange[0]!r}",
            where=where,
            fix="save the state dict of the network alone",
        )
    while all(key.startswith(PARALLEL) for key in state):
        taken.append(PARALLEL)
        state = {key.removeprefix(PARALLEL): tensor for key, tensor in state.items()}
    return dict(state), taken


def require_numbers(state: Mapping[str, Tensor], where: Path) -> None:
    """ArtifactError naming the first tensor that is sparse, complex, without data, or not finite."""
    for name, tensor in state.items():
        plain = tensor.layout is torch.strided and not (tensor.is_meta or tensor.is_complex() or tensor.is_quantized)
        if not plain:
            raise ArtifactError(f"{name} is no plain tensor of numbers ({tensor.dtype}, {tensor.layout})", where=where)
        if not torch.isfinite(tensor).all():
            raise ArtifactError(f"{name} holds values that are not finite", where=where, fix="fetch the file again")


def require_buildable(network: nn.Module, published: Published, trainable: str, model: Any, schema: Schema) -> None:
    """ConfigError unless the trainable, under the config of the run, builds a network of exactly these tensors."""
    with torch.device("meta"):
        built = find_trainable(trainable)(model, schema).networks()[published.part]
    wanted = {key: tensor.shape for key, tensor in network.state_dict().items()}
    found = {key: tensor.shape for key, tensor in built.state_dict().items()}
    differing = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
    if differing:
        raise ConfigError(
            f"the config of {trainable} cannot express this form of {published.part}: "
            f"{len(differing)} tensors differ, the first is {differing[0]}",
            where=published.file,
        )
