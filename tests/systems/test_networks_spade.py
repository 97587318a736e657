"""SPADE's networks: sizes, counts, layouts of any size, gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pipelines.errors import ConfigError
from pipelines.nn.initialization import init_weights
from pipelines.nn.layers.patch_discriminator import judge_pair
from pipelines.systems.spade.losses import discriminator_terms, generator_terms, kl_divergence
from pipelines.systems.spade.networks import SpadeGenerator, VaeEncoder, spade_discriminator


def count(network):
    return sum(p.numel() for p in network.parameters())


def one_hot(n, classes, h, w):
    labels = torch.randint(0, classes, (n, h // 4 + 1, w // 4 + 1), generator=torch.Generator().manual_seed(0))
    labels = labels.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, :h, :w]
    return F.one_hot(labels, classes).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize(
    ("classes", "ngf", "parameters"),
    [(151, 64, 96_492_483), (184, 64, 97_480_899), (36, 64, 93_048_003), (151, 32, 33_133_027), (20, 16, 10_945_011)],
)
def test_parameters_of_the_generator(classes, ngf, parameters):
    with torch.device("meta"):
        assert count(SpadeGenerator(classes, ngf)) == parameters


@pytest.mark.parametrize(("inputs", "parameters"), [(154, 5_836_930), (187, 5_904_514), (39, 5_601_410)])
def test_parameters_of_the_discriminator(inputs, parameters):
    with torch.device("meta"):
        assert count(spade_discriminator(inputs)) == parameters


def test_parameters_of_the_encoder():
    with torch.device("meta"):
        assert count(VaeEncoder()) == 10_463_424


def test_discriminator_maps_at_256():
    with torch.no_grad():
        full, half = spade_discriminator(5, ndf=4)(torch.randn(1, 5, 256, 256))
    assert [f.shape[-1] for f in full] == [129, 65, 33, 34, 35]
    assert [f.shape[1] for f in full] == [4, 8, 16, 32, 1]
    assert half[0].shape[-1] == 65


def test_discriminators_are_at_most_512_wide():
    with torch.no_grad():
        features = spade_discriminator(5, ndf=256, layers=3, scales=1)(torch.randn(1, 5, 16, 16))
    assert [f.shape[1] for f in features[0]] == [256, 512, 512, 1]


@torch.no_grad()
@pytest.mark.parametrize(
    ("upsamplings", "size"),
    [
        (4, (64, 64)),
        (4, (256, 512)),
        (4, (70, 33)),
        (5, (256, 256)),
        (5, (128, 64)),
        (5, (20, 90)),
        (6, (256, 512)),
        (7, (128, 256)),
    ],
)
def test_an_image_has_the_size_of_its_layout(upsamplings, size):
    net = init_weights(SpadeGenerator(3, 2, upsamplings=upsamplings, hidden=4), gain=1).eval()
    image = net(one_hot(1, 3, *size))
    assert image.shape == (1, 3, *size)
    assert image.abs().max() <= 1


@torch.no_grad()
def test_an_odd_layout_is_painted_as_if_its_edge_went_on():
    net = init_weights(SpadeGenerator(3, 2, upsamplings=4, hidden=4), gain=1).eval()
    labels = one_hot(1, 3, 40, 25)
    longer = torch.cat([labels, labels[:, :, -1:].expand(-1, -1, 8, -1)], 2)
    longer = torch.cat([longer, longer[..., -1:].expand(-1, -1, -1, 7)], 3)
    torch.testing.assert_close(net(labels), net(longer)[..., :40, :25])


@pytest.mark.parametrize("norm", ["batch", "instance", "group"])
def test_a_gradient_reaches_every_parameter(norm):
    net = init_weights(SpadeGenerator(3, 2, upsamplings=4, hidden=4, norm=norm), gain=1)
    net(one_hot(2, 3, 64, 64)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


def test_the_vae_trains_end_to_end():
    E = init_weights(VaeEncoder(4, size=64, z_dim=6), gain=1)
    G = init_weights(SpadeGenerator(3, 2, upsamplings=4, size=(64, 128), z_dim=6, hidden=4), gain=1)
    mu, logvar = E(torch.randn(2, 3, 64, 128))
    G(one_hot(2, 3, 64, 128), mu + torch.exp(logvar / 2)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for net in (E, G) for p in net.parameters())


def test_encoder_sizes():
    for size, convs in ((8, 1), (64, 4), (128, 5), (256, 6)):
        assert len(VaeEncoder(2, size=size).layers) == convs
    for size in (4, 100):
        with pytest.raises(ConfigError):
            VaeEncoder(2, size=size)


def test_a_wrong_depth_is_refused():
    with pytest.raises(ConfigError, match="4 to 7"):
        SpadeGenerator(3, upsamplings=8)


def test_kl_by_hand():
    assert kl_divergence(torch.tensor([[1.0]]), torch.tensor([[0.0]])).item() == 0.5
    assert kl_divergence(torch.ones(3, 2), torch.zeros(3, 2)).item() == 3  # a sum over batch and dimensions


def test_a_pair_is_judged_as_its_members_are():
    D = spade_discriminator(3 + 3, ndf=4).eval()
    labels, fake, real = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32)
    of_fake, of_real = judge_pair(D, labels, fake, real)
    for features, image in ((of_fake, fake), (of_real, real)):
        for scale, alone in zip(features, D(torch.cat([labels, image], 1)), strict=True):
            for a, b in zip(scale, alone, strict=True):
                torch.testing.assert_close(a, b)


def test_terms_have_the_published_weights():
    real = [[torch.zeros(1, 2, 4, 4), torch.full((1, 1, 4, 4), 0.5)]]
    fake = [[torch.ones(1, 2, 4, 4), torch.full((1, 1, 4, 4), -2.0)]]
    assert {k: v.item() for k, v in discriminator_terms(fake, real).items()} == {"d_fake": 0, "d_real": 0.5}

    def perceptual(a, b):
        return (a - b).abs().mean()

    image = torch.zeros(1, 3, 4, 4)
    terms = generator_terms(fake, real, image + 1, image, perceptual)
    assert {k: v.item() for k, v in terms.items()} == {"g_gan": 2, "g_feature": 10, "g_vgg": 10}
    assert "g_vgg" not in generator_terms(fake, real, image, image, None)


@torch.no_grad()
def test_bfloat16_stays_near_full_precision():
    torch.manual_seed(0)
    net = init_weights(SpadeGenerator(3, 4, upsamplings=4, hidden=16), gain=1).eval()
    labels = one_hot(1, 3, 64, 64)
    plain = net(labels)
    with torch.autocast("cpu", torch.bfloat16):
        half = net(labels).float()
    assert (half - plain).abs().mean() < 0.05 * plain.std()
