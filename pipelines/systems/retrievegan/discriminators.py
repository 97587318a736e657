"""The discriminators of sg2im and PasteGAN: one sees images, the other objects cut out of them (section 4.8)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from pipelines.systems.retrievegan.crops import Norm, norm2d

SLOPE = 0.2
"""Of sg2im's leaky ReLUs."""
KERNEL = 4


def trunk_side(side: int, layers: int = 3) -> int:
    """The side of the map to which a discriminator's convolutions bring an image; below 1 if it is too small."""
    for _ in range(layers):
        side = (side - KERNEL) // 2 + 1
    return side


def judging(widths: Sequence[int], norm: Norm) -> list[nn.Module]:
    """4x4 convolutions of stride 2 without padding; a norm and LeakyReLU before each but the first."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise([3, *widths]):
        if layers:
            layers += [norm2d(norm, inputs), nn.LeakyReLU(SLOPE)]
        layers.append(nn.Conv2d(inputs, outputs, KERNEL, stride=2))
    return layers


class ImageDiscriminator(nn.Sequential):
    """Images (B, 3, H, W), ImageNet-normalized, to logits of overlapping patches (B, 1, h, w); 22 pixels at least."""

    def __init__(self, widths: Sequence[int] = (64, 128, 256), norm: Norm = "batch") -> None:
        super().__init__(*judging(widths, norm), nn.Conv2d(widths[-1], 1, 1))


class ObjectDiscriminator(nn.Module):
    """Crops (O, 3, s, s) to logits of being real (O,) and of the classes (O, classes); 22 pixels at least."""

    def __init__(
        self, classes: int, widths: Sequence[int] = (64, 128, 256), features: int = 1024, norm: Norm = "batch"
    ) -> None:
        super().__init__()
        self.trunk = nn.Sequential(*judging(widths, norm))
        self.features = nn.Linear(widths[-1], features)
        self.real = nn.Linear(features, 1)
        self.category = nn.Linear(features, classes)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(self.trunk(crops).mean((2, 3)))
        return self.real(features).squeeze(1), self.category(features)
