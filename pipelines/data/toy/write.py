"""Write the toy town as a dataset in the `folder` layout."""

from __future__ import annotations

import csv
import json
import math
import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np

from pipelines.artifact import filling
from pipelines.data.toy.solids import SCHEMA
from pipelines.data.toy.town import SCENES_PER_PLACE, ToyScene, draw_scene
from pipelines.errors import ArtifactError, ConfigError, EnvironmentFault

_MAX_INSTANCES = 65_535  # what a 16-bit PNG can tell apart
LICENCE = "CC0-1.0"
Task = TypeVar("Task")
Record = TypeVar("Record")


def write_town(
    out: Path,
    *,
    seed: int = 0,
    train: int = 200,
    val: int = 40,
    size: tuple[int, int] = (256, 256),
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Draw train + val scenes of (height, width) pixels into the new folder out.

    The files depend on seed, train, val and size alone, not on jobs, the number of processes. Scenes of one place
    never fall into both splits. progress is told the scenes done and their number. Everything is written to
    `<out>.partial`, which is renamed at the end. Raises ArtifactError if out exists, ConfigError for bad counts,
    EnvironmentFault where the disk is full, a drawing process dies or another one writes to out.
    """
    if min(train, val, seed) < 0 or train + val < 1 or min(size) < 8 or jobs < 1:
        raise ConfigError(
            f"cannot draw {train} + {val} scenes of {size[0]}x{size[1]} pixels from seed {seed} with {jobs} jobs",
            fix="seed and counts from 0, at least one scene, 8 pixels a side, one job",
        )
    # validation starts with a place of its own
    start = math.ceil(train / SCENES_PER_PLACE) * SCENES_PER_PLACE
    splits = {"train": range(train), "val": range(start, start + val)}
    with filling(out) as partial:
        for split in splits:
            for kind in ("img", "label", "inst"):
                (partial / split / kind).mkdir(parents=True)
        tasks = [
            (str(partial / split), seed, first, min(first + SCENES_PER_PLACE, indices.stop), size)
            for split, indices in splits.items()
            for first in range(indices.start, indices.stop, SCENES_PER_PLACE)
        ]
        records: dict[int, dict[str, Any]] = {}
        for drawn in draw_all(_draw_place, tasks, jobs):
            records.update((record["index"], record) for record in drawn)
            if progress is not None:
                progress(len(records), train + val)
        _write_tables(partial, seed, size, {split: [records[i] for i in indices] for split, indices in splits.items()})


def draw_all(draw: Callable[[Task], Record], tasks: Sequence[Task], jobs: int) -> Iterable[Record]:
    """Draw the tasks in this process or in spawned ones; results come in the order of the tasks."""
    if jobs == 1:
        yield from map(draw, tasks)
        return
    try:
        with ProcessPoolExecutor(
            jobs, multiprocessing.get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)
        ) as pool:
            yield from pool.map(draw, tasks)
    except BrokenProcessPool as error:
        raise EnvironmentFault(
            "a drawing process died, most often for want of memory", fix="use fewer --jobs"
        ) from error


def _draw_place(task: tuple[str, int, int, int, tuple[int, int]]) -> list[dict[str, Any]]:
    """Draw and write the scenes first..stop of one place; returns what the tables say of them."""
    folder, seed, first, stop, size = task
    records = []
    for index in range(first, stop):
        scene = draw_scene(seed, index, size)
        name = f"{index:05d}"
        if scene.instances.max() > _MAX_INSTANCES:
            raise ArtifactError(
                f"scene {name} shows {scene.instances.max()} things, more than 16 bits can number",
                where=folder,
                fix="ask for a smaller size",
            )
        root = Path(folder)
        write_png(root / "img" / f"{name}.png", scene.image[..., ::-1])
        write_png(root / "label" / f"{name}.png", scene.labels)
        write_png(root / "inst" / f"{name}.png", scene.instances.astype(np.uint16))
        records.append(
            {
                "index": index,
                "id": name,
                "group": scene.group,
                "domain": scene.domain,
                "camera": asdict(scene.camera),
                "objects": _objects(scene),
            }
        )
    return records


def write_png(path: Path, pixels: np.ndarray) -> None:
    done, data = cv2.imencode(".png", np.ascontiguousarray(pixels), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise ArtifactError("the image could not be encoded as PNG", where=path)
    path.write_bytes(data.tobytes())


def _objects(scene: ToyScene) -> list[dict[str, Any]]:
    """Class, box (x, y, width, height) and area in pixels of each instance, in the order of their ids."""
    count = int(scene.instances.max())
    if count == 0:
        return []
    rows, columns = np.nonzero(scene.instances)
    ids = scene.instances[rows, columns] - 1
    h, w = scene.instances.shape
    left, top = np.full(count, w), np.full(count, h)
    right, bottom = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    np.minimum.at(left, ids, columns)
    np.minimum.at(top, ids, rows)
    np.maximum.at(right, ids, columns)
    np.maximum.at(bottom, ids, rows)
    category = np.zeros(count, dtype=np.int64)
    category[ids] = scene.labels[rows, columns]
    area = np.bincount(ids, minlength=count)
    return [
        {
            "index": k + 1,
            "class_id": int(category[k]),
            "name": SCHEMA.names[int(category[k])],
            "bbox": [int(left[k]), int(top[k]), int(right[k] - left[k] + 1), int(bottom[k] - top[k] + 1)],
            "area": int(area[k]),
        }
        for k in range(count)
    ]


def _write_tables(root: Path, seed: int, size: tuple[int, int], splits: dict[str, list[dict[str, Any]]]) -> None:
    classes = [{"id": c.id, "name": c.name, "color": list(c.color), "thing": c.thing} for c in SCHEMA.classes]
    write_json(root / "classes.json", {"inst_encoding": "index", "ignore_id": None, "classes": classes})
    for split, records in splits.items():
        (root / f"{split}.txt").write_text("".join(f"{r['id']}\n" for r in records))
        images = [
            {
                "file": f"{r['id']}.png",
                "width": size[1],
                "height": size[0],
                "license": LICENCE,
                "objects": r["objects"],
            }
            for r in records
        ]
        write_json(root / f"annotations_{split}.json", {"split": split, "images": images})
    with (root / "domains.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["split", "id", "sequence", "domain"])
        for split, records in splits.items():
            rows.writerows([split, r["id"], r["group"], r["domain"]] for r in records)
    scenes = [
        {"split": split, "id": r["id"], "index": r["index"], "group": r["group"], "domain": r["domain"], **r["camera"]}
        for split, records in splits.items()
        for r in records
    ]
    write_json(
        root / "toy.json",
        {
            "seed": seed,
            "size": list(size),
            "scenes_per_place": SCENES_PER_PLACE,
            "counts": {split: len(records) for split, records in splits.items()},
            "units": "meters and radians; x east, y north, z up; heading from north to east",
            "cameras": scenes,
        },
    )


def write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=None, separators=(",", ":")) + "\n")
