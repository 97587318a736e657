"""RetrieveGAN's networks against plain oracles: sampling by PyTorch's, refiner and fuser written down step by step."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipelines.errors import ConfigError
from pipelines.systems.retrievegan.crn import RefinementNetwork, resized
from pipelines.systems.retrievegan.crops import CropEncoder, norm2d
from pipelines.systems.retrievegan.discriminators import judging, trunk_side
from pipelines.systems.retrievegan.fuser import (
    ObjectImageFuser,
    at_least_a_cell,
    inside,
    masked_softmax,
    placed_products,
)
from pipelines.systems.retrievegan.layouts import box_sampling, slots
from pipelines.systems.retrievegan.networks import (
    Generator,
    ImageDiscriminator,
    LayoutGenerator,
    MaskNetwork,
    ObjectDiscriminator,
    PatchEmbedder,
    boxes_to_layout,
    canvas_size,
    crop_boxes,
    masks_to_layout,
)
from pipelines.systems.retrievegan.refiner import FlowWarp, RefinerLayer
from pipelines.systems.retrievegan.retrieval import pick_patches, retrieve

WHOLE = (0.0, 0.0, 1.0, 1.0)
SMALL = {
    **{"dimension": 32, "widths": (16, 32, 64), "channels": 32, "refiners": 1, "refiner_hidden": 64, "flow": False},
    **{"canvas": 16, "blocks": 2, "decoder": (128, 64, 32)},
}
"""The variant of section 4.9."""
TINY = {
    **{"dimension": 6, "widths": (4, 6), "channels": 5, "refiners": 2, "refiner_hidden": 7, "flow": True},
    **{"canvas": 8, "blocks": 1, "decoder": (8, 6)},
}


def count(network):
    return sum(p.numel() for p in network.parameters())


def random_boxes(n, generator, least=0.05):
    corner = torch.rand(n, 2, generator=generator) * 0.6
    return torch.cat([corner, corner + least + torch.rand(n, 2, generator=generator) * 0.35], 1)


def batch(objects=(3, 1, 4), dimension=6, crop=8, seed=0):
    """Graphs of so many objects each, as join_graphs makes them: relations first, then each object's with the image."""
    generator = torch.Generator().manual_seed(seed)
    edges, first = [], 0
    for n in objects:
        node = first + n
        edges += [(first + i, first + (i + 1) % n) for i in range(n) if n > 1]
        edges += [(first + i, node) for i in range(n)]
        first = node + 1
    nodes = torch.tensor(np.cumsum([n + 1 for n in objects]) - 1)
    boxes, crops = random_boxes(first, generator), torch.randn(first, 3, crop, crop, generator=generator)
    boxes[nodes], crops[nodes] = torch.tensor(WHOLE), 0.0
    return {
        "v": torch.randn(first, dimension, generator=generator).relu(),
        "p": torch.randn(len(edges), dimension, generator=generator).relu(),
        "p0": torch.randn(len(edges), dimension, generator=generator),
        "edges": torch.tensor(edges),
        "obj_to_img": torch.repeat_interleave(torch.tensor([n + 1 for n in objects])),
        "boxes": boxes,
        "crops": crops,
    }


def reordered(x, order):
    """The same batch with its objects in another order."""
    at = torch.empty_like(order)
    at[order] = torch.arange(len(order))
    moved = {key: x[key][order] for key in ("v", "obj_to_img", "boxes", "crops")}
    return {**x, **moved, "edges": at[x["edges"]]}


def moved_weights(network, seed=0):
    """Every parameter away from zeros and ones, so that each counts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


def sampled(maps, boxes, height, width):
    """Oracle: maps (O, c, h, w) laid into boxes by PyTorch's own sampling."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    x0, y0, x1, y1 = boxes[:, :, None, None].unbind(1)
    grid = torch.stack([(x - x0) / (x1 - x0), (y - y0) / (y1 - y0)], -1) * 2 - 1
    return F.grid_sample(maps, grid.to(maps), padding_mode="zeros", align_corners=True)


# ---- layouts (T10) --------------------------------------------------------------------------------------------------


def test_a_box_in_the_middle_of_five_columns():
    """[0, 0.5, 1, 0.5, 0] would be sampling without aligned corners."""
    box, image = torch.tensor([[0.25, 0.0, 0.75, 1.0]]), torch.tensor([0])
    layout = boxes_to_layout(torch.ones(1, 1), box, image, 3, 5)
    assert layout.shape == (1, 1, 3, 5)
    assert layout[0, 0].tolist() == [[0, 1, 1, 1, 0]] * 3
    masks = torch.ones(1, 8, 8)
    assert torch.equal(masks_to_layout(torch.ones(1, 1), box, masks, image, 3, 5), layout)


