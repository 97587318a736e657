"""Hinge losses over the logits of one discriminator or of several scales (SPADE, RESAIL).

Each takes a list of logits maps, one per scale, and averages over the pixels of a scale, then over scales.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.nn.layers.patch_discriminator import Features


def logits_of(features: Features) -> list[Tensor]:
    """The logits of each scale, which are the last of its features."""
    return [scale[-1] for scale in features]


def _mean(terms: Sequence[Tensor]) -> Tensor:
    return torch.stack([term.mean() for term in terms]).mean()


def hinge_real(logits: Sequence[Tensor]) -> Tensor:
    """max(0, 1 - D(real)), what a discriminator pays for real images."""
    return _mean([F.relu(1 - d) for d in logits])


def hinge_fake(logits: Sequence[Tensor]) -> Tensor:
    """max(0, 1 + D(fake)), what a discriminator pays for fakes."""
    return _mean([F.relu(1 + d) for d in logits])


def hinge_generator(logits: Sequence[Tensor]) -> Tensor:
    """-D(fake), what a generator pays."""
    return -_mean(logits)
