"""95 % intervals of scores, by resampling layouts: all images of a layout, and its reference, come or stay together.

Scores that are made of sums over images are bootstrapped. Distances between sets are not: an image drawn twice is a
duplicate that no real set has, which biases each of them. They are computed on halves of the layouts instead, drawn
without replacement (the delete-half jackknife; Shao and Wu, Ann. Stat. 1989). Around its own mean a statistic of b out
of n layouts has the variance s²(1/b - 1/n), the one of all n has s²/n: the deviations are stretched by
sqrt(b / (n - b)), which is 1 for halves, and laid around the score. So the interval tells the chance in which layouts
were drawn; the bias of a distance of few images is in the score and stays there. For 100 images of 128 simulated
features, intervals of distances, precision and recall were 0.8 to 1.7 times as wide as the spread of fresh draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

ENDS = (0.025, 0.975)
RESAMPLES = 1000
"""Bootstrap samples."""
PARTS = 200
"""Subsets of a distance, which costs more than a sum."""
LARGEST_PART = 1000
"""Images in a subset at most: halves of very large sets would take hours."""

Statistic = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Interval:
    """Two ends, or None where there can be none, and how they were found (or why not)."""

    ends: tuple[float, float] | None
    protocol: str


def sums_by_layout(values: np.ndarray, owners: np.ndarray, layouts: int) -> np.ndarray:
    """(layouts, k) float64 sums of (n, k) values over the images of each layout; owners: (n,) the layout of each."""
    sums = np.zeros((layouts, values.shape[1]))
    np.add.at(sums, owners, values.astype(np.float64))
    return sums


def bootstrap(rows: np.ndarray, statistic: Statistic, seed: int) -> Interval:
    """The percentile bootstrap of a statistic of sums.

    rows: (layouts, k), what each layout adds. statistic: (resamples, k) sums of drawn layouts -> (resamples,).
    """
    layouts = len(rows)
    if layouts < 2:
        return Interval(None, "none: there is one layout alone")
    rng = np.random.default_rng(seed)
    even = np.full(layouts, 1 / layouts)
    drawn = (rng.multinomial(layouts, even, size=100).astype(np.float64) for _ in range(RESAMPLES // 100))
    values = np.concatenate([statistic(times @ rows) for times in drawn])
    low, high = np.nanquantile(values, ENDS)
    return Interval(
        (float(low), float(high)),
        f"95 %, percentile bootstrap of {layouts} layouts, {RESAMPLES} resamples, seed {seed}",
    )


def resample(statistic: Callable[[np.ndarray], float | None], owners: np.ndarray, seed: int) -> Interval:
    """The percentile bootstrap of a statistic that is no sum: a median, a rank test.

    owners: (n,) the layout of each image; all images of a layout come or stay together. statistic: numbers of the
    drawn images, one as often as its layout was drawn -> a value, NaN or None where these give none.
    """
    members = [np.flatnonzero(owners == layout) for layout in np.unique(owners)]
    if len(members) < 2:
        return Interval(None, "none: there is one layout alone")
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(RESAMPLES):
        value = statistic(np.concatenate([members[layout] for layout in rng.integers(len(members), size=len(members))]))
        found.append(math.nan if value is None else value)
    if not np.isfinite(found).any():
        return Interval(None, "none: it is undefined")
    low, high = np.nanquantile(found, ENDS)
    return Interval(
        (float(low), float(high)),
        f"95 %, percentile bootstrap of {len(members)} layouts, {RESAMPLES} resamples, seed {seed}",
    )


def subsample(
    statistic: Callable[[np.ndarray], float],
    score: float,
    layouts: int,
    *,
    least: int,
    largest: int,
    seed: int,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Interval:
    """The interval of a score of all layouts from the same statistic of subsets.

    statistic: of sorted layouts (b,). least, largest: layouts of a subset. bounds: what the score cannot leave.
    """
    size = max(min(layouts // 2, largest), min(least, layouts // 2))
    if size < least:
        return Interval(None, f"none: half of {layouts} layouts is too few")
    rng = np.random.default_rng(seed)
    found = np.array([statistic(np.sort(rng.choice(layouts, size, replace=False))) for _ in range(PARTS)])
    stretch = math.sqrt(size / (layouts - size))
    low, high = (score + float(end) for end in np.quantile((found - found.mean()) * stretch, ENDS))
    return Interval(
        (min(max(low, bounds[0]), score), max(min(high, bounds[1]), score)),
        f"95 %, {PARTS} subsets of {size} of {layouts} layouts without replacement, deviations from their mean times "
        f"{stretch:.3g}, seed {seed}; the bias of few images is not in it",
    )