def test_values_fade_over_one_cell_of_the_map():
    """The constant map has 8 cells: half of a seventh of the box outside of it, half of the value is left."""
    layout = boxes_to_layout(torch.ones(1, 1), torch.tensor([[0.0, 0.0, 0.7, 1.0]]), torch.tensor([0]), 2, 21)
    expected = [1.0] * 15 + [0.5, 0.0] + [0.0] * 4  # columns at 0.05 i; a seventh of the box is 0.1
    torch.testing.assert_close(layout[0, 0, 0], torch.tensor(expected), atol=1e-5, rtol=0)


def test_a_box_that_is_the_image_reproduces_a_mask_of_its_size():
    mask = torch.rand(1, 6, 9, generator=torch.Generator().manual_seed(0))
    layout = masks_to_layout(torch.ones(1, 1), torch.tensor([WHOLE]), mask, torch.tensor([0]), 6, 9)
    torch.testing.assert_close(layout[0], mask, atol=1e-6, rtol=0)


@given(seed=st.integers(0, 2**31), height=st.integers(1, 20), width=st.integers(1, 20), side=st.integers(2, 9))
@settings(max_examples=30, deadline=None)
def test_layouts_are_those_of_grid_sample(seed, height, width, side):
    generator = torch.Generator().manual_seed(seed)
    obj_to_img = torch.tensor([1, 0, 1, 2, 1])
    boxes = random_boxes(5, generator)
    vectors, masks = torch.randn(5, 4, generator=generator), torch.rand(5, side, side, generator=generator)
    for layout, maps in (
        (boxes_to_layout(vectors, boxes, obj_to_img, height, width), torch.ones(5, 1, 8, 8)),
        (masks_to_layout(vectors, boxes, masks, obj_to_img, height, width), masks[:, None]),
    ):
        placed = vectors[:, :, None, None] * sampled(maps, boxes, height, width)
        expected = torch.zeros(3, 4, height, width).index_add(0, obj_to_img, placed)
        torch.testing.assert_close(layout, expected, atol=1e-4, rtol=1e-4)


def test_a_box_without_extent_is_no_fault():
    boxes = torch.tensor([[0.3, 0.3, 0.3, 0.3], [0.5, 0.2, 0.5, 0.9]], requires_grad=True)
    layout = boxes_to_layout(torch.ones(2, 1), boxes, torch.tensor([0, 0]), 8, 8)
    layout.sum().backward()
    assert layout.isfinite().all() and boxes.grad.isfinite().all()


def test_layouts_stay_in_fp32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        layout = boxes_to_layout(torch.full((1, 1), 1.001), torch.tensor([WHOLE]), torch.tensor([0]), 4, 4)
    assert layout.dtype == torch.float32 and (layout == 1.001).all()


def test_slots_of_objects_in_any_order():
    at = slots(torch.tensor([2, 0, 2, 2, 0]), 4)
    assert (at.images, at.places) == (4, 3)
    assert at.present.tolist() == [[True, True, False], [False] * 3, [True] * 3, [False] * 3]
    x = torch.arange(10.0).view(5, 2)
    padded = at.pad(x)
    assert padded[2].tolist() == [[0, 1], [4, 5], [6, 7]] and padded[0].tolist() == [[2, 3], [8, 9], [0, 0]]
    assert torch.equal(at.flat(padded), x)


# ---- crops ----------------------------------------------------------------------------------------------------------


def test_the_whole_box_at_the_size_of_the_image_is_the_image():
    images = torch.randn(2, 3, 7, 7)
    crops = crop_boxes(images, torch.tensor([WHOLE, WHOLE]), torch.tensor([1, 0]), 7)
    torch.testing.assert_close(crops, images[[1, 0]], atol=1e-5, rtol=1e-5)


