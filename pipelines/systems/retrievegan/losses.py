"""The nine losses of RetrieveGAN and those of its discriminators, unweighted (section 5).

| loss | function |
|---|---|
| L_sel_gt | `retrieval.selection_loss` |
| L_sel_occur (eq. 5) | `cooccurrence_penalty` |
| L_adv_img, L_adv_obj (eq. 6) | `generator_loss`, `discriminator_loss` |
| L_recon_img | `reconstruction` |
| L_p_img, L_p_obj | `perceptual_distance` |
| L_ac_obj | `classification` |
| L_bbx | `box_loss` |

Means over objects are those of the joined batch of all processes, whose shares differ: a process's term is such that
the average over processes is that mean. Networks work in the space of ImageNet-normalized images; `to_imagenet` and
`from_imagenet` are its border.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.embed.graph_encoder import box_loss as box_distances
from pipelines.nn.losses.perceptual import MEAN, STD
from pipelines.nn.reduce import all_reduce_sum, world_size

TINY = 1e-12
"""What is added to squared distances: the square root has no gradient at 0."""


def to_imagenet(image: Tensor) -> Tensor:
    """(…, 3, h, w) in [-1, 1] to ImageNet's mean and deviation."""
    mean, std = _imagenet(image)
    return ((image + 1) / 2 - mean) / std


def from_imagenet(image: Tensor) -> Tensor:
    """(…, 3, h, w) of ImageNet's mean and deviation to [-1, 1]; what is beyond is clamped."""
    mean, std = _imagenet(image)
    return ((image.float() * std + mean) * 2 - 1).clamp(-1, 1)


def _imagenet(image: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(image.dtype, torch.float32)
    mean, std = (torch.tensor(values, device=image.device, dtype=dtype)[:, None, None] for values in (MEAN, STD))
    return mean, std


def joined_mean(values: Tensor) -> Tensor:
    """The mean of (n, …) over the joined batch of all processes, in fp32; 0 of nothing."""
    return values.float().sum() * _factor(values.numel(), values)


def _factor(count: int, like: Tensor) -> Tensor:
    """What a sum over `count` of this process is multiplied with, so that its average over processes is the mean."""
    return world_size() / all_reduce_sum(torch.tensor(float(count), device=like.device)).clamp(min=1)


def cooccurrence_penalty(vectors: Tensor, present: Tensor, reduction: Literal["sum", "mean"] = "sum") -> Tensor:
    """L_sel_occur, eq. 5: the distances of the vectors of all ordered pairs of an image's patches, mean over images.

    vectors: (B, N, d) under the co-occurrence embedder. present: (B, N) bool. reduction: the sum over pairs, or their
    mean. 0 for an image with one patch.
    """
    vectors = vectors.float()
    squares = (vectors.unsqueeze(2) - vectors.unsqueeze(1)).square().sum(3)
    others = ~torch.eye(vectors.shape[1], dtype=torch.bool, device=vectors.device)
    counted = present.unsqueeze(2) & present.unsqueeze(1) & others
    distances = torch.where(counted, (squares + TINY).sqrt(), 0.0)
    each = distances.sum((1, 2))
    if reduction == "mean":
        each = each / counted.sum((1, 2)).clamp(min=1)
    return each.mean()


def generator_loss(logits: Tensor) -> Tensor:
    """-log D of fakes, the generator's side of eq. 6 that does not saturate; logits of images or of objects."""
    return joined_mean(F.softplus(-logits.float()))


def discriminator_loss(real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    """-log D(real) and -log(1 - D(fake)), eq. 6, of logits. Fakes of two paths are given joined: they are averaged."""
    return {"real": joined_mean(F.softplus(-real.float())), "fake": joined_mean(F.softplus(fake.float()))}


def reconstruction(image: Tensor, wanted: Tensor) -> Tensor:
    """L_recon_img: the mean absolute distance."""
    return F.l1_loss(image.float(), wanted.float())


def perceptual_distance(perceptual: nn.Module, made: Tensor, wanted: Tensor) -> Tensor:
    """L_p_img of images, L_p_obj of crops (n, 3, h, w): weighted L1 distances of VGG-19's features; 0 of nothing.

    perceptual: of the house (nn/losses/perceptual.py). VGG-19 was trained on ImageNet-normalized images, as these are.
    """
    distance: Tensor = perceptual(made, wanted) if len(made) else made.sum()
    return distance.float() * len(made) * _factor(len(made), made)


def classification(logits: Tensor, categories: Tensor) -> Tensor:
    """L_ac_obj: the cross entropy of logits (O, C) and class indices (O,)."""
    return joined_mean(F.cross_entropy(logits.float(), categories, reduction="none"))


def box_loss(predicted: Tensor, boxes: Tensor) -> Tensor:
    """L_bbx: the sum over coordinates of the distance to the annotated box (O, 4), mean over objects."""
    return joined_mean(box_distances(predicted.float(), boxes.float()))
