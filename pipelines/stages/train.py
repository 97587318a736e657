"""rgs train generator, segmenter and embedder: from data (and a bank, an index, frozen runs) to a run."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, create_model
from torch import nn

from pipelines.artifact import Artifact, Input, disk_faults, locked, open_artifact, relative_path
from pipelines.bank.bank import Bank
from pipelines.config import Config
from pipelines.data.check import usable
from pipelines.data.digest import dataset_digest
from pipelines.data.listing import ListedDataset
from pipelines.data.open import open_dataset
from pipelines.data.scene import SceneRecord, Schema
from pipelines.data.split import require_disjoint
from pipelines.errors import ArtifactError, ConfigError, DataError
from pipelines.index.neighbors import Neighbors
from pipelines.nn.losses.perceptual import Perceptual
from pipelines.runtime import make_runtime
from pipelines.systems.base import Fitted, Needs, Plan, Sources, Validated
from pipelines.systems.table import find_trainable
from pipelines.systems.trained import as_frozen, load_networks
from pipelines.train.checkpoint import load_into, read_weights
from pipelines.train.config import LogConfig, LoopConfig
from pipelines.train.log import Watch
from pipelines.train.loop import Stop, train
from pipelines.train.run import RunWriter, identity, open_weights, parse_reference
from pipelines.train.sampler import Order
from pipelines.weights import VGG19, read, resolve

PERCEPTUAL_SEED = 19
MAX_BAD = 10
"""How many scenes of a dataset may be unusable before a training is refused, unless told otherwise."""


class TrainConfig(Config):
    """What decides a training. `model` is the config of the system or segmenter that is trained."""

    split: str = "train"
    """The split of the dataset to train on."""
    validation: str | None = None
    """The split to measure on while training, of other groups than those trained on; none when not given."""
    format: str | None = None
    """The dataset's format on disk; recognized when not given."""
    train: LoopConfig = LoopConfig()
    """Steps, batch, precision, seed."""
    perceptual: Literal["vgg19", "random"] = "vgg19"
    """Network of the perceptual loss: ImageNet's VGG-19, or a random one of the same form with a fixed seed."""
    log: LogConfig = LogConfig()
    """What is logged and kept; may change between a run and its resumption."""


@cache
def config_of(name: str) -> type[TrainConfig]:
    """The training config of a trainable: TrainConfig with `model` of its own type."""
    model = find_trainable(name).Config
    return create_model(
        f"Train{name.title()}",
        __base__=TrainConfig,
        __doc__=f"What decides a training of {name}.",
        model=(model, Field(default_factory=model, description=f"The networks and losses of {name}.")),
    )


@dataclass(frozen=True)
class Given:
    """The paths that a training is given. `frozen` and `init` are references like runs/s or runs/s@12000."""

    data: Path | None = None
    bank: Path | None = None
    index: Path | None = None
    frozen: Mapping[str, str] = field(default_factory=dict)
    init: str | None = None
    weights: Path | None = None


@dataclass(frozen=True)
class Prepared:
    """Inputs opened and checked against the plan of the trainable.

    trained_with, teachers: of each frozen role the sha256 of its weights, and the identity of its run at any step.
    graphs: how the bank's scene graphs were made, where it has some.
    places: of paired data the groups trained on, here and in the run that it starts from, so that an evaluation can
    refuse to ask for them.
    bad: why scenes cannot be used, by id; the sources lack them.
    """

    schema: Schema
    plan: Plan
    sources: Sources
    frozen: dict[str, nn.Module]
    inputs: list[Input]
    trained_with: dict[str, str]
    teachers: dict[str, str]
    graphs: dict[str, Any] | None
    places: list[str]
    bad: dict[str, str]


