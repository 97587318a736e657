"""Scene graphs: objects and their relations, made from annotated images or read from JSON.

The JSON form is that of sg2im's files, with boxes and a name where there are any:

    {"objects": ["sky", "road", "car"], "relationships": [[1, "below", 0], [2, "inside", 1]],
     "boxes": [[0, 0, 1, 0.5], [0, 0.5, 1, 1], [0.3, 0.6, 0.5, 0.8]], "name": "street"}

A file holds one graph or a list of them. Positions count from 0; boxes are (x0, y0, x1, y1) in parts of the picture.
The node of the whole picture and its relations to all objects are no part of a graph: networks add them.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from pipelines.config import Config
from pipelines.data.objects import GraphObject
from pipelines.data.relations import GEOMETRIC, INSIDE, SURROUNDING, draw_relations
from pipelines.data.scene import Schema
from pipelines.errors import DataError

IMAGE = "__image__"
"""The node of the whole picture."""
IN_IMAGE = "__in_image__"
"""The predicate between every object and the picture."""

MAX_OBJECTS = 10_000
MAX_RELATIONS = 100_000
"""A graph with more than this is taken for a mistake."""

EXAMPLE = 'write for instance [0, "above", 1]'
KEYS = ("objects", "relationships", "boxes", "name")
OF_SAMPLES = ("used", "given", "patches")
"""What samples tell of a graph besides: their files can be read as graphs again."""
NAME = re.compile(r"[^\x00-\x1f/\\\ud800-\udfff.][^\x00-\x1f/\\\ud800-\udfff]*")
NAME_BYTES = 200
"""What may name a graph, and how long: it becomes the name of its picture's file."""

Triple = tuple[int, int, int]


class GraphSettings(Config):
    """How the objects of an image become a scene graph."""

    min_area: float = Field(default=0.02, ge=0, lt=1)
    """An object counts where its box covers strictly more than this share of the image (sg2im: 0.02)."""
    min_objects: int = Field(default=3, ge=1)
    """An image with fewer objects makes no graph."""
    max_objects: int = Field(default=8, ge=1)
    """A graph has no more objects than this; Visual Genome's protocol is 9."""
    overflow: Literal["drop", "largest", "sample"] = "drop"
    """An image with more makes no graph, or one of its largest boxes, or of objects drawn anew each time."""
    relations: Literal["geometric", "annotated"] = "geometric"
    """The six relations of sg2im from boxes and centres, or what the dataset says (Visual Genome)."""

    @model_validator(mode="after")
    def _consistent(self) -> GraphSettings:
        if self.min_objects > self.max_objects:
            raise ValueError(f"min_objects {self.min_objects} is above max_objects {self.max_objects}")
        if self.relations == "annotated" and self.max_objects < 2:
            raise ValueError("a relation needs two objects: max_objects must be 2 or more")
        return self


@dataclass(frozen=True, eq=False)
class SceneGraph:
    """Objects and their relations.

    categories: (n,) int64 class indices. relations: (subject, index into the schema's relations, object), positions
    among the objects. boxes: (n, 4) float32 (x0, y0, x1, y1) in parts of the picture, None where they are not known.
    ordinals: (n,) int64, which objects of their scene they are, None where they are of none.
    """

    categories: np.ndarray
    relations: tuple[Triple, ...]
    boxes: np.ndarray | None = None
    ordinals: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.categories)


def with_predicates(schema: Schema, settings: GraphSettings | None = None) -> Schema:
    """The schema with the predicates that its graphs have.

    The geometric ones, or the dataset's own where the settings ask for these, or without settings where it has any.
    Raises DataError where the dataset's own are asked for and it has none.
    """
    annotated = bool(schema.relations) if settings is None else settings.relations == "annotated"
    if annotated and not schema.relations:
        raise DataError("the dataset names no relations", fix="use --set graph.relations=geometric")
    return schema if annotated else replace(schema, relations=GEOMETRIC)


