"""RetrieveGAN: what is drawn and chosen, who gets a gradient, what synthesis can do, and that it learns at all."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from pipelines.bank.bank import Bank
from pipelines.data.graph import SceneGraph
from pipelines.data.open import open_dataset
from pipelines.errors import ArtifactError, ConfigError
from pipelines.index.embedding_index import EmbeddingIndex
from pipelines.index.neighbors import Neighbors
from pipelines.index.prefilter import Prefilter
from pipelines.systems.base import GraphItem, Sources
from pipelines.systems.retrievegan.config import RetrieveganConfig, RetrieveganOptions
from pipelines.systems.retrievegan.examples import Patches, draws
from pipelines.systems.retrievegan.guidance import NONE, paste, pixel_boxes
from pipelines.systems.retrievegan.losses import from_imagenet, to_imagenet
from pipelines.systems.retrievegan.system import Retrievegan
from pipelines.systems.trained import load_networks

TINY = {
    "size": (32, 32),
    "patch": 16,
    "candidates": 3,
    "embedding": 8,
    "hidden": 8,
    "graph_layers": 2,
    "crop_widths": (8, 8),
    "channels": 8,
    "refiners": 1,
    "refiner_hidden": 8,
    "flow": False,
    "canvas": 8,
    "blocks": 1,
    "decoder": (16, 8, 8),
    "judge_widths": (8, 8),
    "object_size": 16,
    "object_features": 8,
    "norm": "group",
    "occurrence": "mean",
}
ALL = {"sel_gt", "sel_occur", "adv_img", "recon_img", "p_img", "adv_obj", "ac_obj", "p_obj", "bbx"}
NO = dict.fromkeys(ALL, 0.0)
AFTER = {"progress": 0.5}
"""A step after the warm-up."""


class Colors(nn.Module):
    """Unit vectors of patches by their colors, in the place of a co-occurrence embedder."""

    def forward(self, patches):
        return F.normalize(F.adaptive_avg_pool2d(patches, 2).flatten(1), dim=1)


class Blurred(nn.Module):
    """The distance of blurred images, in the place of VGG-19's features."""

    def forward(self, made, wanted):
        return F.l1_loss(F.avg_pool2d(made, 4), F.avg_pool2d(wanted, 4))


FROZEN = {"cooccurrence": Colors(), "perceptual": Blurred()}


@pytest.fixture(scope="module")
def sources(town: Path, patches: Path, patch_index: Path) -> Sources:
    """What a training is given."""
    dataset, bank = open_dataset(town), Bank.open(patches)
    return Sources(dataset, dataset.records("train"), bank=bank, neighbors=Neighbors.open(patch_index, bank))


@pytest.fixture(scope="module")
def searched(sources: Sources, patch_index: Path, graph_embedder: Path) -> Sources:
    """What a synthesis is given."""
    encoder = load_networks(graph_embedder).nets["encoder"].eval()
    return Sources(bank=sources.bank, prefilter=Prefilter(EmbeddingIndex.open(patch_index, sources.bank), encoder))


def build(sources, **changed):
    """A small system with its networks."""
    torch.manual_seed(0)
    config = RetrieveganConfig.model_validate({**TINY, **changed})
    system = Retrievegan(config, sources.bank.schema)
    nets = system.networks()
    system.refresh(nets, sources, 0, None, torch.device("cpu"))
    return system, nets


def batch_of(system, sources, n=3, seed=1):
    ids = system.sampling(sources).ids[:n]
    return system.collate([system.example(s, sources, np.random.default_rng([seed, i]), 0) for i, s in enumerate(ids)])


def step(system, nets, batch, phase, memo, frozen=FROZEN):
    """The terms of a phase after its backward pass, as the loop does it."""
    plan = system.plan(system.config, system.schema, 100)
    stepped = next(p for p in plan.phases if p.name == phase and p.due(round(100 * memo["progress"]))).nets
    for name, net in nets.items():
        net.zero_grad(set_to_none=True)
        net.requires_grad_(name in stepped)
    terms = system.losses(phase, nets, frozen, batch, memo, 0)
    sum(terms.values()).backward()
    return {name: float(value.detach()) for name, value in terms.items()}


def with_gradient(net):
    return {name for name, weight in net.named_parameters() if weight.grad is not None and weight.grad.any()}


