"""The networks of RESAIL (Shi et al., CVPR 2022): generator and SESAME discriminator; its segmenter is nn's UNet.

The generator is SPADE's with another normalization layer, which is modulated by the labels and by a guidance image
composed of retrieved segments. The paper's ablation puts other layers in its place; `normalization` has them all.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.nn.layers.normalization import (
    InstanceNorm,
    Maps,
    Modulation,
    ParameterFree,
    Spade,
    bias_of,
    convolution,
    instance_norm,
    label_heads,
    parameter_free,
)
from pipelines.nn.layers.patch_discriminator import MultiscaleDiscriminator, patch_layers, patch_width
from pipelines.nn.layers.spade_generator import (
    Conv,
    Size,
    SpadeSkeleton,
    bilinear,
    label_pyramid,
    nearest,
    pad_to_multiple,
    spade_stages,
)
from pipelines.nn.layers.spectral import spectral_conv

SLOPE = 0.2
GUIDANCE = 3  # channels of the guidance image
STYLE = 128  # length of a region's style vector in SEAN+

Norm = Literal["resail", "spade", "spade_guided", "pix2pixhd_plus", "sean_plus"]


def mean_patch(labels: Tensor) -> Tensor:
    """Mean (n, c, 3, 3) of the patches that a 3x3 convolution of stride 2 without padding sees in (n, c, h, w).

    Below 3 pixels the map is padded by one. The mean of a convolution is the convolution of the mean patch, which is
    how `ResailNorm` pools its style parameters without ever making the map that it pools.
    """
    if min(labels.shape[-2:]) < 3:
        labels = F.pad(labels, (1, 1, 1, 1))
    h, w = ((side - 3) // 2 * 2 + 1 for side in labels.shape[-2:])
    taps = [labels[..., i : i + h : 2, j : j + w : 2].mean((2, 3)) for i in range(3) for j in range(3)]
    return torch.stack(taps, -1).unflatten(-1, (3, 3))


class ResailNorm(Modulation):
    """norm(h) (1 + gamma) + beta, with gamma and beta blended from labels and guidance (equations 6 to 8).

    The label branch is SPADE's. The guidance branch is three convolutions whose features are restyled by the labels
    (AdaIN) after the first two. Its share is sigmoid(blending), which begins at a half; the paper's a is what is left.
    guidance_kernel: of the guidance branch.
    """

    def __init__(
        self,
        features: int,
        classes: int,
        *,
        hidden: int = 128,
        kernel: int = 3,
        guidance_kernel: int = 3,
        norm: ParameterFree = "batch",
    ) -> None:
        super().__init__(features, norm)
        coarse, fine = kernel // 2, guidance_kernel // 2
        self.mlp_shared = nn.Sequential(nn.Conv2d(classes, hidden, kernel, padding=coarse), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(hidden, features, kernel, padding=coarse)
        self.mlp_beta = nn.Conv2d(hidden, features, kernel, padding=coarse)
        self.conv_s = nn.Conv2d(classes, 2 * hidden, 3)
        self.conv_s2 = nn.Conv2d(2 * hidden, 2 * hidden, 1)
        self.conv1 = nn.Conv2d(GUIDANCE, hidden, guidance_kernel, padding=fine)
        self.conv2 = nn.Conv2d(hidden, hidden, guidance_kernel, padding=fine)
        self.conv3 = nn.Conv2d(hidden, hidden, guidance_kernel, padding=fine)
        self.conv_gamma = nn.Conv2d(hidden, features, guidance_kernel, padding=fine)
        self.conv_beta = nn.Conv2d(hidden, features, guidance_kernel, padding=fine)
        self.blending_gamma = nn.Parameter(torch.zeros(1))
        self.blending_beta = nn.Parameter(torch.zeros(1))

    def modulation(self, maps: Maps) -> tuple[Tensor, Tensor]:
        """1 + gamma and beta, each (n, features, h, w).

        Both branches end in convolutions, so their weights are blended instead of the maps, gamma's with beta's.
        """
        shares = torch.sigmoid(torch.cat([self.blending_gamma, self.blending_beta]))  # of the guidance
        share = shares.repeat_interleave(self.mlp_gamma.out_channels)

        weight, bias = blended(self.mlp_gamma, self.mlp_beta, 1 - share)
        labels = label_heads(maps, convolution(self.mlp_shared[0]), weight, bias)

        c1 = self.conv_s(maps["label_patch"])
        c2 = self.conv_s2(c1)
        x = F.relu_(adain(self.conv1(maps["guidance"]), c1))
        x = F.relu_(adain(self.conv2(x), c2))
        x = self.conv3(x)
        weight, bias = blended(self.conv_gamma, self.conv_beta, share)
        one = F.pad(torch.ones_like(self.blending_gamma).expand(self.conv_gamma.out_channels), (0, len(bias) // 2))
        if is_channels_last(labels):
            x = x.contiguous(memory_format=torch.channels_last)
        both = F.conv2d(x, weight, bias + one, padding=weight.shape[-1] // 2) + labels
        scale, shift = both.chunk(2, 1)
        return scale, shift


def blended(gamma: nn.Conv2d, beta: nn.Conv2d, share: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of one convolution for both, each output times its share (outputs of gamma and beta,)."""
    weight = torch.cat([gamma.weight, beta.weight]) * share[:, None, None, None]
    return weight, torch.cat([bias_of(gamma), bias_of(beta)]) * share


