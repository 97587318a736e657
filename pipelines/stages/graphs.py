"""rgs data graph and rgs data check of graphs: graphs out of words, files, a dataset or a bank; what a file holds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipelines.artifact import MANIFEST, write_atomic
from pipelines.bank.bank import Bank
from pipelines.bank.patches import bank_graph, graph_settings, graph_sources
from pipelines.config import Config
from pipelines.data.graph import GraphSettings, SceneGraph, graph_to_json, make_graph, scene_rng, with_predicates
from pipelines.data.graph_picture import draw_graph
from pipelines.data.graph_text import each_given, read_graphs
from pipelines.data.listing import Fault
from pipelines.data.objects import scene_objects, size_of
from pipelines.data.open import open_dataset
from pipelines.data.scene import SceneRecord, Schema
from pipelines.data.sheet import grid
from pipelines.errors import ConfigError, DataError
from pipelines.progress import Progress
from pipelines.stages.show import schema_of

PICTURE_SIDE = 512
"""Pixels across a picture of a graph in words, and across one of several on a sheet."""
MOST_PICTURES = 64
"""A sheet shows no more graphs than these, the first."""


class GraphsConfig(Config):
    """How graphs are made of a dataset."""

    graph: GraphSettings = GraphSettings()
    """Which objects count, how many make a graph, and how they are related."""


Paper = tuple[tuple[int, int], np.ndarray | None]


@dataclass(frozen=True)
class Graphs:
    """Graphs with their names. paper: by the place of a graph the size (h, w) of its picture, and its photo if any.

    settings: how they were made, None for words and files. left_out: scenes that make no graph under them.
    """

    schema: Schema
    graphs: Sequence[tuple[str, SceneGraph]]
    paper: Callable[[int], Paper]
    settings: GraphSettings | None = None
    left_out: int = 0

    def counts(self) -> dict[str, int]:
        return {
            "graphs": len(self.graphs),
            "objects": sum(len(graph) for _, graph in self.graphs),
            "relations": sum(len(graph.relations) for _, graph in self.graphs),
            "left_out": self.left_out,
        }


@dataclass
class GraphReport:
    """What files of graphs hold and what is wrong with them.

    faults: the first `limit`; total_faults counts all. alone: objects that no relation names. classes, predicates: how
    often each is used.
    """

    graphs: int = 0
    objects: int = 0
    relations: int = 0
    with_boxes: int = 0
    alone: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    predicates: Counter[str] = field(default_factory=Counter)
    faults: list[Fault] = field(default_factory=list)
    total_faults: int = 0

    @property
    def valid(self) -> bool:
        return self.total_faults == 0

    def to_json(self) -> dict[str, Any]:
        return {
            **{name: value for name, value in vars(self).items() if not isinstance(value, Counter)},
            "classes": dict(self.classes),
            "predicates": dict(self.predicates),
            "valid": self.valid,
            "faults": [{**asdict(fault), "file": str(fault.file)} for fault in self.faults],
        }


def vocabulary(path: Path, format: str | None = None) -> Schema:
    """The classes and predicates that graphs may use with a run, a bank or a dataset; the geometric six where it has
    no predicates of its own."""
    return with_predicates(schema_of(path, format))


def of_words(given: Sequence[str], schema: Schema) -> Graphs:
    """Graphs out of texts and files, see `read_graphs`."""
    return Graphs(schema, read_graphs(given, schema), lambda place: ((PICTURE_SIDE, PICTURE_SIDE), None))


def scenes_of(path: Path, split: str | None, scenes: Sequence[str], format: str | None) -> list[str]:
    """The ids of the scenes that graphs are asked of, all where none is named. Raises ConfigError for unknown ones."""
    if (path / MANIFEST).is_file():
        known = [source.id for source in Bank.open(path).source_table]
    else:
        known = [record.id for record in open_dataset(path, format).records(split)]
    if lost := sorted(set(scenes) - set(known)):
        raise ConfigError(f"there is no scene {lost[0]!r} among the {len(known)}", where=path, fix="see `rgs show`")
    return [scene for scene in known if not scenes or scene in set(scenes)]


def of_data(
    path: Path,
    config: GraphsConfig,
    split: str | None = None,
    scenes: Sequence[str] = (),
    format: str | None = None,
    progress: Progress | None = None,
) -> Graphs:
    """The graphs of a dataset's scenes under the config, or of a bank's under its own settings.

    Each is drawn by its scene's id, so that it is always the same. Raises DataError where no scene makes one, and
    ConfigError where two would have one name.
    """
    wanted = scenes_of(path, split, scenes, format)
    made, paper_of = _of_bank(path) if (path / MANIFEST).is_file() else _of_dataset(path, config.graph, split, format)
    schema, settings, graph_of = made
    graphs: list[tuple[str, SceneGraph]] = []
    kept: list[str] = []
    for number, scene in enumerate(wanted):
        graph = graph_of(scene)
        if graph is not None:
            graphs.append((Path(scene).name, graph))
            kept.append(scene)
        if progress is not None:
            progress("graphs", number + 1, len(wanted))
    if not graphs:
        fix = "loosen --set graph.min_area, graph.min_objects, graph.max_objects or graph.overflow"
        raise DataError(f"none of {len(wanted)} scenes makes a graph", where=path, fix=fix)
    name, count = Counter(name for name, _ in graphs).most_common(1)[0]
    if count > 1:
        raise ConfigError(f"two scenes are named {name!r}", where=path, fix="choose one split with --split")
    return Graphs(schema, graphs, lambda place: paper_of(kept[place]), settings, len(wanted) - len(graphs))


_Made = tuple[Schema, GraphSettings, Callable[[str], SceneGraph | None]]
_Papers = Callable[[str], Paper]


def _of_dataset(path: Path, settings: GraphSettings, split: str | None, format: str | None) -> tuple[_Made, _Papers]:
    dataset = open_dataset(path, format)
    schema = with_predicates(dataset.schema, settings)
    records: dict[str, SceneRecord] = {record.id: record for record in dataset.records(split)}

    def graph_of(scene: str) -> SceneGraph | None:
        record = records[scene]
        objects = scene_objects(dataset.read(record), schema, settings.min_area)
        return make_graph(objects, record.relations, settings, scene_rng(scene))

    def paper_of(scene: str) -> Paper:
        read = dataset.read(records[scene])
        return size_of(read), read.image

    return (schema, settings, graph_of), paper_of


def _of_bank(path: Path) -> tuple[_Made, _Papers]:
    bank = Bank.open(path)
    settings = graph_settings(bank)
    making = set(graph_sources(bank))

    def graph_of(scene: str) -> SceneGraph | None:
        return bank_graph(bank, scene, scene_rng(scene)) if scene in making else None

    def paper_of(scene: str) -> Paper:
        source = bank.source_of(int(bank.rows_of_source(scene)[0]))
        return (source.height, source.width), None

    return (with_predicates(bank.schema, settings), settings, graph_of), paper_of


def to_text(graphs: Graphs) -> str:
    """The graphs as a JSON list, one in each line."""
    lines = [json.dumps(graph_to_json(g, graphs.schema, name), ensure_ascii=False) for name, g in graphs.graphs]
    return "[\n" + ",\n".join(lines) + "\n]\n"


def write(graphs: Graphs, out: Path) -> None:
    """Write the JSON, whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, to_text(graphs).encode())