# ---- what is drawn --------------------------------------------------------------------------------------------------


def test_candidates_are_of_the_class_and_of_other_images_nearest_first(sources):
    """T13, for the objects of training scenes."""
    system, _ = build(sources)
    bank, neighbors = sources.bank, sources.neighbors
    for scene_id in system.sampling(sources).ids:
        example = system.example(scene_id, sources, np.random.default_rng(0), 0)
        own, candidates = example["own"].numpy(), example["candidates"].numpy()
        assert {bank.source_of(row).id for row in own} == {scene_id}
        assert (bank.categories[own] + 1 == example["graph"]["objects"][:-1].numpy()).all()
        assert candidates.shape == (len(own), 3)
        for row, found in zip(own, candidates, strict=True):
            if (found == NONE).any():
                others = (bank.categories == bank.categories[row]) & (bank.sources != bank.sources[row])
                assert (found == NONE).all() and not others.any()
                continue
            assert (bank.categories[found] == bank.categories[row]).all()
            assert scene_id not in {bank.source_of(other).id for other in found}
            distances = [neighbors.scores[row][neighbors.rows[row] == other][0] for other in dict.fromkeys(found)]
            assert distances == sorted(distances)
            assert found.tolist() == [list(dict.fromkeys(found))[i % len(set(found))] for i in range(3)]


def test_an_example_depends_on_its_generator_alone(sources):
    system, _ = build(sources)
    scene_id = system.sampling(sources).ids[0]
    one, again, another = (system.example(scene_id, sources, np.random.default_rng(seed), 0) for seed in (0, 0, 1))
    for key in ("candidates", "noise", "uniform", "asks", "noise_gt", "own", "image"):
        assert torch.equal(one[key], again[key])
    assert torch.equal(one["image"], another["image"])
    assert not torch.equal(one["noise"].flatten()[:9], another["noise"].flatten()[:9])
    assert one["noise"].shape == (len(one["own"]), len(one["own"]), 3)
    assert one["noise_gt"].shape[-1] == 4
    once, _ = build(sources, noise="once")
    assert once.example(scene_id, sources, np.random.default_rng(0), 0)["noise"].shape[0] == 1


def test_random_pieces_of_the_bank_are_of_the_class_and_of_no_excluded_image(sources):
    bank = sources.bank
    config = RetrieveganConfig.model_validate({**TINY, "pieces": "random", "pool": "bank"})
    key = int(bank.sources[0])
    categories = np.unique(bank.categories).astype(np.int64)
    seen = set()
    for seed in range(20):
        drawn = draws(config, bank, categories, None, ("source", key), np.random.default_rng(seed))
        rows = drawn["picked"].numpy()
        assert (bank.categories[rows] == categories)[rows != NONE].all()
        assert (bank.sources[rows] != key)[rows != NONE].all()
        assert (drawn["ranks"] == 0).all()
        seen.add(tuple(rows.tolist()))
    assert len(seen) > 10


def test_a_bank_of_other_scenes_is_refused(sources):
    system, _ = build(sources)
    strange = replace(sources.records[0], id="train/elsewhere")
    with pytest.raises(ArtifactError, match="lacks the training scene train/elsewhere"):
        system.sampling(replace(sources, records=[*sources.records, strange]))


def test_patches_are_decoded_once_and_stay_behind_when_they_travel(sources, monkeypatch):
    bank, decoded = sources.bank, []
    patches = Patches(bank, 16)
    crop = Bank.crop
    monkeypatch.setattr(Bank, "crop", lambda bank, row: decoded.append(row) or crop(bank, row))
    rows = torch.tensor([[3, NONE], [0, 3]])
    made = patches(rows)
    patches(rows)
    assert sorted(decoded) == [0, 3]
    assert made.shape == (2, 2, 3, 16, 16) and not made[0, 1].any()
    assert torch.equal(made[0, 0], made[1, 1])
    np.testing.assert_allclose(made[1, 0].permute(1, 2, 0).numpy(), crop(bank, 0) / 127.5 - 1, atol=1e-6)
    copied = pickle.loads(pickle.dumps(patches))
    assert len(pickle.dumps(patches)) < 10_000 + len(pickle.dumps(bank))
    assert (copied.pixels(np.array([3])) == patches.pixels(np.array([3]))).all()


