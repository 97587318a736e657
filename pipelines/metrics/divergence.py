"""What a classifier of scenes says of outputs beside their real images (Regmi and Borji, CVPR 2018).

The published classifier is the AlexNet of Places365. The numbers are of distributions p of outputs and q of real images
over its 365 classes, in natural logarithms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch

from pipelines import weights as published
from pipelines.artifact import sha256_file
from pipelines.errors import ArtifactError
from pipelines.metrics.extract import exact
from pipelines.metrics.intervals import resample
from pipelines.metrics.scores import Context, NotComputed, Score

LEAST = 1e-12
"""Least probability under a logarithm."""
REST = 1e-9
"""What the published inception-style score puts in place of all but the k largest probabilities."""
SURE = 0.5
"""Real images whose largest probability is above this count in the «sure» agreements."""
CLASSES = 365
LAYER = "places"
"""Name of the features."""

PROTOCOL = (
    "AlexNet of Places365, images resized to 256x256 (bilinear, aspect not kept), central 224x224, ImageNet's "
    "normalization, softmax"
)


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL(p || q) of each row of two (n, c) arrays of probabilities: (n,) float64; probabilities at least LEAST."""
    a, b = (np.maximum(x.astype(np.float64), LEAST) for x in (p, q))
    return np.asarray((a * np.log(a / b)).sum(axis=1))


def agrees(p: np.ndarray, q: np.ndarray, k: int) -> np.ndarray:
    """(n,) bool: is the most likely class of the real image among the k most likely of the output?"""
    first = q.argmax(axis=1)
    top = np.argsort(-p, axis=1, kind="stable")[:, :k]
    return np.asarray((top == first[:, None]).any(axis=1))


def class_score(p: np.ndarray, k: int | None = None) -> float:
    """exp of the mean KL of each output's distribution to their mean; all but the k largest probabilities are REST."""
    p = p.astype(np.float64)
    if k is not None:
        least = -np.sort(-p, axis=1)[:, k - 1 : k]
        p = np.where(p >= least, p, REST)
    return float(np.exp(kl(p, np.broadcast_to(p.mean(axis=0), p.shape)).mean()))


@dataclass(frozen=True)
class Definition:
    """One number of p and q. values: per image, whose mean it is; whole: of the set, where it is no mean."""

    title: str
    better: Literal["higher", "lower"]
    variant: str
    values: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    whole: Callable[[np.ndarray, np.ndarray], float | None] | None = None


def _agreement(k: int, sure: bool) -> Definition:
    text = f"share of images whose real image's first class is among the output's first {k}"
    if not sure:
        return Definition(f"Same scene, top {k}", "higher", text, lambda p, q: agrees(p, q, k).astype(np.float64))

    def whole(p: np.ndarray, q: np.ndarray) -> float | None:
        certain = q.max(axis=1) > SURE
        return float(agrees(p, q, k)[certain].mean()) if certain.any() else None

    return Definition(
        f"Same scene, top {k}, sure",
        "higher",
        f"{text}, of those whose real image has a class above {SURE}",
        None,
        whole,
    )


def _score(k: int | None) -> Definition:
    of = "all classes" if k is None else f"its first {k} classes, {REST:g} for all others"
    return Definition(
        f"Scene score, {'all' if k is None else f'top {k}'}",
        "higher",
        f"exp of the mean KL of an output's distribution to the mean of all, over {of}; no splits",
        None,
        lambda p, q: class_score(p, k),
    )


DEFINITIONS: dict[str, Definition] = {
    "kl": Definition(
        "KL of scene classes", "lower", f"mean of KL(output || real), probabilities at least {LEAST:g}", kl
    ),
    "kl_exp": Definition(
        "KL of scene classes, as published",
        "lower",
        f"exp of the mean of KL(output || real), probabilities at least {LEAST:g}",
        None,
        lambda p, q: float(np.exp(kl(p, q).mean())),
    ),
    "scene_top1": _agreement(1, False),
    "scene_top5": _agreement(5, False),
    "scene_top1_sure": _agreement(1, True),
    "scene_top5_sure": _agreement(5, True),
    "scene_score": _score(None),
    "scene_score_top1": _score(1),
    "scene_score_top5": _score(5),
}
"""Regmi and Borji's numbers by their names here."""


def divergence_score(
    name: str, outputs: Sequence[np.ndarray], reals: Sequence[np.ndarray], weights: Path, context: Context
) -> Score | NotComputed:
    """One of DEFINITIONS. outputs: (classes,) per image; reals: the same of the distinct real images, by layout.

    weights: the classifier's file.
    """
    definition = DEFINITIONS[name]
    p, q = np.stack(outputs), np.stack(reals)[context.owners]

    def statistic(at: np.ndarray) -> float | None:
        if definition.values is not None:
            return float(definition.values(p[at], q[at]).mean())
        assert definition.whole is not None
        return definition.whole(p[at], q[at])

    every = np.arange(len(p))
    value = statistic(every)
    if value is None:
        return NotComputed(name, f"the classifier is sure of no real image (a class above {SURE})")
    interval = resample(statistic, context.owners, context.seed)
    own: dict[str, Any] = {"variant": definition.variant, "classifier": PROTOCOL, "weights": _cited(weights)}
    if name.startswith("kl"):
        own["standard deviation"] = f"{kl(p, q).std():.5g} of the KL of single images"
    real = _of_reals(definition, q)
    return Score(
        name,
        definition.title,
        value,
        definition.better,
        context.protocol(interval, **own, library=f"torch {torch.__version__}"),
        on_real=real,
        per_image=None if definition.values is None else definition.values(p, q).tolist(),
        interval=interval.ends,
    )


def _of_reals(definition: Definition, q: np.ndarray) -> float | None:
    """What real images in place of the outputs reach."""
    if definition.values is not None:
        return float(definition.values(q, q).mean())
    assert definition.whole is not None
    return definition.whole(q, q)


def _cited(weights: Path) -> str:
    return f"{weights.name} (sha256 {sha256_file(weights)[:8]})"


def places(weights: Path, device: torch.device) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """The classifier of a file: images (n, h, w, 3) uint8 to probabilities (n, CLASSES) float64 under LAYER.

    The file is a state dict, or a checkpoint that holds one. Raises ArtifactError when it is of another network.
    """
    from torchvision.models import alexnet

    state = published.read(weights)
    state = state.get("state_dict", state)
    model = alexnet(weights=None, num_classes=CLASSES)
    try:
        model.load_state_dict({name.replace("module.", ""): tensor for name, tensor in state.items()})
    except (AttributeError, RuntimeError) as error:
        raise ArtifactError(f"these are weights of another network: {error}", where=weights) from error
    model = model.to(device).eval()
    mean, std = (torch.tensor(x, device=device)[:, None, None] for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    def extract(images: np.ndarray) -> dict[str, np.ndarray]:
        squares = np.stack([cv2.resize(image, (256, 256), interpolation=cv2.INTER_LINEAR) for image in images])
        with exact(device):
            crops = torch.from_numpy(squares[:, 16:240, 16:240].copy()).to(device).permute(0, 3, 1, 2).float() / 255
            return {LAYER: model((crops - mean) / std).softmax(1).double().cpu().numpy()}

    return extract
