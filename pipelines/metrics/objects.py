"""Whether the objects of a scene graph can be recognized in the image that was made of it.

Objects are cut out by the boxes that were used. A classifier that took no part in the training tells what it sees in
them; sets of objects are compared in its features (the idea of SceneFID: Sylvain et al., AAAI 2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pipelines.data.scene import Schema
from pipelines.metrics import fidelity, frechet, segmentation
from pipelines.metrics.intervals import LARGEST_PART, Interval, bootstrap, subsample, sums_by_layout
from pipelines.metrics.scores import OWN, Context, JudgeName, NotComputed, Score

OBJECT_PROTOCOL = "the output is cut by the box that was used, rounded to pixels, and resized to the classifier's size"


def cut(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """What a box (x0, y0, x1, y1) in parts of the picture shows of an image (h, w, 3), rounded; a pixel at least."""
    h, w = image.shape[:2]
    x0, y0, x1, y1 = (float(value) for value in box)
    left, top = (min(max(round(start * side), 0), side - 1) for start, side in ((x0, w), (y0, h)))
    right, bottom = (
        min(max(round(stop * side), start + 1), side) for stop, side, start in ((x1, w, left), (y1, h, top))
    )
    return image[top:bottom, left:right]


@dataclass(frozen=True)
class Seen:
    """What a classifier says of the objects of some images, one after the other.

    image: (k,) which image each is of. wanted: (k,) the class that it should be. logits: (k, classes).
    features: (k, d).
    """

    image: np.ndarray
    wanted: np.ndarray
    logits: np.ndarray
    features: np.ndarray

    def counts(self, images: int) -> np.ndarray:
        """(images, classes, 3): per class the objects that are given it rightly, that should be, and that are."""
        classes = self.logits.shape[1]
        predicted = self.logits.argmax(1)
        return np.stack(
            [
                segmentation.class_counts(segmentation.confusion(self.wanted[at], predicted[at], classes))
                for at in (self.image == i for i in range(images))
            ]
        )


def object_scores(
    outputs: Seen, reals: Seen | None, why: str, judge: JudgeName, context: Context
) -> list[Score | NotComputed]:
    """Accuracies of the classifier on the objects, and distances between objects in its features.

    reals: of the real images, numbered by their layouts; None where there are none, which `why` explains.
    """
    own = {"judge": judge.label, "judge weights": judge.weights}
    warning = OWN[judge.kind] if judge.own else None
    found: list[Score | NotComputed] = []
    counts = outputs.counts(len(context.owners))
    real_counts = None if reals is None else reals.counts(context.layouts).sum(0)
    rows = sums_by_layout(counts.reshape(len(counts), -1), context.owners, context.layouts)
    for name, (title, variant, measure) in ACCURACIES.items():
        interval = bootstrap(rows, partial(_of_sums, measure), context.seed)
        found.append(
            Score(
                f"{name}[{judge.label}]",
                title,
                float(measure(counts.sum(0))),
                "higher",
                context.protocol(interval, variant=f"{variant}; {OBJECT_PROTOCOL}", **own),
                on_real=None if real_counts is None else float(measure(real_counts)),
                per_image=[{str(c): image[c].tolist() for c in np.flatnonzero(image.any(1))} for image in counts],
                warning=warning,
                interval=interval.ends,
            )
        )
    found.append(_class_score(outputs, reals, judge, context, own, warning))
    name = f"frechet_objects[{judge.label}]"
    if reals is None:
        return [*found, NotComputed(name, why)]
    return [*found, _frechet(name, outputs, reals, judge, context, own, warning)]


ACCURACIES = {
    "object_accuracy": (
        "Object accuracy",
        "share of the objects of all images that the classifier gives their class",
        segmentation.accuracy,
    ),
    "object_accuracy_balanced": (
        "Object accuracy, classes alike",
        "the same share of the objects of each class, then the mean over the classes that the graphs have",
        segmentation.class_accuracy,
    ),
}


def _class_score(
    outputs: Seen,
    reals: Seen | None,
    judge: JudgeName,
    context: Context,
    own: Mapping[str, Any],
    warning: str | None,
) -> Score | NotComputed:
    """The Inception score's formula on the classifier's predictions for objects; never called that."""
    name, count = f"class_score[{judge.label}]", len(outputs.logits)
    if count < fidelity.SPLITS:
        return NotComputed(name, f"needs {fidelity.SPLITS} objects, there are {count}")

    def part(chosen: np.ndarray) -> float:
        return fidelity.inception_score(outputs.logits[np.isin(context.owners[outputs.image], chosen)], splits=1)

    value = fidelity.inception_score(outputs.logits)
    interval = _interval(part, value, context, 1, (1.0, math.inf))
    variant = f"exp of the mean divergence of p(class | object) from p(class), {fidelity.SPLITS} splits shuffled with "
    variant += f"seed 2020, mean of splits: the formula of the Inception score; {OBJECT_PROTOCOL}"
    enough = reals is not None and len(reals.logits) >= fidelity.SPLITS
    return Score(
        name,
        "Class score of objects (classifier's predictions)",
        value,
        "higher",
        context.protocol(interval, variant=variant, objects=count, library=fidelity.library(), **own),
        on_real=fidelity.inception_score(reals.logits) if enough and reals is not None else None,
        warning=warning,
        interval=interval.ends,
    )


def _frechet(
    name: str,
    outputs: Seen,
    reals: Seen,
    judge: JudgeName,
    context: Context,
    own: Mapping[str, Any],
    warning: str | None,
) -> Score | NotComputed:
    """The Frechet distance between objects of outputs and of real images, in the classifier's features."""
    fewer, d = min(len(outputs.image), len(reals.image)), outputs.features.shape[1]
    if fewer < 2:
        return NotComputed(name, f"needs 2 objects of each kind, there are {len(outputs.image)} and {len(reals.image)}")

    def part(chosen: np.ndarray) -> float:
        mine = outputs.features[np.isin(context.owners[outputs.image], chosen)]
        return frechet.frechet_distance(reals.features[np.isin(reals.image, chosen)], mine)

    value = frechet.frechet_distance(reals.features, outputs.features)
    interval = _interval(part, value, context, 2, (0.0, math.inf))
    reasons = [warning] if warning else []
    if fewer <= d:
        reasons.append(f"{fewer} objects for {d} features: the covariance is singular and the bias large")
    variant = f"features of the classifier (d = {d}) of single objects; {frechet.PROTOCOL}; {OBJECT_PROTOCOL}; "
    variant += "these are not Inception's"
    counted = {"objects": len(outputs.image), "real objects": len(reals.image)}
    return Score(
        name,
        "Frechet distance of objects (classifier's features)",
        value,
        "lower",
        context.protocol(interval, variant=variant, **counted, library=f"numpy {np.__version__}", **own),
        warning="; ".join(reasons) or None,
        interval=interval.ends,
    )