# ---- what is chosen -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changed", [{}, {"pool": "bank"}, {"pieces": "random"}, {"pieces": "random", "pool": "bank"}])
def test_every_object_gets_one_patch_of_its_class_and_of_another_image(sources, changed):
    system, nets = build(sources, **changed)
    bank = sources.bank
    for seed in range(3):
        batch = batch_of(system, sources, seed=seed)
        chosen = system._chooser.choose(nets, batch, 0.5)
        own = batch["own"]
        assert ((chosen.rows == NONE) | batch["counted"]).all()
        rows, mine = (x[chosen.rows != NONE].numpy() for x in (chosen.rows, own))
        assert (bank.categories[rows] == bank.categories[mine]).all()
        assert (bank.sources[rows] != bank.sources[mine]).all()
        lonely = own[(chosen.rows == NONE) & batch["counted"]].numpy()
        for row in lonely:
            assert not ((bank.categories == bank.categories[row]) & (bank.sources != bank.sources[row])).any()
        # what is painted from is the bank's patch to the bit
        assert torch.equal(chosen.pixels.detach(), Patches(bank, 16)(chosen.rows))
        if chosen.selection is not None:
            n = (chosen.rows != NONE).sum(1)
            torch.testing.assert_close(chosen.selection.total.sum((1, 2)), n.float())


def fewer(example, n):
    """The same without all but the first n objects."""
    graph = example["graph"]
    last = len(graph["objects"]) - 1
    kept = [k for k, (s, o) in enumerate(graph["edges"].tolist()) if s < n and (o < n or o == last)]
    edges = torch.where(graph["edges"][kept] == last, n, graph["edges"][kept])
    places = [*range(n), last]
    cut = {"objects": graph["objects"][places], "boxes": graph["boxes"][places], "edges": edges}
    cut["predicates"] = graph["predicates"][kept]
    sides = {"own": 1, "candidates": 1, "noise": 2, "noise_gt": 2}
    return {
        key: cut if key == "graph" else value[(slice(n),) * sides[key]] if key in sides else value
        for key, value in example.items()
    }


def test_an_image_is_painted_alike_whatever_is_beside_it(sources):
    """Padding to the image with most objects changes nothing."""
    system, nets = build(sources)
    ids = system.sampling(sources).ids[:4]
    made = [system.example(s, sources, np.random.default_rng(i), 0) for i, s in enumerate(ids)]
    made[1:3] = [fewer(made[1], 3), fewer(made[2], 5)]
    with torch.no_grad():
        together = system._paint_all(nets, system.collate(made), 0.5)
        for k, example in enumerate(made):
            alone = system._paint_all(nets, system.collate([example]), 0.5)
            for joined, one in zip(together.fakes, alone.fakes, strict=True):
                torch.testing.assert_close(joined[k : k + 1], one, atol=1e-5, rtol=1e-4)
            n = len(example["own"])
            assert torch.equal(together.chosen.rows[k, :n], alone.chosen.rows[0])


def test_objects_without_a_candidate_have_no_patch_and_are_counted(sources):
    system, nets = build(sources)
    batch = batch_of(system, sources)
    batch["candidates"][0, 0] = NONE
    memo = dict(AFTER)
    terms = step(system, nets, batch, "G", memo)
    assert all(np.isfinite(value) for value in terms.values())
    assert memo["observed"]["without_candidates"] == pytest.approx(1 / 3)
    assert system._chooser.choose(nets, batch, 0.5).rows[0, 0] == NONE
    batch["candidates"][:] = NONE  # nobody has one
    terms = step(system, nets, batch, "G", dict(AFTER))
    assert all(np.isfinite(value) for value in terms.values())


# ---- the phases -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changed", [{}, {"pool": "bank", "fakes": "shared"}, {"pieces": "random"}, {"pieces": "none"}])
def test_who_gets_a_gradient(sources, changed):
    system, nets = build(sources, **changed)
    batch, memo = batch_of(system, sources), dict(AFTER)
    plan = system.plan(system.config, system.schema, 100)
    assert nets.keys() == plan.optimizers.keys()
    assert ("P" in nets) == (changed.get("pieces", "retrieved") == "retrieved")
    phases = [phase for phase in plan.phases if phase.due(50)]
    assert [p.name for p in phases] == (["G", "D"] if changed.get("fakes") == "shared" else ["D", "G"])
    for phase in phases:
        terms = step(system, nets, batch, phase.name, memo)
        assert all(np.isfinite(value) for value in terms.values())
        assert {name for name, net in nets.items() if with_gradient(net)} == set(phase.nets)


