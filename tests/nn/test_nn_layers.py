"""Spectral norm, normalization, the pyramid, the skeleton's blocks and the label maps."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipelines.errors import ConfigError
from pipelines.nn.initialization import init_weights
from pipelines.nn.labels import instance_edges, one_hot
from pipelines.nn.layers.normalization import BatchNorm, Spade, instance_norm, parameter_free
from pipelines.nn.layers.spade_generator import bilinear, nearest, pad_to_multiple, spade_stages
from pipelines.nn.layers.spectral import SpectralConv2d
from pipelines.nn.layers.unet import UNet


def settled(conv: SpectralConv2d) -> SpectralConv2d:
    conv.power_iterate(500)
    return conv.eval()


@pytest.mark.parametrize("shape", [(3, 8, 3), (8, 3, 3), (5, 7, 1)])
def test_spectral_weight_has_norm_one(shape):
    torch.manual_seed(0)
    conv = settled(SpectralConv2d(shape[0], shape[1], shape[2]))
    W = conv.weight_orig.detach().flatten(1)
    expected = conv.weight_orig / torch.linalg.svdvals(W)[0]
    torch.testing.assert_close(conv.normalized_weight(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*spectral_norm.*:FutureWarning")
def test_spectral_norm_equals_torch_while_training():
    torch.manual_seed(0)
    ours = SpectralConv2d(4, 6, 3, padding=1).double()
    theirs = nn.utils.spectral_norm(nn.Conv2d(4, 6, 3, padding=1)).double()
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    for step in range(3):
        a, b = ours(x), theirs(x)
        torch.testing.assert_close(a, b)
        ours.zero_grad()
        theirs.zero_grad()
        (a.square().sum() * (step + 1)).backward()
        (b.square().sum() * (step + 1)).backward()
        torch.testing.assert_close(ours.weight_orig.grad, theirs.weight_orig.grad)
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value)


def test_two_spectral_forwards_before_one_backward():
    conv = SpectralConv2d(2, 3, 3)
    x = torch.randn(1, 2, 5, 5)
    (conv(x).sum() + 2 * conv(x).sum()).backward()
    assert conv.weight_orig.grad is not None


def test_spectral_vectors_rest_in_eval_and_move_in_training_even_when_frozen():
    conv = SpectralConv2d(2, 3, 3).requires_grad_(False)
    before = conv.weight_u.clone()
    conv.eval()(torch.randn(1, 2, 5, 5))
    assert torch.equal(conv.weight_u, before)
    conv.train()(torch.randn(1, 2, 5, 5))
    assert not torch.equal(conv.weight_u, before)


def test_spectral_norm_is_computed_in_full_precision_under_autocast():
    conv = SpectralConv2d(4, 6, 3).eval()
    plain = conv.normalized_weight()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(conv.normalized_weight(), plain)
        assert conv(torch.randn(1, 4, 5, 5)).dtype == torch.bfloat16


def test_spectral_conv_is_copied_with_its_state():
    conv = SpectralConv2d(2, 3, 3)
    twin = copy.deepcopy(conv).eval()
    x = torch.randn(1, 2, 5, 5)
    torch.testing.assert_close(twin(x), conv.eval()(x))


def test_batch_norm_is_torchs():
    torch.manual_seed(0)
    ours, theirs = BatchNorm(3), nn.BatchNorm2d(3, affine=False)
    for _ in range(3):
        x = torch.randn(4, 3, 5, 6) * 3 + 1
        torch.testing.assert_close(ours(x), theirs(x))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value)
    x = torch.randn(4, 3, 5, 6)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_instance_norm_of_one_pixel_is_zero_and_differentiable():
    x = torch.randn(2, 3, 1, 1, requires_grad=True)
    y = instance_norm(x)
    assert torch.equal(y, torch.zeros(2, 3, 1, 1))
    y.sum().backward()


@pytest.mark.parametrize("features", [1, 4, 12, 33, 64, 1000, 1024])
def test_group_norm_takes_every_width_down_to_one_pixel(features):
    x = torch.randn(2, features, 2, 2)
    y = parameter_free("group", features)(x)
    assert y.shape == x.shape
    assert abs(y.mean().item()) < 1e-5


@pytest.mark.parametrize("kind", ["batch", "instance", "group"])
def test_spade_without_modulation_is_its_norm(kind):
    layer = Spade(8, 5, hidden=4, norm=kind)
    for head in (layer.mlp_gamma, layer.mlp_beta):
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    h = torch.randn(2, 8, 6, 6)
    out = layer(h, {"labels": torch.randn(2, 5, 6, 6)})
    torch.testing.assert_close(out, parameter_free(kind, 8)(h))


def test_spade_of_a_constant_map_is_constant_off_a_border_of_two():
    layer = Spade(8, 5)
    gamma, beta = layer.modulation({"labels": torch.ones(1, 5, 9, 9)})
    for m in (gamma, beta):
        inside = m[..., 2:-2, 2:-2]
        torch.testing.assert_close(inside, inside[..., :1, :1].expand_as(inside))
        assert not torch.allclose(m[..., 0, 0], inside[..., 0, 0])


def test_nearest_picks_the_top_left_pixel_of_each_cell():
    x = torch.arange(64.0).view(1, 1, 8, 8)
    assert torch.equal(nearest(x, (4, 2)), x[..., ::2, ::4])
    assert nearest(x, (8, 8)) is x
    assert bilinear(x, (8, 8)) is x


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2, 16, 32]))
def test_padding_repeats_the_edge_to_a_multiple(h, w, multiple):
    x = torch.arange(float(h * w)).view(1, 1, h, w)
    y = pad_to_multiple(x, multiple)
    assert y.shape[-2] % multiple == y.shape[-1] % multiple == 0
    assert y.shape[-2] - h < multiple
    assert y.shape[-1] - w < multiple
    rows, columns = torch.arange(y.shape[-2]).clamp(max=h - 1), torch.arange(y.shape[-1]).clamp(max=w - 1)
    assert torch.equal(y, x[..., rows, :][..., columns])


def test_stages_of_each_depth():
    for upsamplings in (4, 5, 6, 7):
        stages = spade_stages(64, upsamplings)
        assert sum(s.upsample for s in stages) == upsamplings
    assert [s.width for s in spade_stages(64, 5)] == [1024, 1024, 1024, 512, 256, 128, 64]
    assert max(s.width for s in spade_stages(64, 5, width_cap=512)) == 512
    with pytest.raises(ConfigError):
        spade_stages(64, 3)


@pytest.mark.parametrize("size", [(64, 64), (65, 33), (20, 90)])
def test_unet_gives_logits_at_the_size_of_its_image(size):
    net = UNet(4, widths=(4, 4, 8, 8, 8, 8)).eval()
    assert net(torch.randn(1, 3, *size)).shape == (1, 4, *size)


def test_unet_keeps_logits_when_the_image_is_extended_by_its_own_edge():
    net = UNet(4, widths=(4, 4, 8)).eval()
    image = torch.randn(1, 3, 13, 22)
    torch.testing.assert_close(net(image), net(pad_to_multiple(image, 8))[..., :13, :22])


def test_init_weights():
    net = init_weights(UNet(4, widths=(16, 16, 32)))
    conv = net.body_down[1].conv2[1]
    fan = 16 * 9
    assert conv.weight_orig.std().item() == pytest.approx(0.02 * (2 / (2 * fan)) ** 0.5, rel=0.1)
    assert conv.bias.abs().max() == 0
    sigma = torch.linalg.svdvals(conv.eval().normalized_weight().detach().flatten(1))[0]
    assert sigma.item() == pytest.approx(1, abs=0.05)


def test_one_hot_leaves_ignored_pixels_empty():
    labels = torch.tensor([[[0, 2], [-1, 1]]], dtype=torch.int16)
    hot = one_hot(labels, 3)
    assert torch.equal(hot.sum(1), torch.tensor([[[1.0, 1.0], [0.0, 1.0]]]))
    assert torch.equal(hot.argmax(1), torch.tensor([[[0, 2], [0, 1]]]))


def test_edges_of_a_row():
    row = torch.tensor([[[1, 1, 2, 2]]])
    assert torch.equal(instance_edges(row), torch.tensor([[[[0.0, 1.0, 1.0, 0.0]]]]))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=20, max_size=20))
def test_edges_are_symmetric(ids):
    instances = torch.tensor(ids).view(1, 4, 5)
    edges = instance_edges(instances)
    assert torch.equal(instance_edges(instances.flip(2)), edges.flip(3))
    assert torch.equal(instance_edges(instances.transpose(1, 2)), edges.transpose(2, 3))
    padded = F.pad(instances.float()[None], (1, 1, 1, 1), mode="replicate")[0]
    for y in range(4):
        for x in range(5):
            around = padded[0, [y, y + 2, y + 1, y + 1], [x + 1, x + 1, x, x + 2]]
            assert edges[0, 0, y, x] == float((around != instances[0, y, x]).any())
