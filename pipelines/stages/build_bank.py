"""Build a bank: cut the pieces of annotated images into shards.

A bank is new, or grows out of another: with more sources, or without some. Either way it is a list of shards, each
of which is cut from images, shared with the other bank, or copied from it without the removed sources. A shard is a
run of consecutive sources, so what it holds depends neither on the number of jobs nor on interruptions, and a build
that was killed goes on with the shards that are missing.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter

from pipelines.artifact import Artifact, Input, open_artifact, relative_path, require_free, writing
from pipelines.bank.bank import ShardTable, read_shard_table, shard_paths
from pipelines.bank.patches import makes_graph
from pipelines.bank.shard import BadScene
from pipelines.bank.writer import BankWriter, Cut, Elsewhere, Share, Thin, share_shards
from pipelines.data.check import too_many_bad
from pipelines.data.digest import digest_of, record_digests
from pipelines.data.open import open_dataset
from pipelines.data.scene import Dataset, SceneRecord, Schema
from pipelines.errors import ConfigError, DataError
from pipelines.progress import Progress, silent
from pipelines.stages.bank_kinds import INHERITED, KINDS, BuildBank
from pipelines.stages.cluster import on_cluster, require_ray
from pipelines.stages.processes import in_processes

Engine = Literal["local", "ray"]

SAMPLED_SCENES = 8
"""How many scenes a dry run cuts to estimate the size of the bank."""


@dataclass(frozen=True)
class Work:
    """All there is to do for a bank. data: the dataset that shards are cut from, if any are; notes: what was decided
    when it was read."""

    config: BuildBank
    schema: Schema
    inputs: list[Input]
    shares: list[Share]
    makes: list[Cut | Thin]
    data: Dataset | None = None
    notes: tuple[str, ...] = ()

    def writer(self, folder: Path) -> BankWriter:
        return BankWriter(folder, self.data, KINDS[self.config.kind].cutter(self.config, self.schema))


def run(
    config: BuildBank,
    *,
    out: Path,
    data: Path | None = None,
    add_to: Path | None = None,
    base: Path | None = None,
    remove: Sequence[str] = (),
    jobs: int = 1,
    engine: Engine = "local",
    ray_address: str | None = None,
    max_bad: int = 10,
    progress: Progress = silent,
) -> Artifact:
    """Write the bank of `data`; of bank `add_to` and `data`; or of bank `base` without the sources `remove`.

    jobs: processes. engine: what runs them, this machine or a Ray cluster, whose machines see the same files and give
    the shards back to this one. max_bad: how many scenes may be unusable; they are listed in the statistics. None of
    these changes the digest. Raises DataError when more are unusable, when a source to be added is in the bank with
    other content, or one to be removed is not; ConfigError when the sources or configs do not fit together;
    ArtifactError when `out` exists or the other bank is damaged; EnvironmentFault when the disk is full, another
    process writes to `out`, or the cluster fails.
    """
    require_free(out)
    if engine == "ray":
        require_ray()
        data, add_to, base = (path and path.resolve() for path in (data, add_to, base))  # workers are in other folders
    work = _prepare(config, out, data, add_to, base, remove, jobs, progress)
    statistics: dict[str, Any] = {}
    with writing(out, "bank", work.config, work.inputs, statistics) as partial:
        shards = partial / "shards"
        shards.mkdir(exist_ok=True)
        share_shards(work.shares, shards, jobs)
        writer = work.writer(shards)
        if engine == "ray":
            made = _on_cluster(writer, work.makes, jobs, ray_address)
        else:
            made = in_processes(writer, work.makes, jobs)
        with closing(made):  # its processes end before the lock is given up
            _watch(work, made, max_bad, progress)
        names = sorted([task.name for task in [*work.shares, *work.makes]], key=lambda name: int(Path(name).stem))
        statistics.update(_statistics(work, [read_shard_table(shards / name) for name in names], out))
    return open_artifact(out, "bank")


def plan(
    config: BuildBank,
    *,
    out: Path,
    data: Path | None = None,
    add_to: Path | None = None,
    base: Path | None = None,
    remove: Sequence[str] = (),
    jobs: int = 1,
    progress: Progress = silent,
) -> dict[str, Any]:
    """What `run` would do: the config, the inputs with their digests, shards, and about how many bytes it would write.

    The bytes of shards to be cut are extrapolated from a few scenes, cut here and now.
    """
    require_free(out)
    work = _prepare(config, out, data, add_to, base, remove, jobs, progress)
    return {
        "config": work.config.model_dump(mode="json"),
        "inputs": [entry.to_json() for entry in work.inputs],
        "shards": {"shared": len(work.shares), "written": len(work.makes)},
        "sources": sum(task.sources for task in work.makes),
        "bytes": _estimate(work),
    }


def _prepare(
    config: BuildBank,
    out: Path,
    data: Path | None,
    add_to: Path | None,
    base: Path | None,
    remove: Sequence[str],
    threads: int,
    progress: Progress,
) -> Work:
    if base is not None:
        if data is not None or add_to is not None:
            raise ConfigError("a bank is made from a dataset or from a bank, not both", fix="use --add-to BANK to add")
        return _thinned(config, base, remove, out)
    if remove:
        raise ConfigError("--remove-source needs the bank to remove from", fix="add --from BANK")
    if data is None:
        raise ConfigError("there is nothing to build a bank from", fix="name a dataset, or --from BANK")
    parent = None if add_to is None else open_artifact(add_to, "bank")
    if parent is not None:
        config = _inherit(config, parent, INHERITED)
    dataset = open_dataset(data, config.format)
    split = Path(config.split).name if config.split and config.split.endswith(".txt") else config.split
    stored = config.model_copy(update={"format": config.format or dataset.format, "split": split, "removed": ()})
    listed = dataset.records(config.split)
    if not listed:
        raise DataError("the dataset has no scenes", where=data)
    records = sorted(KINDS[config.kind].records(config, dataset, listed), key=lambda record: record.id)
    digests = record_digests(dataset, records, threads, progress)
    given = Input("data", relative_path(data, out.parent), digest_of(dataset.schema, digests))
    if parent is not None:
        grown = _grown(stored, parent, dataset, records, digests, given, out)
        return replace(grown, notes=(*_notes(parent), *dataset.notes))
    cuts = _cuts(records, digests, config.shard_sources, first=0)
    return Work(stored, KINDS[config.kind].schema(config, dataset.schema), [given], [], cuts, dataset, dataset.notes)


def _grown(
    config: BuildBank,
    parent: Artifact,
    dataset: Dataset,
    records: Sequence[SceneRecord],
    digests: dict[str, str],
    given: Input,
    out: Path,
) -> Work:
    """Bank `parent` and the records that it lacks."""
    schema = Schema.from_json(parent.statistics["schema"])
    ours, theirs = ([(c.id, c.name, c.thing) for c in s.classes] for s in (dataset.schema, schema))
    if ours != theirs:
        raise DataError(
            "the dataset and the bank to add to have different classes",
            where=dataset.root,
            fix="give the dataset the classes of the bank, or build a new bank",
        )
    if config.graph.relations == "annotated" and dataset.schema.relations != schema.relations:
        raise DataError(
            "the dataset and the bank to add to have different relations",
            where=dataset.root,
            fix="give the dataset the relations of the bank, or build a new bank",
        )
    schema = replace(schema, domains=tuple(sorted({*schema.domains, *dataset.schema.domains})))
    known = {source.id: source.digest for table in _tables(parent) for source in table.sources}
    changed = [record.id for record in records if known.get(record.id, digests[record.id]) != digests[record.id]]
    if changed:
        raise DataError(
            f"{len(changed)} scenes are in the bank with other content: {_some(changed)}",
            where=dataset.root,
            fix=f"remove them first: rgs build-bank --from {parent.path} --remove-source {changed[0]} --out …",
        )
    new = [record for record in records if record.id not in known]
    if not new:
        raise DataError("every scene is in the bank already", where=dataset.root, fix="use the bank as it is")
    shares = _shares(parent)
    first = 1 + max(int(Path(share.name).stem) for share in shares)
    inputs = [parent.as_input("bank", out.parent), given]
    return Work(config, schema, inputs, shares, _cuts(new, digests, config.shard_sources, first), dataset)


def _thinned(config: BuildBank, base: Path, remove: Sequence[str], out: Path) -> Work:
    """Bank `base` without the sources `remove`; a shard that would be left without sources goes."""
    if not remove:
        raise ConfigError("--from needs what to remove", fix="add --remove-source ID")
    parent = open_artifact(base, "bank")
    tables = _tables(parent)
    known = [source.id for table in tables for source in table.sources]
    removed = frozenset(remove)
    if strange := sorted(removed - set(known)):
        near = difflib.get_close_matches(strange[0], known, n=1)
        raise DataError(
            f"the bank has no source {strange[0]!r}",
            where=base,
            fix=f"did you mean {near[0]!r}?" if near else f"its sources are called like {known[0]!r}",
        )
    if removed == set(known):
        raise DataError("nothing would be left of the bank", where=base, fix="delete the bank instead")
    shares, thins = [], []
    for share, table in zip(_shares(parent), tables, strict=True):
        left = sum(source.id not in removed for source in table.sources)
        if left == len(table.sources):
            shares.append(share)
        elif left:
            thins.append(Thin(share.name, share.path, removed, left))
    stored = _inherit(config, parent, (*INHERITED, "format", "split", "shard_sources"))
    stored = stored.model_copy(update={"removed": tuple(sorted(removed))})
    schema = Schema.from_json(parent.statistics["schema"])
    inputs = [parent.as_input("bank", out.parent)]
    return Work(stored, schema, inputs, shares, list(thins), notes=_notes(parent))


def _inherit(config: BuildBank, parent: Artifact, keys: Sequence[str]) -> BuildBank:
    """The config with the parent's values of `keys`. Raises ConfigError where it was given another value."""
    stored = {key: parent.config[key] for key in keys if key in parent.config}
    for key in keys:
        value = stored.get(key)
        given = TypeAdapter(Any).dump_python(getattr(config, key), mode="json")
        if key in config.model_fields_set and given != value:
            raise ConfigError(
                f"{key} is {given} but the other bank was built with {value or 'none'}",
                where=parent.path,
                fix=f"leave {key} out, or build a new bank",
            )
    return BuildBank.model_validate({**config.model_dump(), **stored})