def test_the_discriminators_see_the_fakes_of_the_same_step(sources):
    system, nets = build(sources, fakes="shared")
    batch, memo = batch_of(system, sources), dict(AFTER)
    step(system, nets, batch, "G", memo)
    shared = step(system, nets, batch, "D", memo)
    assert len(memo["fakes"]) == 2 and not any(fake.requires_grad for fake in memo["fakes"])
    fresh, _ = build(sources)
    assert step(fresh, nets, batch, "D", dict(AFTER)) == pytest.approx(shared, rel=1e-4)


def test_an_image_loss_reaches_every_weight_of_the_patch_embedder(sources):
    """T8: the judgement of the fakes alone; the perceptual and selection losses are off."""
    system, nets = build(sources, weights={**NO, "adv_img": 1})
    terms = step(system, nets, batch_of(system, sources), "G", dict(AFTER))
    assert terms.keys() == {"adv_img"}
    assert with_gradient(nets["P"]) == {name for name, _ in nets["P"].named_parameters()}


def test_nine_losses_by_name_are_weighted_and_those_of_no_weight_left_out(sources):
    once, twice = (
        step(
            *(made := build(sources, weights=dict.fromkeys(ALL, factor))), batch_of(made[0], sources), "G", dict(AFTER)
        )
        for factor in (1.0, 2.0)
    )
    assert once.keys() == ALL
    assert twice == pytest.approx({name: 2 * value for name, value in once.items()}, rel=1e-5)
    for name in ("recon_img", "adv_obj"):
        system, nets = build(sources, weights={**NO, name: 1})
        terms = step(system, nets, batch_of(system, sources), "G", dict(AFTER))
        assert terms.keys() == {name}


def test_losses_by_hand(sources):
    """L_recon_img and L_bbx of what the networks say, and the classes that real objects should have."""
    system, nets = build(sources, weights={**NO, "recon_img": 1, "bbx": 1, "ac_obj": 1})
    batch = batch_of(system, sources)
    terms = step(system, nets, batch, "G", dict(AFTER))
    with torch.no_grad():
        painted = system._paint_all(nets, batch, 0.5)
        photo = to_imagenet(batch["image"])
        assert terms["recon_img"] == pytest.approx(float((painted.fakes[0] - photo).abs().mean()), rel=1e-5)
        real = batch["real"]
        away = (painted.boxes - batch["boxes"])[real].abs().sum(1)
        assert terms["bbx"] == pytest.approx(float(away.mean()), rel=1e-5)
    nets["D_obj"].category.weight.data.zero_()
    nets["D_obj"].category.bias.data.zero_()
    classes = len(system.schema.classes)
    assert step(system, nets, batch, "D", dict(AFTER))["obj_classes"] == pytest.approx(np.log(classes), rel=1e-5)


def test_the_warm_up_paints_from_own_patches_alone(sources):
    system, nets = build(sources, warmup=0.5)
    batch, memo = batch_of(system, sources), {"progress": 0.49}
    terms = step(system, nets, batch, "G", memo)
    assert terms.keys() == ALL - {"sel_occur"}
    assert with_gradient(nets["P"])  # by L_sel_gt
    assert len(system._paint_all(nets, batch, 0.49).fakes) == 1
    assert len(system._paint_all(nets, batch, 0.5).fakes) == 2
    # without it P learns nothing before, and is not stepped
    still, nets = build(sources, warmup=0.5, weights={"sel_gt": 0})
    phases = [p for p in still.plan(still.config, still.schema, 11).phases if p.name == "G"]
    assert [(p.nets, p.start, p.stop) for p in phases] == [(("E", "G"), 0, 6), (("E", "P", "G"), 6, None)]
    terms = step(still, nets, batch, "G", {"progress": 0.49})
    assert "sel_gt" not in terms and nets["P"].last.weight.grad is None


