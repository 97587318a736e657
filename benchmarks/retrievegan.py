"""What RetrieveGAN costs: a training step, the retrieval's share of it, and both pools as the bank grows.

    python benchmarks/retrievegan.py [--town DIR] [--scenes 4000] [--steps 16] [--threads 1] [--smoke]

Whole trainings on a toy town, as `rgs train` makes them, each in a process of its own: images per second is the median
over the steps after the first four, memory the peak of the process. The retrieval's share is the time of `retrieve`,
forward and backward, on tensors of the row's own shapes, in parts of its step. The pools are those of banks of a
hundredth, a tenth and all of the town; --town keeps (and finds again) the town and its banks.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from crossview import apart, table
from rich.console import Console
from train_step import environment

RESULTS = Path(__file__).parent / "results" / "retrievegan.json"
SYSTEM, GRAPH, COOCCURRENCE = "retrievegan", "embedder-graph", "embedder-cooccurrence"
OBJECTS = 8
WARM = 4
"""Steps that do not count: the first embeds the whole bank, the others allocate memory and choose kernels."""


@dataclass(frozen=True)
class Row:
    """A training: by which preset, with what changed."""

    name: str
    preset: str
    batch: int
    precision: str = "fp32"
    model: Mapping[str, Any] = field(default_factory=dict)


TEN = {"candidates": 10}
ROWS = (
    Row("small, 64x64, 10 candidates", "small", 16, model=TEN),
    Row("small, bf16", "small", 16, "bf16", TEN),
    Row("small, random patches", "small", 16, model={**TEN, "pieces": "random"}),
    Row("small, no patches", "small", 16, model={"pieces": "none"}),
    Row("full size, 128x128", "paper", 2),
    Row("full size, bf16", "paper", 2, "bf16"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--town", type=Path, help="keep the town, its banks and indexes here")
    parser.add_argument("--scenes", type=int, default=4000, help="of the town; 4000 make 100,000 patches")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="one small row, a town of 40 scenes")
    arguments = parser.parse_args()
    scenes, steps, rows = arguments.scenes, arguments.steps, ROWS
    if arguments.smoke:
        scenes, steps, rows = 40, WARM + 1, ROWS[:1]
    console = Console()
    console.width = max(console.width, 110)
    with tempfile.TemporaryDirectory() as folder:
        home = arguments.town or Path(folder)
        sizes = [scenes] if arguments.smoke else [scenes // 100, scenes // 10, scenes]
        pieces = {count: prepare(home, scenes, count) for count in sizes}
        out = Path(folder)
        trained = [apart(training, home, out, sizes[-1], row, steps, arguments.threads) for row in rows]
        console.print(table("a training step", trained))
        pools = []
        for count in sizes:
            for pool in ("prefilter", "bank"):
                row = Row(f"{pieces[count]:,} patches, pool: {pool}", "small", 16, model={**TEN, "pool": pool})
                pools.append(apart(training, home, out, count, row, steps, arguments.threads))
        console.print(table("a training step, by pool", pools))
    if not arguments.smoke:
        setting = {"scenes": scenes, "steps": steps, "threads": arguments.threads}
        document = {"environment": environment(), "setting": setting, "training": trained, "pools": pools}
        RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def prepare(home: Path, scenes: int, count: int) -> int:
    """Draw the town, cut the patches of the first `count` scenes and index them; how many patches there are."""
    from pipelines.bank.bank import Bank
    from pipelines.config import Layer, resolve
    from pipelines.data.toy import write_town
    from pipelines.stages import build_bank, train, train_embedding_index
    from pipelines.systems.table import preset_layer

    if not (home / "town").exists():
        write_town(home / "town", train=scenes, val=0, size=(128, 128), jobs=len(os.sched_getaffinity(0)))
    chosen, bank, index = home / f"{count}.txt", home / f"bank-{count}", home / f"index-{count}"
    chosen.write_text("".join(f"train/{k:05d}\n" for k in range(count)))
    graph = {"min_area": 0.002, "max_objects": OBJECTS, "overflow": "sample"}
    if not bank.exists():
        config = build_bank.BuildBank(kind="patches", split=str(chosen), graph=graph, patch=32)
        build_bank.run(config, data=home / "town", out=bank, jobs=len(os.sched_getaffinity(0)))
    for name, trainable in (("graph", GRAPH), ("cooccurrence", COOCCURRENCE)):
        if not (home / name).exists():
            layers = [preset_layer(trainable, "toy"), Layer("benchmark", {"train": {"steps": 2, "batch": 8}})]
            train.run(trainable, resolve(train.config_of(trainable), layers), train.Given(bank=bank), home / name)
    if not index.exists():
        settings = train_embedding_index.TrainEmbeddingIndex(factory="Flat", queries=0)
        train_embedding_index.run(settings, bank=bank, embedder=str(home / "graph"), out=index)
    return len(Bank.open(bank))


def training(home: Path, out: Path, count: int, row: Row, steps: int, threads: int) -> dict[str, Any]:
    """Train a row and read its own log."""
    import torch

    from pipelines.config import Layer, resolve
    from pipelines.stages import train
    from pipelines.systems.table import find_trainable, preset_layer

    torch.set_num_threads(threads)
    values = {
        # from the first step on both paths, without ImageNet's weights
        "model": {"warmup": 0.0, **row.model},
        "split": str(home / f"{count}.txt"),
        "train": {"steps": steps, "batch": row.batch, "precision": row.precision},
        "log": {"every": 1, "workers": 0},
        "perceptual": "random",
    }
    config = resolve(train.config_of(SYSTEM), [preset_layer(SYSTEM, row.preset), Layer("benchmark", values)])
    plan = find_trainable(SYSTEM).plan(config.model, train.open_dataset(home / "town").schema, steps)
    given = train.Given(
        home / "town",
        bank=home / f"bank-{count}",
        index=home / f"index-{count}" if plan.train.index else None,
        frozen={role: str(home / role) for role in plan.train.frozen},
    )
    run = out / row.name.replace(" ", "-").replace(",", "").replace(":", "")
    train.run(SYSTEM, config, given, run, device="cpu")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rate = median(line["images_per_second"] for line in lines[WARM:] if "images_per_second" in line)
    result: dict[str, Any] = {"row": row.name, "batch": row.batch, "images_per_second": round(rate, 2)}
    if config.model.learns_retrieval:
        seconds = retrieval(row.batch, config.model.candidates, config.model.embedding)
        result["retrieval_percent"] = round(100 * seconds * rate / row.batch, 2)
    else:
        result["retrieval_percent"] = ""
    return {**result, "gb": round(max(line.get("memory_gb", 0) for line in lines), 2)}


def retrieval(batch: int, candidates: int, dimension: int, repeats: int = 15) -> float:
    """Median seconds of `retrieve` and its gradient, of batches of the most objects."""
    import numpy as np
    import torch

    from pipelines.systems.retrievegan.retrieval import gumbel, retrieve

    features = torch.randn(batch, OBJECTS, candidates, dimension).requires_grad_()
    present = torch.ones(batch, OBJECTS, candidates, dtype=torch.bool)
    noise = gumbel((batch, OBJECTS, OBJECTS, candidates), np.random.default_rng(0))
    spent = []
    for _ in range(repeats):
        begin = perf_counter()
        selection = retrieve(features, present, features[:, 0, 0].detach(), noise, tau=0.1)
        selection.weights.square().sum().backward()
        spent.append(perf_counter() - begin)
    return median(spent[3:])


if __name__ == "__main__":
    main()