def _cuts(records: Sequence[SceneRecord], digests: dict[str, str], size: int, first: int) -> list[Cut | Thin]:
    runs = [tuple(records[start : start + size]) for start in range(0, len(records), size)]
    return [
        Cut(f"{number:05d}.h5", run_, tuple(digests[record.id] for record in run_))
        for number, run_ in enumerate(runs, start=first)
    ]


def _notes(bank: Artifact) -> tuple[str, ...]:
    """What was decided when the images of a bank were read."""
    return tuple(bank.statistics.get("notes", ()))


def _tables(bank: Artifact) -> list[ShardTable]:
    return [read_shard_table(path) for path in shard_paths(bank)]


def _shares(bank: Artifact) -> list[Share]:
    hashes = {bank.path / str(file["path"]): str(file["sha256"]) for file in bank.manifest["files"]}
    return [Share(path.name, path, hashes[path]) for path in shard_paths(bank)]


def _on_cluster(
    writer: BankWriter, tasks: Sequence[Cut | Thin], jobs: int, address: str | None
) -> Generator[tuple[Cut | Thin, list[BadScene]]]:
    """Have the shards that are missing made elsewhere, and write them here: the output need not be shared."""
    missing = []
    for task in tasks:
        bad = writer.there(task)
        if bad is None:
            missing.append(task)
        else:
            yield task, bad
    with closing(on_cluster(Elsewhere(writer), missing, jobs, address)) as results:
        for task, made in results:
            yield task, writer.keep(task, made)