@pytest.mark.parametrize("steps", [1, 2, 7, 10, 100, 1000])
@pytest.mark.parametrize("share", [0.0, 0.055, 0.07, 0.1, 0.3, 0.5, 1.0])
def test_the_warm_up_ends_where_its_share_does(steps, share):
    warm = RetrieveganConfig(warmup=share).warm(steps)
    assert all((step / steps < share) == (step < warm) for step in range(steps + 1))


def test_temperature_falls_over_its_share(sources):
    system, nets = build(sources, tau={"first": 2.0, "last": 0.5, "share": 0.5})
    batch = batch_of(system, sources)
    taus = [system._paint_all(nets, batch, progress).tau for progress in (0.0, 0.25, 0.5, 0.9)]
    assert taus == pytest.approx([2.0, 1.25, 0.5, 0.5])


def test_own_patches_join_the_candidates_where_asked(sources):
    system, nets = build(sources, gt_in_generation=True)
    batch = batch_of(system, sources)
    chosen = system._chooser.choose(nets, batch, 0.5)
    assert torch.equal(chosen.candidates.rows[..., -1], batch["own"])
    step(system, nets, batch, "G", dict(AFTER))


# ---- the whole bank -------------------------------------------------------------------------------------------------


def test_the_state_of_the_pool_goes_on_where_it_was(sources):
    system, nets = build(sources, pool="bank", bank={"refresh": 7})
    state = system.refresh(nets, sources, 1, None, torch.device("cpu"))
    kept = {name: value.clone() for name, value in state.items()}
    with torch.no_grad():
        nets["P"].last.weight.add_(0.1)
    once = {n: v.clone() for n, v in system.refresh(nets, sources, 2, state, torch.device("cpu")).items()}
    resumed = Retrievegan(system.config, system.schema)
    again = resumed.refresh(nets, sources, 2, kept, torch.device("cpu"))
    assert kept.keys() == once.keys() == again.keys()
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert not torch.equal(kept["features"], once["features"])
    batch = batch_of(system, sources)
    assert torch.equal(*(s._chooser.choose(nets, batch, 0.5).rows for s in (system, resumed)))


# ---- synthesis ------------------------------------------------------------------------------------------------------


def graph_of(sources, boxes=True) -> SceneGraph:
    """Three objects of the two most frequent classes of the bank."""
    first, second = np.argsort(-np.bincount(sources.bank.categories))[:2]
    given = np.array([[0, 0, 1, 0.5], [0, 0.5, 1, 1], [0.25, 0.25, 0.5, 0.75]], np.float32)
    return SceneGraph(np.array([first, second, first]), ((0, 2, 1),), given if boxes else None)


def make(system, nets, sources, graph, seed=0, exclude=None, **options):
    asked = RetrieveganOptions(**options)
    item = GraphItem("graph", graph, system.config.size, exclude)
    request = system.request(item, sources, asked, np.random.default_rng(seed))
    with torch.no_grad():
        return system.synthesize(nets, FROZEN, system.collate([request]), asked)


def rows_of(made) -> list[int | None]:
    return [patch and patch["row"] for patch in made.graphs[0]["patches"]]


@pytest.mark.parametrize("pool", ["prefilter", "bank"])
def test_images_of_one_graph_differ_by_what_is_drawn(searched, pool):
    system, nets = build(searched, pool=pool)
    graph = graph_of(searched)
    one, again = (make(system, nets, searched, graph) for _ in range(2))
    assert torch.equal(one.images, again.images) and one.graphs == again.graphs
    assert one.images.shape == (1, 3, 32, 32) and one.images.abs().max() <= 1
    others = [make(system, nets, searched, graph, seed) for seed in range(1, 6)]
    assert any(rows_of(other) != rows_of(one) for other in others)
    assert any(not torch.equal(other.images, one.images) for other in others)
    greedy = [make(system, nets, searched, graph, seed, noise=False) for seed in (0, 0, 1, 2, 3)]
    assert rows_of(greedy[0]) == rows_of(greedy[1])
    bank = searched.bank
    for made in (one, *others, *greedy):
        assert (bank.categories[rows_of(made)] == graph.categories).all()


