"""What looks at images for the chosen scores: formulas, published networks read from files, and segmenters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from pipelines import weights as published
from pipelines.metrics import divergence, fidelity, perceptual, quality, sharpness
from pipelines.metrics.choice import OF_PAIRS, Choice
from pipelines.metrics.extract import Judge
from pipelines.metrics.scores import LOWER, pairwise

PairDistance = Callable[[np.ndarray, np.ndarray], np.ndarray]
Features = Callable[[np.ndarray], Mapping[str, np.ndarray]]

JUDGE = "judge"
"""Name of the features that the judge gives while it segments."""
TRAINED = "trained"
"""Name of the features of a trained network that is no judge."""


@dataclass
class Instruments:
    """All that looks at images, on one device.

    pairwise: by name, the smallest side of an image, and (outputs, references) -> (n,). features: images -> named
    features (n, d). The judge is in evaluation mode.
    """

    device: torch.device
    pairwise: dict[str, tuple[int, PairDistance]] = field(default_factory=dict)
    features: list[Features] = field(default_factory=list)
    judge: Judge | None = None


def build(
    choice: Choice,
    net: perceptual.Net,
    sd: sharpness.Variant,
    judge: Judge | None,
    trained: Callable[[np.ndarray], np.ndarray] | None,
    device: torch.device,
) -> Instruments:
    """The instruments of a choice of scores.

    net: trunk of LPIPS. sd: form of the sharpness difference. judge: on the device. trained: images to the features
    (n, d) that distances are measured in, if they are not the judge's. Raises ArtifactError when a file of weights
    holds another network than its name says.
    """
    found = Instruments(device, judge=judge)
    for job in choice.jobs:
        if job.metric in OF_PAIRS:
            found.pairwise[job.metric] = (
                pairwise(job.metric, net, sd).side,
                _pair_distance(job.metric, net, sd, choice, device),
            )
    needed = {job.weights for job in choice.jobs if job.metric not in OF_PAIRS}
    if published.INCEPTION in needed:
        found.features.append(fidelity.inception(choice.files[published.INCEPTION], device))
    if published.VGG16 in needed:
        found.features.append(fidelity.vgg16(choice.files[published.VGG16], device))
    if published.PLACES in needed:
        found.features.append(divergence.places(choice.files[published.PLACES], device))
    if trained is not None:
        found.features.append(lambda images: {TRAINED: trained(images)})
    return found


def _pair_distance(
    metric: str, net: perceptual.Net, sd: sharpness.Variant, choice: Choice, device: torch.device
) -> PairDistance:
    if metric.endswith(LOWER):
        whole = _pair_distance(metric.removesuffix(LOWER), net, sd, choice, device)
        return lambda outputs, references: whole(lower_half(outputs), lower_half(references))
    if metric == "sd":
        return lambda outputs, references: sharpness.sharpness_difference(outputs, references, sd)
    if metric == "lpips":
        return perceptual.lpips(net, choice.files[perceptual.lpips_file(net)], device)
    if metric == "style":
        return perceptual.style(choice.files[perceptual.style_file()], device)
    return quality.psnr if metric == "psnr" else quality.ssim


def lower_half(images: np.ndarray) -> np.ndarray:
    """(n, h, w, 3) -> (n, h - h // 2, w, 3): what is below the horizon of a level street view."""
    return images[:, images.shape[1] // 2 :]