def make_graph(
    objects: Sequence[GraphObject],
    annotated: Sequence[Triple],
    settings: GraphSettings,
    rng: np.random.Generator,
) -> SceneGraph | None:
    """The graph of an image by the rules of the settings, its objects in their order; None where it makes none.

    annotated: the dataset's relations (subject, predicate, object) by ordinal; used, and needed, where the settings say
    so. Those with an end that was left out, and those of an object with itself, are left out. Where there are too many
    objects, related ones come before the others, and at least one relation is kept (Visual Genome's protocol).
    """
    if len(objects) < settings.min_objects or (len(objects) > settings.max_objects and settings.overflow == "drop"):
        return None
    triples: list[Triple] = []
    if settings.relations == "annotated":
        place = {item.ordinal: i for i, item in enumerate(objects)}
        triples = [(place[s], p, place[o]) for s, p, o in annotated if s != o and s in place and o in place]
        if not triples:
            return None
    kept = sorted(_kept(objects, triples, settings, rng))
    chosen = [objects[i] for i in kept]
    boxes = [item.box for item in chosen]
    if settings.relations == "annotated":
        moved = {old: new for new, old in enumerate(kept)}
        relations = tuple((moved[s], p, moved[o]) for s, p, o in triples if s in moved and o in moved)
    else:
        relations = draw_relations(boxes, [item.centre for item in chosen], rng)
    return SceneGraph(
        categories=np.array([item.category for item in chosen], dtype=np.int64),
        relations=relations,
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        ordinals=np.array([item.ordinal for item in chosen], dtype=np.int64),
    )


def _kept(
    objects: Sequence[GraphObject], triples: Sequence[Triple], settings: GraphSettings, rng: np.random.Generator
) -> list[int]:
    """Positions of the objects that are kept: all, or max_objects of them, related ones first."""
    n, most = len(objects), settings.max_objects
    if n <= most:
        return list(range(n))
    areas = np.array([(item.box[2] - item.box[0]) * (item.box[3] - item.box[1]) for item in objects])
    order = np.argsort(-areas, kind="stable") if settings.overflow == "largest" else rng.permutation(n)
    rank = np.empty(n, dtype=np.int64)
    rank[order] = np.arange(n)
    related = {end for s, _, o in triples for end in (s, o)}
    # the foremost relation keeps both its ends, so that a relation is left
    foremost = min(triples, key=lambda t: (max(rank[t[0]], rank[t[2]]), rank[t[0]]), default=None)
    ends = set() if foremost is None else {foremost[0], foremost[2]}
    return sorted(range(n), key=lambda i: (i not in ends, i not in related, rank[i]))[:most]


def graph_to_json(graph: SceneGraph, schema: Schema, name: str | None = None) -> dict[str, Any]:
    """The graph as plain data, see the module; `graphs_from_json` reads the same graph back, without its ordinals."""
    data: dict[str, Any] = {} if name is None else {"name": name}
    data["objects"] = [schema.names[c] for c in graph.categories.tolist()]
    data["relationships"] = [[s, schema.relations[p], o] for s, p, o in graph.relations]
    if graph.boxes is not None:
        # the shortest decimals that give the same float32
        data["boxes"] = [[float(str(value)) for value in box] for box in graph.boxes.astype(np.float32)]
    return data


def graphs_from_json(data: Any, schema: Schema, where: str | Path, stem: str = "graph") -> list[tuple[str, SceneGraph]]:
    """One graph or a list of them, with their names: their own, or the stem, with their place in a list («graph-0007»).

    schema: its classes and relations are the words that a graph may use. where: the file, for errors. Raises DataError
    naming the graph and the object, relation or box that cannot be used: an unknown class or predicate, a relation with
    an end that is not there or with one object at both ends, objects inside each other in a circle, a box that is empty
    or leaves the picture, no objects or too many, two graphs of one name.
    """
    return [(name, require_graph(graph)) for name, graph in each_graph(data, schema, where, stem)]


