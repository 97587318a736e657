"""One training step (G and D) of SPADE and RESAIL: images per second and peak memory, against the literal networks.

    python benchmarks/train_step.py --data cmp_facades [--rounds 5] [--all] [--smoke]

Label maps and photos of the dataset at 128x128, batch 8, ngf 32, hinge and feature matching, no perceptual loss, one
guidance branch for RESAIL. The literal step (benchmarks/literal.py) is fp32, every convolution by itself, and D sees a
fresh fake. The rows are the toolkit's own losses with `fakes: shared`. Every row is a process of its own; they take
turns, a step each, so that a ratio compares neighbors in time; the median over rounds is printed. Before any timing the
images and logits of both are compared, in fp32, from the same weights.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.table import Table

SYSTEMS = ("spade", "resail")
AUTHORS = {"spade": (7.5, 2.9), "resail": (25.0, 6.2)}
"""Seconds and GB of a step of the authors' code, fp32, on two cores of a machine of this kind; not measured here."""
TOLERANCE = 1e-4
Step = Callable[[], None]
RESULTS = Path(__file__).parent / "results" / "train_step.json"


@dataclass(frozen=True)
class Row:
    """What is timed: the literal step, or the toolkit's, with what is switched."""

    name: str
    literal: bool = False
    bf16: bool = False
    model: Mapping[str, Any] = field(default_factory=dict)
    switch: str = ""
    """convolutions: no distinct neighborhoods; channels-last: weights too; compile; default-memory: glibc's."""


LITERAL = Row("literal fp32", literal=True)
ROWS = (
    Row("fp32"),
    Row("bf16", bf16=True),
    Row("bf16, checkpointing", bf16=True, model={"checkpointing": True}),
)
MORE = (
    Row("literal bf16", literal=True, bf16=True),
    Row("bf16, fresh fakes", bf16=True, model={"fakes": "fresh"}),
    Row("bf16, label branch by convolutions", bf16=True, switch="convolutions"),
    Row("bf16, glibc's own memory", bf16=True, switch="default-memory"),
    Row("bf16, channels-last weights", bf16=True, switch="channels-last"),
    Row("bf16, compiled", bf16=True, switch="compile"),
)


@dataclass(frozen=True)
class Setting:
    data: Path
    batch: int
    size: int
    ngf: int
    ndf: int
    threads: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a dataset with images and labels")
    parser.add_argument("--system", choices=SYSTEMS, action="append", help="default: both")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--all", action="store_true", help="also what was tried and is no default")
    parser.add_argument("--out", type=Path, help=f"default: {RESULTS.name} in benchmarks/results; none with --smoke")
    parser.add_argument("--smoke", action="store_true", help="tiny networks, two images, one round")
    arguments = parser.parse_args()
    rounds = arguments.rounds
    setting = Setting(arguments.data, arguments.batch, 128, 32, 64, arguments.threads)
    if arguments.smoke:
        rounds, setting = 1, Setting(arguments.data, 2, 128, 2, 4, arguments.threads)

    console = Console()
    console.width = max(console.width, 110)
    results = {}
    for system in arguments.system or SYSTEMS:
        difference = ask_once(compare, system, setting)
        groups = [ROWS, MORE[:3], MORE[3:]] if arguments.all else [ROWS]
        rows = measure(prepare, system, setting, groups[0], rounds)
        for group in groups[1:]:
            rows += [row for row in measure(prepare, system, setting, group, rounds) if row["row"] != LITERAL.name]
        results[system] = {"largest_relative_difference": difference, "rows": rows}
        seconds, memory = AUTHORS[system]
        title = f"{system}, a step; the authors' code: {seconds} s, {memory} GB, on two cores of this kind"
        console.print(table(title, results[system]["rows"]))
    out = arguments.out or (None if arguments.smoke else RESULTS)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        described = {**asdict(setting), "data": setting.data.name, "rounds": rounds}
        document = {"environment": environment(), "setting": described, "authors": AUTHORS, "systems": results}
        out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def measure(
    prepare: Callable[..., Step], system: str, setting: Setting, rows: Sequence[Row], rounds: int
) -> list[dict[str, Any]]:
    """The literal step and each row, in turns; the first step of each is not counted."""
    workers = {row.name: Worker(prepare, row, system, setting) for row in (LITERAL, *rows)}
    failed = {name: worker.step() for name, worker in workers.items()}
    failed = {name: error for name, error in failed.items() if isinstance(error, str)}
    seconds: dict[str, list[float]] = {name: [] for name in workers if name not in failed}
    for _ in range(rounds):
        for name, taken in seconds.items():
            taken.append(float(workers[name].step()))
    memory = {name: workers[name].close() for name in workers}
    literal = seconds[LITERAL.name]
    measured = []
    for name, taken in seconds.items():
        ratio = median(a / b for a, b in zip(literal, taken, strict=True))
        measured.append(
            {
                "row": name,
                "seconds": [round(s, 3) for s in taken],
                "images_per_second": round(setting.batch / median(taken), 3),
                "speed_ratio": round(ratio, 2),
                "memory_gb": round(memory[name], 2),
                "memory_ratio": round(memory[name] / memory[LITERAL.name], 2),
            }
        )
    return measured + [{"row": name, "failed": error} for name, error in failed.items()]


