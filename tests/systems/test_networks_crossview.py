"""The cross-view networks: normalization by hand, shapes of table 4.3, what the output depends on, and what not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipelines.systems.crossview.config import CrossviewConfig
from pipelines.systems.crossview.networks import (
    AdaIN,
    AttentionalAdaIN,
    Conv3,
    CrossviewGenerator,
    HalvingBlock,
    Mapping,
    OneWayDiscriminator,
    PlainEncoder,
    Region,
    SpreadConv3,
    StructureBlock,
    TextureBlock,
    noise_maps,
)

SIZE = (16, 64)
FULL = {"ground": (128, 512), "aerial": (256, 256)}


def tiny(**changed):
    """Two blocks: one of structure, one of texture; what begins at zero is moved, so that everything counts."""
    torch.manual_seed(0)
    settings = {"size": SIZE, "structure": 1, "z_dim": 5, "style": 12, "spread": 4, "hidden": 8, **changed}
    net = CrossviewGenerator(6, (8, 6), **settings)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if "logit" in name or "of_embedding.2" in name or name.endswith("scale"):
                weight.normal_()
    return net.eval()


def inputs(n=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    pixels = sum(h * w for h, w in noise_maps(SIZE))
    return tuple(torch.randn(n, length, generator=generator) for length in (6, 5, pixels))


# ---- normalization --------------------------------------------------------------------------------------------------


def attentional(blend="additive"):
    """g_w = 0.5, b_w = 0.1, g_e = 1, b_e = -0.2, whatever w and c are."""
    norm = AttentionalAdaIN(1, 3, 4, 2, blend)
    with torch.no_grad():
        for weight in norm.parameters():
            weight.zero_()
        norm.affine.bias.copy_(torch.tensor([0.5, 0.1]))
        norm.of_embedding[-1].bias.copy_(torch.tensor([1.0, -0.2]))
    return norm


@pytest.mark.parametrize(
    ("blend", "m", "wanted"),
    [
        ("additive", (0, 0), (-1.4, 1.6)),
        ("additive", (1, 1), (-2.6, 2.4)),
        ("additive", (0, 1), (-1.4, 2.4)),
        ("convex", (0, 0), (-1.4, 1.6)),
        ("convex", (1, 1), (-2.2, 1.8)),  # (1 + 1) x - 0.2
        ("convex", (0.5, 0.5), (-1.8, 1.7)),  # (1 + 0.25 + 0.5) x + 0.05 - 0.1
    ],
)
def test_attentional_adain_by_hand(blend, m, wanted):
    x = torch.tensor([1.0, 3.0]).view(1, 1, 1, 2)  # normalized: -1 and 1
    out = attentional(blend)(x, torch.randn(1, 3), torch.randn(1, 4), torch.tensor(m).view(1, 1, 1, 2).float())
    torch.testing.assert_close(out.flatten(), torch.tensor(wanted), atol=2e-5, rtol=0)


def test_without_a_map_it_is_plain_adain():
    plain, x, w = AdaIN(3, 4), torch.randn(2, 3, 5, 6), torch.randn(2, 4)
    norm = AttentionalAdaIN(3, 4, 2, 8, "additive")
    norm.affine = plain.affine
    nn.init.normal_(norm.of_embedding[-1].weight)
    torch.testing.assert_close(norm(x, w, torch.randn(2, 2), torch.zeros(2, 1, 5, 6)), plain(x, w))


def test_the_map_lies_between_0_and_1_and_begins_at_a_half():
    torch.manual_seed(0)
    region = Region(3, 4, circular=False)
    x, embedded = torch.randn(2, 3, 5, 6), torch.randn(2, 4)
    assert torch.equal(region(x, embedded), torch.full((2, 1, 5, 6), 0.5))
    nn.init.normal_(region.logit.weight, std=3.0)
    m = region(x, embedded)
    assert m.shape == (2, 1, 5, 6)
    assert 0 < m.min() < m.max() - 0.1 and m.max() < 1


# ---- convolutions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("circular", [False, True])
@pytest.mark.parametrize("size", [(4, 4), (2, 9), (7, 3)])
def test_a_convolution_of_the_spread_embedding_is_that_of_the_joined_map(circular, size):
    torch.manual_seed(0)
    conv = SpreadConv3(3, 4, 5, circular).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    embedded = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    joined = torch.cat([x, embedded[..., None, None].expand(-1, -1, *size)], 1)
    wanted, out = Conv3.forward(conv, joined), conv(x, embedded)
    torch.testing.assert_close(out, wanted)
    back = torch.randn_like(out)
    each = [torch.autograd.grad(made, [x, embedded, conv.weight, conv.bias], back) for made in (out, wanted)]
    for mine, theirs in zip(*each, strict=True):
        torch.testing.assert_close(mine, theirs)


class Fixed(nn.Module):
    """A start tensor that depends on nothing."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def forward(self, c):
        return self.values.expand(len(c), -1, -1, -1).flatten(1)


