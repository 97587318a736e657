"""Label maps as networks see them: one-hot channels, edges of instances."""

from __future__ import annotations

import torch
from torch import Tensor


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """(n, h, w) class indices, negative where ignored, to float (n, classes, h, w); ignored pixels are all zero."""
    hot = torch.zeros(labels.shape[0], classes, *labels.shape[1:], device=labels.device)
    valid = labels >= 0
    return hot.scatter_(1, labels.clamp(min=0).long()[:, None], valid.float()[:, None])


def instance_edges(instances: Tensor) -> Tensor:
    """(n, h, w) instance ids to float (n, 1, h, w): 1 where any 4-neighbor has another id."""
    edges = torch.zeros_like(instances, dtype=torch.bool)
    horizontal = instances[:, :, 1:] != instances[:, :, :-1]
    vertical = instances[:, 1:, :] != instances[:, :-1, :]
    edges[:, :, 1:] |= horizontal
    edges[:, :, :-1] |= horizontal
    edges[:, 1:, :] |= vertical
    edges[:, :-1, :] |= vertical
    return edges.float()[:, None]