def run(
    name: str,
    config: Any,
    given: Given,
    out: Path,
    *,
    device: str = "auto",
    max_bad: int = MAX_BAD,
    stop: Stop = lambda: False,
    watch: Watch = lambda status: None,
) -> Artifact:
    """Train, or go on where an interrupted run of the same config and inputs stopped. Returns the run.

    max_bad: how many scenes may be unusable; they are left out and listed in the manifest.
    """
    prepared = prepare(name, config, given, out, max_bad)
    runtime = make_runtime(device, config.train.precision, config.train.seed)
    trainable = find_trainable(name)(config.model, prepared.schema)
    if isinstance(trainable, Fitted):
        trainable.check(prepared.frozen)
    Order(trainable.sampling(prepared.sources), config.train.seed, config.train.batch)  # refuses what cannot be drawn
    torch.manual_seed(config.train.seed)
    nets = trainable.networks()
    if given.init is not None:
        initialize(nets, given.init)
    facts = {
        "schema": prepared.schema.to_json(),
        "trained_with": prepared.trained_with,
        "teachers": prepared.teachers,
        **_counted(prepared.sources),
        "places": prepared.places,
        **({"graphs": prepared.graphs} if prepared.graphs is not None else {}),
        "bad": [{"id": scene, "reason": reason} for scene, reason in prepared.bad.items()],
    }
    with disk_faults(out), locked(out) if runtime.rank == 0 else contextlib.nullcontext():
        writer = RunWriter(out, name, config, prepared.inputs, facts)
        runtime.barrier()
        if writer.finished:
            return open_artifact(out, "run")
        if runtime.rank == 0:
            writer.begin()
        train(
            trainable,
            prepared.plan,
            prepared.sources,
            prepared.frozen,
            nets,
            config.train,
            config.log,
            writer,
            runtime,
            stop,
            watch,
        )
        runtime.barrier()
    return open_artifact(out, "run")


def prepare(name: str, config: Any, given: Given, out: Path, max_bad: int = MAX_BAD) -> Prepared:
    """Open what was given and check that it is what the plan needs, before anything starts.

    Scenes that cannot be used are left out here, so that every step and every resumption sees the same ones. Where
    there is a bank, it has done that: its scenes were read when it was built.
    """
    home = out.parent
    trainable = find_trainable(name)
    dataset, records, validation = open_scenes(name, config, given)
    needs = trainable.plan(config.model, dataset.schema if dataset else Schema(()), config.train.steps).train
    if needs.dataset and dataset is None:
        raise ConfigError(f"{name} needs a dataset", fix="give --data")
    if dataset is not None and not needs.dataset:
        raise ConfigError(f"{name} learns from a bank alone", fix="leave out --data")
    bank, neighbors = open_retrieval(needs, given.bank, given.index, name)
    # which classes there are the dataset says, or the bank of a training that has no other data; which relations, the
    # bank that the scene graphs are from
    schema = dataset.schema if dataset else bank.schema if bank else Schema(())
    if dataset is not None and bank is not None and needs.graph:
        require_same_classes(schema, bank.schema, "the bank", given.bank)
        schema = bank.schema
    plan = trainable.plan(config.model, schema, config.train.steps)
    inputs = []
    if dataset is not None:
        assert given.data is not None
        inputs.append(Input("data", relative_path(given.data, home), dataset_digest(dataset, records)))
    if dataset is not None and validation:
        inputs.append(Input("validation", relative_path(dataset.root, home), dataset_digest(dataset, validation)))
    if bank is not None:
        require_same_classes(schema, bank.schema, "the bank", given.bank)
        inputs.append(bank.artifact.as_input("bank", home))
    if neighbors is not None:
        inputs.append(neighbors.artifact.as_input("index", home))
    frozen: dict[str, nn.Module] = {}
    trained_with: dict[str, str] = {}
    teachers: dict[str, str] = {}
    for role in given.frozen.keys() - plan.train.frozen.keys():
        raise ConfigError(f"{name} with this config uses no {role!r}", fix=f"leave out --with {role}=…")
    for role, kind in plan.train.frozen.items():
        if role not in given.frozen:
            raise ConfigError(f"{name} needs a trained {kind}", fix=f"give --with {role}=runs/…, a run of {kind}")
        path, step = parse_reference(given.frozen[role])
        loaded = load_networks(path, step, trainable=kind)
        require_same_classes(schema, loaded.schema, f"the {role}", path)
        frozen[role] = as_frozen(loaded)
        trained_with[role] = loaded.digest
        teachers[role] = identity(loaded.weights.manifest)
        inputs.append(loaded.weights.as_input(role, home))
    if plan.perceptual:
        frozen["perceptual"] = perceptual_network(config.perceptual, given.weights)
    places: set[str] = set()
    if given.init is not None:
        path, step = parse_reference(given.init.partition(":")[0])
        start = open_weights(path, step)
        inputs.append(start.as_input("init", home))
        places.update(start.manifest.get("places", ()))
    bad: dict[str, str] = {}
    if dataset is not None and plan.train.bank is None:
        views = plan.train.views
        records = [record for record in records if all(view in record.views for view in views)]
        if not records:
            raise DataError(f"no scene has the views {' and '.join(views)}", where=given.data, fix="give paired data")
        everything, bad = usable(dataset, [*records, *validation], plan.train.fields, max_bad, views=views)
        held_out = {record.id for record in validation}
        records = [record for record in everything if record.id not in held_out]
        validation = [record for record in everything if record.id in held_out]
        if not records:
            raise DataError("of the scenes to train on none can be used", where=given.data)
        if held_out and not any(set(views) <= record.views.keys() for record in validation):
            what = f"the views {' and '.join(views)} that can be used" if views else "what can be used"
            raise DataError(f"no scene of the validation split has {what}", where=given.data)
    if plan.train.views:
        places.update(record.group or record.id for record in records)
    sources = Sources(dataset, records, validation, bank, neighbors)
    graphs = bank.config["graph"] if bank is not None and needs.graph else None
    return Prepared(schema, plan, sources, frozen, inputs, trained_with, teachers, graphs, sorted(places), bad)