def _of_sums(measure: Callable[[np.ndarray], np.ndarray], sums: np.ndarray) -> np.ndarray:
    return measure(sums.reshape(len(sums), -1, 3))


def _interval(
    part: Callable[[np.ndarray], float], value: float, context: Context, least: int, bounds: tuple[float, float]
) -> Interval:
    """The interval of a distance of objects by halves of the graphs; each graph has an object at least."""
    largest = LARGEST_PART * context.layouts // len(context.owners)
    return subsample(part, value, context.layouts, least=least, largest=largest, seed=context.seed, bounds=bounds)


def object_table(outputs: Seen, reals: Seen | None, schema: Schema) -> list[dict[str, Any]]:
    """Of each class that the graphs have: its objects, the share that is recognized, and that of the real images."""
    counts = outputs.counts(int(outputs.image.max(initial=-1)) + 1).sum(0)
    real = None if reals is None else reals.counts(int(reals.image.max(initial=-1)) + 1).sum(0)
    rows = []
    for c in np.flatnonzero(counts[:, 1]).tolist():
        known = real is not None and real[c, 1] > 0
        rows.append(
            {
                "name": schema.names[c],
                "color": list(schema.classes[c].color),
                "objects": int(counts[c, 1]),
                "accuracy": counts[c, 0] / counts[c, 1],
                "on_real": real[c, 0] / real[c, 1] if known and real is not None else None,
            }
        )
    return rows
