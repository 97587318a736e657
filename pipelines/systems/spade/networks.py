"""The networks of SPADE: generator, discriminator and image encoder (Park et al., CVPR 2019)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.errors import ConfigError
from pipelines.nn.layers.normalization import InstanceNorm, ParameterFree, Spade
from pipelines.nn.layers.patch_discriminator import MultiscaleDiscriminator, PatchDiscriminator
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
from pipelines.nn.layers.spectral import SpectralConv2d, spectral_conv

SLOPE = 0.2


class SpadeGenerator(SpadeSkeleton):
    """Labels to an image, every normalization modulated by the labels.

    classes: channels of the labels. upsamplings: see `spade_stages`; the seed is 1/2^upsamplings of the image.
    z_dim: draw the seed from a latent vector of this length instead of the labels (the VAE), for images of `size`
    (h, w); hidden: channels of the shared map in each SPADE.
    """

    def __init__(
        self,
        classes: int,
        ngf: int = 64,
        *,
        upsamplings: int = 5,
        size: Size = (256, 256),
        z_dim: int | None = None,
        hidden: int = 128,
        kernel: int = 3,
        width_cap: int | None = None,
        norm: ParameterFree = "batch",
        conv: Conv = spectral_conv,
        checkpointing: bool = False,
    ) -> None:
        def spade(stage: str, features: int) -> nn.Module:
            return Spade(features, classes, hidden=hidden, kernel=kernel, norm=norm)

        super().__init__(spade_stages(ngf, upsamplings, width_cap), spade, conv, checkpointing=checkpointing)
        self.start = (max(1, size[0] // self.factor), max(1, size[1] // self.factor))
        self.z_dim = z_dim
        if z_dim is None:
            self.fc: nn.Module = nn.Conv2d(classes, self.seed_width, 3, padding=1)
        else:
            self.fc = nn.Linear(z_dim, self.seed_width * self.start[0] * self.start[1])

    def forward(self, labels: Tensor, z: Tensor | None = None) -> Tensor:
        """labels: one-hot (n, classes, h, w) of any size. z: (n, z_dim), needed where there is one. To (n, 3, h, w)."""
        h, w = labels.shape[-2:]
        labels = pad_to_multiple(labels, self.factor)
        start = (labels.shape[-2] // self.factor, labels.shape[-1] // self.factor)

        if self.z_dim is None:
            seed = self.fc(nearest(labels, start))
        elif z is None:
            raise ConfigError(f"this generator needs a latent vector of length {self.z_dim}", where="z")
        else:  # a layout of another size than that of training stretches the seed
            seed = bilinear(self.fc(z).view(-1, self.seed_width, *self.start), start)
        return self.paint(seed, label_pyramid(labels))[..., :h, :w]


def spade_discriminator(inputs: int, ndf: int = 64, layers: int = 4, scales: int = 2) -> MultiscaleDiscriminator:
    """The PatchGAN of SPADE on cat(labels, image), `inputs` channels."""
    return MultiscaleDiscriminator(lambda: PatchDiscriminator(inputs, ndf, layers), scales)


class VaeEncoder(nn.Module):
    """An exemplar image to the mean and log variance of its latent vector.

    size: the exemplar is resized to a square of this side, a power of two; log2(size / 4) convolutions of stride 2
    bring it to 4x4. 256 is the published encoder. (The published code for smaller images drops a convolution and
    still resizes to 256, which cannot run.)
    """

    def __init__(self, ngf: int = 64, size: int = 256, z_dim: int = 256) -> None:
        super().__init__()
        convs = size.bit_length() - 3
        if convs < 1 or size != 4 * 2**convs:
            raise ConfigError(f"the side must be a power of two from 8, not {size}", where="size")
        self.size = size
        width = 3
        for i in range(convs):
            wider = ngf * min(2**i, 8)
            conv = SpectralConv2d(width, wider, 3, stride=2, padding=1, bias=False)
            self.add_module(f"layer{i + 1}", nn.Sequential(conv, InstanceNorm()))
            width = wider
        self.layers = tuple(self._modules)
        self.fc_mu = nn.Linear(width * 4 * 4, z_dim)
        self.fc_var = nn.Linear(width * 4 * 4, z_dim)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """image (n, 3, h, w) in [-1, 1] to mu and logvar, each (n, z_dim)."""
        x = bilinear(image, (self.size, self.size))
        for layer in self.layers:
            x = F.leaky_relu(self.get_submodule(layer)(x), SLOPE)
        return self.fc_mu(x.flatten(1)), self.fc_var(x.flatten(1))
