"""What looks at images for the chosen scores: formulas, published networks read from files, and segmenters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from pipelines import weights as published
from pipelines.metrics import fidelity, perceptual, quality
from pipelines.metrics.choice import OF_PAIRS, Choice
from pipelines.metrics.extract import Judge, segment
from pipelines.metrics.scores import pairwise

PairDistance = Callable[[np.ndarray, np.ndarray], np.ndarray]
Features = Callable[[np.ndarray], Mapping[str, np.ndarray]]

JUDGE = "judge"
"""Name of the features that the judge gives while it segments."""
SEGMENTER = "segmenter"
"""Name of the features of a segmenter that is no judge."""


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
    choice: Choice, net: perceptual.Net, judge: Judge | None, segmenter: Judge | None, device: torch.device
) -> Instruments:
    """The instruments of a choice of scores.

    net: trunk of LPIPS. segmenter: whose features distances are measured in, if it is not the judge. Both networks are
    on the device. Raises ArtifactError when a file of weights holds another network than its name says.
    """
    found = Instruments(device, judge=judge)
    for job in choice.jobs:
        if job.metric in OF_PAIRS:
            found.pairwise[job.metric] = (
                pairwise(job.metric, net).side,
                _pair_distance(job.metric, net, choice, device),
            )
    needed = {job.weights for job in choice.jobs if job.space == "inception"}
    if published.INCEPTION in needed:
        found.features.append(fidelity.inception(choice.files[published.INCEPTION], device))
    if published.VGG16 in needed:
        found.features.append(fidelity.vgg16(choice.files[published.VGG16], device))
    if segmenter is not None:
        found.features.append(lambda images: {SEGMENTER: segment(segmenter, images, device)[1]})
    return found


def _pair_distance(metric: str, net: perceptual.Net, choice: Choice, device: torch.device) -> PairDistance:
    if metric == "lpips":
        return perceptual.lpips(net, choice.files[perceptual.lpips_file(net)], device)
    if metric == "style":
        return perceptual.style(choice.files[perceptual.style_file()], device)
    return quality.psnr if metric == "psnr" else quality.ssim
