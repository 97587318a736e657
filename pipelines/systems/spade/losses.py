"""The objectives of SPADE; every term is returned by its name, already weighted."""

from __future__ import annotations

from torch import Tensor, nn

from pipelines.nn.layers.patch_discriminator import Features
from pipelines.nn.losses.adversarial import hinge_fake, hinge_generator, hinge_real, logits_of
from pipelines.nn.losses.feature_matching import feature_matching
from pipelines.nn.reduce import world_size


def discriminator_terms(fake: Features, real: Features) -> dict[str, Tensor]:
    """Hinge loss of both; `fake` comes from an image without gradient."""
    return {"d_fake": hinge_fake(logits_of(fake)), "d_real": hinge_real(logits_of(real))}


def generator_terms(
    fake_features: Features,
    real_features: Features | None,
    fake: Tensor,
    real: Tensor,
    perceptual: nn.Module | None,
    *,
    lambda_feature: float = 10.0,
    lambda_vgg: float = 10.0,
) -> dict[str, Tensor]:
    """Hinge loss, feature matching and the VGG loss of images (n, 3, h, w); None leaves one of the latter out."""
    terms = {"g_gan": hinge_generator(logits_of(fake_features))}
    if real_features is not None:
        terms["g_feature"] = lambda_feature * feature_matching(fake_features, real_features)
    if perceptual is not None:
        terms["g_vgg"] = lambda_vgg * perceptual(fake, real)
    return terms


def kl_divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, e^logvar) || N(0, 1)), summed over the dimensions and over the batch of all processes, as published.

    SPADE weighs it 0.05. A loss is averaged over processes, hence the factor.
    """
    return -0.5 * world_size() * (1 + logvar - mu.square() - logvar.exp()).sum()
