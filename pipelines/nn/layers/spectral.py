"""Convolutions divided by the largest singular value of their weight (Miyato et al., ICLR 2018).

The state is that of published checkpoints: `weight_orig`, its leading left and right singular vectors `weight_u` and
`weight_v`, and `bias`. With W = weight_orig as a matrix (out, -1), the weight in use is W / (uᵀ W v). A forward in
training first makes one step of power iteration; the vectors are constants to the gradient.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-12


class SpectralConv2d(nn.Conv2d):
    """nn.Conv2d with a spectrally normalized weight; same arguments, zero padding only."""

    weight_orig: nn.Parameter
    weight_u: Tensor
    weight_v: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        weight = self.weight
        del self.weight
        self.weight_orig = nn.Parameter(weight.detach())
        matrix = weight.detach().flatten(1)
        self.register_buffer("weight_u", F.normalize(torch.randn(matrix.shape[0]), dim=0, eps=EPS))
        self.register_buffer("weight_v", F.normalize(torch.randn(matrix.shape[1]), dim=0, eps=EPS))

    @torch.no_grad()
    def power_iterate(self, steps: int = 1) -> None:
        """Move weight_u and weight_v towards the leading singular vectors of weight_orig, in place."""
        W = self.weight_orig.flatten(1)
        for _ in range(steps):
            self.weight_v.copy_(F.normalize(W.t().mv(self.weight_u), dim=0, eps=EPS))
            self.weight_u.copy_(F.normalize(W.mv(self.weight_v), dim=0, eps=EPS))

    def normalized_weight(self) -> Tensor:
        """weight_orig / (uᵀ W v), shaped as weight_orig, in the precision of the parameters even under autocast."""
        with torch.autocast(self.weight_orig.device.type, enabled=False):
            if self.training:
                self.power_iterate()
            # clones: a second forward before the backward of the first moves u and v in place
            u, v = self.weight_u.clone(), self.weight_v.clone()
            sigma = u.dot(self.weight_orig.flatten(1).mv(v))
            return self.weight_orig * sigma.reciprocal()  # whose gradient is cheaper than that of a division

    def forward(self, x: Tensor) -> Tensor:
        weight = self.normalized_weight()
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def spectral_conv(inputs: int, outputs: int, kernel: int, bias: bool = True) -> nn.Module:
    """A spectrally normalized convolution that keeps the size of its input (odd kernels)."""
    return SpectralConv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)


def plain_conv(inputs: int, outputs: int, kernel: int, bias: bool = True) -> nn.Module:
    """A convolution that keeps the size of its input (odd kernels)."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
