"""Published networks of other options than the golden ones load, and wrong tensors or options are refused."""

from __future__ import annotations

from functools import partial

import published_keys as keys
import pytest
import torch

from pipelines.errors import ArtifactError, ConfigError
from pipelines.systems.crossview import published as crossview
from pipelines.systems.oasis import published as oasis
from pipelines.systems.resail import published as resail
from pipelines.systems.retrievegan import published as retrievegan
from pipelines.systems.spade import published as spade


def one_hot(n, classes, h, w):
    labels = torch.randint(0, classes, (n, h, w), generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.one_hot(labels, classes).permute(0, 3, 1, 2).float()


@torch.no_grad()
@pytest.mark.parametrize(
    ("norm", "batch", "kernel", "spectral"),
    [
        ("spectralspadeinstance3x3", "", 3, True),
        ("spectralspadebatch3x3", "param_free_norm", 3, True),
        ("spectralspadesyncbatch5x5", "param_free_norm", 5, True),
        ("spadebatch1x1", "param_free_norm", 1, False),
    ],
)
def test_spade_generator_of_every_norm(norm, batch, kernel, spectral):
    layer = partial(keys.spade, maps=3, kernel=kernel, batch=batch)
    state = keys.tensors("G", keys.spade_generator(3, 2, layer, spectral=spectral))
    network = spade.load("G", state, {"semantic_nc": 3, "ngf": 2, "height": 32, "width": 32, "norm_G": norm})
    assert not network.training
    assert network(one_hot(1, 3, 64, 64)).shape == (1, 3, 64, 64)


@torch.no_grad()
@pytest.mark.parametrize(("option", "factor"), [("normal", 32), ("more", 64), ("most", 128)])
def test_spade_generator_of_every_depth(option, factor):
    layer = partial(keys.spade, maps=3)
    state = keys.tensors("G", keys.spade_generator(3, 2, layer, most=option == "most"))
    config = {"semantic_nc": 3, "ngf": 2, "num_upsampling_layers": option, "height": factor, "width": 2 * factor}
    network = spade.load("G", state, config)
    assert network.factor == factor
    assert network(one_hot(1, 3, factor, 2 * factor)).shape == (1, 3, factor, 2 * factor)


@torch.no_grad()
@pytest.mark.parametrize(
    "size", [{"height": 64, "width": 128}, {"crop_size": 128, "aspect_ratio": 2}], ids=["sides", "aspect"]
)
def test_spade_generator_from_a_latent_vector(size):
    shapes = keys.spade_generator(3, 2, partial(keys.spade, maps=3), z_dim=5, start=(2, 4))
    network = spade.load("G", keys.tensors("G", shapes), {"semantic_nc": 3, "ngf": 2, "z_dim": 5, **size})
    for h, w in ((64, 128), (64, 64)):  # its own size, and another one
        assert network(one_hot(2, 3, h, w), torch.randn(2, 5)).shape == (2, 3, h, w)
    with pytest.raises(ConfigError, match="latent vector"):
        network(one_hot(2, 3, 64, 128))


@torch.no_grad()
@pytest.mark.parametrize(("layers", "scales"), [(3, 1), (4, 3), (5, 2)])
def test_discriminators_of_other_depths(layers, scales):
    config = {"semantic_nc": 3, "ndf": 8, "n_layers_D": layers, "num_D": scales}
    pair = torch.randn(1, 6, 64, 64)
    for system, shapes in (
        (spade, keys.spade_discriminator(6, 8, layers, scales)),
        (resail, keys.sesame_discriminator(3, 8, layers, scales)),
    ):
        features = system.load("D", keys.tensors("D", shapes), config)(pair)
        assert len(features) == scales
        for scale in features:
            assert len(scale) == layers + 1
            assert scale[-1].shape[1] == 1


@torch.no_grad()
@pytest.mark.parametrize("convs", [5, 6])
def test_encoders_of_both_sizes(convs):
    network = spade.load("E", keys.tensors("E", keys.encoder(4, convs)), {"semantic_nc": 3, "ngf": 4})
    mu, logvar = network(torch.randn(2, 3, 100, 60))
    assert mu.shape == logvar.shape == (2, 256)


@torch.no_grad()
@pytest.mark.parametrize(("option", "size"), [("normal", 32), ("more", 64)])
def test_resail_generator(option, size):
    state = keys.tensors("G", keys.spade_generator(3, 2, partial(keys.resail, maps=3)))
    network = resail.load("G", state, {"semantic_nc": 3, "ngf": 2, "num_upsampling_layers": option})
    image = network(one_hot(1, 3, size, 2 * size), torch.randn(1, 3, size, 2 * size))
    assert image.shape == (1, 3, size, 2 * size)


@torch.no_grad()
@pytest.mark.parametrize(("z_dim", "kernel", "said"), [(4, 3, False), (0, 3, False), (0, 5, True), (6, 5, True)])
def test_oasis_generator_with_and_without_noise(z_dim, kernel, said):
    state = keys.tensors("G", keys.oasis_generator(3, 2, z_dim, kernel))
    config = {"semantic_nc": 3, "channels_G": 2, "z_dim": z_dim or 64, "spade_ks": kernel}
    network = oasis.load("G", state, config | ({"no_3dnoise": z_dim == 0} if said else {}))
    z = torch.randn(2, z_dim) if z_dim else None
    assert network(one_hot(2, 3, 32, 64), z).shape == (2, 3, 32, 64)


SAIG = {"height": 32, "width": 64, "embed_dim": 12, "depth": 2, "num_heads": 3}
STEM = (4, 6, 6, 8, 8, 10)


def saig_state(tokens=8, **changed):
    return keys.tensors("backbone", keys.saig(12, 2, tokens, STEM, **changed))


def two_towers(inner="", heads=True):
    """A checkpoint of both towers: their backbones, and their mixing heads under some name."""
    state = {}
    for prefix, tokens in (("model_grd.", 8), ("model_sat.", 4)):
        state |= {f"{prefix}backbone.{key}": tensor for key, tensor in saig_state(tokens).items()}
        head = keys.tensors("smd_head", keys.smd(tokens, 4 * tokens, 8)) if heads else {}
        state |= {f"{prefix}{inner}{key}": tensor for key, tensor in head.items()}
    return state


TWO = SAIG | {"aerial_height": 32, "aerial_width": 32}


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
def test_saig_of_other_widths(bias):
    backbone = crossview.load("backbone", saig_state(qkv_bias=bias), SAIG | {"qkv_bias": bias})
    assert not backbone.training
    assert backbone(torch.randn(2, 3, 32, 64)).shape == (2, 8, 12)


@torch.no_grad()
@pytest.mark.parametrize(("hidden", "outputs"), [(None, 8), (5, 3)])
def test_mixing_heads_of_other_widths(hidden, outputs):
    state = keys.tensors("smd_head", keys.smd(8, hidden or 32, outputs))
    head = crossview.load("smd_head", state, SAIG | {"smd_hidden": hidden, "smd_out": outputs})
    assert head(torch.randn(2, 8, 12)).shape == (2, 12 * outputs)


@torch.no_grad()
def test_positions_of_a_square_grid_are_resized_and_its_classifier_left_out():
    state = saig_state(tokens=9) | {"head.weight": torch.zeros(1000, 12), "head.bias": torch.zeros(1000)}
    slope = torch.linspace(0, 2, 3)  # of the columns of the square grid
    state["pos_embed"] = slope.repeat(3)[None, :, None].expand(1, 9, 12)
    positions = crossview.load("backbone", state, SAIG).pos_embed.view(2, 4, 12)
    assert torch.equal(positions[0], positions[1]) and (positions[0].diff(dim=0) > 0).all()
    assert torch.allclose(positions.mean(), torch.tensor(1.0))
    with pytest.raises(ArtifactError, match="10 positions"):
        crossview.load("backbone", saig_state(tokens=10), SAIG)


@torch.no_grad()
@pytest.mark.parametrize("inner", ["", "smd."])
def test_a_checkpoint_of_both_towers(inner):
    towers = crossview.load("embedder", two_towers(inner), TWO)
    for view, size in (("ground", (32, 64)), ("aerial", (32, 32))):
        vectors = towers[view](torch.randn(2, 3, *size))
        assert vectors.shape == (2, 96)
        assert torch.allclose(vectors.norm(dim=1), torch.ones(2))
    assert not torch.equal(towers["ground"].backbone.pos_embed[:, :4], towers["aerial"].backbone.pos_embed)


@torch.no_grad()
def test_a_checkpoint_of_both_towers_without_heads_averages():
    towers = crossview.load("embedder", two_towers(heads=False), TWO)
    assert towers["aerial"](torch.randn(2, 3, 32, 32)).shape == (2, 12)


@torch.no_grad()
def test_both_towers_begin_with_the_one_backbone_of_imagenet():
    towers = crossview.load("embedder", saig_state(tokens=9), TWO)
    weights = [towers[view].backbone.blocks[1].attn.qkv.weight for view in ("aerial", "ground")]
    assert torch.equal(*weights) and weights[0] is not weights[1]


def test_a_tensor_that_belongs_to_no_tower_is_named():
    state = two_towers() | {"model_grd.extra.weight": torch.zeros(3)}
    with pytest.raises(ArtifactError, match=r"1 unexpected: model_grd\.extra\.weight"):
        crossview.load("embedder", state, TWO)


def test_the_config_of_an_embedder():
    state = keys.saig(384, 11, tokens=256)
    both = {f"{prefix}backbone.{key}": torch.empty(shape) for key, shape in state.items() for prefix in GRD_SAT}
    config = crossview.settings("embedder", both, {})
    assert (config.backbone, config.head, config.aerial, config.ground) == ("saig-s", "gap", (256, 256), (128, 512))
    both |= {
        f"{prefix}{key}": torch.empty(shape) for key, shape in keys.smd(256, 1024, 8).items() for prefix in GRD_SAT
    }
    assert crossview.settings("embedder", both, {"depth": 22}).backbone == "saig-d"
    assert crossview.settings("embedder", both, {}).head == "smd"
    with pytest.raises(ConfigError, match="depth 7"):
        crossview.settings("embedder", both, {"depth": 7})


GRD_SAT = ("model_grd.", "model_sat.")


@pytest.mark.parametrize("change", [{"height": 40}, {"width": 0}, {"num_heads": 5}, {"depth": 0}, {"patch_size": 8}])
def test_wrong_values_of_saig_are_refused(change):
    with pytest.raises(ConfigError):
        crossview.load("backbone", saig_state(), SAIG | change)


@pytest.mark.parametrize("part", ["backbone", "smd_head", "embedder"])
def test_an_empty_file_of_saig_is_refused(part):
    with pytest.raises(ArtifactError):
        crossview.load(part, {}, SAIG)


def test_an_unknown_part_of_saig_is_refused():
    with pytest.raises(ConfigError, match="no part 'G'"):
        crossview.load("G", {}, SAIG)


def small_state():
    return keys.tensors("G", keys.spade_generator(3, 2, partial(keys.spade, maps=3)))


CONFIG = {"semantic_nc": 3, "ngf": 2}


def test_a_missing_tensor_is_named():
    state = small_state()
    del state["up_1.conv_0.weight_orig"]
    with pytest.raises(ArtifactError, match=r"1 missing: up_1\.conv_0\.weight_orig"):
        spade.load("G", state, CONFIG)


def test_an_unexpected_tensor_is_named():
    with pytest.raises(ArtifactError, match=r"1 unexpected: up_9\.conv_0\.bias"):
        spade.load("G", small_state() | {"up_9.conv_0.bias": torch.zeros(2)}, CONFIG)


def test_a_misshaped_tensor_is_named_with_both_shapes():
    with pytest.raises(ArtifactError, match=r"1 misshaped: conv_img\.bias is \(4,\), not \(3,\)"):
        spade.load("G", small_state() | {"conv_img.bias": torch.zeros(4)}, CONFIG)


def test_what_is_no_tensor_is_refused():
    with pytest.raises(ArtifactError, match=r"conv_img\.bias is None"):
        spade.load("G", small_state() | {"conv_img.bias": "evil"}, CONFIG)


def test_many_faults_are_cut_short():
    with pytest.raises(ArtifactError, match="…"):
        spade.load("G", small_state(), CONFIG | {"ngf": 4})


def test_names_in_the_error_are_the_authors():
    state = keys.tensors("G", keys.oasis_generator(3, 2, 4))
    del state["body.2.norm_s.first_norm.running_var"]
    with pytest.raises(ArtifactError, match=r"body\.2\.norm_s\.first_norm\.running_var"):
        oasis.load("G", state, {"semantic_nc": 3, "channels_G": 2, "z_dim": 4})


@pytest.mark.parametrize("system", [spade, resail, oasis])
def test_unknown_parts_are_refused(system):
    with pytest.raises(ConfigError, match="no part 'F'"):
        system.load("F", {}, {"semantic_nc": 3})


@pytest.mark.parametrize("system", [spade, resail, oasis])
def test_an_empty_file_is_refused(system):
    for part in "GD":
        with pytest.raises(ArtifactError):
            system.load(part, {}, {"semantic_nc": 3})


@pytest.mark.parametrize("system", [spade, resail, oasis])
@pytest.mark.parametrize(
    ("change", "said"),
    [({"semantic_nx": 3}, "unknown option 'semantic_nx'"), ({"semantic_nc": "3"}, "no int"), ({}, "missing")],
)
def test_wrong_options_are_refused(system, change, said):
    with pytest.raises(ConfigError, match=said):
        system.load("G", {}, change)


@pytest.mark.parametrize(
    "change", [{"norm_G": "spectralsean3x3"}, {"norm_G": "spectralspadebatch3x5"}, {"num_upsampling_layers": "many"}]
)
def test_wrong_values_are_refused(change):
    with pytest.raises(ConfigError):
        spade.load("G", small_state(), CONFIG | change)


def test_norms_that_are_not_supported_are_refused():
    state = keys.tensors("D", keys.spade_discriminator(6, 4, 4, 2))
    with pytest.raises(ConfigError, match="norm_D"):
        spade.load("D", state, {"semantic_nc": 3, "ndf": 4, "norm_D": "spectralbatch"})


@torch.no_grad()
@pytest.mark.parametrize(("layers", "pooling", "said"), [(1, "avg", False), (5, "sum", True)])
def test_sg2im_graph_convolutions(layers, pooling, said):
    state = keys.tensors("gconv", keys.triple_convolutions(6, 8, layers))
    config = {"input_dim": 6, "hidden_dim": 8, "num_layers": layers} | ({"pooling": pooling} if said else {})
    network = retrievegan.load("gconv", state, config)
    v, p = network(torch.randn(3, 6), torch.randn(4, 6), torch.tensor([[0, 1], [1, 2], [0, 2], [2, 0]]))
    assert v.shape == (3, 6) and p.shape == (4, 6) and not network.training


@torch.no_grad()
@pytest.mark.parametrize(
    ("dims", "norm", "activation", "slope"),
    [
        ([4, 8], "batch", "leakyrelu", 0.01),
        ([4, 8, 6, 5], "instance", "leakyrelu-0.2", 0.2),
        ([3, 5, 4], "batch", "relu", 0.01),
    ],
)
def test_sg2im_refinement_networks(dims, norm, activation, slope):
    state = keys.tensors("crn", keys.refinement_network(dims, norm == "batch"))
    network = retrievegan.load("crn", state, {"crn_dims": dims, "normalization": norm, "activation": activation})
    slopes = {m.negative_slope for m in network.modules() if isinstance(m, torch.nn.LeakyReLU)}
    assert slopes == {slope}
    assert network(torch.randn(2, dims[0], 16, 24)).shape == (2, 3, 16, 24)


@pytest.mark.parametrize(
    ("part", "changed", "said"),
    [
        ("crn", {"activation": "gelu"}, "activation"),
        ("crn", {"normalization": "none"}, "batch, instance"),
        ("crn", {"crn_dims": [4]}, "layout"),
        ("crn", {"grid_sample_align_corners": False}, "align_corners"),
        ("gconv", {"pooling": "max"}, "avg, sum"),
        ("gconv", {"num_layers": 0}, "at least 1"),
        ("mask_net", {}, "gconv, crn"),
    ],
)
def test_other_networks_of_sg2im_are_refused(part, changed, said):
    config = {"crn_dims": [4, 8], "input_dim": 6, "hidden_dim": 8, "num_layers": 1} | changed
    with pytest.raises(ConfigError) as refused:
        retrievegan.load(part, {}, config)
    assert said in str(refused.value)


def test_parts_of_sg2im_make_no_run():
    state = keys.tensors("crn", keys.refinement_network([4, 8]))
    with pytest.raises(ArtifactError, match="missing"):
        retrievegan.settings("crn", {}, {"crn_dims": [4, 8]})
    with pytest.raises(ConfigError, match="makes no run"):
        retrievegan.settings("crn", state, {"crn_dims": [4, 8]})
