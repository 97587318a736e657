"""The label branch by distinct neighborhoods is the label branch by convolutions: values, gradients, borders."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.nn.initialization import init_weights
from pipelines.nn.labels import instance_edges, one_hot
from pipelines.nn.layers import neighborhoods as module
from pipelines.nn.layers.neighborhoods import Incidence, neighborhoods, pixel_codes, sum_of_rows
from pipelines.nn.layers.normalization import Spade
from pipelines.nn.layers.spade_generator import label_pyramid
from pipelines.systems.oasis.networks import OasisGenerator
from pipelines.systems.resail.networks import ResailGenerator
from pipelines.systems.spade.networks import SpadeGenerator


@pytest.fixture(autouse=True)
def never_too_many(monkeypatch):
    """Small maps have as many neighborhoods as pixels: without this they would all be convolved."""
    monkeypatch.setattr(module, "WORTH", 1.0)


def regions(n, h, w, classes, block=4, seed=0, lowest=0):
    """Random labels in blocks, as int64 (n, h, w)."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.randint(lowest, classes, (n, h // block + 1, w // block + 1), generator=generator)
    return small.repeat_interleave(block, 1).repeat_interleave(block, 2)[:, :h, :w]


def assert_equal_to_convolutions(labels):
    """labels: (n, channels, h, w) in float64."""
    plan = neighborhoods(labels, pixel_codes(labels))
    assert plan is not None
    torch.manual_seed(0)
    layer = Spade(3, labels.shape[1], hidden=4).double()
    for p in layer.parameters():
        torch.nn.init.normal_(p)
    gradient = torch.randn(len(labels), 3, *labels.shape[2:], dtype=torch.float64)
    results = []
    for maps in ({"labels": labels}, {"labels": labels, "neighborhoods": plan}):
        h = torch.randn(gradient.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        h.requires_grad_()
        layer.zero_grad()
        output = layer(h, maps)
        output.backward(gradient)
        results.append([output.detach(), h.grad, *(p.grad.clone() for p in layer.parameters())])
    for convolved, gathered in zip(*results, strict=True):
        torch.testing.assert_close(gathered, convolved, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", [(2, 2), (2, 3), (3, 7), (16, 16), (9, 20)])
@pytest.mark.parametrize("lowest", [0, -1], ids=["labeled", "ignored too"])
def test_regions(size, lowest):
    assert_equal_to_convolutions(one_hot(regions(2, *size, 4, lowest=lowest), 4).double())


@pytest.mark.parametrize("label", [0, 2, -1])
def test_a_map_of_one_class_has_a_neighborhood_for_each_kind_of_border(label):
    labels = one_hot(torch.full((3, 8, 9), label), 3).double()
    plan = neighborhoods(labels, pixel_codes(labels))
    assert len(plan.patches) == 9  # corners, sides, inside
    assert len(plan.pixels.transposed_starts) == 25
    assert_equal_to_convolutions(labels)


def test_noise():
    assert_equal_to_convolutions(one_hot(torch.randint(-1, 5, (2, 7, 6)), 5).double())


def test_more_classes_than_a_word_has_bits():
    assert_equal_to_convolutions(one_hot(regions(1, 12, 12, 70), 70).double())


def test_borders_of_instances_are_part_of_a_neighborhood():
    labels, instances = regions(1, 12, 12, 2, seed=1), regions(1, 12, 12, 9, block=3, seed=2)
    assert_equal_to_convolutions(torch.cat([one_hot(labels, 2), instance_edges(instances)], 1).double())


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(2, 9), st.integers(2, 9)).flatmap(
        lambda shape: st.lists(st.integers(-1, 2), min_size=shape[0] * shape[1] * shape[2]).map(
            lambda flat: torch.tensor(flat[: shape[0] * shape[1] * shape[2]]).view(shape)
        )
    )
)
def test_any_map(labels):
    assert_equal_to_convolutions(one_hot(labels, 3).double())


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 5))
def test_codes_are_equal_where_all_channels_are(channels, h, w):
    labels = torch.randint(0, 2, (2, channels, h, w)).float()
    codes, columns = pixel_codes(labels).flatten(), labels.permute(0, 2, 3, 1).flatten(0, 2)
    same = (columns[:, None] == columns[None]).all(2)
    assert torch.equal(codes[:, None] == codes[None], same)


def test_a_map_of_other_values_has_no_codes():
    assert pixel_codes(torch.full((1, 2, 4, 4), 0.5)) is None
    assert pixel_codes(torch.ones(1, 2, 4, 4, requires_grad=True)) is None
    assert label_pyramid(torch.randn(1, 2, 4, 4))((2, 2))["neighborhoods"] is None


