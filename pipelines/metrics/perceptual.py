"""LPIPS and style loss of output images against reference images, per image.

LPIPS (Zhang et al., CVPR 2018, version 0.1) is torchmetrics': its trunks are torchvision's networks, whose weights are
read from files, its heads come with torchmetrics. The style loss is Gatys et al.'s (CVPR 2016).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pipelines import weights as published
from pipelines.errors import ArtifactError
from pipelines.metrics.extract import exact, signed
from pipelines.nn.losses.perceptual import Vgg19

Net = Literal["alex", "vgg", "squeeze"]
Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Two (n, h, w, 3) uint8 arrays to (n,) float64."""

SMALLEST: dict[str, int] = {"alex": 31, "vgg": 16, "squeeze": 17}
"""Smallest side of an image that reaches the last layer of each trunk."""
STYLE_SIDE = 16

LPIPS_PROTOCOL = (
    "version 0.1, heads as torchmetrics ships them, images in [-1, 1] at the outputs' size, per image, then the mean"
)
STYLE_PROTOCOL = (
    "Gatys: relu1_1 to relu5_1, sum of squared differences of Gram matrices over 4 C² N², mean of the 5 layers, "
    "ImageNet's normalization of [0, 1], per image, then the mean"
)


def lpips_file(net: Net) -> str:
    """The file of a trunk's weights."""
    return {"alex": published.ALEXNET, "vgg": published.VGG16, "squeeze": published.SQUEEZENET}[net]


def style_file() -> str:
    """The file of the style loss's weights."""
    return published.VGG19


def lpips(net: Net, weights: Path, device: torch.device) -> Distance:
    """LPIPS with the trunk of a file. ArtifactError when it holds another network."""
    from torchmetrics.functional.image.lpips import _LPIPS

    model = _LPIPS(net=net, pnet_rand=True)  # builds the trunk without looking for weights; the heads are trained
    state = published.read(weights)
    # the trunk is cut into slices that keep the layers' numbers: slice2.3.weight is features.3.weight
    names = {key: re.sub(r"^slices?\.?\d+\.", "features.", key) for key in model.net.state_dict()}
    try:
        model.net.load_state_dict({key: state[name] for key, name in names.items()})
    except (KeyError, RuntimeError) as error:
        raise ArtifactError(f"these are weights of another network: {error}", where=weights) from error
    model = model.to(device).eval()

    def distance(outputs: np.ndarray, references: np.ndarray) -> np.ndarray:
        with exact(device):
            values: Tensor = model(signed(outputs, device), signed(references, device))
        return values.flatten().double().cpu().numpy()

    return distance


def style(weights: Path, device: torch.device) -> Distance:
    """The style loss under the VGG-19 of a file. ArtifactError when it holds another network."""
    try:
        model = Vgg19(published.read(weights), normalize=True).to(device)
    except ArtifactError as error:
        raise ArtifactError(error.what, where=weights, fix=error.fix) from error

    def distance(outputs: np.ndarray, references: np.ndarray) -> np.ndarray:
        with exact(device):
            pairs = zip(model(signed(outputs, device)), model(signed(references, device)), strict=True)
            terms = [gram_distance(F, P) for F, P in pairs]
        return torch.stack(terms).mean(0).cpu().numpy()

    return distance


def gram_distance(F: Tensor, P: Tensor) -> Tensor:
    """E = |G - A|² / (4 C² N²) of activations (n, C, h, w), N = h w, with G and A their Gram matrices: (n,) float64."""
    C, N = F.shape[1], F.shape[2] * F.shape[3]
    G, A = (x.double().flatten(2) @ x.double().flatten(2).mT for x in (F, P))
    return (G - A).square().sum((1, 2)) / (4 * C**2 * N**2)
