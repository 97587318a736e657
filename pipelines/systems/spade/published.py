"""Loading the networks that the authors of SPADE published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pipelines.config import Layer, resolve
from pipelines.errors import ConfigError
from pipelines.nn.layers.spade_generator import Size
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
from pipelines.systems.spade.config import SpadeConfig
from pipelines.systems.spade.networks import SpadeGenerator, VaeEncoder, spade_discriminator

PARTS = "G, D, E"


@dataclass(frozen=True)
class Options:
    """The authors' options that shape their networks.

    semantic_nc: channels of the labels, «unknown» and edges included. height, width: of the images in training, or
    crop_size (their width) and aspect_ratio (width over height). use_vae: None to tell by the tensors. no_instance:
    False where the last channel of the labels marks the borders of instances.
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
    no_instance: bool = True


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
        return load_state(VaeEncoder(options.ngf, _encoder_size(state), _latent(state)), state)
    raise unknown_part(part, PARTS)


def settings(part: str, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> SpadeConfig:
    """The config under which SPADE builds this part as it was published. Raises what `load` raises."""
    if part not in PARTS.split(", "):
        raise unknown_part(part, PARTS)
    options = read_options(Options, config)
    norm, ups = spade_norm(options.norm_G), upsamplings(options.num_upsampling_layers)
    values = {
        "framing": {"size": _size(options, ups)},
        "ngf": options.ngf,
        "ndf": options.ndf,
        "upsamplings": ups,
        "layers": options.n_layers_D,
        "scales": options.num_D,
        "norm": norm.norm,
        "kernel": norm.kernel,
        "spectral": norm.spectral,
        "edges": not options.no_instance,
        "vae": part == "E" or (_uses_vae(state, options) if part == "G" else bool(options.use_vae)),
        "z_dim": _latent(state) if part == "E" else options.z_dim,
        "encoder_size": _encoder_size(state) if part == "E" else None,
    }
    return resolve(SpadeConfig, [Layer("defaults", SpadeConfig().model_dump()), Layer("published options", values)])


def classes(config: Mapping[str, Any]) -> int:
    """How many classes the labels of a published network have, «unknown» included."""
    options = read_options(Options, config)
    return options.semantic_nc - (not options.no_instance)


def _generator(state: Mapping[str, Tensor], options: Options) -> SpadeGenerator:
    norm, ups = spade_norm(options.norm_G), upsamplings(options.num_upsampling_layers)
    return SpadeGenerator(
        options.semantic_nc,
        options.ngf,
        upsamplings=ups,
        size=_size(options, ups),
        z_dim=options.z_dim if _uses_vae(state, options) else None,
        kernel=norm.kernel,
        norm=norm.norm,
        conv=spectral_conv if norm.spectral else plain_conv,
    )


def _size(options: Options, ups: int) -> Size:
    """(h, w) of the images in training: 2^ups times the seed, whose height the authors derive from its width."""
    width, aspect = options.crop_size or options.width, options.aspect_ratio
    if not all(side > 0 for side in (width, options.width, options.height, 1 if aspect is None else aspect)):
        raise ConfigError("a side of the training images is not positive", where="height, width, crop_size")
    start_width = max(1, width // 2**ups)
    start_height = max(1, round(start_width / (aspect or options.width / options.height)))
    return start_height * 2**ups, start_width * 2**ups


def _uses_vae(state: Mapping[str, Tensor], options: Options) -> bool:
    """Does the generator begin with a latent vector."""
    return tensor_of(state, "fc.weight").dim() == 2 if options.use_vae is None else options.use_vae


def _encoder_size(state: Mapping[str, Tensor]) -> int:
    """Side of the images that the encoder brings to 4x4, by its convolutions of stride 2."""
    convs = sum(key.startswith("layer") and key.endswith(".weight_orig") for key in state)
    return 4 * 2 ** max(convs, 1)


def _latent(state: Mapping[str, Tensor]) -> int:
    return tensor_of(state, "fc_mu.bias").numel()
