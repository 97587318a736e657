"""Loading networks in the form in which the authors of RESAIL save them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pipelines.config import Layer, resolve
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
from pipelines.systems.resail.config import ResailConfig
from pipelines.systems.resail.networks import ResailGenerator, sesame_discriminator

PARTS = "G, D"


@dataclass(frozen=True)
class Options:
    """The authors' options that shape their networks; height, width, z_dim and norm_E shape none of those here.

    semantic_nc: channels of the labels, «unknown» included.
    """

    semantic_nc: int
    ngf: int = 64
    height: int = 256
    width: int = 256
    norm_G: str = "spectralspadesyncbatch3x3"  # noqa: N815
    num_upsampling_layers: str = "normal"
    z_dim: int = 256
    ndf: int = 64
    num_D: int = 2  # noqa: N815
    n_layers_D: int = 4  # noqa: N815
    norm_D: str = "spectralinstance"  # noqa: N815
    norm_E: str = "spectralinstance"  # noqa: N815


def load(part: str, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> nn.Module:
    """A published network in eval mode: G(labels, guidance) or D(cat(labels, image)).

    ConfigError for an unknown part or option, ArtifactError if the tensors are not those of the options.
    """
    options = read_options(Options, config)
    if part == "G":
        return load_state(_generator(state, options), state)
    if part == "D":
        require("norm_D", options.norm_D, "spectralinstance")
        classes = options.semantic_nc
        return load_state(sesame_discriminator(classes, options.ndf, options.n_layers_D, options.num_D), state)
    raise unknown_part(part, PARTS)


def settings(part: str, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> ResailConfig:
    """The config under which RESAIL builds this part as it was published. Raises what `load` raises."""
    if part not in PARTS.split(", "):
        raise unknown_part(part, PARTS)
    options = read_options(Options, config)
    norm = spade_norm(options.norm_G)
    values = {
        "framing": {"size": (options.height, options.width)},
        "ngf": options.ngf,
        "ndf": options.ndf,
        "upsamplings": upsamplings(options.num_upsampling_layers),
        "layers": options.n_layers_D,
        "scales": options.num_D,
        "norm": norm.norm,
        "kernel": norm.kernel,
        "guidance_kernel": _guidance_kernel(state) if part == "G" else 3,
        "spectral": norm.spectral,
    }
    return resolve(ResailConfig, [Layer("defaults", ResailConfig().model_dump()), Layer("published options", values)])


def classes(config: Mapping[str, Any]) -> int:
    """How many classes the labels of a published network have, «unknown» included."""
    return read_options(Options, config).semantic_nc


def _guidance_kernel(state: Mapping[str, Tensor]) -> int:
    """norm_G speaks of the label branch; the guidance branch's kernel is read from its tensors."""
    weight = tensor_of(state, "head_0.norm_0.conv1.weight")
    return weight.shape[-1] if weight.dim() == 4 else 3


def _generator(state: Mapping[str, Tensor], options: Options) -> ResailGenerator:
    norm = spade_norm(options.norm_G)
    return ResailGenerator(
        options.semantic_nc,
        options.ngf,
        upsamplings=upsamplings(options.num_upsampling_layers),
        kernel=norm.kernel,
        guidance_kernel=_guidance_kernel(state),
        param_free=norm.norm,
        conv=spectral_conv if norm.spectral else plain_conv,
    )
