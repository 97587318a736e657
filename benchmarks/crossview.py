"""What the cross-view system costs: training steps of embedders and generators, and embedding a bank.

    python benchmarks/crossview.py [--steps 12] [--images 512] [--threads 1] [--smoke]

Training: whole trainings on a toy town, as `rgs train` makes them, each in a process of its own; images per second is
the median over the steps after the first three, memory the peak of the process. Embedding: the vectors of a bank of
aerial photos, decoded, resized and embedded, against the bare network on tensors that are ready, in turns.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.table import Table
from train_step import environment

RESULTS = Path(__file__).parent / "results" / "crossview.json"
EMBEDDER, GENERATOR = "embedder-crossview", "crossview"


@dataclass(frozen=True)
class Row:
    """A training: of what, by which preset, with what changed."""

    name: str
    trainable: str
    preset: str
    batch: int
    precision: str = "fp32"
    model: Mapping[str, Any] = field(default_factory=dict)


ROWS = (
    Row("embedder, saig-small, 64x64 and 32x128", EMBEDDER, "small", 64),
    Row("embedder, the same with ASAM", EMBEDDER, "small", 64, model={"rho": 2.0}),
    Row("embedder, resnet18, the same sizes", EMBEDDER, "small", 64, model={"backbone": "torchvision:resnet18"}),
    Row("embedder, SAIG-S, 256x256 and 128x512", EMBEDDER, "paper", 8),
    Row("embedder, SAIG-S, bf16", EMBEDDER, "paper", 8, "bf16"),
    Row("generator, small, 32x128", GENERATOR, "small", 16),
    Row("generator, full size, 128x512", GENERATOR, "paper", 4),
    Row("generator, full size, bf16", GENERATOR, "paper", 4, "bf16"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--images", type=int, default=512, help="photos of the bank that is embedded")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="the small rows, few steps")
    arguments = parser.parse_args()
    steps, images, rounds, rows = arguments.steps, arguments.images, arguments.rounds, ROWS
    if arguments.smoke:
        steps, images, rounds, rows = 4, 8, 1, (ROWS[0], ROWS[5])
    console = Console()
    console.width = max(console.width, 110)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        draw(home, max(64, images) if not arguments.smoke else 16)  # here: a pool's worker may have no children
        trained = [apart(training, home, row, steps, arguments.threads, arguments.smoke) for row in rows]
        console.print(table("a training step", trained))
        embedded = []
        for backbone, size in (("saig-small", (64, 64)), ("saig-s", (256, 256)))[: 1 if arguments.smoke else 2]:
            embedded.append(apart(embedding, home, backbone, size, images, rounds, arguments.threads))
        console.print(table("embedding a bank of aerial photos", embedded))
    if not arguments.smoke:
        setting = {"steps": steps, "images": images, "threads": arguments.threads, "rounds": rounds}
        document = {"environment": environment(), "setting": setting, "training": trained, "embedding": embedded}
        RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def apart(function: Any, *arguments: Any) -> Any:
    """The result of a function in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def draw(home: Path, places: int) -> None:
    from pipelines.data.toy import write_pairs
    from pipelines.stages import build_bank

    write_pairs(home / "town", train=places, val=0, size=64, kinds=("panorama",), jobs=len(os.sched_getaffinity(0)))
    build_bank.run(build_bank.BuildBank(kind="images", view="aerial"), data=home / "town", out=home / "bank")


def training(home: Path, row: Row, steps: int, threads: int, smoke: bool) -> dict[str, Any]:
    """Train a row and read its own log."""
    import torch

    torch.set_num_threads(threads)
    given: dict[str, Any] = {}
    if row.trainable == GENERATOR:
        backbone = home / f"embedder-{row.preset}"
        if not backbone.exists():
            run_training(home, Row("", EMBEDDER, row.preset, 2), 1, backbone)
        given = {"frozen": {"embedder": str(backbone)}}
    out = home / row.name.replace(" ", "-").replace(",", "")
    run_training(home, row if not smoke else Row(row.name, row.trainable, row.preset, 4), steps, out, **given)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rates = [line["images_per_second"] for line in lines][3:]
    memory = max(line["memory_gb"] for line in lines)
    return {"row": row.name, "batch": row.batch, "images_per_second": round(median(rates), 2), "gb": round(memory, 2)}


def run_training(home: Path, row: Row, steps: int, out: Path, **given: Any) -> None:
    from pipelines.config import Layer, resolve
    from pipelines.stages import train
    from pipelines.systems.table import preset_layer

    values = {
        "model": dict(row.model),
        "train": {"steps": steps, "batch": row.batch, "precision": row.precision},
        "log": {"every": 1, "workers": 0},
        "perceptual": "random",
    }
    config = resolve(train.config_of(row.trainable), [preset_layer(row.trainable, row.preset), Layer("row", values)])
    train.run(row.trainable, config, train.Given(home / "town", **given), out, device="cpu")


def embedding(home: Path, backbone: str, size: Any, images: int, rounds: int, threads: int) -> dict[str, Any]:
    import torch

    from pipelines.bank.bank import Bank
    from pipelines.embed.bank_vectors import bank_vectors
    from pipelines.embed.embedder import Embedder
    from pipelines.embed.tower import build_tower
    from pipelines.runtime import keep_memory
    from pipelines.train.run import Weights

    torch.set_num_threads(threads)
    keep_memory()
    tower = build_tower(backbone, "gap", size).eval().requires_grad_(False)
    weights = Weights(Path(), 0, "", {})  # random: what they are is of no matter here
    embedder = Embedder("crossview", {"aerial": tower}, tower.dimension, backbone, weights)
    bank = Bank.open(home / "bank")
    count = min(images, len(bank))
    ready = torch.randn(64, 3, *size)
    seconds: dict[str, list[float]] = {"bank": [], "bare": []}
    for _ in range(rounds + 1):
        begin = perf_counter()
        for _ in bank_vectors(bank, embedder):
            pass
        middle = perf_counter()
        with torch.inference_mode():
            for first in range(0, count, 64):
                tower(ready[: min(64, count - first)])
        seconds["bank"].append(middle - begin)
        seconds["bare"].append(perf_counter() - middle)
    ratio = median(a / b for a, b in zip(seconds["bank"][1:], seconds["bare"][1:], strict=True))
    rate = count / median(seconds["bank"][1:])
    side = f"{size[0]}x{size[1]}"
    return {"row": f"{backbone}, {side}", "images_per_second": round(rate, 1), "times_bare": round(ratio, 2)}


def table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    shown = Table(*rows[0], title=title)
    for row in rows:
        shown.add_row(*map(str, row.values()))
    return shown


if __name__ == "__main__":
    main()
