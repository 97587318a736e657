"""SAIG and towers: shapes, parameters, what they do with sizes, and torchvision's models."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipelines.embed.saig import SHAPES, Block, Saig, SaigShape, SmdHead, resize_positions
from pipelines.embed.tower import Features, Tower, build_tower
from pipelines.errors import ConfigError
from pipelines.nn.layers.joined import JoinedBatchNorm

SMALL = SaigShape(stem=(4, 4, 4, 4, 4, 8), width=12, depth=2, heads=3)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameters_of_the_published_towers() -> None:
    with torch.device("meta"):
        for name, total in (("saig-s", 9_100_800), ("saig-d", 15_614_208)):
            body = Saig(SHAPES[name], (128, 512))
            assert parameters(body) == total
            assert parameters(body.patch_embed) == 2_488_320
        assert parameters(Block(SHAPES["saig-s"])) == 592_128
        assert parameters(SmdHead(256)) == 527_624


@torch.no_grad()
@pytest.mark.parametrize("size", [(128, 512), (256, 256)])
def test_published_shapes(size: tuple[int, int]) -> None:
    tower = build_tower("saig-s", "smd", size).eval()
    images = torch.rand(1, 3, *size) * 2 - 1
    tokens = tower.tokens(images)
    assert tokens.shape == (1, 256, 384)
    for vectors, dimension in ((tower(images), 3072), (tower.pooled(images), 384)):
        assert vectors.shape == (1, dimension)
        assert float(vectors.norm()) == pytest.approx(1, abs=1e-5)
    assert (tower.width, tower.dimension) == (384, 3072)


def test_a_block_has_no_feed_forward_layer() -> None:
    assert {name.split(".")[0] for name, _ in Block(SMALL).named_parameters()} == {"norm1", "attn"}


@torch.no_grad()
def test_tokens_are_in_row_major_order() -> None:
    torch.manual_seed(0)
    body = Saig(SaigShape(stem=(4, 4, 4, 4, 4, 8), width=12, depth=0, heads=3), (48, 80)).eval()
    images = torch.zeros(1, 3, 48, 80)
    changed = images.clone()
    changed[:, :, 36:44, 4:12] = 5.0  # in the third row and first column of the 3x5 grid
    moved = (body(images) - body(changed)).abs().sum(2)[0].view(3, 5)
    assert moved[2, :2].gt(0).all() and moved[2].sum() > moved[1].sum()
    assert not moved[0].any() and not moved[:, 3:].any()


@torch.no_grad()
def test_the_attention_is_torchs() -> None:
    """The output order of the one linear layer is [q; k; v], each split into heads, as nn.MultiheadAttention has it."""
    block = Block(SMALL)
    theirs = nn.MultiheadAttention(12, 3, batch_first=True)
    assert theirs.in_proj_weight is not None and theirs.in_proj_bias is not None
    theirs.in_proj_weight.copy_(block.attn.qkv.weight)
    theirs.in_proj_bias.copy_(block.attn.qkv.bias)
    theirs.out_proj.load_state_dict(block.attn.proj.state_dict())
    tokens = torch.randn(2, 5, 12)
    normalized = block.norm1(tokens)
    expected = tokens + theirs(normalized, normalized, normalized, need_weights=False)[0]
    torch.testing.assert_close(block(tokens), expected)


@torch.no_grad()
def test_the_mixing_head_by_its_formula() -> None:
    head = SmdHead(6, outputs=2)
    tokens = torch.randn(3, 6, 4)
    channels = tokens.transpose(1, 2)
    mixed = head.linear3(head.linear2(nn.functional.gelu(head.linear1(channels))))
    assert mixed.shape == (3, 4, 2)
    vectors = head(tokens)
    assert torch.equal(vectors[:, :4], mixed[..., 0]) and torch.equal(vectors[:, 4:], mixed[..., 1])


def test_other_sizes_are_resized_with_gradients() -> None:
    tower = build_tower("saig-small", "gap", (32, 64)).eval()
    images = torch.rand(2, 3, 50, 70, requires_grad=True)
    tower(images)[:, 0].sum().backward()
    assert images.grad is not None and images.grad.abs().amax((0, 1)).gt(0).float().mean() > 0.9
    resized = nn.functional.interpolate(images, (32, 64), mode="bilinear", antialias=True)
    torch.testing.assert_close(tower(images), tower(resized))


def test_positions_of_a_square_grid_keep_their_places() -> None:
    rows = torch.arange(4.0).repeat_interleave(4)[None, :, None]
    resized = resize_positions(rows, (4, 8)).view(4, 8)
    torch.testing.assert_close(resized, torch.arange(4.0)[:, None].expand(4, 8))
    assert resize_positions(rows, (2, 8)) is rows  # as many tokens: its own grid


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "shufflenet_v2_x0_5"])
@torch.no_grad()
def test_models_of_torchvision(name: str) -> None:
    tower = build_tower(f"torchvision:{name}", "gap", (32, 64))
    images = torch.rand(2, 3, 40, 64)
    for mode in (True, False):
        vectors = tower.train(mode)(images)
        assert vectors.shape == (2, tower.dimension) and tower.width == tower.dimension
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    assert torch.equal(tower(images), tower.pooled(images))
    kinds = {type(module) for module in tower.modules()}
    assert JoinedBatchNorm in kinds or name.startswith("squeezenet")
    assert not kinds & {nn.BatchNorm2d, nn.Dropout}


@pytest.mark.parametrize(
    ("name", "width"),
    [("googlenet", 1024), ("inception_v3", 2048), ("efficientnet_b0", 1280), ("regnet_y_400mf", 440)],
)
def test_models_with_second_outputs_or_random_depth(name: str, width: int) -> None:
    features = Features(name, (96, 96))
    assert features.width == width
    assert not [m for m in features.modules() if "Aux" in type(m).__name__ or "Stochastic" in type(m).__name__]


def test_a_model_knows_its_form_without_memory() -> None:
    with torch.device("meta"):
        assert build_tower("torchvision:convnext_large", "gap", (64, 128)).dimension == 1536
        assert build_tower("torchvision:vit_b_16", "gap", (64, 64)).dimension == 768


@pytest.mark.parametrize(
    ("backbone", "head", "size", "said"),
    [
        ("saig-x", "gap", (64, 64), "saig-s"),
        ("torchvision:resnet81", "gap", (64, 64), "resnet18"),
        ("resnet18", "gap", (64, 64), "torchvision:NAME"),
        ("torchvision:resnet18", "smd", (64, 64), "head: gap"),
        ("saig-s", "gap", (64, 60), "multiples of 16"),
        ("torchvision:vit_b_16", "gap", (32, 64), "32x64"),
        ("torchvision:inception_v3", "gap", (32, 64), "32x64"),
    ],
)
def test_what_does_not_go_together_is_refused(backbone: str, head: str, size: tuple[int, int], said: str) -> None:
    with torch.device("meta"), pytest.raises(ConfigError) as error:
        build_tower(backbone, head, size)  # type: ignore[arg-type]
    assert said in str(error.value)


def test_the_seed_decides_the_weights() -> None:
    torch.manual_seed(0)
    first = build_tower("saig-small", "gap", (32, 32))
    torch.manual_seed(0)
    again = build_tower("saig-small", "gap", (32, 32))
    assert isinstance(first, Tower)
    for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)
