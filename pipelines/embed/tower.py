"""Tower: one network from images to unit vectors, over SAIG or any classification model of torchvision."""

from __future__ import annotations

import difflib
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from pipelines.data.augment import Size
from pipelines.embed.saig import SHAPES, STRIDE, AverageHead, Saig, SmdHead
from pipelines.errors import ConfigError
from pipelines.nn.layers.joined import joined

Head = Literal["gap", "smd"]
TORCHVISION = "torchvision:"
SMD_OUTPUTS = 8
LAST = ("fc", "classifier", "heads", "head")
"""Where torchvision's models keep their classifiers."""


class Tower(nn.Module):
    """Images (n, 3, any h, any w) in [-1, 1] to unit vectors (n, dimension).

    size: what images are resized to, differentiably. width: numbers in a token. backbone: images of that size to
    tokens (n, tokens, width). head: tokens to (n, dimension).
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, size: Size, width: int, dimension: int) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.size, self.width, self.dimension = size, width, dimension

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(self.head(self.tokens(images)).float(), dim=1)

    def pooled(self, images: Tensor) -> Tensor:
        """(n, width) the unit vectors of the mean over tokens, whatever the head."""
        return F.normalize(self.tokens(images).mean(1).float(), dim=1)

    def tokens(self, images: Tensor) -> Tensor:
        """(n, tokens, width)."""
        if images.shape[-2:] != self.size:
            images = F.interpolate(images, self.size, mode="bilinear", align_corners=False, antialias=True)
        tokens: Tensor = self.backbone(images)
        return tokens


def build_tower(backbone: str, head: Head, size: Size) -> Tower:
    """A tower with random weights. backbone: «saig-s», «saig-d», «saig-small», or «torchvision:resnet18» and the like.

    The one token of a torchvision model is the input of its last layer. Raises ConfigError for an unknown backbone, or
    one that does not go with the head or the size.
    """
    size = (size[0], size[1])
    require_backbone(backbone, head, size)
    if backbone.startswith(TORCHVISION):
        features = Features(backbone.removeprefix(TORCHVISION), size)
        return Tower(features, AverageHead(), size, features.width, features.width)
    body = Saig(SHAPES[backbone], size)
    if head == "gap":
        return Tower(body, AverageHead(), size, body.width, body.width)
    tokens = body.grid[0] * body.grid[1]
    return Tower(body, SmdHead(tokens, SMD_OUTPUTS), size, body.width, SMD_OUTPUTS * body.width)


def require_backbone(backbone: str, head: Head, size: Size) -> None:
    """ConfigError for an unknown backbone, or where head or size do not go with it; builds nothing."""
    if not backbone.startswith(TORCHVISION):
        require_known(backbone, list(SHAPES), f"{', '.join(SHAPES)} or {TORCHVISION}NAME")
        if size[0] % STRIDE or size[1] % STRIDE:
            raise ConfigError(
                f"{backbone} takes images whose sides are multiples of {STRIDE}, not {size[0]}x{size[1]}",
                where="size of the images",
            )
        return
    from torchvision import models

    known = models.list_models(module=models)
    require_known(backbone.removeprefix(TORCHVISION), known, "a classification model of torchvision")
    if head != "gap":
        raise ConfigError(f"{backbone} has no {head} head", where="head", fix="use head: gap, or a backbone of SAIG")


def require_known(name: str, known: list[str], choice: str) -> None:
    if name in known:
        return
    near = ", ".join(difflib.get_close_matches(name, known, 3))
    raise ConfigError(
        f"unknown backbone {name!r}", where="backbone", fix=f"did you mean {near}?" if near else f"use {choice}"
    )


class Features(nn.Module):
    """A classification model of torchvision without its last layer: images to one token (n, 1, width) each.

    Batch norm joins the batches of all processes; dropout and random depth are left out.
    """

    def __init__(self, name: str, size: Size) -> None:
        super().__init__()
        self.model = headless(name, size)
        self.width = feature_count(name, self.model, size)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.model(images)
        return features[:, None]


def headless(name: str, size: Size) -> nn.Module:
    """The model with random weights, its last linear layer or convolution an identity."""
    from torchvision import models
    from torchvision.ops import StochasticDepth

    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": True}  # one output, also in training
    elif name.startswith("vit_") and size[0] == size[1]:
        options = {"image_size": size[0]}
    elif name.startswith("maxvit"):
        options = {"input_size": size}
    try:
        model: nn.Module = models.get_model(name, weights=None, **options)
    except (RuntimeError, ValueError) as error:
        raise not_for(name, size, error) from error
    last = [
        path
        for path, module in model.named_modules()
        if path.split(".")[0] in LAST and isinstance(module, nn.Linear | nn.Conv2d)
    ]
    model.set_submodule(last[-1], nn.Identity())
    return joined(model, (nn.Dropout, StochasticDepth))


def feature_count(name: str, model: nn.Module, size: Size) -> int:
    """How many features the model gives for images of this size, without computing them."""
    shapes = {key: tensor.to("meta") for key, tensor in model.state_dict().items()}
    model.eval()
    try:
        with torch.no_grad():
            features = functional_call(model, shapes, torch.zeros(2, 3, *size, device="meta"))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise not_for(name, size, error) from error
    model.train()
    assert isinstance(features, Tensor) and features.dim() == 2, f"{name} gives no vector for each image"
    return features.shape[1]


def not_for(name: str, size: Size, error: Exception) -> ConfigError:
    return ConfigError(
        f"torchvision's {name} takes no images of {size[0]}x{size[1]}: {error}",
        where="backbone",
        fix="use another size or backbone",
    )