@given(seed=st.integers(0, 2**31), size=st.integers(2, 16))
@settings(max_examples=20, deadline=None)
def test_crops_are_those_of_grid_sample(seed, size):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(3, 2, 9, 13, generator=generator)
    boxes, obj_to_img = random_boxes(4, generator) + torch.tensor([0.2, -0.1, 0.2, -0.1]), torch.tensor([2, 0, 2, 1])
    across = boxes[:, :1] + torch.linspace(0, 1, size) * (boxes[:, 2:3] - boxes[:, :1])
    down = boxes[:, 1:2] + torch.linspace(0, 1, size) * (boxes[:, 3:] - boxes[:, 1:2])
    grid = torch.stack([across[:, None].expand(-1, size, -1), down[:, :, None].expand(-1, -1, size)], -1)
    expected = F.grid_sample(images[obj_to_img], grid * 2 - 1, padding_mode="zeros", align_corners=True)
    torch.testing.assert_close(crop_boxes(images, boxes, obj_to_img, size), expected, atol=1e-4, rtol=1e-4)


def test_gradients_of_crops():
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 1, 5, 6, generator=generator, dtype=torch.float64).float().requires_grad_()
    crops = crop_boxes(images, random_boxes(3, generator), torch.tensor([0, 1, 1]), 4)
    crops.square().sum().backward()
    assert images.grad.isfinite().all() and (images.grad.abs().sum((1, 2, 3)) > 0).all()


@pytest.mark.parametrize(("side", "map_side"), [(32, 4), (64, 8)])
def test_the_map_of_a_crop(side, map_side):
    assert CropEncoder()(torch.zeros(2, 3, side, side)).shape == (2, 128, map_side, map_side)


def test_a_vector_of_e_p_is_a_function_of_its_patch_alone():
    embedder = moved_weights(PatchEmbedder(8, (4, 6)))
    patches = torch.randn(5, 3, 16, 16)
    vectors = embedder(patches)
    torch.testing.assert_close(vectors[:1], embedder(patches[:1]), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(5))
    assert (PatchEmbedder(8, (4, 6), normalized=False)(patches).norm(dim=1) - 1).abs().min() > 1e-3


# ---- refiner --------------------------------------------------------------------------------------------------------


def refined_plainly(layer, objects, predicates, edges):
    """Section 4.5 triple by triple, and object by object."""
    warped = layer.warp(objects)
    inputs = torch.stack([torch.cat([warped[s], predicates[t], warped[o]]) for t, (s, o) in enumerate(edges.tolist())])
    hidden = layer.read_norm(layer.read(inputs))
    h = layer.hidden
    out = layer.tell(hidden)
    pooled = []
    for i in range(len(objects)):
        mine = [out[t, :h] for t, (s, _) in enumerate(edges.tolist()) if s == i]
        mine += [out[t, -h:] for t, (_, o) in enumerate(edges.tolist()) if o == i]
        pooled.append(torch.stack(mine).mean(0) if mine else torch.zeros_like(out[0, :h]))
    new = layer.net2(torch.stack(pooled)) + layer.of_object(warped) + objects
    return new, layer.predicate_norm(out[:, h:-h])


@pytest.mark.parametrize("flow", [True, False])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_the_refiner_is_what_it_is_triple_by_triple(flow, norm):
    torch.manual_seed(0)
    layer = moved_weights(RefinerLayer(4, 6, flow=flow, norm=norm))
    objects, predicates = torch.randn(5, 4, 3, 3), torch.randn(6, 4, 3, 3)
    edges = torch.tensor([[0, 1], [1, 0], [2, 1], [1, 1], [0, 1], [3, 0]])  # twice the same, a loop, a lonely object
    for mine, plain in zip(
        layer(objects, predicates, edges), refined_plainly(layer, objects, predicates, edges), strict=True
    ):
        torch.testing.assert_close(mine, plain, atol=2e-5, rtol=1e-4)


