"""Learning rates as functions of the step, and the optimizer pair of the SPADE family."""

from __future__ import annotations

import math
from collections.abc import Callable

from pydantic import Field

from pipelines.config import Config
from pipelines.systems.base import Adam


def linear_decay(lr: float, steps: int, decay_from: float) -> Callable[[int], float]:
    """`lr` until the share `decay_from` of the steps, then linearly to 0 at the last one."""
    start = decay_from * steps
    return lambda step: lr * min(1.0, (steps - step) / (steps - start)) if steps > start else lr


def cosine(lr: float, steps: int, warmup: int = 0) -> Callable[[int], float]:
    """Up to `lr` in a line over the first `warmup` steps, then half a cosine down to a millionth of it at the last."""
    floor = 1e-6 * lr

    def rate(step: int) -> float:
        if step < warmup:
            return lr * (step + 1) / (warmup + 1)
        return floor + (lr - floor) * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))) / 2

    return rate


class Ttur(Config):
    """Two time-scale update rule: Adam with half the learning rate for G and twice the rate for D."""

    lr: float = Field(2e-4, gt=0)
    """The learning rate that the rule halves for G and doubles for D."""
    ratio: float = Field(4.0, gt=0)
    """Learning rate of D over that of G; 4 is the published rule, 1 gives both `lr`."""
    betas: tuple[float, float] = (0.0, 0.9)
    """Adam's betas."""
    decay_from: float = Field(0.5, ge=0, le=1)
    """Share of the steps after which the learning rates fall linearly to 0; 1 keeps them."""

    def generator(self, steps: int) -> Adam:
        return Adam(linear_decay(self.lr / self.ratio**0.5, steps, self.decay_from), self.betas)

    def discriminator(self, steps: int) -> Adam:
        return Adam(linear_decay(self.lr * self.ratio**0.5, steps, self.decay_from), self.betas)