def _watch(work: Work, results: Iterable[tuple[Cut | Thin, list[BadScene]]], max_bad: int, progress: Progress) -> None:
    """Follow the making of shards. Raises DataError when too many scenes cannot be used."""
    total, done = sum(task.sources for task in work.makes), 0
    bad: list[BadScene] = []
    progress("cutting", 0, total)
    for task, found in results:
        done += task.sources
        progress("cutting", done, total)
        bad = sorted([*bad, *found], key=lambda scene: scene.id)
        if isinstance(task, Cut) and len(bad) > max_bad:
            raise too_many_bad(
                [(scene.id, scene.reason) for scene in bad], max_bad, work.data.root if work.data else None
            )


def _statistics(work: Work, tables: Sequence[ShardTable], out: Path) -> dict[str, Any]:
    sources = [source for table in tables for source in table.sources]
    ids = np.concatenate([table.columns["ids"] for table in tables])
    categories = np.concatenate([table.columns["categories"] for table in tables])
    areas = np.concatenate([table.columns["areas"] for table in tables])
    if not len(ids):
        lacking = KINDS[work.config.kind].lacking
        raise DataError(f"the bank would be empty: {lacking}", where=work.data.root if work.data else out)
    if len(np.unique(ids)) != len(ids):
        raise DataError("two pieces have one id", where=out, fix="rename one of the scenes")
    counts = np.bincount(categories[categories >= 0], minlength=len(work.schema.classes)).tolist()
    used = {source.id for source in sources}
    bad = {scene.id: scene.reason for table in tables for scene in table.bad if scene.id not in used}
    own: dict[str, Any] = {"pixels": {"labeled": sum(source.labeled for source in sources), "kept": int(areas.sum())}}
    if work.config.kind == "patches":  # whose boxes overlap
        own = {"graphs": _graphs(work.config, tables)}
    return {
        "kind": work.config.kind,
        "schema": work.schema.to_json(),
        "items": len(ids),
        "sources": len(sources),
        "shards": len(tables),
        **({"notes": list(dict.fromkeys(work.notes))} if work.notes else {}),
        "per_class": dict(zip(work.schema.names, counts, strict=True)),
        "licences": dict(sorted(Counter(source.licence for source in sources).items())),
        **own,
        "bad": [{"id": scene, "reason": reason} for scene, reason in sorted(bad.items())],
    }


def _graphs(config: BuildBank, tables: Sequence[ShardTable]) -> int:
    """How many sources of a bank of patches make a scene graph."""
    made = 0
    for table in tables:
        counts = np.bincount(table.columns["sources"], minlength=len(table.sources)).tolist()
        made += sum(makes_graph(config.graph, *each) for each in zip(table.sources, counts, strict=True))
    return made


def _estimate(work: Work) -> int:
    """About how many bytes the shards to be made take."""
    thins = [task for task in work.makes if isinstance(task, Thin)]
    cuts = [task for task in work.makes if isinstance(task, Cut)]
    total = sum(task.path.stat().st_size for task in thins)
    scenes = [pair for task in cuts for pair in zip(task.records, task.digests, strict=True)]
    step = max(1, len(scenes) // SAMPLED_SCENES)
    writer = work.writer(Path())
    sizes = []
    for record, digest in scenes[::step][:SAMPLED_SCENES]:
        with suppress(DataError):
            _, pieces = writer.cut_source(record, digest)
            sizes.append(sum(len(p.pixels) + len(p.mask) + len(p.canonical) + 96 for p in pieces))
    return total + (round(len(scenes) * sum(sizes) / len(sizes)) if sizes else 0)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