def test_a_warp_begins_near_the_identity_and_moves_when_told():
    torch.manual_seed(0)
    warp, x = FlowWarp(4, "group"), torch.randn(2, 4, 5, 5)
    with torch.no_grad():
        warp.flow[-2].weight.zero_()
    torch.testing.assert_close(warp(x), x, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        warp.flow[-2].bias.copy_(torch.tensor([math.atanh(0.5), 0.0]))  # a quarter of the map to the right: one cell
    torch.testing.assert_close(warp(x)[..., :-1], x[..., 1:], atol=1e-4, rtol=1e-4)
    assert not warp(x)[..., -1].any()  # what comes in from outside is zero


# ---- fuser (T11) ----------------------------------------------------------------------------------------------------


def test_attention_of_two_objects_at_a_pixel():
    """q·r / sqrt(width) of 0 and ln 3 are weights of 1/4 and 3/4."""
    fuser = ObjectImageFuser(4, canvas=(5, 5))
    with torch.no_grad():
        for conv in (fuser.query, fuser.key, fuser.value):
            conv.weight.copy_(torch.eye(4)[..., None, None])
            conv.bias.zero_()
    maps = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0]])[..., None, None].repeat(1, 1, 2, 2)
    triples = torch.tensor([[0.0] * 4, [0, 2 * math.log(3), 0, 0]])[..., None, None].repeat(1, 1, 2, 2)
    boxes = torch.tensor([[0.0, 0.0, 0.75, 1.0], [0.25, 0.0, 1.0, 1.0]])
    image = torch.zeros(1, 4, 2, 2)
    canvas = fuser(maps, triples, boxes, slots(torch.tensor([0, 0]), 1), image)
    expected = torch.tensor([[1.0, 0.25, 0.25, 0.25, 0], [0, 0.75, 0.75, 0.75, 1]])
    torch.testing.assert_close(canvas[0, :2], expected[:, None].expand(-1, 5, -1))
    assert not canvas[0, 2:].any()
    one_alone = boxes.clone()
    one_alone[1] = torch.tensor([0.5, 0.5, 1.0, 1.0])
    canvas = fuser(maps, triples, one_alone, slots(torch.tensor([0, 0]), 1), image + 7)
    assert canvas[0, 2:].eq(7).all() and canvas[0, :, 0, -1].tolist() == [7.0] * 4  # nothing but the image node


def fused_plainly(fuser, maps, triples, boxes, obj_to_img, image_maps):
    """Section 4.6 with every map laid out on the canvas, pixel weights by a softmax over each image's objects."""
    h, w = fuser.canvas
    grown = at_least_a_cell(boxes, fuser.canvas)
    laid_q, laid_r = (sampled(conv(x), grown, h, w) for conv, x in ((fuser.query, maps), (fuser.key, triples)))
    laid_v = sampled(fuser.value(fuser.query(maps)), grown, h, w)
    logits = (laid_q * laid_r).sum(1) / math.sqrt(maps.shape[1])
    covered = inside(grown, fuser.canvas)
    whole = torch.tensor([WHOLE] * len(image_maps))
    canvas = sampled(image_maps, whole, h, w)
    for b in range(len(image_maps)):
        for y in range(h):
            for x in range(w):
                mine = (obj_to_img == b) & (covered[:, y, x] if fuser.masked else True)
                if mine.any():
                    beta = logits[mine, y, x].softmax(0)
                    canvas[b, :, y, x] += (beta[:, None] * laid_v[mine, :, y, x]).sum(0)
    return canvas


@torch.no_grad()
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("cells", [1, 2, 4])
def test_the_fuser_is_what_it_is_with_every_map_laid_out(masked, cells):
    torch.manual_seed(cells)
    generator = torch.Generator().manual_seed(cells)
    fuser = ObjectImageFuser(6, canvas=(5, 7), masked=masked)
    obj_to_img = torch.tensor([1, 0, 1, 1, 3])  # in any order, and an image without an object
    boxes = random_boxes(5, generator)
    boxes[3] = torch.tensor([0.41, 0.4, 0.42, 0.41])  # less than a cell of the canvas
    maps, triples, image_maps = (torch.randn(n, 6, cells, cells) for n in (5, 5, 4))
    canvas = fuser(maps, triples, boxes, slots(obj_to_img, 4), image_maps)
    plain = fused_plainly(fuser, maps, triples, boxes, obj_to_img, image_maps)
    torch.testing.assert_close(canvas, plain, atol=1e-4, rtol=1e-4)


def test_products_at_pixels_are_those_of_laid_out_maps():
    generator = torch.Generator().manual_seed(0)
    q, r, boxes = torch.randn(3, 5, 2, 4), torch.randn(3, 5, 2, 4), random_boxes(3, generator)
    mine = placed_products(q, r, box_sampling(boxes, (6, 9), (2, 4)))
    torch.testing.assert_close(mine, (sampled(q, boxes, 6, 9) * sampled(r, boxes, 6, 9)).sum(1), atol=1e-4, rtol=1e-4)


def test_weights_sum_to_one_where_a_pixel_is_covered():
    logits, shared = 50 * torch.randn(2, 4, 3, 3), torch.rand(2, 4, 3, 3) > 0.6
    beta = masked_softmax(logits, shared)
    torch.testing.assert_close(beta.sum(1), shared.any(1).float())
    assert not beta[~shared].any() and beta.min() >= 0


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.2), st.floats(0, 0.2), st.integers(2, 40))
@settings(max_examples=200, deadline=None)
def test_every_box_covers_a_pixel(x, y, w, h, side):
    box = torch.tensor([[x, y, min(1.0, x + w), min(1.0, y + h)]])
    assert inside(at_least_a_cell(box, (side, side)), (side, side)).any()


