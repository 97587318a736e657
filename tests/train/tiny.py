"""The smallest trainable with everything that the loop knows: two phases, batch norm, an average, a shared fake.

Run as a script it trains until killed, for the tests of resuming: `python tiny.py OUT STEPS`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.config import Config
from pipelines.data.scene import Category, Schema
from pipelines.errors import DataError
from pipelines.nn.layers.normalization import BatchNorm
from pipelines.runtime import make_runtime
from pipelines.systems.base import Adam, Batch, Frozen, Needs, Networks, Phase, Plan, Sampling, Sources, stack
from pipelines.train.config import LogConfig, LoopConfig
from pipelines.train.loop import Stop, train
from pipelines.train.run import RunWriter

SCHEMA = Schema((Category(0, "thing", (255, 0, 0), True),))


class TinyConfig(Config):
    width: int = 4
    """Channels inside."""
    poison: int | None = None
    """A step whose loss is not a number."""
    broken: str | None = None
    """A scene that cannot be read."""
    clip: float | None = None
    """Largest gradient norm of G."""
    rho: float | None = None
    """Radius of G's sharpness-aware steps."""


class Tiny:
    Config = TinyConfig

    @classmethod
    def plan(cls, config: TinyConfig, schema: Schema, steps: int) -> Plan:
        return Plan(
            train=Needs(),
            synthesize=Needs(),
            phases=(Phase("G", ("G",)), Phase("D", ("D",)), Phase("G2", ("G",), every=2, start=1)),
            optimizers={
                "G": Adam(lambda step: 1e-2 / (1 + step), clip=config.clip, rho=config.rho),
                "D": Adam(lambda step: 1e-2),
            },
            averaged={"G": 0.9},
        )

    def __init__(self, config: TinyConfig, schema: Schema) -> None:
        self.config = config

    def networks(self) -> dict[str, nn.Module]:
        width = self.config.width
        # a bias before a batch norm has no gradient but rounding, which Adam would make large
        generator = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False), BatchNorm(width), nn.Conv2d(width, 3, 1)
        )
        return {"G": generator, "D": nn.Conv2d(3, 1, 3)}

    def sampling(self, sources: Sources) -> Sampling:
        return Sampling([f"scene-{i}" for i in range(10)])

    def example(self, scene_id: str, sources: Sources, rng: np.random.Generator, step: int) -> dict[str, Any]:
        if scene_id == self.config.broken:
            raise DataError("no image", where=scene_id, fix="add it")
        image = np.random.default_rng(int(scene_id[6:])).standard_normal((3, 8, 8)) + rng.standard_normal((3, 8, 8))
        return {"image": torch.from_numpy(image.astype(np.float32)), "id": scene_id}

    def collate(self, examples: Sequence[dict[str, Any]]) -> Batch:
        return stack(examples)

    def losses(
        self, phase: str, nets: Networks, frozen: Frozen, batch: Batch, memo: dict[str, Any], step: int
    ) -> dict[str, Tensor]:
        if phase == "D":
            return {"gap": nets["D"](memo["fake"]).mean() - nets["D"](batch["image"]).mean()}
        fake = nets["G"](batch["image"])
        memo["fake"] = fake.detach()
        scale = float("nan") if step == self.config.poison else 1.0
        return {"fit": scale * (fake - batch["image"]).square().mean(), "fool": -0.1 * nets["D"](fake).mean()}

    def validate(self, nets: Networks, sources: Sources, device: torch.device) -> dict[str, float]:
        assert not any(net.training for net in nets.values())
        return {"scenes": float(len(sources.validation)), "bias": float(nets["D"].bias.detach())}

    def preview(self, nets: Networks, frozen: Frozen, batch: Batch) -> dict[str, Tensor]:
        return {"image": batch["image"], "output": nets["G"](batch["image"])}


def train_tiny(
    out: Path,
    steps: int,
    *,
    batch: int = 4,
    accumulate: int = 1,
    every: int = 3,
    poison: int | None = None,
    broken: str | None = None,
    stop: Stop = lambda: False,
    workers: int = 0,
    sources: Sources | None = None,
    **model: float,
) -> dict[str, nn.Module]:
    """Train, or resume, and return the networks as they are after it."""

    class TinyRun(Config):
        model: TinyConfig
        train: LoopConfig

    config = TinyRun(
        model=TinyConfig(poison=poison, broken=broken, **model),
        train=LoopConfig(steps=steps, batch=batch, accumulate=accumulate),
    )
    log = LogConfig(every=1, samples_every=100, validate_every=2, checkpoint_every=every, workers=workers)
    runtime = make_runtime("cpu", "fp32", 0)
    tiny = Tiny(config.model, SCHEMA)
    torch.manual_seed(0)
    nets = tiny.networks()
    run = RunWriter(out, "tiny", config, [], {"schema": SCHEMA.to_json(), "trained_with": {}})
    runtime.barrier()
    if runtime.rank == 0:
        run.begin()
    runtime.barrier()
    plan = tiny.plan(config.model, SCHEMA, steps)
    train(tiny, plan, sources or Sources(), {}, nets, config.train, log, run, runtime, stop)
    return nets


if __name__ == "__main__":
    torch.set_num_threads(1)
    slow = len(sys.argv) > 3
    train_tiny(Path(sys.argv[1]), int(sys.argv[2]), stop=lambda: bool(slow and time.sleep(0.2)))
