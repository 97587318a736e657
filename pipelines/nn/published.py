"""Reading checkpoints that the authors of a system published: their options, and their tensors by their names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, NamedTuple, TypeVar

from torch import Tensor, nn

from pipelines.errors import ArtifactError, ConfigError
from pipelines.nn.layers.normalization import ParameterFree

Options = TypeVar("Options")
NAMED = 4


def read_options(cls: type[Options], config: Mapping[str, Any]) -> Options:
    """The dataclass `cls`, filled from the authors' options. ConfigError for an unknown, missing or mistyped one."""
    known: dict[str, Field[Any]] = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    for name, value in config.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            fix = f"did you mean {near[0]!r}?" if near else f"known options: {', '.join(sorted(known))}"
            raise ConfigError(f"unknown option {name!r} of a published network", where=name, fix=fix)
        wanted = known[name].type
        if type(value).__name__ not in str(wanted).split(" | ") and not (value is None and "None" in str(wanted)):
            raise ConfigError(f"the option {name!r} is {value!r}, which is no {wanted}", where=name)
    for name, f in known.items():
        if f.default is MISSING and name not in config:
            raise ConfigError(f"the option {name!r} is missing", where=name, fix="give it as it was trained")
    return cls(**config)


def unknown_part(part: str, parts: str) -> ConfigError:
    """The error for a part that a system does not have; `parts` lists those that it has."""
    return ConfigError(f"there is no part {part!r}", where="part", fix=f"one of: {parts}")


def tensor_of(state: Mapping[str, Tensor], key: str) -> Tensor:
    """A tensor that decides how a network is built. ArtifactError if the state dict lacks it."""
    if key not in state:
        raise ArtifactError(
            f"the state dict has no {key!r}",
            where=key,
            fix="check that the part is the right one and that the file holds its state dict itself",
        )
    return state[key]


def load_state(network: nn.Module, state: Mapping[str, Tensor], published: Callable[[str], str] = str) -> nn.Module:
    """Fill `network` from a published state dict, and set it to eval mode.

    published: the authors' name of one of the network's own keys. ArtifactError where a tensor is missing,
    unexpected or of another shape, with the first few by the authors' names.
    """
    wanted = {published(key): (key, tensor) for key, tensor in network.state_dict().items()}
    misshaped = [
        f"{name} is {_shape(state[name])}, not {_shape(tensor)}"
        for name, (_, tensor) in wanted.items()
        if name in state and _shape(state[name]) != _shape(tensor)
    ]
    faults = {
        "missing": [name for name in wanted if name not in state],
        "unexpected": [name for name in state if name not in wanted],
        "misshaped": misshaped,
    }
    found = [f"{len(names)} {what}: {_first(names)}" for what, names in faults.items() if names]
    if found:
        raise ArtifactError(
            "the tensors do not fit the network: " + "; ".join(found),
            fix="check the options against those that it was trained with, and that the part is the right one",
        )
    network.load_state_dict({key: state[name] for name, (key, _) in wanted.items()})
    return network.eval()


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _first(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")


UPSAMPLINGS = {"normal": 5, "more": 6, "most": 7}


def upsamplings(option: str) -> int:
    """How often the generator of SPADE doubles its size, from the option num_upsampling_layers."""
    if option not in UPSAMPLINGS:
        raise ConfigError(
            f"num_upsampling_layers is {option!r}",
            where="num_upsampling_layers",
            fix=f"one of: {', '.join(UPSAMPLINGS)}",
        )
    return UPSAMPLINGS[option]


class SpadeNorm(NamedTuple):
    """What the option norm_G says: are convolutions spectrally normalized, what is below SPADE, SPADE's kernel."""

    spectral: bool
    norm: ParameterFree
    kernel: int


def spade_norm(option: str) -> SpadeNorm:
    """Read norm_G, for instance "spectralspadesyncbatch3x3". ConfigError if it is not of that form."""
    match = re.fullmatch(r"(spectral)?spade(syncbatch|batch|instance)([1357])x\3", option)
    if match is None:
        raise ConfigError(
            f"norm_G is {option!r}",
            where="norm_G",
            fix="it reads [spectral]spade, then syncbatch, batch or instance, then 3x3 or another odd kernel",
        )
    spectral, below, kernel = match.groups()
    return SpadeNorm(spectral is not None, "instance" if below == "instance" else "batch", int(kernel))


def require(option: str, value: Any, only: Any) -> None:
    """ConfigError unless the option has the one value that is supported here."""
    if value != only:
        raise ConfigError(f"{option} is {value!r}", where=option, fix=f"only {only!r} can be loaded")
