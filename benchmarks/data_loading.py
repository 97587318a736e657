"""Is making examples ever slower than training on them? Images/s of one loader worker against those of the step.

    python benchmarks/data_loading.py [--data DATASET] [--size 64] [--device auto] [--systems …] [--smoke]

Every trainable of the table at its preset `small`, on the toy town or DATASET. The worker: its examples and their
collation, one thread, no step beside it; the first time that it sees a scene, and later, when RESAIL remembers what
does not depend on chance. The step: the real loop on examples that are there already. «Workers needed» is how many keep
up with the step from the first epoch on; the default of `log.workers` is 1, and the loader works ahead of the step.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import torch

from pipelines.artifact import environment
from pipelines.config import Layer, resolve
from pipelines.data.toy.write import write_town
from pipelines.runtime import make_runtime, pick_device
from pipelines.stages import build_bank, train, train_index
from pipelines.systems.table import TRAINABLES, find_trainable, preset_layer
from pipelines.train.config import LogConfig
from pipelines.train.loop import train as run_loop
from pipelines.train.run import RunWriter
from pipelines.train.sampler import Draw, Examples, Order

RESULTS = Path(__file__).parent / "results" / "data_loading.json"
WARM = 3
"""Steps that do not count: they allocate memory and choose kernels."""


class Ready:
    """A trainable whose examples are there already, so that its loop costs the step alone."""

    def __init__(self, trainable: Any, example: dict[str, Any]) -> None:
        self.trainable, self.ready = trainable, example

    def __getattr__(self, name: str) -> Any:
        return getattr(self.trainable, name)

    def example(self, *_: Any) -> dict[str, Any]:
        return self.ready


LAYOUTS = [name for name, kind in TRAINABLES.items() if name == "segmenter" or "framing" in kind.Config.model_fields]
"""What learns from photos with label maps, of one size."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a dataset instead of the toy town")
    parser.add_argument("--split", default="train")
    parser.add_argument("--size", type=int, nargs="+", default=[64])
    parser.add_argument("--systems", nargs="+", choices=LAYOUTS, default=LAYOUTS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="default: the preset's")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--examples", type=int, default=96)
    parser.add_argument("--smoke", action="store_true", help="two steps of narrow networks; nothing is written")
    options = parser.parse_args()
    if options.smoke:
        options.steps, options.examples = WARM + 1, 4
    cv2.setNumThreads(1)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = options.data
        if data is None:
            data = folder / "town"
            write_town(data, train=4 if options.smoke else 48, val=0, size=(64, 64) if options.smoke else (256, 256))
        bank = build_bank.run(build_bank.BuildBank(split=options.split), data=data, out=folder / "bank", max_bad=1000)
        index = train_index.run(train_index.TrainIndex(), bank=bank.path, out=folder / "index")
        given = {"data": data, "bank": bank.path, "index": index.path}
        for size in options.size:
            for system in options.systems:
                rows.append(measure(system, size, given, folder, options))
    report(rows)
    if not options.smoke:
        threads = torch.get_num_threads()
        device = pick_device(options.device)
        chip = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        machine = {**environment(), "cpus": os.cpu_count(), "threads": threads, "device": chip}
        RESULTS.write_text(json.dumps({"rows": rows, "machine": machine}, indent=1) + "\n")


def measure(name: str, size: int, given: dict[str, Path], folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One row: images/s of a worker and of the step."""
    kind = find_trainable(name)
    framing = {"framing": {"size": [size, size]}} if name != "segmenter" else {"size": [size, size]}
    narrow = {"ngf": 4, "ndf": 4, "channels": 4, "width": 8} if options.smoke else {}
    model = {**framing, **{key: value for key, value in narrow.items() if key in kind.Config.model_fields}}
    values: dict[str, Any] = {"split": options.split, "model": model, "train": {"steps": options.steps}}
    if options.precision:
        values["train"]["precision"] = options.precision
    if name != "segmenter":
        values["perceptual"] = "random"
    config = resolve(train.config_of(name), [preset_layer(name, "small"), Layer("benchmark", values)])
    needs = kind.plan(config.model, train.open_dataset(given["data"]).schema, options.steps).train
    paths = train.Given(
        given["data"],
        bank=given["bank"] if needs.bank else None,
        index=given["index"] if needs.index else None,
        frozen={role: str(teacher(given["data"], size, folder, options)) for role in needs.frozen},
    )
    prepared = train.prepare(name, config, paths, folder / "run", max_bad=1000)
    trainable = kind(config.model, prepared.schema)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker
    order = Order(trainable.sampling(prepared.sources), 0)
    examples, batch = Examples(trainable, prepared.sources, 0), config.train.batch
    count = min(options.examples, len(order.sampling.ids))
    first = time_examples(examples, order, 0, count, batch)
    again = time_examples(examples, order, len(order.sampling.ids), count, batch)
    ready = examples[Draw(0, order[0], 0)]
    torch.set_num_threads(threads)

    step = time_steps(Ready(trainable, ready), prepared, config, folder / f"{name}-{size}", options.device)
    return {
        "system": name,
        "size": size,
        "batch": batch,
        "precision": config.train.precision,
        "worker_first": first,
        "worker_again": again,
        "step": step,
        "default_workers": LogConfig().workers,
        "workers_needed": math.ceil(step / min(first, again)),
    }


def time_examples(examples: Examples, order: Order, start: int, count: int, batch: int) -> float:
    """Images/s of making `count` examples from position `start` on, and their batches."""
    began = time.perf_counter()
    for first in range(start, start + count, batch):
        examples.collate([examples[Draw(p, order[p], 0)] for p in range(first, min(first + batch, start + count))])
    return count / (time.perf_counter() - began)


def time_steps(ready: Any, prepared: train.Prepared, config: Any, out: Path, device: str) -> float:
    """Images/s of the loop when its examples cost nothing: the median step after the first few."""
    torch.manual_seed(0)
    nets = ready.networks()
    runtime = make_runtime(device, config.train.precision, 0)
    writer = RunWriter(out, "benchmark", config, [], {})
    writer.begin()
    rates: list[float] = []
    log = LogConfig(every=1, samples_every=10**9, checkpoint_every=10**9, checkpoint_minutes=1e9, workers=0)
    run_loop(
        ready,
        prepared.plan,
        prepared.sources,
        prepared.frozen,
        nets,
        config.train,
        log,
        writer,
        runtime,
        watch=lambda status: rates.append(status.images_per_second),
    )
    return median(rates[WARM:])


def teacher(data: Path, size: int, folder: Path, options: argparse.Namespace) -> Path:
    """A segmenter that knows nothing, for the loss of those who learn with one."""
    out = folder / f"teacher-{size}"
    values = {"split": options.split, "model": {"size": [size, size]}, "train": {"steps": 1, "batch": 2}}
    config = resolve(train.config_of("segmenter"), [preset_layer("segmenter", "small"), Layer("benchmark", values)])
    return train.run("segmenter", config, train.Given(data), out, device="cpu", max_bad=1000).path


def report(rows: list[dict[str, Any]]) -> None:
    print("| system | size | batch | worker, first epoch | worker, later | step | worker / step | workers needed |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        first, again, step = row["worker_first"], row["worker_again"], row["step"]
        print(
            f"| {row['system']} | {row['size']} | {row['batch']} | {first:.0f} | {again:.0f} | {step:.1f}"
            f" | {min(first, again) / step:.1f} | {row['workers_needed']} |"
        )


if __name__ == "__main__":
    main()