def is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last)


def adain(x: Tensor, style: Tensor) -> Tensor:
    """scale * instance_norm(x) + shift, with style (n, 2c, 1, 1) = (scale, shift) and x (n, c, h, w)."""
    scale, shift = style.chunk(2, 1)
    return scale * instance_norm(x) + shift


class ConcatNorm(nn.Module):
    """Pix2pixHD+: the maps are concatenated to the features, convolved back to their width and normalized."""

    def __init__(self, features: int, classes: int, *, norm: ParameterFree = "batch") -> None:
        super().__init__()
        self.conv = nn.Conv2d(features + classes + GUIDANCE, features, 3, padding=1)
        self.param_free_norm = parameter_free(norm, features)

    def forward(self, h: Tensor, maps: Maps) -> Tensor:
        return self.param_free_norm(self.conv(torch.cat([h, maps["labels_and_guidance"]], 1)))


class StyleEncoder(nn.Module):
    """The style encoder of SEAN: an image to style features (n, style, h/2, w/2) in [-1, 1]."""

    def __init__(self, style: int = STYLE) -> None:
        super().__init__()

        def restyled(conv: nn.Module) -> nn.Sequential:
            return nn.Sequential(conv, InstanceNorm(), nn.LeakyReLU(SLOPE))

        up = nn.ConvTranspose2d(128, 256, 3, stride=2, padding=1, output_padding=1)
        self.layers = nn.Sequential(
            restyled(nn.Conv2d(3, 32, 3, padding=1, padding_mode="reflect")),
            restyled(nn.Conv2d(32, 64, 3, stride=2, padding=1)),
            restyled(nn.Conv2d(64, 128, 3, stride=2, padding=1)),
            restyled(up),
            nn.Conv2d(256, style, 3, padding=1, padding_mode="reflect"),
            nn.Tanh(),
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image)


