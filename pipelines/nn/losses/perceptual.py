"""Perceptual loss: L1 between the VGG-19 features of two images (Johnson et al., ECCV 2016, as SPADE weighs it)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from pipelines.errors import ArtifactError

RELUS = (1, 6, 11, 20, 29)
"""relu1_1, relu2_1, relu3_1, relu4_1, relu5_1 among torchvision's vgg19().features."""
WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class Vgg19(nn.Module):
    """torchvision's VGG-19 up to relu5_1, frozen; gives the five activations of `RELUS`.

    weights: a state dict of vgg19 (vgg19-dcbb9e9d.pth), or the seed of random weights. Those are He-normal, so that
    activations keep their scale through the ReLUs, with zero biases: features of random filters, which compare local
    structure but know no objects. normalize: bring images from [-1, 1] to ImageNet's mean and deviation first; SPADE
    does not, and its losses are balanced for that.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: Mapping[str, Tensor] | int, normalize: bool = False) -> None:
        super().__init__()
        self.features = make_layers(cfgs["E"])[: RELUS[-1] + 1]
        self.normalize = normalize
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)
        if isinstance(weights, int):
            self._randomize(weights)
        else:
            self._load(weights)
        for layer in self.features:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False
        self.requires_grad_(False).eval()

    def _randomize(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for conv in self.features:
            if isinstance(conv, nn.Conv2d):
                fan_in = conv.in_channels * conv.kernel_size[0] * conv.kernel_size[1]
                nn.init.normal_(conv.weight, std=math.sqrt(2 / fan_in), generator=generator)
                conv.bias = nn.Parameter(torch.zeros(conv.out_channels))

    def _load(self, state: Mapping[str, Tensor]) -> None:
        wanted = self.state_dict()
        missing = [k for k in wanted if k not in state or state[k].shape != wanted[k].shape]
        if missing:
            raise ArtifactError(
                f"the state dict is no VGG-19: {missing[0]} is missing or of another shape",
                fix="give torchvision's vgg19-dcbb9e9d.pth",
            )
        self.load_state_dict({k: state[k] for k in wanted})

    def forward(self, image: Tensor) -> list[Tensor]:
        x = ((image + 1) / 2 - self.mean) / self.std if self.normalize else image
        activations = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in RELUS:
                activations.append(x)
        return activations


class Perceptual(nn.Module):
    """Sum over five layers of weighted L1 distances of VGG-19 features; arguments as `Vgg19` has them."""

    def __init__(self, weights: Mapping[str, Tensor] | int, normalize: bool = False) -> None:
        super().__init__()
        self.vgg = Vgg19(weights, normalize)

    def forward(self, fake: Tensor, real: Tensor) -> Tensor:
        """fake, real: (n, 3, h, w) in [-1, 1], 16 pixels a side at least; no gradient to real."""
        with torch.no_grad():
            targets = self.vgg(real)
        terms = [w * F.l1_loss(f, r) for w, f, r in zip(WEIGHTS, self.vgg(fake), targets, strict=True)]
        return torch.stack(terms).sum()
