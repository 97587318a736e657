"""Images per second and worker of decompose, compose and distort: what a data loader pays for a guidance image.

    python benchmarks/compose.py [--data FOLDER …] [--smoke]

Scenes of the toy town, and of every folder given, at three sizes. The pieces of a scene come from the other scenes:
the segment of the class that is nearest in area and aspect. One thread; CPU time of the calls alone, no reading.
"""

from __future__ import annotations

import argparse
import json
import os
import platform

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy: a loader's worker has one thread

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from pipelines.bank.segments import Decompose, Decomposition, Segment, decompose
from pipelines.compose.color import color_statistics
from pipelines.compose.distort import Distort, distort_scene
from pipelines.compose.guidance import Piece, Placement, compose, cut
from pipelines.data.augment import resize_image
from pipelines.data.open import open_dataset
from pipelines.data.scene import Schema
from pipelines.data.toy import SCHEMA, draw_scene
from pipelines.data.transforms import nearest_resize

SIZES: tuple[tuple[int, int], ...] = ((128, 128), (256, 256), (360, 480))
RESULTS = Path(__file__).parent / "results" / "compose.json"


@dataclass(frozen=True)
class Annotated:
    image: np.ndarray
    labels: np.ndarray
    instances: np.ndarray | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append", default=[], help="a dataset, beside the toy town")
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help=f"default: {RESULTS.name} in benchmarks/results; none with --smoke")
    parser.add_argument("--smoke", action="store_true", help="two scenes, once, the smallest size")
    arguments = parser.parse_args()
    scenes, repeats, sizes = arguments.scenes, arguments.repeats, SIZES
    if arguments.smoke:
        scenes, repeats, sizes = 2, 1, SIZES[:1]
    cv2.setNumThreads(1)

    rows = []
    for size in sizes:
        toy = [draw_scene(0, i, size) for i in range(scenes)]
        drawn = [Annotated(s.image, SCHEMA.indices(s.labels.astype(np.int64), "toy"), s.instances) for s in toy]
        rows.append({"data": "toy", **measure(drawn, SCHEMA, repeats)})
        for root in arguments.data:
            schema, read = read_scenes(root, scenes, size)
            rows.append({"data": root.name, **measure(read, schema, repeats)})

    console = Console()
    console.width = max(console.width, 110)
    console.print(table(rows))
    out = arguments.out or (None if arguments.smoke else RESULTS)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        environment = {
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "opencv": cv2.__version__,
        }
        out.write_text(json.dumps({"environment": environment, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def read_scenes(root: Path, count: int, size: tuple[int, int]) -> tuple[Schema, list[Annotated]]:
    """Scenes spread over a dataset, resized."""
    dataset = open_dataset(root)
    records = dataset.records()
    scenes = []
    for record in records[:: max(1, len(records) // count)][:count]:
        scene = dataset.read(record)
        if scene.image is None or scene.labels is None:
            raise SystemExit(f"{root} has scenes without image or labels")
        instances = None if scene.instances is None else nearest_resize(scene.instances, size)
        scenes.append(Annotated(resize_image(scene.image, size), nearest_resize(scene.labels, size), instances))
    return dataset.schema, scenes


def measure(scenes: Sequence[Annotated], schema: Schema, repeats: int) -> dict[str, Any]:
    """Milliseconds per image of each step: the mean over scenes, the median over repeats."""
    things, config = schema.things, Decompose()
    cuts = [decompose(s.labels, s.instances, things, config) for s in scenes]
    foregrounds = [(s.labels >= 0) & things[s.labels] for s in scenes]
    pieces = [retrieve(scenes, cuts, q) for q in range(len(scenes))]
    placements = [
        [Placement(p, s.box) if p else None for p, s in zip(found, d.segments, strict=True)]
        for found, d in zip(pieces, cuts, strict=True)
    ]
    colors = [[color_statistics(p) if p else None for p in found] for found in pieces]

    def distort(k: int, references: Sequence[Any], settings: Distort) -> None:
        distort_scene(scenes[k].image, cuts[k], foregrounds[k], references, settings, np.random.default_rng(k))

    steps: dict[str, Callable[[int], Any]] = {
        "decompose": lambda k: decompose(scenes[k].labels, scenes[k].instances, things, config),
        "compose": lambda k: compose(cuts[k].owner, cuts[k].things, cuts[k].areas, foregrounds[k], placements[k]),
        "distort": lambda k: distort(k, pieces[k], Distort()),
        "distort (known colors)": lambda k: distort(k, colors[k], Distort()),
        "color": lambda k: distort(k, pieces[k], Distort(shape=False, resolution=False)),
        "resolution": lambda k: distort(k, pieces[k], Distort(color=False, shape=False)),
        "shape": lambda k: distort(k, pieces[k], Distort(color=False, resolution=False)),
    }
    for step in steps.values():
        step(0)  # warm
    spent = {name: median(timed(step, len(scenes)) for _ in range(repeats)) for name, step in steps.items()}
    return {
        "size": list(scenes[0].labels.shape),
        "scenes": len(scenes),
        "segments": sum(len(d.segments) for d in cuts) / len(cuts),
        "milliseconds": {name: round(1e3 * s, 3) for name, s in spent.items()},
        "images_per_second": {name: round(1 / s, 1) for name, s in spent.items()},
    }


def timed(step: Callable[[int], Any], count: int) -> float:
    begin = process_time()
    for k in range(count):
        step(k)
    return (process_time() - begin) / count


def retrieve(scenes: Sequence[Annotated], cuts: Sequence[Decomposition], query: int) -> list[Piece | None]:
    """For each segment of a scene the piece of its class, in another scene, that is nearest in area and aspect."""

    def distance(a: Segment, b: Segment) -> float:
        return abs(log(a.area / b.area)) + 2 * abs(log(a.box[2] * b.box[3] / (a.box[3] * b.box[2])))

    found: list[Piece | None] = []
    for segment in cuts[query].segments:
        candidates = [
            (distance(segment, other), j, i)
            for j, d in enumerate(cuts)
            for i, other in enumerate(d.segments)
            if j != query and other.category == segment.category
        ]
        if not candidates:
            found.append(None)
            continue
        _, j, i = min(candidates)
        found.append(cut(scenes[j].image, cuts[j].owner, i, cuts[j].segments[i].box))
    return found


def table(rows: Sequence[dict[str, Any]]) -> Table:
    names = list(rows[0]["images_per_second"])
    result = Table("data", "size", "segments", *names, title="images per second and worker")
    for row in rows:
        size = "x".join(map(str, row["size"]))
        speeds = [f"{row['images_per_second'][name]:.0f}" for name in names]
        result.add_row(row["data"], size, f"{row['segments']:.0f}", *speeds)
    return result


if __name__ == "__main__":
    main()
