"""Losses against numbers worked out by hand and against plain loops."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from pipelines.errors import ArtifactError
from pipelines.nn.losses.adversarial import hinge_fake, hinge_generator, hinge_real
from pipelines.nn.losses.feature_matching import feature_matching
from pipelines.nn.losses.labelmix import labelmix_consistency, labelmix_mask, mix
from pipelines.nn.losses.perceptual import RELUS, WEIGHTS, Perceptual, Vgg19
from pipelines.nn.losses.segmentation import balanced_cross_entropy, class_weights


def maps(*values):
    return [torch.full((1, 1, 2 + i, 2), float(v)) for i, v in enumerate(values)]


def test_hinge_by_hand():
    assert hinge_real(maps(0.5)).item() == 0.5
    assert hinge_fake(maps(-2)).item() == 0
    assert hinge_real(maps(2)).item() == 0
    assert hinge_fake(maps(0)).item() == 1
    assert hinge_real(maps(0.5, -1)).item() == 1.25  # scales weigh the same, whatever their size
    assert hinge_generator(maps(1, 3)).item() == -2


def test_feature_matching_by_hand():
    real = [[torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 2, 2), torch.zeros(1, 1, 2, 2)] for _ in range(2)]
    fake = [[r + 1 + i for r in scale] for i, scale in enumerate(real)]
    assert feature_matching(fake, real).item() == pytest.approx((2 * 1 + 2 * 2) / 2)
    assert feature_matching(real, real).item() == 0


def test_feature_matching_gives_the_real_side_no_gradient():
    features = [torch.randn(1, 2, 3, 3, requires_grad=True) for _ in range(4)]
    feature_matching([[features[0], features[1]]], [[features[2], features[3]]]).backward()
    assert features[0].grad is not None
    assert features[1].grad is None  # the logits
    assert features[2].grad is None


def test_class_weights_by_hand():
    labels = torch.tensor([[[0, 0], [0, 1]]])
    torch.testing.assert_close(class_weights(labels, 3), torch.tensor([2 / 3, 2.0, 0.0]))
    assert class_weights(labels, 3)[labels].mean().item() == pytest.approx(1)


def test_ignored_pixels_count_for_no_class():
    labels = torch.tensor([[[0, 0, 0, 1, -1, -1]]], dtype=torch.int16)
    torch.testing.assert_close(class_weights(labels, 2), torch.tensor([6 / (2 * 3), 6 / 2]))
    assert class_weights(torch.full((1, 2, 2), -1), 3).tolist() == [0, 0, 0]


def test_balanced_cross_entropy_is_the_mean_over_classes_of_their_means():
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 5, 5, requires_grad=True)
    labels = torch.randint(-1, 3, (2, 5, 5))
    loss = balanced_cross_entropy(logits, labels, class_weights(labels, 4))
    per_pixel = F.cross_entropy(logits, labels.clamp(min=0), reduction="none")
    expected = torch.stack([per_pixel[labels == c].mean() for c in range(3)]).mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert logits.grad.permute(0, 2, 3, 1)[labels < 0].abs().max() == 0


def test_balanced_cross_entropy_of_nothing_is_zero():
    labels = torch.full((1, 2, 2), -1)
    loss = balanced_cross_entropy(torch.randn(1, 3, 2, 2), labels, class_weights(labels, 3))
    assert loss.item() == 0


def test_labelmix_looks_coins_up():
    labels = torch.tensor([[[0, 1], [2, -1]], [[0, 1], [2, -1]]])
    coins = torch.tensor([[0, 1, 0, 1], [1, 0, 1, 0]])
    expected = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]], [[[0.0, 1.0], [0.0, 1.0]]]])
    assert torch.equal(labelmix_mask(labels, coins), expected)


def test_labelmix_of_real_pixels_alone_is_the_real_image():
    labels = torch.randint(-1, 3, (2, 4, 4))
    mask = labelmix_mask(labels, torch.ones(2, 4))
    real, fake = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    assert torch.equal(mix(mask, real, fake), real)
    assert labelmix_consistency(real, mask, real, fake).item() == 0


def test_vgg_slices_end_at_the_first_relu_of_each_block():
    layers = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["E"])
    first = [0, *[i + 1 for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)][:4]]
    assert tuple(i + 1 for i in first) == RELUS == (1, 6, 11, 20, 29)
    assert all(isinstance(layers[i], nn.ReLU) for i in RELUS)
    assert WEIGHTS == (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1)


@pytest.fixture(scope="module")
def perceptual():
    return Perceptual(0)


def test_perceptual_is_zero_for_the_same_image_and_reaches_the_fake_alone(perceptual):
    fake = torch.rand(1, 3, 32, 32, requires_grad=True)
    real = torch.rand(1, 3, 32, 32, requires_grad=True)
    assert perceptual(fake, fake).item() == 0
    perceptual(fake, real).backward()
    assert fake.grad.abs().sum() > 0
    assert real.grad is None
    assert not any(p.requires_grad for p in perceptual.parameters())


def test_perceptual_is_the_weighted_l1_of_torchvisions_features(perceptual):
    features = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["E"])[:30]
    features.load_state_dict(perceptual.vgg.features.state_dict())
    a, b = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        expected = sum(
            w * F.l1_loss(features[: i + 1](a.clone()), features[: i + 1](b.clone()))
            for i, w in zip(RELUS, WEIGHTS, strict=True)
        )
        torch.testing.assert_close(perceptual(a, b), expected)


def test_random_vgg_keeps_the_scale_and_depends_on_its_seed_alone(perceptual):
    torch.manual_seed(1)
    again, other = Vgg19(0), Vgg19(1)
    x = torch.randn(1, 3, 64, 64)
    scales = []
    with torch.no_grad():
        for a, b, c in zip(perceptual.vgg(x), again(x), other(x), strict=True):
            assert torch.equal(a, b)
            assert not torch.equal(a, c)
            scales.append(a.square().mean().sqrt().item())
    assert max(scales) / min(scales) < 4


def test_vgg_loads_torchvisions_state_and_normalizes_on_request(perceptual):
    state = {f"features.{k}": v for k, v in perceptual.vgg.features.state_dict().items()}
    state["classifier.0.weight"] = torch.zeros(1)
    net = Vgg19(state, normalize=True)
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        expected = perceptual.vgg(((image + 1) / 2 - mean) / std)
        for a, b in zip(net(image), expected, strict=True):
            torch.testing.assert_close(a, b)
    del state["features.5.bias"]
    with pytest.raises(ArtifactError, match=r"features\.5\.bias"):
        Vgg19(state)
