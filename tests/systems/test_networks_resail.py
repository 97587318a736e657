"""RESAIL's networks: the layer's promises, the ablation's variants, SESAME, sizes and counts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipelines.nn.initialization import init_weights
from pipelines.nn.layers.unet import UNet
from pipelines.nn.losses.segmentation import balanced_cross_entropy
from pipelines.systems.resail.losses import (
    discriminator_terms,
    distorted_terms,
    retrieved_terms,
    segmentation_loss,
)
from pipelines.systems.resail.networks import (
    ResailGenerator,
    ResailNorm,
    SeanNorm,
    SesameDiscriminator,
    mean_patch,
    merge,
    pool_regions,
    sesame_discriminator,
)

VARIANTS = ("resail", "spade", "spade_guided", "pix2pixhd_plus", "sean_plus")


def count(network):
    return sum(p.numel() for p in network.parameters())


def one_hot(n, classes, h, w):
    labels = torch.randint(0, classes, (n, h // 4 + 1, w // 4 + 1), generator=torch.Generator().manual_seed(0))
    labels = labels.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, :h, :w]
    return F.one_hot(labels, classes).permute(0, 3, 1, 2).float()


def maps_of(labels, guidance):
    return {"labels": labels, "guidance": guidance, "label_patch": mean_patch(labels)}


@pytest.mark.parametrize(
    ("classes", "norm", "parameters"),
    [
        (35, "resail", 126_272_871),
        (151, "resail", 134_558_055),
        (183, "resail", 136_843_623),
        (36, "spade", 93_048_003),
        (35, "spade_guided", 93_080_259),
        (35, "pix2pixhd_plus", 155_630_979),
        # the published count holds an idle noise scale per feature of every SEAN layer, 10,624 in all
        (35, "sean_plus", 126_879_905 - 10_624),
    ],
)
def test_parameters_of_the_generator(classes, norm, parameters):
    with torch.device("meta"):
        net = ResailGenerator(classes, norm=norm)
    assert count(net) == parameters
    if norm == "sean_plus":
        layers = [m for m in net.modules() if isinstance(m, SeanNorm)]
        assert sum(layer.conv_gamma.out_channels for layer in layers) == 10_624
    if norm == "resail":
        assert sum(isinstance(m, ResailNorm) for m in net.modules()) == 18


@pytest.mark.parametrize(("classes", "parameters"), [(35, 11_104_514), (151, 11_342_082), (183, 11_407_618)])
def test_parameters_of_the_discriminator(classes, parameters):
    with torch.device("meta"):
        assert count(sesame_discriminator(classes)) == parameters


def test_parameters_of_the_segmenter():
    with torch.device("meta"):
        assert count(UNet(35)) == 22_251_299


@pytest.mark.parametrize("size", [(2, 2), (1, 2), (3, 3), (4, 8), (5, 7), (16, 16)])
def test_the_mean_patch_pools_the_strided_convolution(size):
    labels = torch.randn(2, 5, *size)
    conv = nn.Conv2d(5, 6, 3, stride=2, padding=int(min(size) < 3))
    expected = conv(labels).mean((2, 3), keepdim=True)
    torch.testing.assert_close(F.conv2d(mean_patch(labels), conv.weight, conv.bias), expected)


def layer_and_input(size=8):
    torch.manual_seed(0)
    layer = ResailNorm(6, 4, hidden=8)
    return layer, torch.randn(2, 6, size, size), torch.randn(2, 4, size, size), torch.randn(2, 3, size, size)


def test_a_layer_with_zero_heads_is_its_norm():
    layer, h, labels, guidance = layer_and_input()
    for head in (layer.mlp_gamma, layer.mlp_beta, layer.conv_gamma, layer.conv_beta):
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    out = layer(h, maps_of(labels, guidance))
    torch.testing.assert_close(out, F.batch_norm(h, None, None, training=True))


def test_blending_decides_between_labels_and_guidance():
    layer, h, labels, guidance = layer_and_input()
    other = torch.randn_like(guidance)

    def paint(blending, guide):
        nn.init.constant_(layer.blending_gamma, blending)
        nn.init.constant_(layer.blending_beta, blending)
        return layer(h, maps_of(labels, guide))

    torch.testing.assert_close(paint(-200.0, guidance), paint(-200.0, other))  # a = 1: labels alone
    assert not torch.allclose(paint(0.0, guidance), paint(0.0, other))
    before = paint(200.0, guidance)
    nn.init.zeros_(layer.mlp_gamma.weight)
    nn.init.zeros_(layer.mlp_beta.weight)
    torch.testing.assert_close(paint(200.0, guidance), before)  # a = 0: guidance alone


def test_blending_begins_at_a_half():
    layer, h, labels, guidance = layer_and_input()
    maps = maps_of(labels, guidance)
    halves = 0.0
    for blending in (-200.0, 200.0):
        nn.init.constant_(layer.blending_gamma, blending)
        nn.init.constant_(layer.blending_beta, blending)
        halves = halves + layer(h, maps) / 2
    nn.init.zeros_(layer.blending_gamma)
    nn.init.zeros_(layer.blending_beta)
    torch.testing.assert_close(layer(h, maps), halves)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_layer_takes_the_smallest_maps(size):
    layer, h, labels, guidance = layer_and_input(size)
    assert layer(h, maps_of(labels, guidance)).isfinite().all()


@pytest.mark.parametrize("norm", VARIANTS)
def test_a_gradient_reaches_every_parameter(norm):
    net = init_weights(ResailGenerator(3, 2, upsamplings=4, norm=norm, hidden=8), gain=1)
    for name, p in net.named_parameters():
        if "blending" in name:
            nn.init.constant_(p, 0.1)
    net(one_hot(2, 3, 64, 64), torch.randn(2, 3, 64, 64)).square().mean().backward()
    # what ConcatNorm adds to a channel, batch norm takes away again
    idle = [n for n, p in net.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert [n for n in idle if not (norm == "pix2pixhd_plus" and n.endswith("conv.bias"))] == []


@torch.no_grad()
@pytest.mark.parametrize("norm", VARIANTS)
@pytest.mark.parametrize("size", [(64, 64), (128, 96), (33, 70)])
def test_an_image_has_the_size_of_its_layout(norm, size):
    net = init_weights(ResailGenerator(3, 2, upsamplings=4, norm=norm, hidden=4), gain=1).eval()
    image = net(one_hot(1, 3, *size), torch.randn(1, 3, *size))
    assert image.shape == (1, 3, *size)
    assert image.abs().max() <= 1


@torch.no_grad()
def test_only_the_plain_variant_ignores_the_guidance():
    labels, guides = one_hot(1, 3, 64, 64), torch.randn(2, 1, 3, 64, 64)
    for norm in VARIANTS:
        torch.manual_seed(0)
        net = init_weights(ResailGenerator(3, 2, upsamplings=4, norm=norm, hidden=4), gain=1).eval()
        same = torch.allclose(net(labels, guides[0]), net(labels, guides[1]))
        assert same == (norm == "spade"), norm


def test_the_first_block_of_256x512_is_4x8():
    with torch.device("meta"):
        net = ResailGenerator(35, upsamplings=6)
    assert (256 // net.factor, 512 // net.factor) == (4, 8)


def test_regions_are_pooled():
    labels = F.one_hot(torch.randint(0, 2, (1, 6, 6)), 3).permute(0, 3, 1, 2).float()
    features = torch.randn(1, 5, 6, 6)
    styles, present = pool_regions(features, labels)
    for c in range(2):
        torch.testing.assert_close(styles[0, c], features[0][:, labels[0, c] > 0].mean(1))
    assert styles[0, 2].abs().max() == 0
    assert present[0, :, 0].tolist() == [1, 1, 0]

    constant = torch.arange(5.0)[None, :, None, None].expand(1, 5, 6, 6)
    torch.testing.assert_close(pool_regions(constant, labels)[0][0, 0], torch.arange(5.0))

    inside = labels[0, 0] > 0
    shuffled = features.clone()
    shuffled[0][:, inside] = features[0][:, inside].flip(1)
    torch.testing.assert_close(pool_regions(shuffled, labels)[0], styles)


def test_a_missing_style_leaves_the_bias_of_the_convolutions():
    torch.manual_seed(0)
    layer = SeanNorm(4, 3, hidden=8, style=5)
    nn.init.constant_(layer.blending_gamma, 200.0)  # styles alone
    nn.init.constant_(layer.blending_beta, 200.0)
    labels = torch.zeros(1, 3, 6, 6)
    labels[:, 1] = 1
    h = torch.randn(1, 4, 6, 6)
    nn.init.normal_(layer.restyle.bias)
    out = layer(h, {"labels": labels, "styles": torch.zeros(1, 3, 5), "present": torch.zeros(1, 3, 1)})
    gamma, beta = (head.bias[None, :, None, None] for head in (layer.conv_gamma, layer.conv_beta))
    torch.testing.assert_close(out, F.batch_norm(h, None, None, training=True) * (1 + gamma) + beta)


def test_sesame_merges_by_the_sum_of_label_features():
    x, y = torch.randn(2, 5, 3, 3), torch.randn(2, 5, 3, 3)
    torch.testing.assert_close(merge(x, torch.zeros_like(y)), x)
    minus_one = y - y.mean(1, keepdim=True) - 1 / 5
    torch.testing.assert_close(merge(x, minus_one), torch.zeros_like(x), atol=1e-5, rtol=0)


def test_sesame_features_are_the_images_own():
    D = SesameDiscriminator(4, ndf=4).eval()
    image = torch.randn(1, 3, 64, 64)
    one, other = (D(torch.cat([torch.randn(1, 4, 64, 64), image], 1)) for _ in range(2))
    for a, b in zip(one[:-1], other[:-1], strict=True):
        assert torch.equal(a, b)
    assert not torch.allclose(one[-1], other[-1])
    assert [f.shape[1] for f in one] == [4, 8, 16, 32, 1]


def test_a_gradient_reaches_every_parameter_of_the_discriminator():
    D = init_weights(sesame_discriminator(4, ndf=4), gain=1)
    sum(scale[-1].square().mean() for scale in D(torch.randn(2, 7, 64, 64))).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in D.parameters())


def features(value, logit):
    return [[torch.full((1, 2, 4, 4), value), torch.full((1, 1, 4, 4), logit)]]


def test_terms_have_the_published_weights():
    def perceptual(a, b):
        return (a - b).abs().mean()

    image = torch.zeros(1, 3, 4, 4)
    seg = torch.tensor(1.0)
    distorted = distorted_terms(features(1.0, -2.0), features(0.0, 0.0), image + 1, image, perceptual, seg)
    assert [v.item() for v in distorted.values()] == [2, 10, 10, 5]
    retrieved = retrieved_terms(features(1.0, -2.0), seg)
    assert [v.item() for v in retrieved.values()] == [2, 5]
    assert len(distorted_terms(features(1.0, 0.0), features(0.0, 0.0), image, image, None, None)) == 2
    assert len(retrieved_terms(features(1.0, 0.0), None)) == 1

    real, fake = features(0.0, 0.5), features(0.0, -2.0)
    both = discriminator_terms("distorted", fake, real) | discriminator_terms("retrieved", fake, real)
    assert len(both) == 4
    assert sum(both.values()).item() == 1  # the photo weighs 2


def test_segmentation_loss_reaches_the_fake_and_ignores_unlabeled_pixels():
    S = UNet(3, widths=(4, 4, 8)).eval().requires_grad_(False)
    fake = torch.randn(1, 3, 16, 16, requires_grad=True)
    labels = torch.randint(0, 3, (1, 16, 16))
    loss = segmentation_loss(S, fake, labels, 3)
    loss.backward()
    assert fake.grad.abs().sum() > 0
    counts = torch.bincount(labels.flatten(), minlength=3)
    torch.testing.assert_close(loss, balanced_cross_entropy(S(fake), labels, 256 / (3 * counts)))
    assert segmentation_loss(S, fake, torch.full((1, 16, 16), -1), 3).item() == 0
