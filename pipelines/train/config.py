"""The fields that every training shares. What is under `train` decides the weights; what is under `log` does not."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipelines.config import Config


class LoopConfig(Config):
    """What decides the weights, beside the model."""

    steps: int = Field(10_000, ge=1)
    """Optimization steps; a step runs every due phase once on one batch."""
    batch: int = Field(8, ge=1)
    """Examples in a batch over all processes together."""
    accumulate: int = Field(1, ge=1)
    """Batches whose gradients are added before each phase steps."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the forward passes; weights and optimizers stay fp32."""
    seed: int = Field(0, ge=0)
    """Every random draw is keyed by this, the step and the example."""


class LogConfig(Config):
    """What a training shows and keeps. May be changed when a run is resumed."""

    every: int = Field(10, ge=1)
    """Steps between lines of metrics.jsonl."""
    samples_every: int = Field(500, ge=1)
    """Steps between sample grids."""
    validate_every: int = Field(500, ge=1)
    """Steps between measurements on the validation split, where there is one."""
    checkpoint_every: int = Field(500, ge=1)
    """Steps between checkpoints."""
    checkpoint_minutes: float = Field(10.0, gt=0)
    """Minutes after which a checkpoint is written anyhow."""
    keep: int = Field(2, ge=1)
    """Checkpoints kept, newest first."""
    workers: int = Field(1, ge=0)
    """Processes that make examples; 0 makes them in the training process."""
