"""Scores: numbers with all that it takes to repeat them, and how sure they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any, Literal

import numpy as np

from pipelines.data.augment import Size
from pipelines.metrics import perceptual, quality, segmentation, sharpness
from pipelines.metrics.intervals import Interval, bootstrap, sums_by_layout

Better = Literal["higher", "lower", "neither"]
"""Which way a number is better; neither where it is to be read beside that of real images."""

LOWER = "_lower"
"""Ends the name of a score of the lower halves of images."""

OWN = {
    "segmenter": "this judge helped to train what it judges",
    "embedder": "the generator was trained against this embedder, which flatters it",
    "classifier": "this classifier helped to train what it judges",
    "cooccurrence": "this embedder is no stranger: the generator was trained against it, or it learned from this bank",
}
"""Why to read a score under a network with care that helped to train, by the kind of network."""


@dataclass(frozen=True)
class Score:
    """One number and its protocol.

    name: metric and variant. protocol: how it was computed, in the order to be shown. on_real: the same number of the
    real reference images, what a perfect output would reach. per_image: one value per image, in the order of the
    report's `images`; for mIoU and accuracy {class: [pixels right, of the reference, predicted]}, which add up.
    warning: why to read the number with care. interval: the ends of its 95 % interval, where it has one; the protocol's
    interval_protocol says how they were found.
    """

    name: str
    title: str
    value: float
    better: Better
    protocol: Mapping[str, Any]
    unit: str = ""
    on_real: float | None = None
    per_image: Sequence[Any] | None = None
    warning: str | None = None
    interval: tuple[float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "title": self.title,
            "value": self.value,
            "interval": None if self.interval is None else list(self.interval),
            "unit": self.unit,
            "better": self.better,
            "on_real": self.on_real,
            "protocol": dict(self.protocol),
            "warning": self.warning,
            "per_image": None if self.per_image is None else list(self.per_image),
        }


@dataclass(frozen=True)
class NotComputed:
    """A score that was not computed, and why."""

    name: str
    reason: str

    def to_json(self) -> dict[str, str]:
        return {"name": self.name, "reason": self.reason}


@dataclass(frozen=True)
class Context:
    """What the scores of a report share.

    common: the part of the protocol that is the same for all. owners: (images,) the layout of each image, 0 to
    layouts - 1. seed: of the resampling.
    """

    common: Mapping[str, Any]
    owners: np.ndarray
    layouts: int
    seed: int

    def protocol(self, interval: Interval, **own: Any) -> dict[str, Any]:
        return {**own, **self.common, "interval_protocol": interval.protocol}


@dataclass(frozen=True)
class JudgeName:
    """How scores cite a trained network: its run, the first 8 digits of its weights' sha256, did it help to train.

    kind: «segmenter», «embedder», «classifier» or «cooccurrence».
    """

    run: str
    weights: str
    own: bool
    kind: str = "segmenter"

    @property
    def label(self) -> str:
        return f"{self.kind}:{self.run}"


@dataclass(frozen=True)
class Pairwise:
    """A score that is the mean of one value per image. side: the smallest side of an image that it can measure."""

    title: str
    better: Literal["higher", "lower"]
    variant: str
    side: int
    unit: str = ""
    weights: str | None = None
    network: str | None = None


def pairwise(name: str, net: perceptual.Net = "alex", sd: sharpness.Variant = "signed") -> Pairwise:
    """The table of psnr and ssim (also of the lower half), sharpness difference, lpips (under a trunk) and style."""
    if name.endswith(LOWER):
        whole = pairwise(name.removesuffix(LOWER))
        variant = f"of the lower half, where no sky is: rows h // 2 and below; {whole.variant}"
        return replace(whole, title=f"{whole.title}, lower half", variant=variant, side=2 * whole.side)
    if name == "sd":
        return Pairwise("Sharpness difference", "higher", sharpness.PROTOCOLS[sd], sharpness.SIDE, "dB")
    if name == "psnr":
        return Pairwise("PSNR", "higher", quality.PSNR_PROTOCOL, 1, "dB")
    if name == "ssim":
        return Pairwise("SSIM", "higher", quality.SSIM_PROTOCOL, quality.SSIM_SIDE)
    if name == "lpips":
        side, file = perceptual.SMALLEST[net], perceptual.lpips_file(net)
        return Pairwise("LPIPS", "lower", perceptual.LPIPS_PROTOCOL, side, weights=file, network=net)
    assert name == "style"
    side, file = perceptual.STYLE_SIDE, perceptual.style_file()
    return Pairwise("Style loss", "lower", perceptual.STYLE_PROTOCOL, side, weights=file)


def pairwise_score(name: str, kind: Pairwise, values: Sequence[float], context: Context) -> Score | NotComputed:
    """The mean of one value per image; not computed unless every image has its value."""
    if len(values) < len(context.owners):
        return NotComputed(name, f"an image is smaller than {kind.title} allows, {kind.side} pixels a side")
    column = np.asarray(values, dtype=np.float64)[:, None]
    rows = sums_by_layout(np.concatenate([column, np.ones_like(column)], axis=1), context.owners, context.layouts)
    interval = bootstrap(rows, lambda sums: sums[:, 0] / sums[:, 1], context.seed)
    own: dict[str, Any] = {"variant": kind.variant, "library": library(name)}
    if kind.network is not None:
        own["network"] = kind.network
    if kind.weights is not None:
        own["weights"] = weights_text(kind.weights)
    protocol = context.protocol(interval, **own)
    value = math.fsum(values) / len(values)
    return Score(name, kind.title, value, kind.better, protocol, kind.unit, per_image=values, interval=interval.ends)


def mean_of_images(
    name: str,
    title: str,
    better: Better,
    variant: str,
    values: Sequence[float | None],
    context: Context,
    *,
    reals: Sequence[float | None] = (),
    why: str = "there is nothing to measure",
    warning: str | None = None,
    **own: Any,
) -> Score | NotComputed:
    """The mean of one value per image, of those that have one; why: what it means that none has.

    reals: the same numbers of real images, whatever their count.
    """
    numbers = np.array([math.nan if value is None else value for value in values], np.float64)
    known = np.isfinite(numbers)
    if not known.any():
        return NotComputed(name, why)
    columns = np.stack([np.where(known, numbers, 0), known], axis=1)
    interval = bootstrap(sums_by_layout(columns, context.owners, context.layouts), _ratio, context.seed)
    real = [value for value in reals if value is not None]
    protocol = {"variant": variant, "library": f"numpy {np.__version__}", **own}
    if not known.all():
        protocol["images with a value"] = int(known.sum())
    return Score(
        name,
        title,
        float(np.mean(numbers[known])),
        better,
        context.protocol(interval, **protocol),
        on_real=float(np.mean(real)) if real else None,
        per_image=[None if value is None else float(value) for value in values],
        warning=warning,
        interval=interval.ends,
    )


def _ratio(sums: np.ndarray) -> np.ndarray:
    return np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0)


def library(name: str) -> str:
    """The library that computes a score that is the mean of one value per image."""
    if name.startswith("sd"):
        return f"numpy {np.__version__}"
    package = "torch" if name == "style" else "torchmetrics"
    return f"{package} {metadata.version(package)}"


def agreement_score(
    name: str,
    counts: Sequence[np.ndarray],
    real_counts: Sequence[np.ndarray],
    judge: JudgeName,
    context: Context,
) -> Score | NotComputed:
    """«miou» or «accuracy» of the judge's predictions against the layouts, and the same on real images.

    counts: `segmentation.class_counts` per image; real_counts: the same of the references, empty without any.
    """
    measure = {"miou": segmentation.miou, "accuracy": segmentation.accuracy}[name]
    value = float(measure(np.sum(counts, axis=0)))
    if math.isnan(value):
        return NotComputed(name, "no pixel of the layouts has a class")
    flat = np.stack(counts).reshape(len(counts), -1)
    rows = sums_by_layout(flat, context.owners, context.layouts)
    interval = bootstrap(rows, lambda sums: measure(sums.reshape(len(sums), -1, 3)), context.seed)
    title, variant = {
        "miou": ("mIoU", segmentation.PROTOCOL),
        "accuracy": ("Pixel accuracy", "share of the set's labelled pixels that the judge gives their class"),
    }[name]
    protocol = context.protocol(
        interval,
        **{
            "variant": variant,
            "judge": judge.label,
            "judge weights": judge.weights,
            "library": f"numpy {np.__version__}",
        },
    )
    warning = None if real_counts else "without a reference the judge's own score on real images is unknown"
    return Score(
        name,
        title,
        value,
        "higher",
        protocol,
        on_real=float(measure(np.sum(real_counts, axis=0))) if real_counts else None,
        per_image=[{str(c): image[c].tolist() for c in np.flatnonzero(image.any(1))} for image in counts],
        warning=OWN[judge.kind] if judge.own else warning,
        interval=interval.ends,
    )


def weights_text(file: str) -> str:
    """A file of published weights and the beginning of its sha256, which is in its name and was checked."""
    return f"{file} (sha256 {file.rpartition('-')[2].partition('.')[0]})"


def sizes_text(sizes: set[Size]) -> str:
    """«480x360» (width x height), or how many sizes there are."""
    return "x".join(map(str, next(iter(sizes))[::-1])) if len(sizes) == 1 else f"{len(sizes)} sizes"


def resizing_text(reference: set[Size], outputs: set[Size]) -> str:
    """How the reference images came to the size of the outputs."""
    if reference == outputs and len(outputs) == 1:
        return "at its own size"
    return f"{sizes_text(reference)}, resized to the output (OpenCV INTER_AREA where it shrinks, else INTER_CUBIC)"
