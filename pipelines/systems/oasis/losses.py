"""The objectives of OASIS; every term is returned by its name, already weighted.

The discriminator is a segmenter with classes + 1 logits: channel 0 says «fake», channel c + 1 «a real pixel of
class c». Labels are class indices (n, h, w), -1 where ignored: such a pixel has no class to be real of, and in a fake
it is as fake as the others.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.nn.losses.labelmix import labelmix_consistency
from pipelines.nn.losses.segmentation import IGNORED, balanced_cross_entropy, class_weights


def real_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Class-balanced cross-entropy of logits (n, classes + 1, h, w) with «real, of this class»."""
    weights = F.pad(class_weights(labels, logits.shape[1] - 1), (1, 0))
    return balanced_cross_entropy(logits, torch.where(labels >= 0, labels.long() + 1, IGNORED), weights)


def fake_loss(logits: Tensor) -> Tensor:
    """Cross-entropy of logits (n, classes + 1, h, w) with «fake», every pixel alike."""
    return -F.log_softmax(logits.float(), 1)[:, 0].mean()


def discriminator_terms(real_logits: Tensor, fake_logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """What the discriminator pays for a real and a fake image with the same labels."""
    return {"d_real": real_loss(real_logits, labels), "d_fake": fake_loss(fake_logits)}


def labelmix_terms(
    mixed_logits: Tensor,
    mask: Tensor,
    real_logits: Tensor,
    fake_logits: Tensor,
    *,
    lambda_labelmix: float = 10.0,
) -> dict[str, Tensor]:
    """What the discriminator pays for a mixed image; Cityscapes has lambda 5."""
    consistency = labelmix_consistency(mixed_logits, mask, real_logits, fake_logits)
    return {"d_labelmix": lambda_labelmix * consistency}


def generator_terms(fake_logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """What the generator pays: its pixels should be taken for real ones of their classes."""
    return {"g_gan": real_loss(fake_logits, labels)}