@pytest.mark.parametrize("pool", ["prefilter", "bank"])
@pytest.mark.parametrize("pieces", ["retrieved", "random"])
@pytest.mark.parametrize("by", ["source", "group"])
def test_excluded_pieces_are_not_used(searched, pool, pieces, by):
    system, nets = build(searched, pool=pool, pieces=pieces)
    bank, graph = searched.bank, graph_of(searched)
    source = bank.source_of(int(np.flatnonzero(bank.categories == graph.categories[0])[0]))
    name = source.group if by == "group" else source.id
    used = set()
    for seed in range(6):
        for row in rows_of(make(system, nets, searched, graph, seed, (by, name))):
            used.add(bank.source_of(row).group if by == "group" else bank.source_of(row).id)
    assert used and name not in used


def test_boxes_are_predicted_or_given(searched):
    system, nets = build(searched)
    graph = graph_of(searched)
    given = make(system, nets, searched, graph, boxes="given").graphs[0]
    assert given["used"] == "given" and np.allclose(given["boxes"], graph.boxes)
    predicted = make(system, nets, searched, graph).graphs[0]
    assert predicted["used"] == "predicted" and not np.allclose(predicted["boxes"], graph.boxes)
    boxes = np.array(predicted["boxes"])
    assert ((boxes[:, 2:] - boxes[:, :2]) * 32 > 1 - 1e-3).all() and boxes.min() >= 0 and boxes.max() <= 1
    assert np.allclose(make(system, nets, searched, graph_of(searched, False)).graphs[0]["boxes"], boxes)
    with pytest.raises(ConfigError, match="the graph has no boxes"):
        make(system, nets, searched, graph_of(searched, False), boxes="given")


def test_guidance_and_provenance_say_what_is_where(searched):
    system, nets = build(searched)
    graph, bank = graph_of(searched), searched.bank
    made = make(system, nets, searched, graph, boxes="given")
    index, records = made.provenance[0]
    assert [record["bank_row"] for record in records] == rows_of(made)
    assert [record["category"] for record in records] == [system.schema.names[c] for c in graph.categories]
    assert [record["box"] for record in records] == [[0, 0, 32, 16], [0, 16, 32, 16], [8, 8, 8, 16]]
    assert [record["pixels"] for record in records] == [32 * 16 - 8 * 8, 32 * 16 - 8 * 8, 8 * 16]
    assert all(1 <= record["rank"] <= 3 for record in records)
    assert (index == np.where(np.arange(32)[:, None] < 16, 1, 2)).mean() == 1 - 8 * 16 / 32**2
    canvas = made.guidance[0].permute(1, 2, 0).numpy()
    for record, (y, x) in zip(records, [(2, 20), (28, 20), (12, 10)], strict=True):
        mean = bank.crop(record["bank_row"]).mean((0, 1)) / 127.5 - 1
        x0, y0, w, h = record["box"]
        if index[y0 : y0 + h, x0 : x0 + w].min() == record["index"]:  # nothing covers it
            np.testing.assert_allclose(canvas[y0 : y0 + h, x0 : x0 + w].mean((0, 1)), mean, atol=0.05)
        assert index[y, x] == record["index"]


def test_without_patches_there_is_no_bank_at_synthesis(sources):
    system, nets = build(sources, pieces="none")
    assert system.plan(system.config, system.schema, 10).synthesize.bank is None
    assert system.refresh(nets, Sources(), 0, None, torch.device("cpu")) is None
    made = make(system, nets, Sources(), graph_of(sources))
    assert made.guidance is None and made.provenance is None and rows_of(made) == [None] * 3
    assert made.images.shape == (1, 3, 32, 32)


def test_graphs_of_one_object_and_of_many(searched):
    system, nets = build(searched)
    category = int(searched.bank.categories[0])
    one = SceneGraph(np.array([category]), ())
    assert len(rows_of(make(system, nets, searched, one))) == 1
    many = SceneGraph(np.full(200, category), tuple((i, 0, i + 1) for i in range(199)))
    made = make(system, nets, searched, many)
    assert len(rows_of(made)) == 200 and None not in rows_of(made) and torch.isfinite(made.images).all()