# ---- decoder --------------------------------------------------------------------------------------------------------


def test_the_decoder_doubles_and_sees_the_layout_at_every_size():
    decoder = moved_weights(RefinementNetwork(3, (6, 5), norm="batch")).eval()
    layout = torch.randn(2, 3, 8, 8)
    assert decoder(layout).shape == (2, 3, 8, 8)
    assert decoder(layout, (16, 32)).shape == (2, 3, 16, 32)
    with pytest.raises(ConfigError, match="10x8"):
        decoder(layout, (10, 8))
    torch.testing.assert_close(resized(layout, (2, 4)), F.avg_pool2d(layout, (4, 2)))
    torch.testing.assert_close(resized(layout, (16, 8)), layout.repeat_interleave(2, 2))


@pytest.mark.parametrize(
    ("short", "size", "canvas"), [(16, (64, 64), (16, 16)), (64, (128, 256), (64, 128)), (8, (64, 32), (16, 8))]
)
def test_a_canvas_has_the_proportions_of_the_image(short, size, canvas):
    assert canvas_size(short, size) == canvas


# ---- discriminators (T12) -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "map_side"), [(64, 6), (128, 14), (32, 2), (22, 1)])
def test_logits_of_the_image_discriminator(side, map_side):
    assert trunk_side(side) == map_side
    assert ImageDiscriminator()(torch.randn(2, 3, side, side)).shape == (2, 1, map_side, map_side)


def test_the_object_discriminator():
    crops = torch.randn(3, 3, 32, 32)
    assert nn.Sequential(*judging((8, 8, 8), "batch"))(crops).shape[2:] == (2, 2)
    logits, classes = ObjectDiscriminator(7)(crops)
    assert logits.shape == (3,) and classes.shape == (3, 7)
    assert trunk_side(21) < 1


# ---- generators -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "given", "crop", "parameters"),
    [((64, 64), SMALL, 16, 821_059), ((32, 64), TINY, 8, None), ((16, 16), {**TINY, "refiners": 0}, 4, None)],
)
def test_images_of_a_generator(size, given, crop, parameters):
    network = Generator(size, **given)
    x = batch(dimension=given["dimension"], crop=crop)
    assert network(**x).shape == (3, 3, *size)
    assert parameters is None or count(network) == parameters


def test_parameters_of_the_published_size():
    """By hand: refiner layers, fuser, canvas blocks and decoder of section 4, batch norm with scale and shift."""

    def conv(a, b, k):
        return a * b * k * k + b

    flow = 2 * (conv(128, 128, 3) + 256) + conv(128, 2, 3)
    net1 = conv(384, 512, 3) + 1024 + conv(512, 1152, 3) + 256
    net2 = conv(512, 512, 3) + 1024 + conv(512, 128, 1) + 256
    own = conv(128, 512, 3) + 1024 + conv(512, 128, 1) + 256
    crops = conv(3, 64, 3) + conv(64, 128, 3) + conv(128, 256, 3) + conv(256, 128, 1) + 2 * (64 + 128 + 256 + 128)
    decoder = conv(64, 64, 3) + conv(64, 3, 1)
    for before, after in ((1, 1024), (1024, 512), (512, 256), (256, 128), (128, 64)):
        decoder += conv(256 + before, after, 3) + conv(after, after, 3) + 4 * after
    expected = crops + 4 * (flow + net1 + net2 + own) + 3 * conv(256, 256, 1) + 12 * (conv(256, 256, 3) + 512) + decoder
    with torch.device("meta"):
        assert count(Generator()) == expected


