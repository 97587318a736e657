"""RetrieveGAN's losses by hand, their gradients where they are delicate, and two processes against one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pipelines.nn.losses.perceptual import Perceptual
from pipelines.systems.retrievegan import losses
from pipelines.systems.retrievegan.losses import (
    box_loss,
    classification,
    cooccurrence_penalty,
    discriminator_loss,
    from_imagenet,
    generator_loss,
    joined_mean,
    perceptual_distance,
    reconstruction,
    to_imagenet,
)

YES, NO = True, False


# ---- eq. 5 (T9) -----------------------------------------------------------------------------------------------------


def test_the_penalty_of_two_patches_counts_both_orders():
    vectors = torch.tensor([[[0.0, 0.0], [3.0, 4.0]]], requires_grad=True)
    penalty = cooccurrence_penalty(vectors, torch.tensor([[YES, YES]]))
    assert penalty.item() == pytest.approx(10)
    penalty.backward()
    torch.testing.assert_close(vectors.grad, 2 * torch.tensor([[[-0.6, -0.8], [0.6, 0.8]]]))
    assert cooccurrence_penalty(vectors, torch.tensor([[YES, YES]]), "mean").item() == pytest.approx(5)


def test_one_patch_pays_nothing_and_absent_ones_do_not_count():
    vectors = torch.tensor([[[1.0, 2.0], [9.0, 9.0], [9.0, 9.0]]], requires_grad=True)
    penalty = cooccurrence_penalty(vectors, torch.tensor([[YES, NO, NO]]))
    penalty.backward()
    assert penalty.item() == 0 and not vectors.grad.any()
    both = torch.cat([vectors, torch.tensor([[[0.0, 0.0], [5.0, 5.0], [3.0, 4.0]]])])
    present = torch.tensor([[YES, NO, NO], [YES, NO, YES]])
    assert cooccurrence_penalty(both, present).item() == pytest.approx(5)  # the mean over images of 0 and 10


def test_the_same_patch_twice_has_a_finite_gradient():
    vectors = torch.ones(1, 3, 4, requires_grad=True)
    penalty = cooccurrence_penalty(vectors, torch.tensor([[YES, YES, YES]]))
    penalty.backward()
    assert penalty.item() < 1e-4 and vectors.grad.isfinite().all()


def test_the_order_of_patches_changes_no_penalty():
    vectors = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    present, order = torch.ones(2, 5, dtype=torch.bool), [3, 0, 4, 1, 2]
    torch.testing.assert_close(
        cooccurrence_penalty(vectors, present), cooccurrence_penalty(vectors[:, order], present[:, order])
    )


# ---- eq. 6 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("logit", [-3.0, 0.0, 2.5])
def test_adversarial_losses_are_the_logarithms_of_eq_6(logit):
    d = 1 / (1 + math.exp(-logit))
    logits = torch.full((2, 1, 3, 3), logit)
    assert generator_loss(logits).item() == pytest.approx(-math.log(d), rel=1e-5)
    terms = discriminator_loss(logits, logits)
    assert terms["real"].item() == pytest.approx(-math.log(d), rel=1e-5)
    assert terms["fake"].item() == pytest.approx(-math.log(1 - d), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sure_discriminator_gives_finite_losses_and_gradients(dtype):
    logits = torch.tensor([-300.0, 300.0], dtype=dtype, requires_grad=True)
    loss = generator_loss(logits) + sum(discriminator_loss(logits, logits).values())
    loss.backward()
    assert loss.isfinite() and loss.dtype == torch.float32 and logits.grad.isfinite().all()


def test_gradients_of_the_generator_do_not_saturate():
    logits = torch.tensor([-30.0], requires_grad=True)
    generator_loss(logits).backward()
    assert logits.grad.item() == pytest.approx(-1)


# ---- the others -----------------------------------------------------------------------------------------------------


def test_classification_by_hand():
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])
    wanted = (math.log(4 / 3) + math.log(2)) / 2
    assert classification(logits, torch.tensor([0, 1])).item() == pytest.approx(wanted, rel=1e-5)


def test_boxes_sum_over_coordinates_and_average_over_objects():
    predicted = torch.tensor([[0.1, 0.2, 0.5, 0.5], [0.0, 0.0, 1.0, 1.0]])
    boxes = torch.tensor([[0.2, 0.2, 0.4, 0.8], [0.0, 0.0, 1.0, 1.0]])
    assert box_loss(predicted, boxes).item() == pytest.approx(0.25)


def test_reconstruction_is_a_mean_in_fp32():
    made = torch.full((2, 3, 4, 4), 1.0, dtype=torch.bfloat16)
    assert reconstruction(made, torch.full((2, 3, 4, 4), 0.75)).item() == 0.25


def test_nothing_costs_nothing_and_has_a_gradient():
    nothing = torch.zeros(0, 3, 16, 16, requires_grad=True)
    total = perceptual_distance(nn.Identity(), nothing, nothing) + joined_mean(nothing)
    total = total + classification(nothing.flatten(1)[:, :4], torch.zeros(0, dtype=torch.int64))
    total = total + box_loss(nothing.flatten(1)[:, :4], torch.zeros(0, 4))
    total.backward()
    assert total.item() == 0 and nothing.grad is not None


def test_the_perceptual_distance_is_that_of_the_network():
    perceptual, generator = Perceptual(0), torch.Generator().manual_seed(0)
    made, wanted = torch.randn(2, 2, 3, 16, 16, generator=generator)
    distance = perceptual_distance(perceptual, made, wanted)
    torch.testing.assert_close(distance, perceptual(made, wanted))
    each = [perceptual(made[i : i + 1], wanted[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(distance, sum(each) / 2)


# ---- the space of images --------------------------------------------------------------------------------------------


def test_the_border_of_imagenet_space():
    image = torch.rand(2, 3, 4, 4) * 2 - 1
    torch.testing.assert_close(from_imagenet(to_imagenet(image)), image, atol=1e-6, rtol=1e-5)
    gray = to_imagenet(torch.zeros(3, 1, 1)).flatten()
    expected = [(0.5 - m) / s for m, s in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)]
    torch.testing.assert_close(gray, torch.tensor(expected))
    far = from_imagenet(torch.full((3, 2, 2), 99.0, dtype=torch.bfloat16))
    assert far.dtype == torch.float32 and (far == 1).all()


# ---- processes ------------------------------------------------------------------------------------------------------


def test_unequal_shares_of_two_processes_average_to_the_mean_of_the_joined_batch(monkeypatch):
    """Three objects here and one there: 4 in all, whatever this process has."""
    here, there = torch.tensor([[1.0], [2.0], [6.0]]), torch.tensor([[11.0]])
    monkeypatch.setattr(losses, "world_size", lambda: 2)
    monkeypatch.setattr(losses, "all_reduce_sum", lambda count: torch.full_like(count, 4.0))
    assert (joined_mean(here) + joined_mean(there)).item() / 2 == pytest.approx(5)

    class Distance(nn.Module):
        def forward(self, made, wanted):
            return (made - wanted).abs().mean()

    parts = [perceptual_distance(Distance(), part[..., None, None], torch.zeros(1)) for part in (here, there)]
    assert sum(parts).item() / 2 == pytest.approx(5)
