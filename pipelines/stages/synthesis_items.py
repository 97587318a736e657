"""What `rgs synthesize` makes images of: layouts, photos or scene graphs, from files or a dataset, read one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipelines.artifact import Input, digest_json, relative_path, sha256_file
from pipelines.bank.bank import Bank
from pipelines.data.augment import Size
from pipelines.data.digest import dataset_digest
from pipelines.data.graph import GraphSettings, SceneGraph, make_graph, scene_rng
from pipelines.data.graph_text import names_file, read_graphs
from pipelines.data.instances import InstanceEncoding, connected_instances
from pipelines.data.layouts import list_layouts, read_instances, read_layout
from pipelines.data.objects import scene_objects
from pipelines.data.open import open_dataset
from pipelines.data.pixels import IMAGE_SUFFIXES, read_image
from pipelines.data.scene import Dataset, SceneRecord, Schema
from pipelines.errors import ArtifactError, ConfigError, DataError
from pipelines.stages.train import require_same_classes
from pipelines.systems.base import GraphItem, LayoutItem, PhotoItem
from pipelines.systems.trained import LoadedRun

if TYPE_CHECKING:
    from pipelines.stages.synthesize import Opened, Requested, Synthesize

Item = LayoutItem | PhotoItem | GraphItem
Subject = Literal["layout", "photo", "graph"]


@dataclass(frozen=True)
class Listed:
    """What images are made of: files, graphs by name, or scenes of a dataset, each read when its turn comes."""

    entries: Sequence[Path] | Sequence[tuple[str, SceneGraph]] | Sequence[SceneRecord]
    dataset: Dataset | None
    inputs: list[Input]


def list_items(
    config: Synthesize,
    requested: Requested,
    loaded: LoadedRun,
    subject: Subject,
    view: str | None,
    retrieves: bool,
    home: Path,
) -> Listed:
    """List what images are to be made of. Raises ConfigError or DataError where there is none of it."""
    given, flag = (requested.graphs, "--graph") if subject == "graph" else (requested.inputs, "--inputs")
    if (unfit := requested.inputs if subject == "graph" else requested.graphs) and (requested.data or not given):
        raise ConfigError(f"{loaded.name} makes images of {subject}s, not of {unfit[0]}", fix=f"give {flag}")
    if (requested.data is None) == (not given):
        what = "--graph FILE|TEXT…" if subject == "graph" else "--inputs FOLDER|FILE…|-"
        raise ConfigError(f"give either {subject}s or a dataset", fix=f"{what} or --data DATASET")
    if not retrieves and config.exclude != "none":
        raise ConfigError("this system retrieves nothing that could be excluded", fix="leave out --exclude")
    if subject != "layout" and requested.instances is not None:
        raise ConfigError(f"{subject}s have no instance maps", fix="leave out --instances")
    if subject != "layout" and config.size != "layout":
        raise ConfigError("the run makes images of one size", fix="leave out --size")
    if requested.data is not None:
        return _of_dataset(config, requested, requested.data, loaded.schema, subject, view, home)
    if config.exclude != "none":
        raise ConfigError("only a dataset knows which pieces are an image's own", fix="use --data, or no --exclude")
    if subject == "graph":
        return _graphs(requested.graphs, loaded.schema, home)
    return _files(requested, subject, home)


def _files(requested: Requested, subject: Subject, home: Path) -> Listed:
    """Layouts with their instance maps, or photos."""
    given = requested.inputs[0] if len(requested.inputs) == 1 else requested.inputs
    files = list_layouts(given, subject, IMAGE_SUFFIXES if subject == "photo" else (".png",))
    digest = digest_json([[file.stem, sha256_file(file)] for file in files])
    inputs = [Input(f"{subject}s", relative_path(Path(requested.inputs[0]), home), digest)]
    if requested.instances is not None:
        maps = [_instance_map(requested.instances, layout) for layout in files]
        digest = digest_json([[file.stem, sha256_file(file)] for file in maps])
        inputs.append(Input("instances", relative_path(requested.instances, home), digest))
    return Listed(files, None, inputs)


def _graphs(given: Sequence[str], schema: Schema, home: Path) -> Listed:
    """Graphs out of files, or in words: `sky; road below sky`."""
    graphs = read_graphs(given, schema)
    inputs = [
        Input("graphs", relative_path(Path(one), home), sha256_file(Path(one)))
        if names_file(one)
        else Input("graphs", "words", digest_json(one))
        for one in given
    ]
    return Listed(graphs, None, inputs)


def _of_dataset(
    config: Synthesize,
    requested: Requested,
    data: Path,
    schema: Schema,
    subject: Subject,
    view: str | None,
    home: Path,
) -> Listed:
    if requested.instances is not None:
        raise ConfigError("a dataset brings its own instance maps", fix="leave out --instances")
    dataset = open_dataset(data, config.format)
    if view is not None:
        records = [record for record in dataset.records(config.split) if view in record.views]
        if not records:
            raise DataError(f"no scene has the {view} view", where=data, fix="give paired data")
    elif subject == "graph":
        require_same_classes(schema, dataset.schema, "the dataset", data)
        records = [record for record in dataset.records(config.split) if record.objects or record.labels is not None]
        if not records:
            raise DataError("no scene has objects or a label map to make a graph of", where=data)
    else:
        require_same_classes(schema, dataset.schema, "the dataset", data)
        records = [r for r in dataset.records(config.split) if r.labels is not None or dataset.format == "coco"]
        if not records:
            raise DataError("there is no layout to make an image of", where=data)
    name, count = Counter(Path(r.id).name for r in records).most_common(1)[0]
    if count > 1:
        raise ConfigError(f"two scenes of the dataset are named {name!r}", fix="choose one split with --split")
    return Listed(records, dataset, [Input(f"{subject}s", relative_path(data, home), dataset_digest(dataset, records))])


def read_items(config: Synthesize, requested: Requested, opened: Opened, notes: list[str]) -> Iterator[Item]:
    """What images are made of, each as often as images are asked of it."""
    without = 0
    for entry in opened.listed.entries:
        item: Item | None
        if isinstance(entry, tuple):
            item = GraphItem(entry[0], entry[1], opened.loaded.config.size)
        elif opened.subject == "graph":
            assert isinstance(entry, SceneRecord)
            item = _scene_graph(config, opened, entry)
        elif opened.view:
            item = _photo(opened, entry)
        else:
            item = _layout(config, requested, opened, entry, notes)
        if item is None:
            without += 1
            continue
        for variant in range(config.num):
            yield replace(item, variant=variant)
    if without:
        notes.append(f"{without} scenes have too few or too many objects for a graph, as the bank was built")


def _scene_graph(config: Synthesize, opened: Opened, record: SceneRecord) -> GraphItem | None:
    """The graph of a scene, made as those of the training were; None where that leaves the scene out."""
    made = opened.loaded.weights.manifest.get("graphs")
    if made is None:
        raise ArtifactError(
            "the run does not say how its graphs were made, as one that was imported",
            where=opened.loaded.weights.run,
            fix="give graphs by --graph instead of --data",
        )
    settings = GraphSettings.model_validate(made)
    assert opened.listed.dataset is not None
    if settings.relations == "annotated" and opened.listed.dataset.schema.relations != opened.loaded.schema.relations:
        raise ArtifactError(
            "the dataset has other relations than the run", where=record.id, fix="give graphs by --graph instead"
        )
    scene = opened.listed.dataset.read(record)
    objects = scene_objects(scene, opened.listed.dataset.schema, settings.min_area)
    # drawn by the scene alone, whatever the seed, so that runs can be compared
    graph = make_graph(objects, record.relations, settings, scene_rng(record.id))
    if graph is None:
        return None
    exclude = None if config.exclude == "none" else (config.exclude, _own(opened.sources.bank, record))
    return GraphItem(Path(record.id).name, graph, opened.loaded.config.size, exclude)


def _photo(opened: Opened, entry: Path | SceneRecord) -> Item:
    if isinstance(entry, SceneRecord):
        assert opened.listed.dataset is not None and opened.view is not None
        return PhotoItem(Path(entry.id).name, opened.listed.dataset.read_view(entry, opened.view))
    return PhotoItem(entry.stem, read_image(entry))


def _layout(
    config: Synthesize, requested: Requested, opened: Opened, entry: Path | SceneRecord, notes: list[str]
) -> Item:
    schema = opened.loaded.schema
    instances: np.ndarray | None = None
    if isinstance(entry, SceneRecord):
        assert opened.listed.dataset is not None
        scene = opened.listed.dataset.read(entry)
        if scene.labels is None:
            raise DataError("the scene has no label map", where=entry.id)
        name, labels, instances, image = Path(entry.id).name, scene.labels, scene.instances, scene.image
        exclude = None if config.exclude == "none" else (config.exclude, _own(opened.sources.bank, entry))
    else:
        name, labels, image, exclude = entry.stem, read_layout(entry, schema), None, None
        if requested.instances is not None:
            instances = _instances_of(requested.instances, entry, labels, schema, config.inst_encoding)
    if instances is None:
        instances = connected_instances(labels, schema)
        note = "no instance map was given: things are connected components of their class"
        if note not in notes and schema.things.any():
            notes.append(note)
    size = _size(config, labels.shape, opened)
    return LayoutItem(name, labels, instances, size, image, exclude)


def _instances_of(
    folder: Path, layout: Path, labels: np.ndarray, schema: Schema, encoding: InstanceEncoding
) -> np.ndarray:
    return read_instances(_instance_map(folder, layout), labels, schema, encoding)


def _instance_map(folder: Path, layout: Path) -> Path:
    file = folder / f"{layout.stem}.png"
    if not file.is_file():
        raise DataError(
            f"the layout {layout.name} has no instance map", where=file, fix="add it, or leave out --instances"
        )
    return file


def _own(bank: Bank | None, record: SceneRecord) -> str:
    """The name under which a bank knows a scene's own pieces: the scene, or its group where the scene is not in it."""
    in_bank = bank is not None and len(bank.rows_of_source(record.id)) > 0
    return record.id if in_bank or not record.group else record.group


def _size(config: Synthesize, layout: tuple[int, ...], opened: Opened) -> Size:
    if config.size == "layout":
        return layout[0], layout[1]
    trained: Size = opened.loaded.config.framing.size
    return trained if config.size == "run" else config.size


def same_size(items: Iterable[Item], batch: int) -> Iterator[list[Item]]:
    """Consecutive items whose images have one size, at most `batch` of them."""
    for _, group in groupby(items, key=lambda item: None if isinstance(item, PhotoItem) else item.size):
        chunk: list[Item] = []
        for item in group:
            chunk.append(item)
            if len(chunk) == batch:
                yield chunk
                chunk = []
        if chunk:
            yield chunk