@torch.no_grad()
@pytest.mark.parametrize("circular", [False, True])
def test_a_circular_panorama_has_no_seam(circular):
    """Turn the smallest map by a pixel and the panorama turns by as many as a pixel has become."""
    net, (c, z, _) = tiny(circular=circular), inputs()
    start = torch.randn(1, 8, *net.start_size)
    made = []
    for shift in (0, 1):
        net.start = Fixed(start.roll(shift, 3))
        made.append(net(c, z)[0])
    turned = made[0].roll(SIZE[1] // net.start_size[1], 3)
    assert torch.allclose(made[1], turned, atol=1e-5) == circular


# ---- the generator --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("view", "kinds", "shapes"),
    [
        ("ground", "SSSTT", [(512, 8, 32), (512, 16, 64), (256, 32, 128), (128, 64, 256), (64, 128, 512)]),
        (
            "aerial",
            "SSSTTT",
            [(512, 8, 8), (512, 16, 16), (256, 32, 32), (256, 64, 64), (128, 128, 128), (64, 256, 256)],
        ),
    ],
)
def test_blocks_of_the_full_size_follow_the_table(view, kinds, shapes):
    config, size = CrossviewConfig(), FULL[view]
    with torch.device("meta"):
        net = CrossviewGenerator(384, config.widths.of(view), size=size)
        seen = []
        for block in net.blocks:
            block.register_forward_hook(lambda module, given, out: seen.append(tuple(out.shape[1:])))
        noise = torch.empty(2, sum(h * w for h, w in noise_maps(size)))
        image, low = net(torch.empty(2, 384), torch.empty(2, 128), noise)
    assert seen == shapes
    assert "".join("S" if isinstance(block, StructureBlock) else "T" for block in net.blocks) == kinds
    assert net.start.out_features == 512 * size[0] * size[1] // 4 ** len(kinds)
    assert image.shape == (2, 3, *size) and low is None
    assert noise_maps(size) == [shape[1:] for shape in shapes for _ in range(2)]