def pool_regions(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of features (n, s, h, w) over the pixels of each class of labels (n, classes, H, W), resized to them.

    Returns the style vectors (n, classes, s), zero for a class without pixels, and which classes have some.
    """
    masks = nearest(labels, (features.shape[-2], features.shape[-1])).to(features.dtype)
    count = masks.sum((2, 3))[..., None]
    total = torch.einsum("nshw,nlhw->nls", features, masks)
    return total / count.clamp(min=1), (count > 0).to(features.dtype)


class PerClassLinear(nn.Module):
    """A linear layer of its own for each class, Xavier-normal: (n, classes, inputs) to (n, classes, outputs)."""

    def __init__(self, classes: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(classes, outputs))
        for weight in self.weight:
            nn.init.xavier_normal_(weight)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nli,lio->nlo", x, self.weight) + self.bias


class SeanNorm(nn.Module):
    """SEAN+ (Zhu et al., CVPR 2020, without noise): SPADE blended with gamma and beta from the style of each region."""

    def __init__(
        self, features: int, classes: int, *, hidden: int = 128, style: int = STYLE, norm: ParameterFree = "batch"
    ) -> None:
        super().__init__()
        self.spade = Spade(features, classes, hidden=hidden, norm=norm)
        self.restyle = PerClassLinear(classes, style, style)
        self.conv_gamma = nn.Conv2d(style, features, 3, padding=1)
        self.conv_beta = nn.Conv2d(style, features, 3, padding=1)
        self.blending_gamma = nn.Parameter(torch.zeros(1))
        self.blending_beta = nn.Parameter(torch.zeros(1))

    def forward(self, h: Tensor, maps: Maps) -> Tensor:
        styles = F.relu(self.restyle(maps["styles"])) * maps["present"]
        style_map = torch.einsum("nls,nlhw->nshw", styles, maps["labels"].to(styles.dtype))
        scale_sp, beta_sp = self.spade.modulation(maps)
        gamma_st, beta_st = self.conv_gamma(style_map), self.conv_beta(style_map)
        scale = torch.lerp(scale_sp, 1 + gamma_st, torch.sigmoid(self.blending_gamma).to(scale_sp.dtype))
        beta = torch.lerp(beta_sp, beta_st, torch.sigmoid(self.blending_beta).to(beta_sp.dtype))
        return torch.addcmul(beta, self.spade.param_free_norm(h), scale)


def normalization(
    name: Norm, classes: int, last: str, *, hidden: int, kernel: int, guidance_kernel: int, norm: ParameterFree
) -> Callable[[str, int], nn.Module]:
    """What takes the place of SPADE in each variant of the paper's ablation, as the skeleton asks for it.

    last: name of the last stage, where SEAN+ is plain SPADE.
    """

    def make(stage: str, features: int) -> nn.Module:
        if name == "resail":
            return ResailNorm(
                features, classes, hidden=hidden, kernel=kernel, guidance_kernel=guidance_kernel, norm=norm
            )
        if name == "spade_guided":
            reads: Literal["labels", "labels_and_guidance"] = "labels_and_guidance"
            return Spade(features, classes + GUIDANCE, hidden=hidden, kernel=kernel, norm=norm, reads=reads)
        if name == "pix2pixhd_plus":
            return ConcatNorm(features, classes, norm=norm)
        if name == "sean_plus" and stage != last:
            return SeanNorm(features, classes, hidden=hidden, norm=norm)
        return Spade(features, classes, hidden=hidden, kernel=kernel, norm=norm)

    return make


class ResailGenerator(SpadeSkeleton):
    """Labels and guidance image to an image.

    classes: channels of the labels. upsamplings: see `spade_stages`; the seed is 1/2^upsamplings of the image.
    norm: which layer normalizes; all but "resail" are the paper's ablation ("spade" ignores the guidance). hidden:
    channels inside each of these layers. param_free: what normalizes below the modulation.
    """

    def __init__(
        self,
        classes: int,
        ngf: int = 64,
        *,
        upsamplings: int = 5,
        norm: Norm = "resail",
        hidden: int = 128,
        kernel: int = 3,
        guidance_kernel: int = 3,
        width_cap: int | None = None,
        param_free: ParameterFree = "batch",
        conv: Conv = spectral_conv,
        checkpointing: bool = False,
    ) -> None:
        stages = spade_stages(ngf, upsamplings, width_cap)
        make = normalization(
            norm,
            classes,
            stages[-1].name,
            hidden=hidden,
            kernel=kernel,
            guidance_kernel=guidance_kernel,
            norm=param_free,
        )
        super().__init__(stages, make, conv, checkpointing=checkpointing)
        self.norm = norm
        self.fc = nn.Conv2d(classes, self.seed_width, 3, padding=1)
        if norm == "sean_plus":
            self.style_encoder = StyleEncoder()

    def forward(self, labels: Tensor, guidance: Tensor) -> Tensor:
        """labels: one-hot (n, classes, h, w) of any size; guidance: (n, 3, h, w), -1 where empty. To (n, 3, h, w)."""
        h, w = labels.shape[-2:]
        labels, guidance = pad_to_multiple(labels, self.factor), pad_to_multiple(guidance, self.factor)
        start = (labels.shape[-2] // self.factor, labels.shape[-1] // self.factor)
        return self.paint(self.fc(nearest(labels, start)), self.pyramid(labels, guidance))[..., :h, :w]

    def pyramid(self, labels: Tensor, guidance: Tensor) -> Callable[[Size], Maps]:
        """The maps that the norms of this variant read, made once for each size."""
        regions = Maps()
        if self.norm == "sean_plus":
            regions["styles"], regions["present"] = pool_regions(self.style_encoder(guidance), labels)
        label_maps = label_pyramid(labels)

        @cache
        def conditions(size: Size) -> Maps:
            maps = Maps(guidance=bilinear(guidance, size), **label_maps(size), **regions)
            if self.norm == "resail":
                maps["label_patch"] = mean_patch(maps["labels"])
            if self.norm in ("spade_guided", "pix2pixhd_plus"):
                maps["labels_and_guidance"] = torch.cat([maps["labels"], maps["guidance"]], 1)
            return maps

        return conditions


class SesameDiscriminator(nn.Module):
    """One scale of SESAME: patches of the image, each feature scaled by what the labels say of its place.

    Two pathways of the same layout, for labels and for the image (the last 3 channels of the input), meet as
    x + x * sum_c(y) before the logits. The features for matching are the image's, before they meet.
    """

    def __init__(self, classes: int, ndf: int = 64, layers: int = 4) -> None:
        super().__init__()
        logits = nn.Sequential(nn.Conv2d(patch_width(ndf, layers), 1, 4, padding=2))
        self.sem_sequence = nn.ModuleList(patch_layers(classes, ndf, layers))
        self.img_sequence = nn.ModuleList([*patch_layers(3, ndf, layers), logits])

    def forward(self, labels_and_image: Tensor) -> list[Tensor]:
        y, x = labels_and_image[:, :-3], labels_and_image[:, -3:]
        *layers, logits = self.img_sequence
        features = []
        for layer in layers:
            x = layer(x)
            features.append(x)
        for layer in self.sem_sequence:
            y = layer(y)
        return [*features, logits(merge(x, y))]


def merge(x: Tensor, y: Tensor) -> Tensor:
    """Image features x and label features y, both (n, c, h, w), to x (1 + sum over channels of y)."""
    return x + x * y.sum(1, keepdim=True)


def sesame_discriminator(classes: int, ndf: int = 64, layers: int = 4, scales: int = 2) -> MultiscaleDiscriminator:
    """SESAME on cat(labels, image), at `scales` scales."""
    return MultiscaleDiscriminator(lambda: SesameDiscriminator(classes, ndf, layers), scales)