def open_scenes(
    name: str, config: Any, given: Given
) -> tuple[ListedDataset | None, Sequence[SceneRecord], Sequence[SceneRecord]]:
    """The dataset with its scenes to train on and to measure on, which share no group."""
    if given.data is None:
        defaults = TrainConfig()
        for key in ("validation", "split", "format"):
            if getattr(config, key) != getattr(defaults, key):
                raise ConfigError(f"{key} is of a dataset, and none is given", fix=f"leave out --{key}, or give --data")
        return None, [], []
    dataset = open_dataset(given.data, config.format)
    records = dataset.records(config.split)
    if not records:
        raise DataError(
            f"the dataset has no scene in split {config.split!r}",
            where=given.data,
            fix=f"it has the splits {', '.join(dataset.splits()) or 'none'}",
        )
    if config.validation is None:
        return dataset, records, []
    if not issubclass(find_trainable(name), Validated):
        raise ConfigError(f"{name} measures nothing while it trains", fix="leave out --validation")
    validation = dataset.records(config.validation)
    if not validation:
        raise DataError(
            f"the dataset has no scene in split {config.validation!r}, to measure on",
            where=given.data,
            fix=f"it has the splits {', '.join(dataset.splits()) or 'none'}",
        )
    require_disjoint(records, validation)
    return dataset, records, validation


def _counted(sources: Sources) -> dict[str, int]:
    """How much of what there is to learn from."""
    counts = {"scenes": len(sources.records)} if sources.dataset is not None else {}
    return counts | ({"pieces": len(sources.bank)} if sources.bank is not None else {})


def perceptual_network(kind: Literal["vgg19", "random"], weights: Path | None) -> nn.Module:
    """ImageNet's VGG-19 from a file, or one of random weights; raises EnvironmentFault where the file is missing."""
    if kind == "random":
        return Perceptual(PERCEPTUAL_SEED)
    return Perceptual(read(resolve(VGG19, weights, alternative="--perceptual random")))


