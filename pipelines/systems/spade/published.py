"""Loading the networks that the authors of SPADE published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pipelines.nn.layers.spectral import plain_conv, spectral_conv
from pipelines.nn.published import (
    load_state,
    read_options,
    require,
    spade_norm,
    tensor_of,
    unknown_part,
    upsamplings,
)
from pipelines.systems.spade.networks import SpadeGenerator, VaeEncoder, spade_discriminator


@dataclass(frozen=True)
class Options:
    """The authors' options that shape their networks.

    semantic_nc: channels of the labels, «unknown» and edges included. height, width: of the images in training, or
    crop_size (their width) and aspect_ratio (width over height). use_vae: None to tell by the tensors.
    """

    semantic_nc: int
    ngf: int = 64
    height: int = 256
    width: int = 256
    crop_size: int | None = None
    aspect_ratio: float | int | None = None
    norm_G: str = "spectralspadesyncbatch3x3"  # noqa: N815
    num_upsampling_layers: str = "normal"
    use_vae: bool | None = None
    z_dim: int = 256
    ndf: int = 64
    num_D: int = 2  # noqa: N815
    n_layers_D: int = 4  # noqa: N815
    norm_D: str = "spectralinstance"  # noqa: N815
    norm_E: str = "spectralinstance"  # noqa: N815


def load(part: str, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> nn.Module:
    """A published network in eval mode: G(labels[, z]), D(cat(labels, image)) or E(image).

    ConfigError for an unknown part or option, ArtifactError if the tensors are not those of the options.
    """
    options = read_options(Options, config)
    if part == "G":
        return load_state(_generator(state, options), state)
    if part == "D":
        require("norm_D", options.norm_D, "spectralinstance")
        inputs = options.semantic_nc + 3
        return load_state(spade_discriminator(inputs, options.ndf, options.n_layers_D, options.num_D), state)
    if part == "E":
        require("norm_E", options.norm_E, "spectralinstance")
        convs = sum(key.startswith("layer") and key.endswith(".weight_orig") for key in state)
        latent = len(tensor_of(state, "fc_mu.bias"))
        return load_state(VaeEncoder(options.ngf, size=4 * 2 ** max(convs, 1), z_dim=latent), state)
    raise unknown_part(part, "G, D, E")


def _generator(state: Mapping[str, Tensor], options: Options) -> SpadeGenerator:
    norm, ups = spade_norm(options.norm_G), upsamplings(options.num_upsampling_layers)
    use_vae = tensor_of(state, "fc.weight").dim() == 2 if options.use_vae is None else options.use_vae
    start_width = (options.crop_size or options.width) // 2**ups
    start_height = round(start_width / (options.aspect_ratio or options.width / options.height))
    return SpadeGenerator(
        options.semantic_nc,
        options.ngf,
        upsamplings=ups,
        size=(start_height * 2**ups, start_width * 2**ups),
        z_dim=options.z_dim if use_vae else None,
        kernel=norm.kernel,
        norm=norm.norm,
        conv=spectral_conv if norm.spectral else plain_conv,
    )
