"""Banks of patches: the objects of annotated scenes, cut out by their boxes, and the scene graphs that they make.

A piece is one object of a scene graph: its box in whole pixels, all of it (no mask), its class, and as its ordinal
which object of the scene it is. Pixels are stored at the size that networks read, `patch`, without regard to the box's
aspect. A source keeps what a graph needs beside the boxes: the centres of its objects, and the relations that people
annotated; so a bank is all that a graph encoder or a pre-filter has to be given.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from typing import Any

import numpy as np

from pipelines.bank.bank import Bank
from pipelines.bank.shard import Codec, Piece, Source, encode_pixels
from pipelines.bank.writer import labeled_pixels
from pipelines.data.graph import GraphSettings, SceneGraph, make_graph
from pipelines.data.objects import GraphObject, scene_objects
from pipelines.data.scene import Dataset, SceneRecord, Schema
from pipelines.data.transforms import resize_image
from pipelines.errors import DataError

KIND = "patches"
DIGITS = 6
"""Centres are stored to this many decimal places, in parts of the picture."""
READ_AT_ONCE = 256
"""Patches that a thread decodes before it takes the next."""


def cut_patches(
    data: Dataset,
    record: SceneRecord,
    digest: str,
    *,
    schema: Schema,
    settings: GraphSettings,
    patch: int | None,
    codec: Codec,
) -> tuple[Source, list[Piece]]:
    """The objects of a scene as pieces; none where the settings leave the scene out.

    schema: the dataset's. patch: height and width of the stored pixels, None for those of the box. Raises DataError
    when the scene cannot be read or has no image.
    """
    scene = data.read(record)
    if scene.image is None:
        raise DataError("the scene has no image", where=scene.id)
    height, width = scene.image.shape[:2]
    objects = scene_objects(scene, schema, settings.min_area)
    if settings.overflow == "drop" and not settings.min_objects <= len(objects) <= settings.max_objects:
        objects = []
    pieces = []
    for item in objects:
        x, y, w, h = pixel_box(item.box, height, width)
        crop = scene.image[y : y + h, x : x + w]
        pieces.append(
            Piece(
                ordinal=item.ordinal,
                category=item.category,
                thing=bool(schema.things[item.category]),
                area=w * h,
                box=(x, y, w, h),
                pixels=encode_pixels(crop if patch is None else resize_patch(crop, (patch, patch)), codec),
                mask=b"",
                canonical=b"",
            )
        )
    kept = {item.ordinal for item in objects}
    annotated = record.relations if settings.relations == "annotated" else ()
    graph = {
        "centres": [[round(float(part), DIGITS) for part in item.centre] for item in objects],
        "relations": [[s, p, o] for s, p, o in annotated if s != o and s in kept and o in kept],
    }
    source = Source(
        id=record.id,
        group=record.group,
        licence=record.licence,
        height=height,
        width=width,
        labeled=labeled_pixels(scene),
        digest=digest,
        graph={key: values for key, values in graph.items() if values},
    )
    return source, pieces


def pixel_box(box: tuple[float, float, float, float], height: int, width: int) -> tuple[int, int, int, int]:
    """(x, y, w, h) of the nearest whole pixels, at least one each way, of a box (x0, y0, x1, y1) in parts."""
    x0, x1 = _pixels(box[0], box[2], width)
    y0, y1 = _pixels(box[1], box[3], height)
    return x0, y0, x1 - x0, y1 - y0


def resize_patch(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (h, w, 3) uint8, aspect ignored: a side that shrinks is averaged, also where the other one grows."""
    h, w = image.shape[:2]
    return resize_image(resize_image(image, (min(h, size[0]), min(w, size[1]))), size)


