"""Normalization without parameters of its own, and SPADE, which takes them from a map (Park et al., CVPR 2019)."""

from __future__ import annotations

import math
from typing import Literal, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipelines.nn.layers.neighborhoods import Neighborhoods
from pipelines.nn.reduce import differentiable_all_reduce_sum, world_size

EPS = 1e-5

ParameterFree = Literal["batch", "instance", "group"]


class Maps(TypedDict, total=False):
    """The conditions of a generator at the size of a feature map: those that its norms read."""

    labels: Tensor
    """(n, channels, h, w)."""
    neighborhoods: Neighborhoods | None
    """The distinct neighborhoods of `labels`, where they are few."""
    guidance: Tensor
    """(n, 3, h, w)."""
    labels_and_guidance: Tensor
    """cat(labels, guidance)."""
    label_patch: Tensor
    """(n, channels, 3, 3): what the style parameters of RESAIL see of the labels."""
    styles: Tensor
    """(n, channels, style): a vector for each class, in SEAN+."""
    present: Tensor
    """(n, channels, 1): whether an image has the class."""


class BatchNorm(nn.Module):
    """Batch norm without affine parameters, over the joined batch of all processes; works on gloo too.

    state: running_mean, running_var (unbiased), num_batches_tracked, as nn.BatchNorm2d has them.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, features: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.num_batches_tracked += 1
            if world_size() > 1:
                return self._over_processes(x)
        return F.batch_norm(
            x, self.running_mean, self.running_var, training=self.training, momentum=self.momentum, eps=EPS
        )

    def _over_processes(self, x: Tensor) -> Tensor:
        """Two sums over processes, of x and then of its squared deviations, since E[x²] - E[x]² cancels."""
        wide = x.to(self.running_mean.dtype)
        local = torch.cat([wide.sum((0, 2, 3)), wide.new_tensor([x.numel() / x.shape[1]])])
        total = differentiable_all_reduce_sum(local)
        mean, count = total[:-1] / total[-1], total[-1].detach()
        centered = wide - mean[:, None, None]
        var = differentiable_all_reduce_sum(centered.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1).clamp(min=1), self.momentum)
        return (centered * torch.rsqrt(var + EPS)[:, None, None]).to(x.dtype)


def instance_norm(x: Tensor) -> Tensor:
    """Instance norm without affine parameters; a map of a single pixel, which is its own mean, becomes zero."""
    return F.instance_norm(x, eps=EPS) if x.shape[-1] * x.shape[-2] > 1 else x * 0


class InstanceNorm(nn.Module):
    """`instance_norm` as a module, without state."""

    def forward(self, x: Tensor) -> Tensor:
        return instance_norm(x)


def parameter_free(kind: ParameterFree, features: int) -> nn.Module:
    """The norm below a modulation: over the batch, over each image, or over groups of channels of each image.

    There are as many groups as can be, up to 32, of 8 channels at least.
    """
    if kind == "batch":
        return BatchNorm(features)
    if kind == "instance":
        return InstanceNorm()
    return nn.GroupNorm(math.gcd(32, features, max(1, features // 8)), features, eps=EPS, affine=False)


class Modulation(nn.Module):
    """norm(h) (1 + gamma) + beta; a subclass says what gamma and beta are.

    features: channels of h. checkpointing: gamma and beta are computed again in the backward pass instead of kept.
    """

    checkpointing = False

    def __init__(self, features: int, norm: ParameterFree) -> None:
        super().__init__()
        self.param_free_norm = parameter_free(norm, features)

    def modulation(self, maps: Maps) -> tuple[Tensor, Tensor]:
        """1 + gamma and beta, each (n, features, h, w)."""
        raise NotImplementedError

    def forward(self, h: Tensor, maps: Maps) -> Tensor:
        normalized = self.param_free_norm(h)  # outside of what is computed twice: it moves its statistics
        if self.checkpointing and torch.is_grad_enabled():
            output = checkpoint(self.modulate, normalized, maps, use_reentrant=False, preserve_rng_state=False)
            assert isinstance(output, Tensor)
            return output
        return self.modulate(normalized, maps)

    def modulate(self, normalized: Tensor, maps: Maps) -> Tensor:
        scale, shift = self.modulation(maps)
        return torch.addcmul(shift, normalized, scale)


def label_heads(maps: Maps, shared: nn.Conv2d, weight: Tensor, bias: Tensor) -> Tensor:
    """conv(relu(shared(labels))) with a weight (outputs, hidden, k, k): (n, outputs, h, w).

    By the distinct neighborhoods of the labels where they are few, and otherwise by convolutions.
    """
    distinct = maps.get("neighborhoods")
    if distinct is None or shared.kernel_size != (3, 3) or weight.shape[2:] != (3, 3):
        return F.conv2d(F.relu(shared(maps["labels"])), weight, bias, padding=weight.shape[-1] // 2)
    return distinct.convolve(shared.weight, shared.bias, weight, bias)


class Spade(Modulation):
    """SPADE: norm(h) (1 + gamma(m)) + beta(m), with gamma and beta convolved from a map m at the size of h.

    features: channels of h. channels: channels of m. reads: which of the maps m is.
    """

    def __init__(
        self,
        features: int,
        channels: int,
        *,
        hidden: int = 128,
        kernel: int = 3,
        norm: ParameterFree = "batch",
        reads: Literal["labels", "labels_and_guidance"] = "labels",
    ) -> None:
        super().__init__(features, norm)
        self.reads: Literal["labels", "labels_and_guidance"] = reads
        pad = kernel // 2
        self.mlp_shared = nn.Sequential(nn.Conv2d(channels, hidden, kernel, padding=pad), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(hidden, features, kernel, padding=pad)
        self.mlp_beta = nn.Conv2d(hidden, features, kernel, padding=pad)

    def modulation(self, maps: Maps) -> tuple[Tensor, Tensor]:
        """1 + gamma and beta, each (n, features, h, w), by one convolution for both."""
        m = maps if self.reads == "labels" else Maps(labels=maps[self.reads])
        weight = torch.cat([self.mlp_gamma.weight, self.mlp_beta.weight])
        bias = torch.cat([1 + bias_of(self.mlp_gamma), bias_of(self.mlp_beta)])
        scale, shift = label_heads(m, convolution(self.mlp_shared[0]), weight, bias).chunk(2, 1)
        return scale, shift


def convolution(module: nn.Module) -> nn.Conv2d:
    """The module, known to be a convolution."""
    assert isinstance(module, nn.Conv2d)
    return module


def bias_of(conv: nn.Conv2d) -> Tensor:
    """The bias of a convolution that has one."""
    assert conv.bias is not None
    return conv.bias
