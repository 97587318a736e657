"""Feature matching: a fake should excite a discriminator's layers as the real image does (pix2pixHD, SPADE)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.nn.layers.patch_discriminator import Features


def feature_matching(fake: Features, real: Features) -> Tensor:
    """Sum over layers of the L1 distance to the real features, averaged over scales; the logits are left out.

    Real features get no gradient.
    """
    scales = [
        torch.stack([F.l1_loss(f, r.detach()) for f, r in zip(fakes[:-1], reals[:-1], strict=True)]).sum()
        for fakes, reals in zip(fake, real, strict=True)
    ]
    return torch.stack(scales).mean()
