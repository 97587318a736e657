"""Building a bank against its bare cost: decoding the images, cutting the crops and encoding them, with nothing kept.

    python benchmarks/build_bank.py [DATA] [--split SPLIT] [--jobs 1 2] [--rounds 3] [--smoke]

Without DATA a toy town is drawn first. Prints a table and writes benchmarks/results/build_bank.json. The bare cost
takes the segments as given (the labels are decomposed beforehand) and runs in one thread; the build adds hashing the
dataset, decomposing, canonical masks, checksums, writing with sync, and hashing the shards. Each round runs them all in
turn, and the fastest of each counts. CPU seconds are known for one job, which runs in this process: on a machine with
other work they are what can be compared.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from pipelines.artifact import environment
from pipelines.bank.segments import Decompose, decompose
from pipelines.bank.shard import encode_pixels
from pipelines.data.open import open_dataset
from pipelines.data.toy.write import write_town
from pipelines.stages import build_bank

RESULTS = Path(__file__).parent / "results"


def bare_cost(data: Path, split: str) -> Callable[[], None]:
    """Decode every file that the build decodes, cut every crop, encode it, and throw it away."""
    dataset = open_dataset(data)
    records = dataset.records(split)
    parts = []
    for record in records:
        scene = dataset.read(record)
        assert scene.labels is not None
        parts.append(decompose(scene.labels, scene.instances, dataset.schema.things, Decompose()))

    def work() -> None:
        for record, part in zip(records, parts, strict=True):
            image = dataset.read(record).image
            assert image is not None
            for number, segment in enumerate(part.segments):
                x, y, w, h = segment.box
                mask = part.owner[y : y + h, x : x + w] == number
                encode_pixels(np.where(mask[..., None], image[y : y + h, x : x + w], np.uint8(0)), "png")

    return work


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of one run."""
    start, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - cpu


def fastest(works: Sequence[Callable[[], object]], rounds: int) -> list[tuple[float, float]]:
    """The least wall and CPU seconds of each over the rounds: what disturbs a run only makes it slower."""
    times = np.array([[seconds(work) for work in works] for _ in range(rounds)])
    return [(float(wall), float(cpu)) for wall, cpu in times.min(axis=0)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--jobs", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="a few scenes, one round: does it run at all")
    parser.add_argument("--out", type=Path, default=RESULTS / "build_bank.json")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = options.data
        if data is None:
            data = Path(folder) / "town"
            write_town(data, train=8 if options.smoke else 200, val=0)
        rounds = 1 if options.smoke else options.rounds
        out = Path(folder) / "bank"

        def build(jobs: int) -> None:
            shutil.rmtree(out, ignore_errors=True)
            config = build_bank.BuildBank(split=options.split, shard_sources=2 if options.smoke else 64)
            build_bank.run(config, data=data, out=out, jobs=jobs, max_bad=0)

        works = [bare_cost(data, options.split), *(partial(build, jobs) for jobs in options.jobs)]
        times = fastest(works, rounds)
        names = [("decode, crop, encode", 1), *(("rgs build-bank", jobs) for jobs in options.jobs)]
        rows = [
            {"what": what, "jobs": jobs, "seconds": wall, "cpu_seconds": cpu if jobs == 1 else None}
            for (what, jobs), (wall, cpu) in zip(names, times, strict=True)
        ]
        bare, bare_cpu = times[0]
        statistics = build_bank.open_artifact(out, "bank").statistics
        size = sum(file.stat().st_size for file in out.rglob("*.h5"))
    sources, items = statistics["sources"], statistics["items"]
    print(f"{sources} images, {items} segments, {size / 2**20:.1f} MiB; {os.cpu_count()} CPUs")
    print(f"{'':24}{'jobs':>5}{'seconds':>10}{'images/s':>10}{'segments/s':>12}{'x bare':>8}{'x its CPU':>11}")
    for row in rows:
        taken, cpu = row["seconds"], row["cpu_seconds"]
        print(
            f"{row['what']:24}{row['jobs']:>5}{taken:>10.2f}{sources / taken:>10.1f}{items / taken:>12.1f}"
            f"{taken / bare:>8.2f}" + (f"{cpu / bare_cpu:>11.2f}" if cpu else "")
        )
    if options.smoke:
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
    machine = {**environment(), "processor": platform.processor(), "cpus": os.cpu_count()}
    result = {"images": sources, "segments": items, "bytes": size, "rows": rows, "machine": machine}
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
