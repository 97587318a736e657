"""Scores of a whole set against another: Frechet and kernel distances, precision and recall, and the Inception score.

The published names (fid, kid, is, precision, recall) belong to the published networks. Under the features of a
trained segmenter or embedder the same formulas are called frechet[segmenter:RUN], kid[embedder:RUN] and so on, so that
nobody takes them for those.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipelines import weights as published
from pipelines.metrics import fidelity, frechet
from pipelines.metrics.intervals import LARGEST_PART, subsample
from pipelines.metrics.scores import OWN, Context, JudgeName, NotComputed, Score, weights_text

Formula = Callable[[np.ndarray, np.ndarray], float]
"""Features of reals (n, d) and fakes (m, d), float64, to a number."""

FEWEST: dict[str, int] = {"fid": 2048, "kid": 1000, "is": 5000, "precision": 1000, "recall": 1000}
"""Images, real and fake, below which a number under a published name is refused unless asked for.

FID: with fewer than its 2048 features covariances are singular and its bias outweighs differences between systems.
KID: its published subsets have 1000 images. Inception score: no split can reach a score above its own count of images;
5000 are 500 a split. Precision and recall: balls to the third of few neighbors are so wide that everything is inside.
"""


@dataclass(frozen=True)
class Definition:
    """A distance: its formula, the images that it needs at the very least, and what it cannot leave.

    part: what is computed on subsets for the interval, the same formula where it has no faster equal.
    """

    title: str
    better: Literal["higher", "lower"]
    formula: Formula
    part: Formula
    least: int
    bounds: tuple[float, float]


def _precision(real: np.ndarray, fake: np.ndarray) -> float:
    return fidelity.precision_recall(real, fake)[0]


def _recall(real: np.ndarray, fake: np.ndarray) -> float:
    return fidelity.precision_recall(real, fake)[1]


def _inception_score(real: np.ndarray, fake: np.ndarray) -> float:
    return fidelity.inception_score(fake)


POSITIVE, SHARE, ANY = (0.0, math.inf), (0.0, 1.0), (-math.inf, math.inf)
_D = frechet.frechet_distance
DEFINITIONS: dict[str, Definition] = {
    "fid": Definition("FID", "lower", fidelity.fid, _D, 2, POSITIVE),
    "frechet": Definition("Frechet distance", "lower", _D, _D, 2, POSITIVE),
    "kid": Definition("KID", "lower", fidelity.kid, fidelity.mmd2, 2, ANY),
    "is": Definition("Inception score", "higher", _inception_score, _inception_score, fidelity.SPLITS, (1.0, math.inf)),
    "precision": Definition("Precision", "higher", _precision, _precision, fidelity.NEIGHBORS + 1, SHARE),
    "recall": Definition("Recall", "higher", _recall, _recall, fidelity.NEIGHBORS + 1, SHARE),
}

UNDER_TRAINED = {
    "frechet": "Frechet distance",
    "kid": "Kernel distance",
    "precision": "Precision",
    "recall": "Recall",
}
"""Titles of what the features of a segmenter, an embedder or a classifier can measure."""

LAYERS = {"fid": "pool", "kid": "pool", "is": "logits", "precision": "fc2", "recall": "fc2"}
"""Which features of `fidelity`'s networks the published numbers are measured in."""


def score_name(metric: str, network: JudgeName | None) -> str:
    """«kid», or «kid[segmenter:RUN]»."""
    return metric if network is None else f"{metric}[{network.label}]"


def weights_file(metric: str) -> str:
    """The file of the published network of a metric."""
    return published.VGG16 if metric in ("precision", "recall") else published.INCEPTION


def distance_score(
    metric: str,
    network: JudgeName | None,
    fakes: Sequence[np.ndarray],
    reals: Sequence[np.ndarray],
    context: Context,
) -> Score | NotComputed:
    """A distance between features of the images and of the distinct references, in the order of the layouts.

    network: whose features they are; None for the published one. Below `FEWEST` the name of a published number
    ends with its count of images. reals: empty for the Inception score.
    """
    definition, name = DEFINITIONS[metric], score_name(metric, network)
    fewer = len(fakes) if metric == "is" else min(len(fakes), len(reals))
    if fewer < definition.least:
        there = f"{len(fakes)}" if metric == "is" else f"{len(fakes)} and {len(reals)} real ones"
        return NotComputed(name, f"needs {definition.least} images of each kind, there are {there}")
    fake = np.stack(fakes).astype(np.float64)
    real = fake[:0] if metric == "is" else np.stack(reals).astype(np.float64)
    value = definition.formula(real, fake)

    def part(chosen: np.ndarray) -> float:
        return definition.part(real if metric == "is" else real[chosen], fake[np.isin(context.owners, chosen)])

    interval = subsample(
        part,
        value,
        context.layouts,
        least=definition.least,
        largest=LARGEST_PART * context.layouts // len(fake),
        seed=context.seed,
        bounds=definition.bounds,
    )
    own = {"variant": _variant(metric, network, real, fake), "library": fidelity.library()}
    if metric == "frechet":
        own["library"] = f"numpy {np.__version__}"
    if network is None:
        own["weights"] = weights_text(weights_file(metric))
    else:
        own |= {"features": network.label, "features weights": network.weights}
    few = network is None and fewer < FEWEST[metric]
    return Score(
        f"{name}@{fewer}" if few else name,
        definition.title if network is None else f"{UNDER_TRAINED[metric]} ({network.kind}'s features)",
        value,
        definition.better,
        context.protocol(interval, **own),
        warning=_warning(metric, network, fewer, fake.shape[1]),
        interval=interval.ends,
    )


def _variant(metric: str, network: JudgeName | None, real: np.ndarray, fake: np.ndarray) -> str:
    formula = {
        "fid": fidelity.FID_PROTOCOL,
        "frechet": frechet.PROTOCOL,
        "kid": fidelity.kid_protocol(len(real), len(fake)),
        "is": fidelity.IS_PROTOCOL,
        "precision": f"share of outputs within the set of real images, {fidelity.PRECISION_PROTOCOL}",
        "recall": f"share of real images within the set of outputs, {fidelity.PRECISION_PROTOCOL}",
    }[metric]
    if network is not None:
        features = {
            "segmenter": "pooled penultimate features of the segmenter",
            "embedder": "the embedder's unit vectors",
            "classifier": "features of the classifier of objects, of whole images at its size",
        }
        return f"{features[network.kind]} (d = {fake.shape[1]}); {formula}; these are not Inception's"
    if metric in ("precision", "recall"):
        return f"{formula}; VGG-16 fc2 after ReLU (4096) at 224x224, {fidelity.RESIZING}"
    return f"{formula}; Inception 2015-12-05 at 299x299, {fidelity.RESIZING}"


def _warning(metric: str, network: JudgeName | None, fewer: int, d: int) -> str | None:
    reasons = [OWN[network.kind]] if network is not None and network.own else []
    if metric == "frechet" and fewer <= d:
        reasons.append(f"{fewer} images for {d} features: the covariance is singular and the bias large")
    elif network is None and fewer < FEWEST[metric]:
        reasons.append(f"{fewer} images where {FEWEST[metric]} are the least: not to be set beside published numbers")
    elif metric != "frechet" and fewer < FEWEST[metric]:
        care = "read the interval" if metric == "kid" else "compare at equal counts only, and read the interval"
        reasons.append(f"{fewer} images are few: {care}")
    return "; ".join(reasons) or None