def each_graph(
    data: Any, schema: Schema, where: str | Path, stem: str = "graph"
) -> Iterator[tuple[str, SceneGraph | DataError]]:
    """As `graphs_from_json`, but with the error in the place of a graph that cannot be used."""
    entries = data if isinstance(data, list) else [data]
    if not entries:
        raise DataError("there are no graphs", where=where, fix="give one graph or a list of them")
    names: set[str] = set()
    for number, entry in enumerate(entries):
        called = f"graph {number}" if len(entries) > 1 else "the graph"
        name = f"{stem}-{number:04d}" if isinstance(data, list) else stem
        try:
            name = _name(entry, name)
            called += f" ({name})" if isinstance(entry, dict) and "name" in entry else ""
            if name in names:
                raise _Wrong(f"another graph is named {name!r}", "give every graph its own name")
            names.add(name)
            yield name, _graph(entry, schema)
        except _Wrong as wrong:
            yield name, DataError(f"{called}: {wrong.what}", where=where, fix=wrong.fix)


def require_graph(graph: SceneGraph | DataError) -> SceneGraph:
    """The graph. Raises the error that stands in its place."""
    if isinstance(graph, DataError):
        raise graph
    return graph


def scene_rng(scene: str) -> np.random.Generator:
    """What the graph of a scene is drawn by where it should always be the same: a function of the scene's id."""
    return np.random.default_rng(zlib.crc32(scene.encode()))


def unknown_name(what: str, name: str, known: Sequence[str]) -> tuple[str, str]:
    """What is wrong with a name that is not among those known, and how to mend it."""
    name = name if len(name) <= 60 else f"{name[:57]}…"
    near = difflib.get_close_matches(name, known, n=1)
    return f"there is no {what} {name!r}", f"did you mean {near[0]!r}?" if near else f"known: {_some(known)}"


def find_cycle(relations: Sequence[Triple], predicates: Sequence[str]) -> list[int]:
    """Positions of relations that put objects inside each other in a circle («inside», or «surrounding» the other way
    round), in the order of the circle from its latest relation on; none where nothing is inside itself."""
    inner, outer = GEOMETRIC[INSIDE], GEOMETRIC[SURROUNDING]
    said: dict[tuple[int, int], int] = {}  # (an object, one that it is inside of): the relation that says so
    around = TopologicalSorter[int]()
    for position, (s, p, o) in enumerate(relations):
        if predicates[p] in (inner, outer):
            pair = (s, o) if predicates[p] == inner else (o, s)
            said.setdefault(pair, position)
            around.add(*pair)
    try:
        around.prepare()
    except CycleError as error:
        objects = error.args[1]  # each is around the next, and the last is the first again
        circle = [said[within, outside] for outside, within in pairwise(objects)][::-1]
        latest = circle.index(max(circle))
        return circle[latest:] + circle[:latest]
    return []


