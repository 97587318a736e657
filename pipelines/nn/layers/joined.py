"""Batch norm and dropout as the training loop needs them: two processes equal one on the joined batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.nn.layers.normalization import BatchNorm
from pipelines.nn.reduce import world_size


class JoinedBatchNorm(BatchNorm):
    """Affine batch norm over the joined batch of all processes, with the keys of nn.BatchNorm2d.

    A map with a single value per channel (a pooled branch at batch 1) has no variance of its own: it is normalized
    by the running statistics.
    """

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] * x.shape[2] * x.shape[3] * world_size() == 1:
            normalized = F.batch_norm(x, self.running_mean, self.running_var, training=False)
        else:
            normalized = super().forward(x)
        return normalized * self.weight[:, None, None] + self.bias[:, None, None]


def joined(module: nn.Module, random: tuple[type[nn.Module], ...] = (nn.Dropout,)) -> nn.Module:
    """`module` with every nn.BatchNorm2d a fresh JoinedBatchNorm and every layer of `random` an identity, in place.

    What such a layer draws would depend on how a batch is shared.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            module._modules[name] = JoinedBatchNorm(child.num_features)
        elif isinstance(child, random):
            module._modules[name] = nn.Identity()
        else:
            joined(child, random)
    return module
