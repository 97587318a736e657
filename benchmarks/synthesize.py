"""Images per second of the generators of SPADE and RESAIL, in eval mode, against the literal networks in fp32.

    python benchmarks/synthesize.py --data cmp_facades [--rounds 7] [--smoke]

Label maps of the dataset at 128x128, ngf 32, batches of 1 and of 8; the retrieval of RESAIL's guidance is not timed.
As in train_step.py every row is a process of its own, they take turns, and outputs are compared before any timing.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import literal
from rich.console import Console
from train_step import SYSTEMS, Row, Setting, Step, ask_once, compare, environment, measure, table, task

ROWS = (Row("fp32"), Row("bf16", bf16=True), Row("fp32, label branch by convolutions", switch="convolutions"))
BATCHES = (1, 8)
RESULTS = Path(__file__).parent / "results" / "synthesize.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a dataset with images and labels")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, help=f"default: {RESULTS.name} in benchmarks/results; none with --smoke")
    parser.add_argument("--smoke", action="store_true", help="tiny networks, one image, one round")
    arguments = parser.parse_args()
    rounds, batches, setting = arguments.rounds, BATCHES, Setting(arguments.data, 8, 128, 32, 64, arguments.threads)
    if arguments.smoke:
        rounds, batches, setting = 1, (1,), Setting(arguments.data, 1, 128, 2, 4, arguments.threads)

    console = Console()
    console.width = max(console.width, 110)
    results = []
    for system in SYSTEMS:
        difference = ask_once(compare, system, setting)
        for batch in batches:
            rows = measure(prepare, system, replace(setting, batch=batch), ROWS, rounds)
            console.print(table(f"{system}, {batch} at a time", rows))
            measured = {"system": system, "batch": batch, "largest_relative_difference": difference, "rows": rows}
            results.append(measured)
    out = arguments.out or (None if arguments.smoke else RESULTS)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        described = {**asdict(setting), "data": setting.data.name, "rounds": rounds}
        document = {"environment": environment(), "setting": described, "results": results}
        out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def prepare(row: Row, system: str, setting: Setting) -> Step:
    """A function that makes one batch of images."""
    import torch

    from pipelines.nn.layers import neighborhoods

    torch.set_num_threads(setting.threads)
    if row.switch == "convolutions":
        neighborhoods.WORTH = 0.0
    trainable, _, labels, guides = task(row, system, setting)
    generator = trainable.networks()["G"].eval()
    if row.literal:
        state = generator.state_dict()
        generator = literal.networks(system, labels.shape[1], setting.ngf, setting.ndf)["G"].eval()
        generator.load_state_dict(state)

    @torch.no_grad()
    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=row.bf16):
            generator(labels, *guides)

    return step


if __name__ == "__main__":
    main()