class Worker:
    """A process that makes a step when asked; `prepare` gives it the step."""

    def __init__(self, prepare: Callable[..., Step], row: Row, system: str, setting: Setting) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, prepare, row, system, setting))
        self.process.start()
        theirs.close()  # so that a process that dies is noticed

    def step(self) -> float | str:
        """Seconds of a step, or why it cannot be made."""
        self.connection.send("step")
        return self.connection.recv()

    def close(self) -> float:
        """End the process; its peak memory in GB."""
        self.connection.send("close")
        memory = self.connection.recv()
        self.process.join()
        return memory


def serve(connection: Connection, prepare: Callable[..., Step], row: Row, system: str, setting: Setting) -> None:
    from torch import device

    from pipelines.runtime import memory_gb

    step = prepare(row, system, setting)
    while connection.recv() == "step":
        begin = perf_counter()
        try:
            step()
        except Exception as error:  # a compiler may refuse a network: that is a result
            connection.send(f"{type(error).__name__}: {str(error).splitlines()[0][:200]}")
        else:
            connection.send(perf_counter() - begin)
    connection.send(memory_gb(device("cpu")))


def ask_once(function: Callable[..., float], *arguments: Any) -> float:
    """The result of a function in a process of its own, so that this one stays small."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def compare(system: str, setting: Setting) -> float:
    """Largest difference between the outputs of both, over the largest output, in training and in eval mode."""
    import torch
    from literal import networks

    torch.set_num_threads(setting.threads)
    trainable, batch, hot, guides = task(Row("fp32"), system, setting)
    ours = trainable.networks()
    theirs = networks(system, hot.shape[1], setting.ngf, setting.ndf)
    largest = 0.0
    for training in (True, False):
        for name in ("G", "D"):
            theirs[name].load_state_dict(ours[name].state_dict())
            ours[name].train(training)
            theirs[name].train(training)
        with torch.no_grad():
            pairs = [(ours["G"](hot, *guides), theirs["G"](hot, *guides))]
            judged = torch.cat([hot, batch["image"]], 1)
            for one, other in zip(ours["D"](judged), theirs["D"](judged), strict=True):
                pairs += zip(one, other, strict=True)
        largest = max(largest, *(float((a - b).abs().max() / b.abs().max()) for a, b in pairs))
    if largest > TOLERANCE:
        raise SystemExit(f"{system}: the literal networks give other outputs ({largest:.1e}); nothing was timed")
    return largest


def task(row: Row, system: str, setting: Setting) -> tuple[Any, dict[str, Any], Any, list[Any]]:
    """The system, a batch, its one-hot labels and the guidance images that its generator takes."""
    import torch

    from pipelines.data.augment import image_tensor, label_tensor, resize_image
    from pipelines.data.open import open_dataset
    from pipelines.data.transforms import nearest_resize
    from pipelines.nn.labels import one_hot
    from pipelines.systems.table import find_system

    dataset = open_dataset(setting.data)
    records = dataset.records()
    scenes = [dataset.read(r) for r in records[:: max(1, len(records) // setting.batch)][: setting.batch]]
    side = (setting.size, setting.size)
    images, labels = [], []
    for scene in scenes:
        if scene.image is None or scene.labels is None:
            raise SystemExit(f"{setting.data} has scenes without image or labels")
        images.append(image_tensor(resize_image(scene.image, side)))
        labels.append(label_tensor(nearest_resize(scene.labels, side)))
    batch = {"image": torch.stack(images), "labels": torch.stack(labels)}
    batch["distorted"] = batch["image"].flip(0)  # a photo of another scene, as good as any for timing
    kind = find_system(system)
    weights = {"perceptual": 0.0} | ({"segmentation": 0.0} if system == "resail" else {})
    sizes = {"ngf": setting.ngf, "ndf": setting.ndf, "upsamplings": 5, "framing": {"size": side}}
    model = {"fakes": "shared", **sizes, "weights": weights, **row.model}
    torch.manual_seed(0)
    trainable: Any = kind(kind.Config(**model), dataset.schema)
    if system == "resail":
        trainable.branches = ("distorted",)  # the one that matches features
    hot = one_hot(batch["labels"], len(dataset.schema.classes))
    return trainable, batch, hot, [batch["distorted"]] if system == "resail" else []


def prepare(row: Row, system: str, setting: Setting) -> Step:
    """A function that makes one step of a row."""
    import literal
    import torch

    from pipelines.nn.layers import neighborhoods
    from pipelines.runtime import keep_memory

    torch.set_num_threads(setting.threads)
    if not row.literal and row.switch != "default-memory":
        keep_memory()
    if row.switch == "convolutions":
        neighborhoods.WORTH = 0.0
    trainable, batch, hot, guides = task(row, system, setting)
    nets = trainable.networks()
    if row.literal:
        written_out = literal.networks(system, hot.shape[1], setting.ngf, setting.ndf)
        for name, net in written_out.items():
            net.load_state_dict(nets[name].state_dict())
        nets = written_out
    if row.switch == "channels-last":
        nets = {name: net.to(memory_format=torch.channels_last) for name, net in nets.items()}
    optimizers = {
        name: torch.optim.Adam(net.parameters(), lr=1e-4, betas=(0.0, 0.9), fused=None if row.literal else True)
        for name, net in nets.items()
    }
    if row.switch == "compile":
        nets = {name: torch.compile(net) for name, net in nets.items()}

    def autocast() -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=row.bf16)

    def literal_step() -> None:
        with autocast():
            literal.step(nets, optimizers, hot, guides, batch["image"])

    def step() -> None:
        """As pipelines/train/loop.py makes it."""
        memo: dict[str, Any] = {}
        for phase in ("G", "D"):
            for name, net in nets.items():
                net.train()
                net.requires_grad_(name == phase)
            optimizers[phase].zero_grad(set_to_none=True)
            with autocast():
                terms = trainable.losses(phase, nets, {}, batch, memo, 0)
            sum(terms.values(), torch.zeros(())).backward()
            optimizers[phase].step()

    return literal_step if row.literal else step


def table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    shown = Table("", "s", "images/s", "times literal", "peak GB", "of literal", title=title)
    for row in rows:
        if "failed" in row:
            shown.add_row(row["row"], row["failed"])
            continue
        speed = f"{row['images_per_second']:.2f}", f"{row['speed_ratio']:.2f}"
        size = f"{row['memory_gb']:.2f}", f"{row['memory_ratio']:.2f}"
        shown.add_row(row["row"], f"{median(row['seconds']):.2f}", *speed, *size)
    return shown


def environment() -> dict[str, Any]:
    import torch

    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    main()
