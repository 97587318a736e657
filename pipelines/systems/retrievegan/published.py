"""Loading the networks that the authors of sg2im published, on which RetrieveGAN stands.

RetrieveGAN's own code and weights were never published. The parts here are those of sg2im that it builds on: «gconv»
(the layers of the graph convolution) and «crn» (the cascaded refinement network).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

from pipelines.embed.graph_encoder import GraphTripleConvNet, Pooling
from pipelines.errors import ConfigError
from pipelines.nn.published import load_state, read_options, require, unknown_part
from pipelines.systems.retrievegan.config import RetrieveganConfig
from pipelines.systems.retrievegan.crn import RefinementNetwork
from pipelines.systems.retrievegan.crops import Norm

Choice = TypeVar("Choice")

PARTS = "gconv, crn"
POOLINGS: dict[str, Pooling] = {"avg": "avg", "sum": "sum"}
NORMS: dict[str, Norm] = {"batch": "batch", "instance": "instance"}
ACTIVATION = re.compile(r"(?:leaky)?relu(?:-(\d*\.?\d+))?")
"""What sg2im calls relu is a leaky one, too."""


@dataclass(frozen=True)
class Options:
    """The authors' options that shape their networks, and those of a golden case that do not.

    input_dim, hidden_dim, num_layers, pooling: of the graph convolution. crn_dims: channels of the layout and then of
    the modules. normalization, activation: of the refinement network; «leakyrelu» without a number has slope 0.01, the
    authors' generator has «leakyrelu-0.2». objects, triples, layout_size: of an example; networks do not depend on it.
    """

    input_dim: int = 128
    hidden_dim: int = 512
    num_layers: int = 5
    pooling: str = "avg"
    crn_dims: list | tuple = (128, 1024, 512, 256, 128, 64)
    normalization: str = "batch"
    activation: str = "leakyrelu"
    objects: int | None = None
    triples: int | None = None
    layout_size: int | None = None
    grid_sample_align_corners: bool = True


def load(part: str, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> nn.Module:
    """A published network in eval mode.

    gconv(objects (O, D), predicates (T, D), edges (T, 2)) -> new objects and predicates. crn(layout (n, D, h, w)) ->
    image (n, 3, h, w). ConfigError for an unknown part or option, ArtifactError if the tensors are not those of the
    options.
    """
    options = read_options(Options, config)
    require("grid_sample_align_corners", options.grid_sample_align_corners, True)
    if part == "gconv":
        if min(options.input_dim, options.hidden_dim, options.num_layers) < 1:
            raise ConfigError("input_dim, hidden_dim and num_layers are at least 1")
        pooling = one_of("pooling", options.pooling, POOLINGS)
        layers = GraphTripleConvNet(options.input_dim, options.hidden_dim, options.num_layers, pooling)
        return load_state(layers, state)
    if part == "crn":
        return load_state(_refinement_network(options), state)
    raise unknown_part(part, PARTS)


def settings(part: str, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> RetrieveganConfig:
    """Raises what `load` raises, and ConfigError for every part: none is a network of a run by itself."""
    load(part, state, config)
    raise ConfigError(
        f"{part!r} alone makes no run",
        where="part",
        fix="networks of sg2im are parts of those of a run; there is no published network of RetrieveGAN to import",
    )


def _refinement_network(options: Options) -> RefinementNetwork:
    dims = options.crn_dims
    if len(dims) < 2 or not all(isinstance(width, int) and width > 0 for width in dims):
        raise ConfigError(
            f"crn_dims is {dims!r}", where="crn_dims", fix="give the channels of the layout and of each module"
        )
    activation = ACTIVATION.fullmatch(options.activation)
    if activation is None:
        raise ConfigError(
            f"activation is {options.activation!r}", where="activation", fix="it reads leakyrelu or leakyrelu-0.2"
        )
    norm = one_of("normalization", options.normalization, NORMS)
    return RefinementNetwork(dims[0], dims[1:], norm=norm, slope=float(activation[1] or 0.01))


def one_of(name: str, value: str, known: Mapping[str, Choice]) -> Choice:
    """What an option's value means. ConfigError if it is none of those known."""
    if value not in known:
        raise ConfigError(f"{name} is {value!r}", where=name, fix=f"one of: {', '.join(known)}")
    return known[value]