def open_retrieval(
    needs: Needs, bank: Path | None, index: Path | None, name: str
) -> tuple[Bank | None, Neighbors | None]:
    """The bank and the neighbors that the plan asks for; what it does not use is refused, what it lacks is named."""
    for what, path, kind in (("bank", bank, needs.bank), ("index", index, needs.index)):
        if kind is None and path is not None:
            raise ConfigError(f"{name} with this config uses no {what}", fix=f"leave out --{what}")
        if kind is not None and path is None:
            article = "an" if what == "index" else "a"
            of = "" if kind == "any" else f" of {kind}"
            raise ConfigError(f"{name} needs {article} {what}{of}", fix=f"give --{what}")
    opened = Bank.open(bank) if bank is not None else None
    if opened is not None and needs.bank not in (opened.kind, "any"):
        raise ArtifactError(f"this is a bank of {opened.kind}, {name} needs one of {needs.bank}", where=bank)
    if index is None or opened is None:
        return opened, None
    neighbors = Neighbors.open(index, opened)
    if (found := neighbors.artifact.config["kind"]) != needs.index:
        raise ArtifactError(
            f"this is an index of kind {found}, {name} needs one of kind {needs.index}",
            where=index,
            fix=f"make one: rgs train index --kind {needs.index} --bank {bank} --out …",
        )
    return opened, neighbors


def require_same_classes(wanted: Schema, found: Schema, what: str, where: Path | None) -> None:
    """Class names must agree in order. Raises ArtifactError naming the first that differs."""
    if wanted.names == found.names:
        return
    pairs = zip([*wanted.names, None], [*found.names, None], strict=False)
    first = next(((a, b) for a, b in pairs if a != b), (len(wanted.names), len(found.names)))
    raise ArtifactError(f"{what} has other classes: {first[1]!r} where {first[0]!r} is expected", where=where)


def initialize(nets: Mapping[str, nn.Module], init: str) -> None:
    """Start from another run's weights: `runs/a` gives every network of the same name, `runs/a:G` only G."""
    reference, _, only = init.partition(":")
    path, step = parse_reference(reference)
    weights = open_weights(path, step)
    tensors = read_weights(weights.file)
    wanted = [only] if only else [name for name in nets if name in tensors]
    if not wanted or any(name not in nets or name not in tensors for name in wanted):
        raise ArtifactError(
            f"no network {only or 'of the same name'} to start from",
            where=path,
            fix=f"the run has {', '.join(sorted(tensors))}; this training has {', '.join(nets)}",
        )
    for name in wanted:
        load_into(nets[name], tensors[name], weights.file, name)


def plan(name: str, config: Any, given: Given, out: Path, max_bad: int = MAX_BAD) -> dict[str, Any]:
    """What `run` would do: the resolved config, the inputs with their digests, the bytes of a checkpoint."""
    prepared = prepare(name, config, given, out, max_bad)
    nets = find_trainable(name)(config.model, prepared.schema).networks()
    parameters = {n: sum(p.numel() for p in net.parameters()) for n, net in nets.items()}
    stored = {n: sum(t.numel() * t.element_size() for t in net.state_dict().values()) for n, net in nets.items()}
    weights = sum(size * (1 + (n in prepared.plan.averaged)) for n, size in stored.items())
    moments = 2 * 4 * sum(parameters.values())  # of Adam
    return {
        "trains": name,
        "config": config.model_dump(mode="json"),
        "inputs": [i.to_json() for i in prepared.inputs],
        **_counted(prepared.sources),
        "bad": prepared.bad,
        "parameters": parameters,
        "bytes_per_checkpoint": weights + moments,
        "checkpoints_kept": config.log.keep,
        "out": str(out),
    }
