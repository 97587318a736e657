"""What choosing patches costs: batched against image by image, and both pools of candidates as the bank grows.

    python benchmarks/retrieval.py [--rounds 40] [--threads 1] [--count 100000] [--smoke]

The step: retrieval of a ragged batch (16 images of 3 to 8 objects, or all of 8; 10 candidates each, 128 numbers),
forward and backward into the features, against a loop over the images that calls the same tensor operations on each
alone, by turns; seconds are medians, the ratio the median of the rounds' ratios.

The pools: unit vectors in clusters, 10 classes, 16 images of 8 objects. «prefilter» looks up kept neighbors and chooses
among them; «bank» runs the first pass over the whole bank, puts a slice of 1,024 new features into the index, and then
chooses among what the first pass kept. Networks are left out: embedding that slice, and the K candidates, is theirs.
«missed» is the mean bound of what the K can miss of s(t), «exact» how often the hard choice is certainly that of the
whole bank.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from train_step import environment

from pipelines.systems.retrievegan.pool import BankPool, PoolSettings
from pipelines.systems.retrievegan.retrieval import gumbel, retrieve

RESULTS = Path(__file__).parent / "results" / "retrieval.json"
BATCH, OBJECTS, CANDIDATES, DIMENSION, CLASSES = 16, 8, 10, 128, 10
COUNTS = (1_000, 3_000, 10_000, 30_000, 100_000)
TAU = 0.1
IN_CLUSTER = 50
"""Pieces of a class that look alike."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--count", type=int, default=COUNTS[-1], help="the largest bank")
    parser.add_argument("--smoke", action="store_true", help="3 rounds, banks of up to 3,000, nothing is written")
    arguments = parser.parse_args()
    rounds, largest = (3, 3000) if arguments.smoke else (arguments.rounds, arguments.count)
    torch.set_num_threads(arguments.threads)
    console = Console()
    console.width = max(console.width, 110)
    steps = [step("3 to 8 objects", True, rounds), step("8 objects", False, rounds)]
    console.print(table(f"retrieval of {BATCH} images, forward and backward", steps))
    pools = [row for count in COUNTS if count <= largest for row in pool(count, max(3, rounds // 4), arguments.threads)]
    console.print(table("candidates and the choice among them", pools))
    if not arguments.smoke:
        setting = {"rounds": rounds, "threads": arguments.threads, "batch": BATCH, "objects": OBJECTS}
        setting |= {"candidates": CANDIDATES, "dimension": DIMENSION, "classes": CLASSES, "tau": TAU}
        document = {"environment": environment(), "setting": setting, "step": steps, "pools": pools}
        RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def step(name: str, ragged: bool, rounds: int) -> dict[str, Any]:
    """The batched retrieval and the loop, by turns."""
    rng = np.random.default_rng(0)
    objects = rng.integers(3, OBJECTS + 1, BATCH) if ragged else np.full(BATCH, OBJECTS)
    objects[0] = OBJECTS
    features = torch.from_numpy(rng.standard_normal((BATCH, OBJECTS, CANDIDATES, DIMENSION))).float()
    features = torch.nn.functional.normalize(features, dim=3).requires_grad_()
    present = torch.from_numpy(np.arange(OBJECTS) < objects[:, None]).unsqueeze(2).expand(-1, -1, CANDIDATES)
    noise = gumbel((BATCH, OBJECTS, OBJECTS, CANDIDATES), rng)
    weight = torch.from_numpy(rng.standard_normal((BATCH, OBJECTS, CANDIDATES))).float()

    def batched() -> Tensor:
        return (retrieve(features, present, features[:, 0, 0], noise, tau=TAU).weights * weight).sum()

    def looped() -> Tensor:
        terms = []
        for b, n in enumerate(objects.tolist()):
            one = features[b : b + 1, :n]
            there = present[b : b + 1, :n]
            chosen = retrieve(one, there, one[:, 0, 0], noise[b : b + 1, :n, :n], tau=TAU)
            terms.append((chosen.weights * weight[b : b + 1, :n]).sum())
        return torch.stack(terms).sum()

    seconds: dict[str, list[float]] = {"batched": [], "looped": []}
    gradients = {}
    for _ in range(rounds + 1):
        for side, run in (("batched", batched), ("looped", looped)):
            features.grad = None
            begin = perf_counter()
            run().backward()
            seconds[side].append(perf_counter() - begin)
            gradients[side] = features.grad
    torch.testing.assert_close(gradients["batched"], gradients["looped"], atol=1e-3, rtol=1e-3)
    times = median(b / a for a, b in zip(seconds["batched"][1:], seconds["looped"][1:], strict=True))
    both = {f"{side}_ms": round(1000 * median(taken[1:]), 2) for side, taken in seconds.items()}
    return {"images": name, **both, "times_faster": round(times, 1)}


def pool(count: int, rounds: int, threads: int) -> list[dict[str, Any]]:
    """Both pools over a bank of so many pieces."""
    rng = np.random.default_rng(1)
    categories, keys = rng.integers(0, CLASSES, count), np.arange(count) // OBJECTS
    vectors = clustered(count, rng)
    bank = BankPool(categories, keys, PoolSettings(), threads)
    bank.refresh(lambda rows: vectors[rows])
    own = torch.from_numpy(rng.integers(0, count, (BATCH, OBJECTS)))
    asked = torch.from_numpy(categories)[own]
    present = torch.ones(BATCH, OBJECTS, dtype=torch.bool)
    exclude = torch.from_numpy(keys)[own[:, 0]]
    neighbors = torch.from_numpy(
        np.stack([rng.choice(np.flatnonzero(categories == c), CANDIDATES) for c in asked.flatten()])
    )
    neighbors = neighbors.view(BATCH, OBJECTS, CANDIDATES)
    noise = gumbel((BATCH, OBJECTS, OBJECTS, CANDIDATES), rng)

    def choose(rows: Tensor, drawn: Tensor, query: Tensor) -> None:
        features = vectors[rows].requires_grad_()
        retrieve(features, rows >= 0, query, drawn, tau=TAU).weights.square().sum().backward()

    taken: dict[str, list[float]] = {"prefilter": [], "refresh": [], "first pass": [], "second pass": []}
    missed, exact = [], []
    for n in range(rounds + 1):
        clock = Clock(taken)
        clock("prefilter", lambda: choose(neighbors, noise, vectors[neighbors[:, 0, 0]]))
        clock("refresh", lambda: bank.refresh(lambda rows: vectors[rows]))
        seeds = torch.arange(BATCH) + n * BATCH
        found = clock("first pass", lambda: bank.propose(asked, present, exclude, seeds, CANDIDATES, tau=TAU))  # noqa: B023
        clock("second pass", lambda: choose(found.rows.clamp(min=0), found.noise, vectors[found.first]))  # noqa: B023
        missed.append(found.bound.mean().item())
        exact.append(found.exact.float().mean().item())
    ms = {part: round(1000 * median(all_of[1:]), 1) for part, all_of in taken.items()}
    return [
        {"bank": f"{count:,}", "pool": "prefilter", "ms": ms["prefilter"], "refresh_ms": 0, "first_pass_ms": 0,
         "missed": None, "exact": None},
        {"bank": f"{count:,}", "pool": "bank", "ms": round(ms["refresh"] + ms["first pass"] + ms["second pass"], 1),
         "refresh_ms": ms["refresh"], "first_pass_ms": ms["first pass"],
         "missed": round(float(np.mean(missed)), 4), "exact": round(float(np.mean(exact)), 3)},
    ]  # fmt: skip


class Clock:
    """Seconds by what they were spent on."""

    def __init__(self, taken: dict[str, list[float]]) -> None:
        self.taken = taken

    def __call__(self, part: str, work: Callable[[], Any]) -> Any:
        begin = perf_counter()
        result = work()
        self.taken[part].append(perf_counter() - begin)
        return result


def clustered(count: int, rng: np.random.Generator) -> Tensor:
    """(count, DIMENSION) unit vectors in clusters, as wide as they are apart."""
    centers = rng.standard_normal((max(1, count // IN_CLUSTER), DIMENSION), np.float32)
    vectors = centers[rng.integers(0, len(centers), count)] + rng.standard_normal((count, DIMENSION), np.float32)
    return torch.nn.functional.normalize(torch.from_numpy(vectors), dim=1)


def table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    shown = Table(*rows[0], title=title)
    for row in rows:
        shown.add_row(*("" if value is None else str(value) for value in row.values()))
    return shown


if __name__ == "__main__":
    main()
