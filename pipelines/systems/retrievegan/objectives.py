"""What a step of RetrieveGAN minimizes: the nine losses and those of the discriminators, by name and weighted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipelines.systems.base import Batch, Frozen, Networks
from pipelines.systems.retrievegan import losses
from pipelines.systems.retrievegan.choice import Chosen
from pipelines.systems.retrievegan.config import RetrieveganConfig
from pipelines.systems.retrievegan.guidance import NONE
from pipelines.systems.retrievegan.networks import crop_boxes


@dataclass(frozen=True)
class Painted:
    """What a step made. fakes: (B, 3, H, W) each, ImageNet-normalized: from own patches, then from retrieved ones.

    boxes: (O, 4) as the graph encoder predicts them. tau: temperature of the selection. chosen: the patches retrieved,
    None where no retrieval was made. observed: for the log.
    """

    boxes: Tensor
    tau: float
    fakes: list[Tensor]
    chosen: Chosen | None = None
    observed: dict[str, Tensor] = field(default_factory=dict)


def generator_terms(
    config: RetrieveganConfig, nets: Networks, frozen: Frozen, batch: Batch, photo: Tensor, painted: Painted
) -> dict[str, Tensor]:
    """All losses but L_sel_gt, without those of weight 0. photo: (B, 3, H, W), ImageNet-normalized.

    What is adversarial is the mean over both paths.
    """
    weights, real = config.weights, batch["real"]
    boxes, of = batch["boxes"][real], batch["obj_to_img"][real]
    from_own = painted.fakes[0]
    terms: dict[str, Tensor] = {}
    chosen = painted.chosen
    if config.penalizes_cooccurrence and chosen is not None and len(painted.fakes) > 1:
        there = chosen.rows != NONE
        vectors = frozen["cooccurrence"](chosen.pixels.flatten(0, 1)).unflatten(0, there.shape)
        terms["sel_occur"] = losses.cooccurrence_penalty(vectors, there, config.occurrence)
    if weights.adv_img:
        terms["adv_img"] = losses.generator_loss(torch.cat([nets["D_img"](fake) for fake in painted.fakes]))
    if weights.recon_img:
        terms["recon_img"] = losses.reconstruction(from_own, photo)
    if weights.p_img:
        terms["p_img"] = losses.perceptual_distance(frozen["perceptual"], from_own, photo)
    if config.judges_objects:
        answers = [nets["D_obj"](crop_boxes(fake, boxes, of, config.object_size)) for fake in painted.fakes]
        if weights.adv_obj:
            terms["adv_obj"] = losses.generator_loss(torch.cat([logits for logits, _ in answers]))
        if weights.ac_obj:
            categories = (batch["objects"][real] - 1).repeat(len(answers))
            terms["ac_obj"] = losses.classification(torch.cat([classes for _, classes in answers]), categories)
    if weights.p_obj:
        made, wanted = (crop_boxes(image, boxes, of, config.object_size) for image in (from_own, photo))
        terms["p_obj"] = losses.perceptual_distance(frozen["perceptual"], made, wanted)
    if weights.bbx:
        terms["bbx"] = losses.box_loss(painted.boxes[real], boxes)
    return {name: getattr(weights, name) * term for name, term in terms.items()}


def discriminator_terms(
    config: RetrieveganConfig, nets: Networks, batch: Batch, photo: Tensor, fakes: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Eq. 6 of images and of objects, fakes of both paths averaged, and the classes of real objects."""
    weights, real = config.weights, batch["real"]
    terms: dict[str, Tensor] = {}
    if config.judges_images:
        fake = torch.cat([nets["D_img"](image) for image in fakes])
        for name, term in losses.discriminator_loss(nets["D_img"](photo), fake).items():
            terms[f"img_{name}"] = weights.adv_img * term
    if config.judges_objects:
        boxes, of = batch["boxes"][real], batch["obj_to_img"][real]
        logits, classes = nets["D_obj"](crop_boxes(photo, boxes, of, config.object_size))
        if weights.adv_obj:
            fake = torch.cat([nets["D_obj"](crop_boxes(image, boxes, of, config.object_size))[0] for image in fakes])
            for name, term in losses.discriminator_loss(logits, fake).items():
                terms[f"obj_{name}"] = weights.adv_obj * term
        if weights.ac_obj:
            terms["obj_classes"] = weights.ac_obj * losses.classification(classes, batch["objects"][real] - 1)
    return terms
