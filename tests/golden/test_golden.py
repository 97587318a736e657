"""Published networks, loaded from their authors' keys, give the authors' numbers."""

from __future__ import annotations

import importlib
import json
from functools import cache, partial
from pathlib import Path

import fill
import published_keys as keys
import pytest
import torch
from safetensors.torch import load_file

from pipelines.embed.saig import AverageHead
from pipelines.embed.tower import Tower
from pipelines.systems.retrievegan.networks import boxes_to_layout, masks_to_layout

HERE = Path(__file__).parent
TOLERANCE = 1e-4
SYSTEMS = {"saig": "crossview", "sg2im": "retrievegan"}
"""The system that a case is a part of, where it has another name."""


@cache
def case(name):
    return json.loads((HERE / f"{name}.json").read_text()), load_file(HERE / f"{name}.safetensors")


def network(name, part):
    published = importlib.import_module(f"pipelines.systems.{SYSTEMS.get(name, name)}.published")
    spec = case(name)[0]
    shapes = {key: tuple(shape) for key, shape in spec["parameters"][part].items()}
    return published.load(part, keys.tensors(part, shapes), spec["config"])


def labels(name, side):
    return torch.from_numpy(fill.one_hot_labels(name, 2, 6, side, side)[0])


def given(name, shape):
    return torch.from_numpy(fill.model_input(name, shape))


def assert_golden(output, name, key):
    expected = case(name)[1][key]
    assert output.shape == expected.shape
    assert (output - expected).abs().max() <= TOLERANCE * expected.abs().max()


@torch.no_grad()
def test_spade_generator():
    assert_golden(network("spade", "G")(labels("spade", 64)), "spade", "image")


@torch.no_grad()
def test_spade_discriminator():
    image = given("spade.image", (2, 3, 64, 64))
    features = network("spade", "D")(torch.cat([labels("spade", 64), image], 1))
    for i, scale in enumerate(features):
        assert_golden(scale[-1], "spade", f"D{i}_logit")
        assert_golden(scale[0][:, :2], "spade", f"D{i}_feat0")


@torch.no_grad()
def test_spade_encoder():
    mu, logvar = network("spade", "E")(given("spade.exemplar", (2, 3, 256, 256)))
    assert_golden(mu, "spade", "vae_mu")
    assert_golden(logvar, "spade", "vae_logvar")


@torch.no_grad()
def test_resail_generator():
    guidance = given("resail.guidance", (2, 3, 128, 128))
    assert_golden(network("resail", "G")(labels("resail", 128), guidance), "resail", "image")


@torch.no_grad()
@pytest.mark.parametrize("everywhere", [True, False], ids=["vector", "map"])
def test_oasis_generator(everywhere):
    z = given("oasis.z", (2, 8))
    if not everywhere:
        z = z[:, :, None, None].expand(2, 8, 64, 64)
    assert_golden(network("oasis", "G")(labels("oasis", 64), z), "oasis", "image")


@torch.no_grad()
def test_oasis_discriminator():
    assert_golden(network("oasis", "D")(given("oasis.image", (2, 3, 64, 64))), "oasis", "D_logits")


@torch.no_grad()
def test_saig_backbone_and_heads():
    tokens = network("saig", "backbone")(given("saig.image", (2, 3, 64, 96)))
    assert_golden(tokens, "saig", "tokens")
    mixed = network("saig", "smd_head")(tokens)
    assert (mixed.norm(dim=1) - 1).abs().min() > 0.1  # not yet normalised
    assert_golden(torch.nn.functional.normalize(mixed, dim=1), "saig", "embedding_smd")
    assert_golden(torch.nn.functional.normalize(tokens.mean(1), dim=1), "saig", "embedding_gap")


@torch.no_grad()
@pytest.mark.parametrize("head", ["gap", "smd"])
def test_saig_towers(head):
    """The towers of a run give the same: their normalisation, their mean and their heads."""
    images = given("saig.image", (2, 3, 64, 96))
    backbone = network("saig", "backbone")
    tower = Tower(backbone, AverageHead() if head == "gap" else network("saig", "smd_head"), (64, 96), 48, 48)
    assert_golden(tower(images), "saig", f"embedding_{head}")
    assert_golden(tower.pooled(images), "saig", "embedding_gap")


def sg2im_graph():
    """Objects and their vectors, boxes and images of the case."""
    inputs = case("sg2im")[0]["inputs"]
    objects, boxes = given("sg2im.objects", inputs["objects"]), torch.tensor(inputs["boxes"])
    return objects, boxes, torch.tensor(inputs["obj_to_img"]), inputs


@torch.no_grad()
def test_sg2im_graph_convolution():
    objects, _, _, inputs = sg2im_graph()
    predicates = given("sg2im.predicates", inputs["predicates"])
    new_objects, new_predicates = network("sg2im", "gconv")(objects, predicates, torch.tensor(inputs["edges"]))
    assert_golden(new_objects, "sg2im", "new_objects")
    assert_golden(new_predicates, "sg2im", "new_predicates")


@torch.no_grad()
def test_sg2im_layouts():
    objects, boxes, obj_to_img, _ = sg2im_graph()
    vectors, side = objects[:, :8], case("sg2im")[0]["config"]["layout_size"]
    assert_golden(boxes_to_layout(vectors, boxes, obj_to_img, side, side), "sg2im", "boxes_layout")
    masks = given("sg2im.masks", (len(boxes), 8, 8)).sigmoid()
    assert_golden(masks_to_layout(vectors, boxes, masks, obj_to_img, side, side), "sg2im", "masks_layout")


@torch.no_grad()
def test_sg2im_refinement_network():
    layout = given("sg2im.layout", case("sg2im")[0]["inputs"]["layout"])
    assert_golden(network("sg2im", "crn")(layout), "sg2im", "crn_image")


@pytest.mark.parametrize(
    ("name", "part", "shapes"),
    [
        ("sg2im", "gconv", keys.triple_convolutions(16, 32, 3)),
        ("sg2im", "crn", keys.refinement_network([12, 32, 16])),
        ("saig", "backbone", keys.saig(48, 3, tokens=24)),
        ("saig", "smd_head", keys.smd(24, 96, 8)),
        ("spade", "G", keys.spade_generator(6, 4, partial(keys.spade, maps=6))),
        ("spade", "D", keys.spade_discriminator(9, 4, 4, 2)),
        ("spade", "E", keys.encoder(4, 6)),
        ("resail", "G", keys.spade_generator(6, 4, partial(keys.resail, maps=6))),
        ("oasis", "G", keys.oasis_generator(6, 4, 8)),
    ],
)
def test_the_oracle_of_keys_is_right(name, part, shapes):
    assert shapes == {key: tuple(shape) for key, shape in case(name)[0]["parameters"][part].items()}
