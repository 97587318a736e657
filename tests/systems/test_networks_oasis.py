"""OASIS' networks and losses: counts, noise, sizes, the (L + 1)-way cross-entropy."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pipelines.errors import ConfigError
from pipelines.nn.initialization import init_weights
from pipelines.nn.layers.unet import UNet
from pipelines.systems.oasis.losses import (
    discriminator_terms,
    fake_loss,
    generator_terms,
    labelmix_terms,
    real_loss,
)
from pipelines.systems.oasis.networks import OasisGenerator, oasis_stages


def count(network):
    return sum(p.numel() for p in network.parameters())


def one_hot(n, classes, h, w):
    labels = torch.randint(0, classes, (n, h, w), generator=torch.Generator().manual_seed(0))
    return F.one_hot(labels, classes).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize(("classes", "parameters"), [(151, 74_314_691), (35, 71_107_523), (183, 75_199_427)])
def test_parameters_of_the_generator(classes, parameters):
    with torch.device("meta"):
        assert count(OasisGenerator(classes)) == parameters


def test_parameters_of_the_discriminator():
    with torch.device("meta"):
        assert count(UNet(151 + 1)) == 22_258_904


def test_stages():
    assert [s.width for s in oasis_stages(64)] == [1024, 1024, 512, 256, 128, 64]
    assert [s.width for s in oasis_stages(64, blocks=5, width_cap=512)] == [512, 512, 256, 128, 64]
    with pytest.raises(ConfigError):
        oasis_stages(64, blocks=4)


@torch.no_grad()
@pytest.mark.parametrize(("blocks", "size"), [(5, (64, 64)), (6, (256, 512)), (6, (33, 100))])
def test_an_image_has_the_size_of_its_layout(blocks, size):
    net = init_weights(OasisGenerator(3, 2, z_dim=4, blocks=blocks, hidden=4), gain=1).eval()
    image = net(one_hot(1, 3, *size), torch.randn(1, 4))
    assert image.shape == (1, 3, *size)
    assert image.abs().max() <= 1


@torch.no_grad()
def test_noise_of_a_region_changes_its_surroundings_alone():
    torch.manual_seed(0)
    # instance norm spreads a change over the image, batch norm in eval mode does not
    net = init_weights(OasisGenerator(3, 2, z_dim=4, blocks=5, hidden=4), gain=1).eval()
    labels = one_hot(1, 3, 32, 1024)
    z = torch.randn(1, 4, 1, 1).expand(1, 4, 32, 1024).clone()
    before = net(labels, z)
    z[..., :16] = torch.randn(1, 4, 1, 1)
    change = (net(labels, z) - before).abs().amax((0, 1, 2))
    assert change[:16].max() > 0
    assert change[-256:].max() == 0


def test_noise_is_asked_for():
    net = OasisGenerator(3, 2, z_dim=4, blocks=5, hidden=4)
    with pytest.raises(ConfigError, match="4 channels"):
        net(one_hot(1, 3, 32, 32))
    assert OasisGenerator(3, 2, z_dim=0, blocks=5, hidden=4)(one_hot(2, 3, 32, 32)).shape == (2, 3, 32, 32)


def test_a_gradient_reaches_every_parameter():
    G = init_weights(OasisGenerator(3, 2, z_dim=4, blocks=5, hidden=4), gain=1)
    D = init_weights(UNet(4, widths=(4, 4, 8)), gain=1)
    D(G(one_hot(2, 3, 32, 32), torch.randn(2, 4))).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for net in (G, D) for p in net.parameters())


def test_losses_are_cross_entropies_with_fake_first():
    torch.manual_seed(0)
    real, fake = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    labels = torch.randint(-1, 3, (2, 3, 3))
    per_pixel = F.cross_entropy(real, labels + 1, reduction="none")
    expected = torch.stack([per_pixel[labels == c].mean() for c in range(3)]).mean()
    torch.testing.assert_close(real_loss(real, labels), expected)
    torch.testing.assert_close(fake_loss(fake), F.cross_entropy(fake, torch.zeros(2, 3, 3, dtype=torch.long)))
    terms = discriminator_terms(real, fake, labels)
    torch.testing.assert_close(terms["d_real"], expected)
    torch.testing.assert_close(terms["d_fake"], fake_loss(fake))
    torch.testing.assert_close(generator_terms(fake, labels)["g_gan"], real_loss(fake, labels))


def test_a_sure_discriminator_pays_nothing_and_its_generator_much():
    labels = torch.randint(0, 3, (1, 4, 4))
    real = 100 * F.one_hot(labels + 1, 4).permute(0, 3, 1, 2).float()
    fake = torch.zeros(1, 4, 4, 4)
    fake[:, 0] = 100
    assert all(v.item() == pytest.approx(0, abs=1e-6) for v in discriminator_terms(real, fake, labels).values())
    assert generator_terms(fake, labels)["g_gan"].item() == pytest.approx(100, rel=1e-4)


def test_labelmix_terms():
    mask = torch.zeros(1, 1, 2, 2)
    real, fake = torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2)
    assert labelmix_terms(fake, mask, real, fake)["d_labelmix"].item() == 0
    torch.testing.assert_close(labelmix_terms(fake + 1, mask, real, fake)["d_labelmix"], torch.tensor(10.0))