def test_a_line_and_too_many_neighborhoods_are_left_to_the_convolutions(monkeypatch):
    line = one_hot(regions(1, 1, 30, 2), 2)
    assert neighborhoods(line, pixel_codes(line)) is None
    monkeypatch.setattr(module, "WORTH", 0.4)
    noise = one_hot(torch.randint(0, 8, (1, 16, 16)), 8)
    assert neighborhoods(noise, pixel_codes(noise)) is None


def test_long_codes_are_made_short_before_they_overflow(monkeypatch):
    labels = one_hot(regions(2, 12, 12, 5), 5).double()
    expected = neighborhoods(labels, pixel_codes(labels))
    monkeypatch.setattr(module, "LARGEST", 5000)
    found = neighborhoods(labels, pixel_codes(labels))
    assert len(found.patches) == len(expected.patches)
    assert len(found.pixels.transposed_starts) == len(expected.pixels.transposed_starts)
    assert_equal_to_convolutions(labels)


def test_a_sum_of_rows_is_a_product_with_the_incidence_matrix():
    matrix = (torch.rand(6, 5, generator=torch.Generator().manual_seed(0)) < 0.4).double()
    matrix[2] = 0  # a row that lists nothing
    matrix[:, 3] = 0  # a column that nobody lists

    def lists(m):
        return F.pad(m.sum(1).long().cumsum(0)[:-1], (1, 0)), m.nonzero()[:, 1]

    table = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    out = sum_of_rows(table, Incidence(*lists(matrix), *lists(matrix.T)))
    torch.testing.assert_close(out, matrix @ table)
    gradient = torch.randn_like(out)
    out.backward(gradient)
    torch.testing.assert_close(table.grad, matrix.T @ gradient)


GENERATORS = {
    "spade": (lambda **k: SpadeGenerator(3, 2, upsamplings=4, hidden=4, **k), ()),
    "resail": (lambda **k: ResailGenerator(3, 2, upsamplings=4, hidden=4, **k), ((2, 3, 64, 48),)),
    "sean_plus": (lambda **k: ResailGenerator(3, 2, upsamplings=4, hidden=4, norm="sean_plus", **k), ((2, 3, 64, 48),)),
    "oasis": (lambda **k: OasisGenerator(3, 2, z_dim=4, blocks=5, hidden=4, **k), ((2, 4),)),
    "oasis, noise map": (lambda **k: OasisGenerator(3, 2, z_dim=4, blocks=5, hidden=4, **k), ((2, 4, 64, 48),)),
}


def painted(net, labels, others):
    """Image, gradients and buffers after a training step's forward and backward."""
    net.train()
    image = net(labels, *others)
    image.square().mean().backward()
    gradients = {name: p.grad for name, p in net.named_parameters()}
    return {"image": image.detach(), **gradients, **dict(net.named_buffers())}


def assert_same(one, other, rtol=1e-9, atol=1e-11):
    assert one.keys() == other.keys()
    for name, value in one.items():
        if value is None:
            assert other[name] is None, name
        else:
            torch.testing.assert_close(
                other[name], value, rtol=rtol, atol=atol, msg=lambda m, name=name: f"{name}: {m}"
            )


def generator_and_input(name):
    torch.manual_seed(0)
    make, shapes = GENERATORS[name]
    return make, [torch.randn(shape, dtype=torch.float64) for shape in shapes]


@pytest.mark.parametrize("name", GENERATORS)
def test_generators_are_the_same_either_way(name, monkeypatch):
    make, others = generator_and_input(name)
    net = init_weights(make(), gain=1).double()
    twin = copy.deepcopy(net)
    labels = one_hot(regions(2, 64, 48, 3, block=8, lowest=-1), 3).double()
    one = painted(net, labels, others)
    monkeypatch.setattr(module, "WORTH", 0.0)
    assert_same(painted(twin, labels, others), one)


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("worth", [0.0, 0.5], ids=["convolved", "gathered"])
def test_checkpointing_changes_neither_gradients_nor_statistics(name, worth, monkeypatch):
    monkeypatch.setattr(module, "WORTH", worth)
    make, others = generator_and_input(name)
    net = init_weights(make(), gain=1).double()
    twin = make(checkpointing=True).double()
    twin.load_state_dict(net.state_dict())
    labels = one_hot(regions(2, 64, 48, 3, block=8, lowest=-1), 3).double()
    assert_same(painted(net, labels, others), painted(twin, labels, others), rtol=0, atol=0)
