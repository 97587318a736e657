"""LabelMix (OASIS): mixing a real and a fake image by classes should mix the discriminator's logits."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def labelmix_mask(labels: Tensor, coins: Tensor) -> Tensor:
    """Which pixels are taken from the real image, (n, 1, h, w) float.

    labels: (n, h, w) class indices, -1 where ignored. coins: (n, classes + 1) of 0 and 1, for each image one for the
    ignored pixels and then one for each class. (The published code flips one coin per class for the whole batch.)
    """
    n, h, w = labels.shape
    return coins.gather(1, (labels.long() + 1).view(n, -1)).view(n, 1, h, w).float()


def mix(mask: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """mask * real + (1 - mask) * fake, of images or of logits."""
    return mask * real + (1 - mask) * fake


def labelmix_consistency(mixed_logits: Tensor, mask: Tensor, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Mean squared distance of D(mix) from the mix of D(real) and D(fake)."""
    return F.mse_loss(mixed_logits, mix(mask, real_logits, fake_logits))