@torch.no_grad()
@pytest.mark.parametrize("masked", [True, False])
def test_the_order_of_objects_and_triples_changes_nothing(masked):
    """The node of the image stays the last of its image, as everywhere; images may be mixed."""
    torch.manual_seed(0)
    network = moved_weights(Generator((16, 16), **TINY, masked=masked))
    x = batch()
    expected = network(**x)
    order = torch.tensor([6, 2, 0, 8, 4, 1, 7, 3, 9, 5, 10])
    triples = torch.randperm(len(x["edges"]), generator=torch.Generator().manual_seed(3))
    other = reordered(x, order)
    other |= {key: other[key][triples] for key in ("p", "p0", "edges")}
    torch.testing.assert_close(network(**other), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_images_of_a_batch_do_not_see_each_other():
    network = moved_weights(Generator((16, 16), **TINY, norm="group"))
    x, alone = batch((2, 3)), batch((2,))
    rows, triples = torch.arange(3), torch.arange(4)
    alone |= {key: x[key][rows] for key in ("v", "boxes", "crops")} | {key: x[key][triples] for key in ("p", "p0")}
    assert torch.equal(alone["edges"], x["edges"][:4])
    torch.testing.assert_close(network(**x)[:1], network(**alone), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_everything_given_counts():
    network = moved_weights(Generator((16, 16), **TINY)).eval()
    x = batch()
    x["boxes"][:, 2:] = x["boxes"][:, :2] + 0.4  # wide, so that objects share pixels and attention counts
    x["p"] = 30 * x["p"]
    image = network(**x)
    for key, changed in {
        "v": x["v"] + 0.1,
        "p": x["p"].flip(1),
        "p0": x["p0"] + 0.1,
        "boxes": x["boxes"] * 0.5,
        "crops": x["crops"] * 0.5,
    }.items():
        assert not torch.allclose(network(**{**x, key: changed}), image, atol=1e-3), key


def test_every_parameter_gets_a_finite_gradient():
    torch.manual_seed(0)
    network = moved_weights(Generator((16, 16), **TINY))
    network(**batch()).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_an_object_without_a_crop_and_boxes_of_no_extent_are_no_fault():
    network = Generator((16, 16), **TINY)
    x = batch()
    x["crops"][:] = 0
    x["boxes"][0] = torch.tensor([0.5, 0.5, 0.5, 0.5])
    image = network(**x)
    image.mean().backward()
    assert image.isfinite().all() and all(p.grad.isfinite().all() for p in network.parameters())


def test_bf16_changes_an_image_little():
    torch.manual_seed(0)
    network, x = Generator((64, 64), **SMALL), batch(dimension=32, crop=16)
    with torch.no_grad():
        exact = network(**x)
        with torch.autocast("cpu", torch.bfloat16):
            rough = network(**x)
    assert (rough.float() - exact).abs().mean() < 0.03 * exact.std()
    with torch.autocast("cpu", torch.bfloat16):
        image = network(**x)
    image.float().mean().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@torch.no_grad()
def test_the_layout_generator_reads_no_patches():
    for mask_size in (0, 8):
        network = moved_weights(LayoutGenerator((16, 16), dimension=6, mask_size=mask_size, decoder=(8, 6))).eval()
        x = batch()
        image = network(**x)
        assert image.shape == (3, 3, 16, 16)
        assert torch.equal(network(**{**x, "crops": x["crops"] + 1, "p": x["p"] + 1}), image)
        assert not torch.allclose(network(**{**x, "v": x["v"] + 1}), image)
    assert MaskNetwork(6, 8)(x["v"]).shape == (11, 8, 8)
    with pytest.raises(ConfigError, match="power of two"):
        MaskNetwork(6, 12)


@pytest.mark.parametrize("kind", ["batch", "group", "instance"])
def test_norms_center(kind):
    out = norm2d(kind, 16)(3 + 2 * torch.randn(4, 16, 5, 5))
    assert out.mean().abs() < 0.05 and (out.std() - 1).abs() < 0.1


# ---- gradients to the patch embedder (T8) ---------------------------------------------------------------------------


def test_the_image_moves_every_parameter_of_the_patch_embedder():
    """Patches of a bank, hard selection, the generator: the mean of the image has a gradient to all of E_p."""
    torch.manual_seed(0)
    embedder = PatchEmbedder(8, (4, 6), norm="group")
    network, x = moved_weights(Generator((16, 16), **TINY)), batch((2, 2))
    patches = torch.randn(2, 2, 3, 3, 8, 8)
    features = embedder(patches.flatten(0, 2)).view(2, 2, 3, 8)
    present = torch.ones(2, 2, 3, dtype=torch.bool)
    noise = -torch.rand(2, 2, 2, 3).clamp(1e-9, 1 - 1e-7).log().neg().log()
    selection = retrieve(features, present, features[:, 0, 0], noise, tau=0.5, alpha=1.0)
    picked = pick_patches(selection.weights, patches)
    for b in range(2):
        for i in range(2):
            assert torch.equal(picked[b, i], patches[b, i, selection.chosen[b, i]])
    real = torch.tensor([0, 1, 3, 4])
    crops = torch.zeros_like(x["crops"]).index_copy(0, real, picked.flatten(0, 1))
    network(**{**x, "crops": crops}).mean().backward()
    for name, parameter in embedder.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name
