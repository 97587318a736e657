"""How different outputs are: of one source under several noises, and of different sources.

Distances are LPIPS, or cosine distances of an embedder's vectors, named so. An output repeats another where their
distance is below a threshold: 0.05 of LPIPS, or what 1 % of pairs of different real images fall below.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import cv2
import numpy as np

from pipelines.metrics.intervals import Interval, bootstrap, resample
from pipelines.metrics.scores import Context, NotComputed, Score

PairDistance = Callable[[np.ndarray], np.ndarray]
"""Pairs (m, 2) of numbers of images to their distances (m,)."""

LPIPS_REPEATED = 0.05
"""LPIPS below which an output repeats another."""
REPEATED_SHARE = 0.01
"""Share of pairs of different real images that count as repeated, where the threshold is found from them."""
CLUSTERS = 20
"""Clusters at most; MEMBERS real images make one on average at the least."""
MEMBERS = 5
KMEANS_TRIES = 5


@dataclass(frozen=True)
class Ruler:
    """What distances are measured with. name: as in «diversity[embedder:e]». outputs, reals: distances by their
    numbers. threshold: below it one repeats another; None to find it from real images. most: pairs that are worth it.
    """

    name: str
    title: str
    outputs: PairDistance
    reals: PairDistance | None
    threshold: float | None
    most: int
    protocol: Mapping[str, Any]


def cosine(vectors: np.ndarray) -> PairDistance:
    """Cosine distances between unit vectors (n, d)."""
    return lambda pairs: 1 - (vectors[pairs[:, 0]].astype(np.float64) * vectors[pairs[:, 1]]).sum(axis=1)


def pairs_within(owners: np.ndarray) -> np.ndarray:
    """(m, 2) all pairs of images of one source."""
    members = (np.flatnonzero(owners == source).tolist() for source in np.unique(owners))
    return np.array([pair for images in members for pair in combinations(images, 2)], np.int64).reshape(-1, 2)


def pairs_across(owners: np.ndarray, most: int, seed: int) -> np.ndarray:
    """(m, 2) pairs of images of different sources: all of them, or `most` drawn at random with repetition."""
    count = len(owners)
    if count * (count - 1) // 2 <= most:
        pairs = np.stack(np.triu_indices(count, 1), axis=1)
    else:
        rng = np.random.default_rng(seed)
        pairs = rng.integers(count, size=(2 * most, 2))
    return pairs[owners[pairs[:, 0]] != owners[pairs[:, 1]]][:most]


def diversity_scores(ruler: Ruler, context: Context) -> tuple[list[Score], list[NotComputed]]:
    """Diversity and repetition within sources, and repetition across them."""
    across = pairs_across(context.owners, ruler.most, context.seed)
    among_reals = pairs_across(np.arange(context.layouts), ruler.most, context.seed)
    real = ruler.reals(among_reals) if ruler.reals is not None and len(among_reals) else np.zeros(0)
    threshold = ruler.threshold
    if threshold is None and len(real):
        threshold = float(np.quantile(real, REPEATED_SHARE))
    scores: list[Score] = []
    missing: list[NotComputed] = []
    within = pairs_within(context.owners)
    distances = ruler.outputs(within) if len(within) else np.zeros(0)
    sources = context.owners[within[:, 0]]
    repeats = f"share of pairs at a distance below {threshold:.4g}" if threshold is not None else ""
    if ruler.threshold is None:
        repeats += f", which {REPEATED_SHARE:.0%} of pairs of different real images fall below"

    def add(
        name: str,
        title: str,
        value: float,
        better: Any,
        variant: str,
        interval: Interval,
        on_real: float | None,
        **own: Any,
    ) -> None:
        protocol = context.protocol(interval, variant=variant, **ruler.protocol, **own)
        scores.append(
            Score(
                f"{name}[{ruler.name}]",
                f"{title} ({ruler.title})",
                value,
                better,
                protocol,
                on_real=on_real,
                interval=interval.ends,
            )
        )

    if len(within):
        value, interval = _mean_of_sources(distances, sources, context.seed)
        variant = "mean distance of all pairs of outputs of one source, then the mean over sources; of real images: of "
        variant += "pairs of different places"
        spread = {"deviation over sources": float(np.std(means_of_sources(distances, sources)))}
        on_real = float(real.mean()) if len(real) else None
        add("diversity", "Diversity", value, "higher", variant, interval, on_real, **spread)
    else:
        missing.append(
            NotComputed(f"diversity[{ruler.name}]", "needs several outputs of a source (rgs synthesize --num)")
        )
    if threshold is None:
        reason = "the threshold is found from real images (--reference)"
        return scores, [*missing, NotComputed(f"repetition[{ruler.name}]", reason)]
    if len(within):
        value, interval = _mean_of_sources((distances < threshold).astype(np.float64), sources, context.seed)
        add(
            "repetition",
            "Repetition within a source",
            value,
            "lower",
            f"{repeats}; pairs of outputs of one source",
            interval,
            None,
        )
    if len(across):
        value = float((ruler.outputs(across) < threshold).mean())
        add(
            "repetition_across",
            "Repetition across sources",
            value,
            "lower",
            f"{repeats}; {len(across)} pairs of outputs of different sources",
            Interval(None, "none: pairs share sources"),
            float((real < threshold).mean()) if len(real) else None,
        )
    return scores, missing


def _mean_of_sources(values: np.ndarray, sources: np.ndarray, seed: int) -> tuple[float, Interval]:
    """The mean over sources of the mean of their values, and its bootstrap over sources."""
    means = means_of_sources(values, sources)
    rows = np.stack([means, np.ones_like(means)], axis=1)
    return math.fsum(means) / len(means), bootstrap(rows, lambda s: s[:, 0] / s[:, 1], seed)


def means_of_sources(values: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """The mean of the values of each source; sources: (n,) whose each one is."""
    _, numbers = np.unique(sources, return_inverse=True)
    return np.asarray(np.bincount(numbers, weights=values) / np.bincount(numbers))


def cluster_score(
    name: str, title: str, outputs: np.ndarray, reals: np.ndarray, context: Context, own: Mapping[str, Any]
) -> Score | NotComputed:
    """How evenly outputs (n, d) fill the clusters of real images (m, d): the entropy over that of equal shares."""
    count = min(CLUSTERS, len(reals) // MEMBERS)
    if count < 2:
        return NotComputed(f"clusters[{name}]", f"needs {2 * MEMBERS} real images, there are {len(reals)}")
    centers = cluster_centers(reals, count, context.seed)
    mine, theirs = nearest(outputs, centers), nearest(reals, centers)
    interval = resample(lambda at: occupancy_entropy(mine[at], count), context.owners, context.seed)
    variant = (
        f"entropy of the shares of {count} clusters over log {count}; k-means of the real images' vectors (OpenCV, "
        f"{KMEANS_TRIES} tries), outputs in the cluster of the nearest center"
    )
    return Score(
        f"clusters[{name}]",
        f"Cluster occupancy ({title})",
        occupancy_entropy(mine, count),
        "higher",
        context.protocol(interval, variant=variant, **own),
        on_real=occupancy_entropy(theirs, count),
        interval=interval.ends,
    )


def cluster_centers(vectors: np.ndarray, count: int, seed: int) -> np.ndarray:
    """(count, d) float32 centers of k-means; the same vectors and seed give the same centers."""
    cv2.setRNGSeed(seed + 1)  # 0 would stand for OpenCV's own default
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 100, 1e-6)
    data = np.ascontiguousarray(vectors, np.float32)
    _, _, centers = cv2.kmeans(
        data, count, np.zeros((len(data), 1), np.int32), criteria, KMEANS_TRIES, cv2.KMEANS_PP_CENTERS
    )
    return np.asarray(centers)


def nearest(vectors: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """(n,) the number of the center that is nearest to each vector."""
    return np.asarray(((centers**2).sum(axis=1) - 2 * vectors @ centers.T).argmin(axis=1))


def occupancy_entropy(members: np.ndarray, count: int) -> float:
    """Entropy of the shares of `count` clusters over log count: 1 where all are equal, 0 where one has everything."""
    shares = np.bincount(members, minlength=count) / len(members)
    filled = shares[shares > 0]
    return float(-(filled * np.log(filled)).sum() / math.log(count)) + 0.0
