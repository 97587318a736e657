"""The objectives of RESAIL; every term is returned by its name, already weighted.

Two fakes share a step: F_d is painted from the distorted ground truth and has the photo as its target; F_r is painted
from the retrieved guidance, has no target, and is trained by the discriminator and the segmenter alone.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from pipelines.nn.layers.patch_discriminator import Features
from pipelines.nn.losses.adversarial import hinge_fake, hinge_generator, hinge_real, logits_of
from pipelines.nn.losses.feature_matching import feature_matching
from pipelines.nn.losses.segmentation import balanced_cross_entropy, class_weights

Branch = Literal["distorted", "retrieved"]


def discriminator_terms(branch: Branch, fake: Features, real: Features) -> dict[str, Tensor]:
    """Hinge loss of one branch. Both branches judge the photo, so that over a step it weighs 2, as published."""
    return {f"d_fake_{branch}": hinge_fake(logits_of(fake)), f"d_real_{branch}": hinge_real(logits_of(real))}


def segmentation_loss(segmenter: nn.Module, fake: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Class-balanced cross-entropy of a frozen segmenter's view of the fake (n, 3, h, w) and labels (n, h, w)."""
    return balanced_cross_entropy(segmenter(fake), labels, class_weights(labels, classes))


def distorted_terms(
    fake_features: Features,
    real_features: Features | None,
    fake: Tensor,
    real: Tensor,
    perceptual: nn.Module | None,
    segmentation: Tensor | None,
    *,
    lambda_feature: float = 10.0,
    lambda_vgg: float = 10.0,
    lambda_seg: float = 5.0,
) -> dict[str, Tensor]:
    """What the generator pays for F_d: hinge, feature matching, VGG and segmentation; None leaves a term out."""
    terms = {"g_gan_distorted": hinge_generator(logits_of(fake_features))}
    if real_features is not None:
        terms["g_feature_distorted"] = lambda_feature * feature_matching(fake_features, real_features)
    if perceptual is not None:
        terms["g_vgg_distorted"] = lambda_vgg * perceptual(fake, real)
    if segmentation is not None:
        terms["g_seg_distorted"] = lambda_seg * segmentation
    return terms


def retrieved_terms(
    fake_features: Features, segmentation: Tensor | None, *, lambda_seg: float = 5.0
) -> dict[str, Tensor]:
    """What the generator pays for F_r: hinge and segmentation; None leaves the latter out."""
    terms = {"g_gan_retrieved": hinge_generator(logits_of(fake_features))}
    if segmentation is not None:
        terms["g_seg_retrieved"] = lambda_seg * segmentation
    return terms
