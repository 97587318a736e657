"""Loading the embedders that the authors of SAIG published, which this system leans on.

The generator of the cross-view system was never published; its parts here are those of the embedder: «backbone» (one
tower's transformer), «smd_head» (its mixing head), and «embedder», a checkpoint of both towers under the prefixes
model_grd. and model_sat., or the ImageNet weights of one backbone, with which both towers then begin.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pipelines.data.augment import Size
from pipelines.embed.pairs import NET, PairsConfig
from pipelines.embed.saig import SHAPES, STRIDE, Saig, SaigShape, SmdHead, resize_positions
from pipelines.embed.tower import SMD_OUTPUTS, AverageHead, Tower
from pipelines.errors import ArtifactError, ConfigError
from pipelines.nn.published import load_state, read_options, require, tensor_of, unknown_part

PARTS = "backbone, smd_head, embedder"
TRAINABLE = "embedder-crossview"
"""What an imported «embedder» is a run of."""
PREFIXES = {"ground": "model_grd.", "aerial": "model_sat."}
CLASSIFIER = re.compile(r"head\.(weight|bias)")
"""What ImageNet weights hold beside the backbone."""
HEAD = re.compile(r"(?:.*\.)?(linear[123]\.(?:weight|bias))")


@dataclass(frozen=True)
class Options:
    """The authors' options that shape their networks.

    height, width: of the images that a backbone sees; of a two-tower checkpoint's street images. aerial_height,
    aerial_width: of its aerial images. smd_hidden: four times the tokens if not given.
    """

    height: int = 128
    width: int = 512
    aerial_height: int = 256
    aerial_width: int = 256
    patch_size: int = 16
    embed_dim: int = 384
    depth: int = 11
    num_heads: int = 12
    smd_hidden: int | None = None
    smd_out: int = SMD_OUTPUTS
    qkv_bias: bool = True
    layernorm_eps: float = 1e-6


def load(part: str, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> nn.Module:
    """A published network in eval mode.

    backbone(image (n, 3, height, width)) -> tokens (n, N, embed_dim). smd_head(tokens) -> (n, smd_out * embed_dim), not
    yet of unit length. embedder: the nn.ModuleDict of the towers «aerial» and «ground». ConfigError for an unknown part
    or option, ArtifactError if the tensors are not those of the options.
    """
    options = _read(config)
    size = (options.height, options.width)
    if part == "backbone":
        return _backbone(state, options, size)
    if part == "smd_head":
        tokens = (size[0] // STRIDE) * (size[1] // STRIDE)
        return load_state(SmdHead(tokens, options.smd_out, options.smd_hidden), state)
    if part == NET:
        return nn.ModuleDict({view: _tower(view, state, options) for view in ("aerial", "ground")}).eval()
    raise unknown_part(part, PARTS)


def settings(part: str, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> PairsConfig:
    """The config under which both towers are built as they were published. Raises what `load` raises."""
    if part not in PARTS.split(", "):
        raise unknown_part(part, PARTS)
    if part != NET:
        raise ConfigError(f"{part!r} alone makes no run", where="part", fix=f"import it as part {NET!r}")
    options = _read(config)
    shape = _shape(options, _stem(_of_view("ground", state)))
    name = next((name for name, known in SHAPES.items() if known == shape), None)
    if name is None:
        raise ConfigError(
            f"no backbone here has width {options.embed_dim}, depth {options.depth} and {options.num_heads} heads",
            where="embed_dim, depth, num_heads",
            fix=f"the backbones are {', '.join(SHAPES)}",
        )
    return PairsConfig(
        backbone=name,
        head="smd" if _head("ground", state) else "gap",
        aerial=(options.aerial_height, options.aerial_width),
        ground=(options.height, options.width),
    )


def _read(config: Mapping[str, Any]) -> Options:
    options = read_options(Options, config)
    require("patch_size", options.patch_size, STRIDE)
    for name in ("height", "width", "aerial_height", "aerial_width"):
        side = getattr(options, name)
        if side < STRIDE or side % STRIDE:
            raise ConfigError(f"{name} is {side}, which is no multiple of {STRIDE}", where=name)
    if min(options.embed_dim, options.depth, options.num_heads, options.smd_out) < 1:
        raise ConfigError("embed_dim, depth, num_heads and smd_out are at least 1")
    if options.embed_dim % options.num_heads:
        raise ConfigError(
            f"embed_dim is {options.embed_dim}, which {options.num_heads} heads cannot share", where="num_heads"
        )
    return options


def _tower(view: str, state: Mapping[str, Tensor], options: Options) -> Tower:
    size = (options.height, options.width) if view == "ground" else (options.aerial_height, options.aerial_width)
    backbone = _backbone(_of_view(view, state), options, size)
    mixing = _head(view, state)
    if not mixing:
        return Tower(backbone, AverageHead(), size, options.embed_dim, options.embed_dim)
    tokens = backbone.grid[0] * backbone.grid[1]
    head = load_state(SmdHead(tokens, options.smd_out, options.smd_hidden), mixing)
    return Tower(backbone, head, size, options.embed_dim, options.smd_out * options.embed_dim)


def _backbone(state: Mapping[str, Tensor], options: Options, size: Size) -> Saig:
    """The backbone for images of this size; positions of a square grid of another size are resized."""
    own = {key: tensor for key, tensor in state.items() if not CLASSIFIER.fullmatch(key)}
    positions = tensor_of(own, "pos_embed")
    if not isinstance(positions, Tensor) or positions.dim() != 3:
        raise ArtifactError("the positions are not those of tokens", where="pos_embed")
    own["pos_embed"] = resize_positions(positions, (size[0] // STRIDE, size[1] // STRIDE))
    backbone = Saig(_shape(options, _stem(own)), size)
    load_state(backbone, own)
    return backbone


def _of_view(view: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The backbone of one tower by its own names: of a two-tower checkpoint, or all of a backbone's."""
    prefix = PREFIXES[view] + "backbone."
    if not any(key.startswith(tuple(PREFIXES.values())) for key in state):
        return dict(state)
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def _head(view: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mixing head of one tower by its own names; empty where the checkpoint averages.

    Everything that is under the tower's prefix and no backbone belongs to it, so that a stray tensor is refused.
    """
    outside = [k for k in state if k.startswith(PREFIXES[view]) and not k.startswith(PREFIXES[view] + "backbone.")]
    named = {key: HEAD.fullmatch(key) for key in outside}
    return {match[1] if match else key: state[key] for key, match in named.items()}


def _shape(options: Options, stem: tuple[int, ...]) -> SaigShape:
    return SaigShape(stem, options.embed_dim, options.depth, options.num_heads, options.qkv_bias, options.layernorm_eps)


def _stem(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Channels of the six convolutions of a stem, by their biases."""
    biases = [tensor_of(state, f"patch_embed.conv_stem.{i}.bias") for i in (0, 3, 6, 9, 12, 15)]
    return tuple(bias.numel() for bias in biases)
