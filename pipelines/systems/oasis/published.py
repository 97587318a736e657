"""Loading the networks that the authors of OASIS published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pipelines.config import Layer, resolve
from pipelines.errors import ConfigError
from pipelines.nn.layers.unet import WIDTHS, UNet
from pipelines.nn.published import load_state, read_options, tensor_of, unknown_part
from pipelines.systems.oasis.config import OasisConfig
from pipelines.systems.oasis.networks import OasisGenerator

PARTS = "G, D"


@dataclass(frozen=True)
class Options:
    """The authors' options that shape their networks; height, width, channels_D and note shape none.

    semantic_nc: channels of the labels, «unknown» included. no_3dnoise: None to tell by the tensors.
    """

    semantic_nc: int
    channels_G: int = 64  # noqa: N815
    channels_D: int = 64  # noqa: N815
    height: int = 256
    width: int = 256
    z_dim: int = 64
    num_res_blocks: int = 6
    spade_ks: int = 3
    no_3dnoise: bool | None = None
    note: str = ""


def load(part: str, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> nn.Module:
    """A published network in eval mode: G(labels, z) or D(image).

    ConfigError for an unknown part or option, ArtifactError if the tensors are not those of the options.
    """
    options = read_options(Options, config)
    if part == "G":
        return load_state(_generator(state, options), state, _published)
    if part == "D":
        return load_state(UNet(options.semantic_nc + 1, _widths(options.num_res_blocks)), state)
    raise unknown_part(part, PARTS)


def settings(part: str, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> OasisConfig:
    """The config under which OASIS builds this part as it was published. Raises what `load` raises.

    No average is kept beside it: the authors publish the average as the network.
    """
    if part not in PARTS.split(", "):
        raise unknown_part(part, PARTS)
    options = read_options(Options, config)
    noiseless = _noiseless(state, options) if part == "G" else bool(options.no_3dnoise)
    values = {
        "framing": {"size": (options.height, options.width)},
        "channels": options.channels_G,
        "blocks": options.num_res_blocks,
        "kernel": options.spade_ks,
        "discriminator_widths": WIDTHS[: options.num_res_blocks],
        "z_dim": 0 if noiseless else options.z_dim,
        "average": 0.0,
    }
    return resolve(OasisConfig, [Layer("defaults", OasisConfig().model_dump()), Layer("published options", values)])


def classes(config: Mapping[str, Any]) -> int:
    """How many classes the labels of a published network have, «unknown» included."""
    return read_options(Options, config).semantic_nc


def _noiseless(state: Mapping[str, Tensor], options: Options) -> bool:
    if options.no_3dnoise is None:
        return tensor_of(state, "fc.weight").shape[1:2] == (options.semantic_nc,)
    return options.no_3dnoise


def _generator(state: Mapping[str, Tensor], options: Options) -> OasisGenerator:
    return OasisGenerator(
        options.semantic_nc,
        options.channels_G,
        z_dim=0 if _noiseless(state, options) else options.z_dim,
        blocks=options.num_res_blocks,
        kernel=options.spade_ks,
    )


def _widths(blocks: int) -> tuple[int, ...]:
    if not 1 <= blocks <= len(WIDTHS):
        raise ConfigError(f"num_res_blocks is {blocks}", where="num_res_blocks", fix=f"1 to {len(WIDTHS)}")
    return WIDTHS[:blocks]


def _published(key: str) -> str:
    """The authors' name of a tensor of our generator."""
    return key.replace("body_", "body.").replace("param_free_norm", "first_norm")