def bank_graph(bank: Bank, source: str, rng: np.random.Generator) -> SceneGraph | None:
    """The scene graph of one source of a bank of patches, under the settings that the bank was built with.

    None where they leave the scene out, or the bank has no such source. Its ordinals are the pieces'. Relations and,
    where objects are too many, the choice among them are drawn from `rng`. Raises ArtifactError for another kind of
    bank.
    """
    settings = graph_settings(bank)
    objects, annotated = bank_objects(bank, source)
    return make_graph(objects, annotated, settings, rng)


def bank_objects(bank: Bank, source: str) -> tuple[list[GraphObject], list[tuple[int, int, int]]]:
    """All objects of one source in the order of its rows, and its annotated relations, by ordinals."""
    rows = bank.rows_of_source(source)
    if not len(rows):
        return [], []
    entry = bank.source_of(int(rows[0]))
    graph: Mapping[str, Any] = entry.graph
    scale = np.array([entry.width, entry.height] * 2)
    boxes = bank.boxes[rows].astype(np.int64)
    boxes[:, 2:] += boxes[:, :2]
    objects = [
        GraphObject(category, (x0, y0, x1, y1), (centre[0], centre[1]), ordinal)
        for category, (x0, y0, x1, y1), centre, ordinal in zip(
            bank.categories[rows].tolist(),
            (boxes / scale).tolist(),
            graph["centres"],
            bank.ordinals[rows].tolist(),
            strict=True,
        )
    ]
    return objects, [(s, p, o) for s, p, o in graph.get("relations", ())]


def graph_rows(bank: Bank, source: str, graph: SceneGraph) -> np.ndarray:
    """(n,) int64: the bank's row of each object of a graph that `bank_graph` gave."""
    assert graph.ordinals is not None
    rows = bank.rows_of_source(source)
    return rows[np.searchsorted(bank.ordinals[rows], graph.ordinals)]


def graph_sources(bank: Bank) -> list[str]:
    """The sources that make a graph, in the bank's order."""
    settings = graph_settings(bank)
    counts = np.bincount(bank.sources, minlength=len(bank.source_table)).tolist()
    return [s.id for s, count in zip(bank.source_table, counts, strict=True) if makes_graph(settings, s, count)]


def makes_graph(settings: GraphSettings, source: Source, pieces: int) -> bool:
    """Does a source of so many pieces make a graph, as `make_graph` has it."""
    if pieces < settings.min_objects or (settings.overflow == "drop" and pieces > settings.max_objects):
        return False
    return settings.relations == "geometric" or "relations" in source.graph


def graph_settings(bank: Bank) -> GraphSettings:
    """How a bank of patches makes graphs. Raises ArtifactError for another kind of bank."""
    bank.require_kind(KIND, "a scene graph")
    return GraphSettings.model_validate(bank.config["graph"])


def load_patches(
    bank: Bank, size: tuple[int, int], rows: Sequence[int] | np.ndarray | None = None, threads: int | None = None
) -> np.ndarray:
    """(n, h, w, 3) uint8: the pixels of some rows in any order, or of all, resized to (h, w) where stored otherwise.

    threads: how many decode; the array does not depend on it. Raises ArtifactError for a piece that is damaged.
    """
    bank.require_kind(KIND, "an array of patches")
    wanted = np.arange(len(bank)) if rows is None else np.asarray(rows, dtype=np.int64)
    patches = np.empty((len(wanted), *size, 3), np.uint8)
    own = threading.local()

    def decode(first: int) -> None:
        if not hasattr(own, "bank"):
            own.bank = copy(bank)  # its files are for one thread
        for place in range(first, min(first + READ_AT_ONCE, len(wanted))):
            patches[place] = resize_patch(own.bank.crop(int(wanted[place])), size)

    with ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1), thread_name_prefix="patches") as pool:
        for _ in pool.map(decode, range(0, len(wanted), READ_AT_ONCE)):
            pass
    return patches


def _pixels(low: float, high: float, size: int) -> tuple[int, int]:
    """The first whole pixel of a span in parts of `size`, and the one behind its last."""
    first = min(max(round(low * size), 0), size - 1)
    return first, min(max(round(high * size), first + 1), size)