def write_picture(graphs: Graphs, path: Path) -> None:
    """Write a PNG of the graph, on its photo where there is one, or a sheet of the first ones."""
    pictures = list(_pictures(graphs, 1 if len(graphs.graphs) == 1 else MOST_PICTURES))
    drawn = pictures[0] if len(pictures) == 1 else grid(pictures, cell=PICTURE_SIDE)
    _, data = cv2.imencode(".png", np.ascontiguousarray(drawn[..., ::-1]))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data.tobytes())


def _pictures(graphs: Graphs, most: int) -> Iterator[np.ndarray]:
    for place, (_, graph) in enumerate(graphs.graphs[:most]):
        yield draw_graph(graph, graphs.schema, *graphs.paper(place))


def check(given: Sequence[str], schema: Schema, limit: int = 10) -> GraphReport:
    """Read files of graphs to the end, count what they hold, and name every graph that cannot be used."""
    report = GraphReport()

    def add(error: DataError) -> None:
        report.total_faults += 1
        if len(report.faults) < limit:
            reason = error.what if error.fix is None else f"{error.what}; {error.fix}"
            report.faults.append(Fault(Path(error.where or given[0]), reason))

    try:
        for _, graph in each_given(given, schema):
            report.graphs += 1
            if isinstance(graph, DataError):
                add(graph)
                continue
            report.objects += len(graph)
            report.relations += len(graph.relations)
            report.with_boxes += graph.boxes is not None
            report.alone += len(graph) - len({end for s, _, o in graph.relations for end in (s, o)})
            report.classes.update(schema.names[c] for c in graph.categories.tolist())
            report.predicates.update(schema.relations[p] for _, p, _ in graph.relations)
    except DataError as error:
        add(error)
    return report
