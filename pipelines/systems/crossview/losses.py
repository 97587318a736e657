"""The objectives of the cross-view system; every term is returned by its name, already weighted (section 5)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.errors import ConfigError
from pipelines.nn.reduce import gather, rank

POWER = 6
"""Of the gradient penalty (DF-GAN)."""
ROUNDING = 1e-3
"""By how much two embeddings of one image may differ in any entry, whose variance is 1."""


def rolled(c: Tensor) -> Tensor:
    """Each embedding's place taken by its neighbor's in the joined batch of all processes; (n, d), without gradient."""
    joined = gather(c.detach())
    if len(joined) < 2:
        raise ConfigError("a batch of one pair has no mismatch", fix="give --batch 2 or more, or --set model.alpha_d=0")
    first = len(c) * rank()
    return joined.roll(1, 0)[first : first + len(c)]


def discriminator_terms(
    discriminator: nn.Module, real: Tensor, fake: Tensor, c: Tensor, *, conditional: bool = True, penalty: float = 2.0
) -> dict[str, Tensor]:
    """Matching-aware hinge loss with the gradient penalty of real matching pairs (MA-GP), to be computed in fp32.

    real, fake: (n, 3, h, w), fake without gradient. c: (n, d) of their sources. conditional: the discriminator reads
    c; one that does not cannot tell a mismatch, so all of the weight of what is wrong goes to the fake.
    """
    c = c.detach()
    if penalty:
        real, c = real.detach().requires_grad_(), c.clone().requires_grad_()
    of_real = discriminator(real, c)
    terms = {"d_real": F.relu(1 - of_real).mean()}
    if penalty:
        terms["d_penalty"] = penalty * gradient_penalty(of_real, real, c)
    real, c = real.detach(), c.detach()
    of_fake = F.relu(1 + discriminator(fake, c)).mean()
    if not conditional:
        return {**terms, "d_fake": of_fake}
    other = rolled(c)
    # two examples that share a source have one embedding, and a real image that matches it is no mismatch
    differs = (other - c).abs().amax(1) > ROUNDING
    mismatch = torch.where(differs, F.relu(1 + discriminator(real, other)), 0.0).mean()
    return {**terms, "d_fake": of_fake / 2, "d_mismatch": mismatch / 2}


def gradient_penalty(judged: Tensor, real: Tensor, c: Tensor) -> Tensor:
    """Mean of the sixth power of the norm of the gradient of D (n,) by image and embedding together."""
    by_image, by_c = torch.autograd.grad(judged.sum(), (real, c), create_graph=True)
    square = by_image.flatten(1).square().sum(1) + by_c.square().sum(1)
    return (square ** (POWER // 2)).mean()


def identity_loss(fake: Tensor, wanted: Tensor) -> Tensor:
    """One minus the cosine of unit vectors (n, d): 0 where they agree, 2 where they are opposite."""
    return 1 - (fake * wanted).sum(1).mean()


def diversity(
    first: Tensor, second: Tensor, z1: Tensor, z2: Tensor, form: Literal["distance", "mode_seeking"]
) -> Tensor:
    """What two fakes of one source pay for being alike; no gradient to the second.

    distance: -|y1 - y2|, as StarGAN v2. mode_seeking: |z1 - z2| / |y1 - y2|, as MSGAN.
    """
    distance = (first - second.detach()).abs().mean((1, 2, 3))
    if form == "distance":
        return -distance.mean()
    return ((z1 - z2).abs().mean(1) / (distance + 1e-5)).mean()
