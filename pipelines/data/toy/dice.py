"""Dice: the random draws of the toy town, fast for scalars and fixed by their key alone."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
Color = tuple[float, float, float]
Span = tuple[float, float]


class Dice:
    """Random draws keyed by integers, for instance (seed, place, purpose).

    Scalars are taken from batches of one PCG64 stream: a world needs thousands, and a call of the generator
    for each would take longer than drawing the picture.
    """

    def __init__(self, *key: int) -> None:
        self._rng = np.random.Generator(np.random.PCG64(list(key)))
        self._batch: list[float] = []

    def unit(self) -> float:
        if not self._batch:
            self._batch = self._rng.random(1024).tolist()
        return self._batch.pop()

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self.unit()

    def chance(self, probability: float) -> bool:
        return self.unit() < probability

    def integer(self, low: int, high: int) -> int:
        """An integer of low..high, both included."""
        return low + min(int(self.unit() * (high - low + 1)), high - low)

    def pick(self, options: Sequence[T]) -> T:
        return options[self.integer(0, len(options) - 1)]

    def weighted(self, options: Sequence[tuple[T, float]]) -> T:
        x = self.unit() * sum(weight for _, weight in options)
        for option, weight in options:
            x -= weight
            if x <= 0:
                return option
        return options[-1][0]

    def color(self, hue: Span, saturation: Span, value: Span) -> Color:
        """An sRGB color in 0..1; hues are in turns and may pass 1."""
        return colorsys.hsv_to_rgb(self.uniform(*hue) % 1.0, self.uniform(*saturation), self.uniform(*value))

    def near(self, color: Color, amount: float) -> Color:
        """A color within amount of the given one, each channel and all together."""
        shade = self.uniform(-amount, amount)
        r, g, b = (min(max(c + shade + 0.4 * self.uniform(-amount, amount), 0.02), 1.0) for c in color)
        return (r, g, b)
