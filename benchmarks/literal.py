"""SPADE and RESAIL, written out: every convolution of the equations by itself, in fp32, as a yardstick for speed.

One module per line of the papers' figures, stock layers of torch, nothing shared or fused, conditions resized for each
layer anew. The state dicts are those of pipelines/, so the same weights give the same images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

Norm = Callable[[int], nn.Module]
BLOCKS = ("head_0", "G_middle_0", "G_middle_1", "up_0", "up_1", "up_2", "up_3")
WIDTHS = (16, 16, 16, 8, 4, 2, 1)
UPSAMPLED = ("G_middle_0", "up_0", "up_1", "up_2", "up_3")  # five doublings, as for 128 to 256 pixels


class Spade(nn.Module):
    def __init__(self, features: int, classes: int, hidden: int = 128) -> None:
        super().__init__()
        self.param_free_norm = nn.BatchNorm2d(features, affine=False)
        self.mlp_shared = nn.Sequential(nn.Conv2d(classes, hidden, 3, padding=1), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(hidden, features, 3, padding=1)
        self.mlp_beta = nn.Conv2d(hidden, features, 3, padding=1)

    def forward(self, x: Tensor, labels: Tensor, guidance: Tensor | None) -> Tensor:
        normalized = self.param_free_norm(x)
        shared = self.mlp_shared(F.interpolate(labels, x.shape[2:], mode="nearest"))
        gamma = self.mlp_gamma(shared)
        beta = self.mlp_beta(shared)
        return normalized * (1 + gamma) + beta


class Resail(nn.Module):
    def __init__(self, features: int, classes: int, hidden: int = 128) -> None:
        super().__init__()
        self.param_free_norm = nn.BatchNorm2d(features, affine=False)
        self.mlp_shared = nn.Sequential(nn.Conv2d(classes, hidden, 3, padding=1), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(hidden, features, 3, padding=1)
        self.mlp_beta = nn.Conv2d(hidden, features, 3, padding=1)
        self.conv_s = nn.Conv2d(classes, 2 * hidden, 3, stride=2)
        self.conv_s2 = nn.Conv2d(2 * hidden, 2 * hidden, 1)
        self.conv1 = nn.Conv2d(3, hidden, 3, padding=1)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.conv3 = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.conv_gamma = nn.Conv2d(hidden, features, 3, padding=1)
        self.conv_beta = nn.Conv2d(hidden, features, 3, padding=1)
        self.blending_gamma = nn.Parameter(torch.zeros(1))
        self.blending_beta = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, labels: Tensor, guidance: Tensor) -> Tensor:
        normalized = self.param_free_norm(x)
        labels = F.interpolate(labels, x.shape[2:], mode="nearest")
        guidance = F.interpolate(guidance, x.shape[2:], mode="bilinear", align_corners=False)
        shared = self.mlp_shared(labels)
        gamma_s = self.mlp_gamma(shared)
        beta_s = self.mlp_beta(shared)
        c1 = F.adaptive_avg_pool2d(self.conv_s(labels), 1)
        c2 = self.conv_s2(c1)
        y = F.relu(self.restyled(self.conv1(guidance), c1))
        y = F.relu(self.restyled(self.conv2(y), c2))
        y = self.conv3(y)
        gamma_r = self.conv_gamma(y)
        beta_r = self.conv_beta(y)
        a_gamma = torch.sigmoid(self.blending_gamma)
        a_beta = torch.sigmoid(self.blending_beta)
        gamma = a_gamma * gamma_r + (1 - a_gamma) * gamma_s
        beta = a_beta * beta_r + (1 - a_beta) * beta_s
        return normalized * (1 + gamma) + beta

    @staticmethod
    def restyled(y: Tensor, style: Tensor) -> Tensor:
        scale, shift = style.chunk(2, 1)
        return scale * F.instance_norm(y) + shift


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, norm: Norm) -> None:
        super().__init__()
        middle = min(inputs, outputs)
        self.conv_0 = spectral_norm(nn.Conv2d(inputs, middle, 3, padding=1))
        self.conv_1 = spectral_norm(nn.Conv2d(middle, outputs, 3, padding=1))
        self.norm_0 = norm(inputs)
        self.norm_1 = norm(middle)
        self.shortcut = inputs != outputs
        if self.shortcut:
            self.conv_s = spectral_norm(nn.Conv2d(inputs, outputs, 1, bias=False))
            self.norm_s = norm(inputs)

    def forward(self, x: Tensor, labels: Tensor, guidance: Tensor | None) -> Tensor:
        y = self.conv_0(F.leaky_relu(self.norm_0(x, labels, guidance), 0.2))
        y = self.conv_1(F.leaky_relu(self.norm_1(y, labels, guidance), 0.2))
        return y + (self.conv_s(self.norm_s(x, labels, guidance)) if self.shortcut else x)


class Generator(nn.Module):
    """Labels (n, classes, h, w), and for RESAIL a guidance image, to an image; sides are multiples of 32."""

    def __init__(self, norm: Norm, classes: int, ngf: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(classes, 16 * ngf, 3, padding=1)
        width = 16 * ngf
        for name, multiple in zip(BLOCKS, WIDTHS, strict=True):
            self.add_module(name, Block(width, multiple * ngf, norm))
            width = multiple * ngf
        self.conv_img = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, labels: Tensor, guidance: Tensor | None = None) -> Tensor:
        h, w = labels.shape[2:]
        x = self.fc(F.interpolate(labels, (h // 32, w // 32), mode="nearest"))
        for name in BLOCKS:
            if name in UPSAMPLED:
                x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = self.get_submodule(name)(x, labels, guidance)
        return torch.tanh(self.conv_img(F.leaky_relu(x, 0.2)))


def patch_layers(inputs: int, ndf: int) -> list[nn.Module]:
    """Four convolutions 4x4, the last three spectrally normalized and followed by instance norm."""
    layers: list[nn.Module] = [nn.Sequential(nn.Conv2d(inputs, ndf, 4, 2, 2), nn.LeakyReLU(0.2))]
    for width, wider, stride in ((ndf, 2 * ndf, 2), (2 * ndf, 4 * ndf, 2), (4 * ndf, 8 * ndf, 1)):
        conv = spectral_norm(nn.Conv2d(width, wider, 4, stride, 2, bias=False))
        layers.append(nn.Sequential(nn.Sequential(conv, nn.InstanceNorm2d(wider)), nn.LeakyReLU(0.2)))
    return layers


class Patches(nn.Module):
    """SPADE's discriminator at one scale."""

    def __init__(self, classes: int, ndf: int) -> None:
        super().__init__()
        layers = [*patch_layers(classes + 3, ndf), nn.Sequential(nn.Conv2d(8 * ndf, 1, 4, padding=2))]
        for i, layer in enumerate(layers):
            self.add_module(f"model{i}", layer)

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for layer in self.children():
            x = layer(x)
            features.append(x)
        return features


