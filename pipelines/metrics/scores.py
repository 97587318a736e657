"""Scores: numbers with all that it takes to repeat them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

import numpy as np

from pipelines.data.augment import Size
from pipelines.metrics import frechet, quality, segmentation

OWN = "this judge helped to train what it judges"


@dataclass(frozen=True)
class Score:
    """One number and its protocol.

    name: metric and variant. protocol: how it was computed, in the order to be shown. on_real: the same number of the
    real reference images, what a perfect output would reach. per_image: one value per image, in the order of the
    report's `images`; for mIoU and accuracy {class: [pixels right, of the reference, predicted]}, which add up.
    warning: why to read the number with care.
    """

    name: str
    title: str
    value: float
    better: Literal["higher", "lower"]
    protocol: Mapping[str, Any]
    unit: str = ""
    on_real: float | None = None
    per_image: Sequence[Any] | None = None
    warning: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "title": self.title,
            "value": self.value,
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
class JudgeName:
    """How scores cite their judge: its run, the first 8 digits of its weights' sha256, did it help to train."""

    run: str
    weights: str
    own: bool

    @property
    def label(self) -> str:
        return f"segmenter:{self.run}"


def psnr_score(values: Sequence[float], common: Mapping[str, Any]) -> Score:
    """Mean of PSNR in dB per image. common: the part of the protocol that all scores share."""
    protocol = {"variant": quality.PSNR_PROTOCOL, "library": _torchmetrics(), **common}
    return Score("psnr", "PSNR", _mean(values), "higher", protocol, "dB", per_image=values)


def ssim_score(values: Sequence[float], images: int, common: Mapping[str, Any]) -> Score | NotComputed:
    """Mean of SSIM per image; not computed unless there is a value for each of the images."""
    if len(values) < images:
        return NotComputed("ssim", f"an image is smaller than SSIM's window of {quality.SSIM_SIDE} pixels")
    protocol = {"variant": quality.SSIM_PROTOCOL, "library": _torchmetrics(), **common}
    return Score("ssim", "SSIM", _mean(values), "higher", protocol, per_image=values)


def frechet_score(
    fakes: Sequence[np.ndarray], reals: Sequence[np.ndarray], judge: JudgeName, common: Mapping[str, Any]
) -> Score | NotComputed:
    """Frechet distance of the judge's features (d,) per image. Never called FID, which has its own network."""
    name, fewer = f"frechet[{judge.label}]", min(len(fakes), len(reals))
    if fewer < 2:
        return NotComputed(name, f"needs 2 images of each kind, there are {len(fakes)} and {len(reals)} real ones")
    d = len(fakes[0])
    protocol = {
        "variant": f"pooled penultimate features of the judge (d = {d}); {frechet.PROTOCOL}; this is no FID",
        "library": f"numpy {np.__version__}",
        "judge weights": judge.weights,
        **common,
    }
    warning = f"{fewer} images for {d} features: the covariance is singular and the bias large" if fewer <= d else None
    return Score(
        name,
        "Frechet distance of judge's features",
        frechet.frechet_distance(np.stack(reals), np.stack(fakes)),
        "lower",
        protocol,
        warning=OWN if judge.own else warning,
    )


def agreement_score(
    name: Literal["miou", "accuracy"],
    counts: Sequence[np.ndarray],
    real_counts: Sequence[np.ndarray],
    judge: JudgeName,
    common: Mapping[str, Any],
) -> Score | NotComputed:
    """mIoU or pixel accuracy of the judge's predictions against the layouts, and the same on real images.

    counts: `segmentation.class_counts` per image; real_counts: the same of the references, empty without any.
    """
    value, on_real = _agreement(name, counts), _agreement(name, real_counts) if real_counts else None
    if math.isnan(value):
        return NotComputed(name, "no pixel of the layouts has a class")
    title, variant = {
        "miou": ("mIoU", segmentation.PROTOCOL),
        "accuracy": ("Pixel accuracy", "share of the set's labelled pixels that the judge gives their class"),
    }[name]
    protocol = {
        "variant": variant,
        "judge": judge.label,
        "judge weights": judge.weights,
        "library": f"numpy {np.__version__}",
        **common,
    }
    warning = None if real_counts else "without a reference the judge's own score on real images is unknown"
    per_image = [{str(c): image[c].tolist() for c in np.flatnonzero(image.any(1))} for image in counts]
    return Score(name, title, value, "higher", protocol, "", on_real, per_image, OWN if judge.own else warning)


def sizes_text(sizes: set[Size]) -> str:
    """«480x360» (width x height), or how many sizes there are."""
    return "x".join(map(str, next(iter(sizes))[::-1])) if len(sizes) == 1 else f"{len(sizes)} sizes"


def resizing_text(reference: set[Size], outputs: set[Size]) -> str:
    """How the reference images came to the size of the outputs."""
    if reference == outputs and len(outputs) == 1:
        return "at its own size"
    return f"{sizes_text(reference)}, resized to the output (OpenCV INTER_AREA where it shrinks, else INTER_CUBIC)"


def _agreement(name: str, counts: Sequence[np.ndarray]) -> float:
    found = segmentation.agreement(np.sum(counts, axis=0))
    return found.miou if name == "miou" else found.accuracy


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _torchmetrics() -> str:
    return f"torchmetrics {metadata.version('torchmetrics')}"