@torch.no_grad()
@pytest.mark.parametrize("blocks", ["both", "S", "T"])
@pytest.mark.parametrize("modulation", ["attentional", "plain", "full"])
@pytest.mark.parametrize("projected", [None, 3])
def test_what_an_image_depends_on(blocks, modulation, projected):
    net = tiny(blocks=blocks, modulation=modulation, projected=projected)
    c, z, noise = inputs()
    image, _ = net(c, z, noise)
    assert image.shape == (2, 3, *SIZE) and image.abs().max() <= 1
    assert torch.equal(net(c, z, noise)[0], image)
    for changed in ((c + 1, z, noise), (c, z.roll(1, 1), noise), (c, z, noise.roll(1, 1)), (c, z, None)):
        assert (net(*changed)[0] - image).abs().max() > 1e-4
    # an image is its own example's alone
    torch.testing.assert_close(net(c[:1], z[:1], noise[:1])[0], image[:1], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_noise_enters_by_the_style_alone_where_layers_add_none():
    net, (c, z, _) = tiny(), inputs()
    for name, weight in net.named_parameters():
        if ".affine." in name:
            weight.zero_()
    assert torch.equal(net(c, z)[0], net(c, 2 + z.roll(1, 1))[0])
    assert not torch.equal(net(c, z)[0], net(c + 1, z)[0])


@torch.no_grad()
def test_only_the_direction_of_the_noise_vector_counts_and_zeros_stay_zeros():
    mapping, c, z = Mapping(6, 5, 12), torch.randn(2, 6), torch.randn(2, 5)
    torch.testing.assert_close(mapping(c, 3 * z), mapping(c, z))
    assert mapping(c, 0 * z).isfinite().all()
    assert not torch.allclose(mapping(c, 0 * z), mapping(c, z))


@torch.no_grad()
@pytest.mark.parametrize(
    ("modulation", "blend", "counts"),
    [
        ("attentional", "additive", True),
        ("attentional", "convex", True),
        ("full", "additive", True),
        ("plain", "additive", False),
    ],
)
def test_strength_scales_what_the_embedding_does_to_texture(modulation, blend, counts):
    net, given = tiny(modulation=modulation, blend=blend), inputs()
    half, one = net(*given, strength=0.5)[0], net(*given)[0]
    assert torch.equal(half, one) != counts
    if blend == "additive" and counts:  # without strength nothing is left of the embedding's modulation
        none = net(*given, strength=0.0)[0]
        for block in net.blocks:
            if isinstance(block, TextureBlock):
                for norm in (block.norm1, block.norm2):
                    nn.init.zeros_(norm.of_embedding[-1].weight)
                    nn.init.zeros_(norm.of_embedding[-1].bias)
        torch.testing.assert_close(net(*given)[0], none)


@torch.no_grad()
def test_the_map_has_no_effect_at_first():
    torch.manual_seed(0)
    net = CrossviewGenerator(6, (8, 6), size=SIZE, structure=1, z_dim=5, style=12)
    c, z, noise = inputs()
    assert torch.equal(net(c, z, noise, strength=0.0)[0], net(c, z, noise)[0])
    assert torch.equal(net(c, z)[0], net(c, z, noise)[0])  # nor do the layers add noise


def test_the_low_resolution_head_sees_the_last_structure_block():
    net = tiny(low_resolution=True)
    image, low = net(*inputs())
    assert image.shape[2:] == SIZE and low.shape == (2, 3, 8, 32)
    low.sum().backward()
    assert net.blocks[0].conv2.weight.grad.abs().max() > 0
    assert net.blocks[1].conv2.weight.grad is None


def test_every_weight_of_the_generator_learns():
    net = tiny()
    net(*inputs())[0].square().sum().backward()
    assert [name for name, weight in net.named_parameters() if weight.grad is None or not weight.grad.any()] == []


# ---- the discriminator ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("view", "widths", "last", "logits"),
    [("ground", [32, 64, 128, 256, 256, 256], (4, 16), (1, 13)), ("aerial", [32, 64, 128, *[256] * 4], (4, 4), (1, 1))],
)
def test_blocks_of_the_full_discriminator(view, widths, last, logits):
    with torch.device("meta"):
        net = OneWayDiscriminator(384, FULL[view])
        seen = []
        net.blocks[-1].register_forward_hook(lambda module, given, out: seen.append(tuple(out.shape[1:])))
        image, c = torch.empty(2, 3, *FULL[view]), torch.empty(2, 384)
        assert net.logits(image, c).shape == (2, 1, *logits)
        assert net(image, c).shape == (2,)
    assert [net.stem.out_channels, *(block.conv1.out_channels for block in net.blocks)] == widths
    assert seen[0] == (256, *last)
    assert (net.joint.in_channels, net.joint.out_channels) == (640, 64)


def test_a_block_begins_as_its_pooled_skip():
    block, x = HalvingBlock(4, 4), torch.randn(2, 4, 8, 6)
    assert torch.equal(block(x), nn.functional.avg_pool2d(x, 2))
    nn.init.ones_(block.gamma)
    assert not torch.allclose(block(x), nn.functional.avg_pool2d(x, 2))


@torch.no_grad()
@pytest.mark.parametrize("projected", [None, 3])
def test_judges_image_and_embedding_together(projected):
    image, c = torch.rand(2, 3, *SIZE), torch.randn(2, 6)
    net = OneWayDiscriminator(6, SIZE, ndf=4, most=8, projected=projected)
    assert not torch.equal(net(image, c), net(image, c + 1))
    assert not torch.equal(net(image, c), net(image.flip(3), c))
    torch.testing.assert_close(net(image, c), net.logits(image, c).flatten(1).mean(1))
    blind = OneWayDiscriminator(6, SIZE, ndf=4, most=8, projected=projected, alpha=0.0)
    assert torch.equal(blind(image, c), blind(image, c + 1))


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 64), (16, 64)])
def test_the_plain_encoder_gives_what_a_scaled_embedding_is(size):
    net = PlainEncoder(size, 4, 10)
    c = net(torch.rand(3, 3, *size) * 2 - 1)
    assert c.shape == (3, 10)
    torch.testing.assert_close(c.square().mean(1), torch.ones(3))
    assert (c[0] - c[1]).abs().max() > 1e-3