class _Wrong(Exception):
    """What is wrong with one graph, and what to do about it."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.what, self.fix = what, fix


def _name(entry: Any, default: str) -> str:
    if not isinstance(entry, dict) or "name" not in entry:
        return default
    name = entry["name"]
    if not isinstance(name, str) or not NAME.fullmatch(name) or len(name.encode()) > NAME_BYTES:
        fix = f"use a text of 1 to {NAME_BYTES} bytes without / and \\ that begins with no dot: it names files"
        raise _Wrong(f"{_shown(name)} cannot name it", fix)
    return name


def _graph(entry: Any, schema: Schema) -> SceneGraph:
    if not isinstance(entry, dict):
        raise _Wrong(f"it is no JSON object, but {_shown(entry)}", 'write {"objects": […], "relationships": […]}')
    for key in entry:
        if key not in (*KEYS, *OF_SAMPLES):
            raise _Wrong(*unknown_name("field", str(key), KEYS))
    categories = _categories(entry.get("objects"), schema)
    relations = _relations(entry.get("relationships", []), entry["objects"], schema)
    boxes = None if entry.get("boxes") is None else _boxes(entry["boxes"], entry["objects"])
    return SceneGraph(categories, relations, boxes)


def _categories(objects: Any, schema: Schema) -> np.ndarray:
    if not isinstance(objects, list) or not objects:
        raise _Wrong("it has no objects", 'list the names of classes under "objects"')
    if len(objects) > MAX_OBJECTS:
        raise _Wrong(f"it has {len(objects)} objects, more than {MAX_OBJECTS}", "make it smaller")
    index_of = {name: index for index, name in enumerate(schema.names)}
    for number, name in enumerate(objects):
        if name == IMAGE:
            raise _Wrong(f"object {number} is {IMAGE}", "leave it out: every graph gets one")
        if not isinstance(name, str) or name not in index_of:
            what, fix = unknown_name("class", str(name), schema.names)
            raise _Wrong(f"object {number}: {what}", fix)
    return np.array([index_of[name] for name in objects], dtype=np.int64)


def _relations(relations: Any, objects: Sequence[str], schema: Schema) -> tuple[Triple, ...]:
    if not isinstance(relations, list):
        raise _Wrong(f"its relationships are {_shown(relations)}", f"give a list; {EXAMPLE}")
    if len(relations) > MAX_RELATIONS:
        raise _Wrong(f"it has {len(relations)} relations, more than {MAX_RELATIONS}", "make it smaller")
    index_of = {name: index for index, name in enumerate(schema.relations)}
    triples = []
    for number, triple in enumerate(relations):
        try:
            triples.append(_triple(triple, objects, index_of))
        except _Wrong as wrong:
            raise _Wrong(f"relation {number} ({_shown(triple)}) {wrong.what}", wrong.fix) from None
    if circle := find_cycle(triples, schema.relations):
        told = ", ".join(_shown(relations[position]) for position in circle[:5])
        ends = sorted({triples[position][i] for position in circle for i in (0, 2)})
        names = ", ".join(f"{end} ({objects[end]})" for end in ends[:5])
        raise _Wrong(f"objects {names} are inside each other in a circle: {told}", "take one of the relations out")
    return tuple(triples)


def _triple(triple: Any, objects: Sequence[str], index_of: Mapping[str, int]) -> Triple:
    if not isinstance(triple, list) or len(triple) != 3:
        raise _Wrong("is not subject, predicate and object", EXAMPLE)
    subject, predicate, target = triple
    for role, end in (("subject", subject), ("object", target)):
        if isinstance(end, bool) or not isinstance(end, int) or not 0 <= end < len(objects):
            what = f"names the {role} {_shown(end)}, which is not among the objects 0 to {len(objects) - 1}"
            raise _Wrong(what, "name an object by its place")
    if predicate == IN_IMAGE:
        raise _Wrong("says what holds of every object", "leave it out")
    if not isinstance(predicate, str) or predicate not in index_of:
        what, fix = unknown_name("predicate", str(predicate), list(index_of))
        raise _Wrong(f"cannot be: {what}", fix)
    if subject == target:
        raise _Wrong(f"relates object {subject} ({objects[subject]}) to itself", "relate two objects")
    return subject, index_of[predicate], target


def _boxes(boxes: Any, objects: Sequence[str]) -> np.ndarray:
    fix = "give [x0, y0, x1, y1] in parts of the picture, 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1, per object"
    if not isinstance(boxes, list) or len(boxes) != len(objects):
        count = f"{len(boxes)} boxes" if isinstance(boxes, list) else _shown(boxes)
        raise _Wrong(f"it has {len(objects)} objects, but {count}", fix)
    for number, box in enumerate(boxes):
        numbers = isinstance(box, list) and len(box) == 4 and all(_is_number(value) for value in box)
        # rounded as it is kept, or a box could vanish
        x0, y0, x1, y1 = np.array(box, dtype=np.float32).tolist() if numbers else (math.nan,) * 4
        if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
            raise _Wrong(f"the box of object {number} ({objects[number]}) is {_shown(box)}", fix)
    return np.array(boxes, dtype=np.float32)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "") if names else "none"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 60 else f"{text[:57]}…"