def test_a_preview_shows_both_paths_and_the_patches(sources):
    system, nets = build(sources)
    batch = batch_of(system, sources)
    with torch.no_grad():
        columns = system.preview(nets, FROZEN, batch)
    assert list(columns) == ["from own patches", "retrieved patches", "from retrieved", "photo"]
    assert all(column.shape == (3, 3, 32, 32) and column.abs().max() <= 1 for column in columns.values())


def test_small_patches_lie_on_top_of_large_ones():
    red, green = (np.full((4, 4, 3), color, np.uint8) for color in ((255, 0, 0), (0, 255, 0)))
    boxes = pixel_boxes(np.array([[0.25, 0.25, 0.5, 0.5], [0, 0, 1, 1], [0.9, 0.9, 0.9, 0.9]]), (8, 8))
    assert boxes == [(2, 2, 2, 2), (0, 0, 8, 8), (7, 7, 1, 1)]
    guidance = paste([green, red, None], boxes, (8, 8))
    assert (guidance.owner[2:4, 2:4] == 0).all() and (guidance.owner == 1).sum() == 60
    assert (guidance.image[2:4, 2:4] == (0, 255, 0)).all() and (guidance.image[7, 7] == (255, 0, 0)).all()


# ---- configs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"size": (48, 48)}, "power of two"),
        ({"size": (16, 16)}, "power of two from 32"),
        ({"decoder": (8,) * 6}, "64 pixels at least"),
        ({"patch": 8, "crop_widths": (4, 4, 4, 4)}, "cannot be halved 4 times"),
        ({"weights": {**NO, "bbx": 1}}, "no image is learned"),
        ({"gt_in_generation": True, "pool": "bank"}, "cannot be among the candidates"),
        ({"noise": "once", "pool": "bank"}, "draws noise at each step"),
        ({"mask_size": 3}, "power of two from 2"),
        ({"object_size": 16, "judge_widths": (4, 4, 4)}, "too small"),
    ],
)
def test_a_config_that_cannot_be_built_is_refused(changed, said):
    with pytest.raises(ValidationError, match=said):
        RetrieveganConfig.model_validate({**TINY, **changed})


def test_what_is_needed_follows_from_the_config(sources):
    def needs(**changed):
        config = RetrieveganConfig.model_validate({**TINY, **changed})
        return Retrievegan.plan(config, sources.bank.schema, 10).train

    assert needs().index == "embedding" and needs().frozen == {"cooccurrence": "embedder-cooccurrence"}
    assert needs(pool="bank").index is None and needs(pool="bank").frozen
    assert needs(pieces="random").index == "embedding" and not needs(pieces="random").frozen
    assert needs(pieces="none").index is None and needs(pieces="none").bank == "patches"
    assert not needs(weights={"sel_occur": 0}).frozen
    assert needs().graph and needs().fields == ("image",)


# ---- learning -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_learns_eight_images_by_heart(sources):
    """T15, from own patches: L1 below 0.05 of the range, boxes nearer, L_sel_gt below half of what guessing gives."""
    weights = {**NO, "sel_gt": 1, "recon_img": 10, "bbx": 1}
    wider = {"channels": 16, "embedding": 16, "hidden": 32, "canvas": 16}
    wider |= {"decoder": (48, 32, 32), "crop_widths": (16, 32)}
    system, nets = build(sources, warmup=1, weights=weights, tau={"last": 1.0}, **wider)
    ids = system.sampling(sources).ids[:8]
    optimizer = torch.optim.Adam([p for net in nets.values() for p in net.parameters()], lr=5e-3, betas=(0.5, 0.9))
    history = []
    for number in range(240):
        drawn = [np.random.default_rng([number, i]) for i in range(8)]
        batch = system.collate([system.example(s, sources, rng, 0) for s, rng in zip(ids, drawn, strict=True)])
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * min(1, 2 - number / 120)
        history.append(step(system, nets, batch, "G", {"progress": 0.0}))
        optimizer.step()
    with torch.no_grad():
        made = from_imagenet(system._paint_all(nets, batch, 0.0).fakes[0])
    assert (made - batch["image"]).abs().mean() / 2 < 0.05
    last = {name: np.mean([terms[name] for terms in history[-10:]]) for name in ("bbx", "sel_gt")}
    assert last["bbx"] < 0.7 * history[0]["bbx"]
    assert last["sel_gt"] < np.log(system.config.candidates + 1) / 2