class Sesame(nn.Module):
    """RESAIL's discriminator at one scale."""

    def __init__(self, classes: int, ndf: int) -> None:
        super().__init__()
        self.sem_sequence = nn.ModuleList(patch_layers(classes, ndf))
        logits = nn.Sequential(nn.Conv2d(8 * ndf, 1, 4, padding=2))
        self.img_sequence = nn.ModuleList([*patch_layers(3, ndf), logits])

    def forward(self, pair: Tensor) -> list[Tensor]:
        y, x = pair[:, :-3], pair[:, -3:]
        features = []
        for of_labels, of_image in zip(self.sem_sequence, list(self.img_sequence)[:-1], strict=True):
            y, x = of_labels(y), of_image(x)
            features.append(x)
        return [*features, self.img_sequence[-1](x + x * y.sum(1, keepdim=True))]


class Discriminator(nn.Module):
    """The same network at full and half size, on cat(labels, image)."""

    def __init__(self, scale: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.discriminator_0 = scale()
        self.discriminator_1 = scale()

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        half = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
        return [self.discriminator_0(x), self.discriminator_1(half)]


def networks(system: str, classes: int, ngf: int, ndf: int) -> dict[str, nn.Module]:
    """G and D of «spade» or «resail»."""
    layer, scale = {"spade": (Spade, Patches), "resail": (Resail, Sesame)}[system]
    generator = Generator(lambda features: layer(features, classes), classes, ngf)
    return {"G": generator, "D": Discriminator(lambda: scale(classes, ndf))}


Optimizers = dict[str, torch.optim.Optimizer]


def step(
    nets: dict[str, nn.Module], optimizers: Optimizers, labels: Tensor, guides: Sequence[Tensor], real: Tensor
) -> float:
    """One step of G and one of D, as published: hinge and feature matching; D sees a fake of the stepped generator.

    guides: the guidance image for RESAIL, nothing for SPADE. Returns the generator's loss.
    """
    nets["D"].requires_grad_(False)
    optimizers["G"].zero_grad()
    fake = nets["G"](labels, *guides)
    loss, matching, n = torch.zeros(()), torch.zeros(()), len(real)
    for features in nets["D"](torch.cat([torch.cat([labels, fake], 1), torch.cat([labels, real], 1)])):
        loss = loss - features[-1][:n].mean() / 2
        for layer in features[:-1]:
            matching = matching + F.l1_loss(layer[:n], layer[n:].detach()) / 2
    (loss + 10 * matching).backward()
    optimizers["G"].step()

    nets["D"].requires_grad_(True)
    optimizers["D"].zero_grad()
    with torch.no_grad():
        fake = nets["G"](labels, *guides)
    hinge = torch.zeros(())
    for features in nets["D"](torch.cat([torch.cat([labels, fake], 1), torch.cat([labels, real], 1)])):
        hinge = hinge + (F.relu(1 + features[-1][:n]).mean() + F.relu(1 - features[-1][n:]).mean()) / 2
    hinge.backward()
    optimizers["D"].step()
    return float(loss + 10 * matching)
