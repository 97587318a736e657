"""The cross-view system: losses by hand, who gets a gradient, what is drawn where, and that it learns at all."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from pipelines.data.listing import ListedDataset
from pipelines.data.scene import SceneRecord, Schema, View
from pipelines.embed.embedder import embed_images
from pipelines.embed.tower import Tower
from pipelines.errors import ConfigError
from pipelines.nn.losses.perceptual import Perceptual
from pipelines.systems.base import PhotoItem, Sources
from pipelines.systems.crossview import losses
from pipelines.systems.crossview.config import CrossviewConfig, CrossviewOptions
from pipelines.systems.crossview.losses import (
    discriminator_terms,
    diversity,
    gradient_penalty,
    identity_loss,
    rolled,
)
from pipelines.systems.crossview.system import Crossview
from pipelines.train.loop import average

SCHEMA = Schema(())
SMALL = {
    "sizes": {"aerial": (32, 32), "ground": (16, 64)},
    "widths": {"aerial": (16, 16, 8), "ground": (16, 16)},
    "structure": 1,
    "embedding": 24,
    "z_dim": 6,
    "style": 16,
    "spread": 4,
    "hidden": 16,
    "ndf": 4,
    "ndf_most": 16,
    "encoder_width": 4,
}
NO = {"adversarial": 0, "reconstruction": 0, "perceptual": 0, "identity": 0, "diversity": 0}


class Colors(nn.Module):
    """Tokens (n, 16, 24) of images (n, 3, 16, 16): a fixed projection of their patches, which tells images apart."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.randn(24, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        self.weight = nn.Parameter(weight)

    def forward(self, images):
        return nn.functional.conv2d(images, self.weight, stride=4).tanh().flatten(2).transpose(1, 2)


class Flat(nn.Module):
    def forward(self, tokens):
        return tokens[:, :2].flatten(1)


def embedder():
    towers = {view: Tower(Colors(), Flat(), (16, 16), 24, 48) for view in ("aerial", "ground")}
    return nn.ModuleDict(towers).eval().requires_grad_(False)


def build(**changed):
    """A small system, its networks, its frozen networks and a batch of 4."""
    torch.manual_seed(0)
    config = CrossviewConfig.model_validate({**SMALL, "weights": {"perceptual": 0}, **changed})
    system = Crossview(config, SCHEMA)
    return system, system.networks(), {"embedder": embedder()}, batch_of(system)


def batch_of(system, n=4):
    generator, rng = torch.Generator().manual_seed(1), np.random.default_rng(1)
    config = system.config
    examples = []
    for _ in range(n):
        images = {
            "source": torch.rand(3, *config.sizes.of(config.source), generator=generator) * 2 - 1,
            "target": torch.rand(3, *config.size, generator=generator) * 2 - 1,
        }
        other = {f"other_{name}": noise for name, noise in system._noise(rng).items()}
        examples.append({**images, **system._noise(rng), **other})
    return system.collate(examples)


def step(system, nets, frozen, batch, phase, memo):
    """The terms of a phase after its backward pass, as the loop does it."""
    plan = system.plan(system.config, SCHEMA, 10)
    stepped = next(p for p in plan.phases if p.name == phase).nets
    for name, net in nets.items():
        net.zero_grad(set_to_none=True)
        net.requires_grad_(name in stepped)
    terms = system.losses(phase, nets, frozen, batch, memo, 0)
    sum(terms.values()).backward()
    return {name: float(value.detach()) for name, value in terms.items()}


def with_gradient(net):
    return {name for name, weight in net.named_parameters() if weight.grad is not None and weight.grad.any()}


# ---- losses by hand -------------------------------------------------------------------------------------------------


class Linear(nn.Module):
    """D(y, c) = a . y + b . c."""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = torch.tensor(a), torch.tensor(b)

    def forward(self, image, c):
        return (image.flatten(1) * self.a).sum(1) + (c * self.b).sum(1)


def test_gradient_penalty_of_a_linear_discriminator():
    real, c = torch.randn(4, 3, 1, 1, requires_grad=True), torch.randn(4, 2, requires_grad=True)
    of_norm_one = Linear([0.6, 0.0, 0.0], [0.0, 0.8])
    assert 2 * gradient_penalty(of_norm_one(real, c), real, c).item() == pytest.approx(2.0, rel=1e-5)
    twice = Linear([1.2, 0.0, 0.0], [0.0, 1.6])
    assert gradient_penalty(twice(real, c), real, c).item() == pytest.approx(64.0, rel=1e-5)


def test_the_gradient_penalty_has_a_gradient_by_the_weights():
    _, nets, _, batch = build()
    c = torch.randn(4, 24, requires_grad=True)
    real = batch["target"].clone().requires_grad_()
    gradient_penalty(nets["D"](real, c), real, c).backward()
    assert {"stem.weight", "joint.weight", "logit.weight"} <= with_gradient(nets["D"])


def test_discriminator_terms_by_hand():
    judge = Linear([1.0, 0.0, 0.0], [10.0, 0.0])
    real, fake = torch.zeros(2, 3, 1, 1), torch.zeros(2, 3, 1, 1)
    real[:, 0], fake[:, 0] = 0.3, -0.7
    c = torch.tensor([[0.0, 5.0], [0.1, 5.0]])
    terms = {k: v.item() for k, v in discriminator_terms(judge, real, fake, c, penalty=0).items()}
    # D(real) = 0.3 and 1.3; D(fake) = -0.7 and 0.3; with the other's embedding the real ones give 1.3 and 0.3
    assert terms == pytest.approx({"d_real": 0.7 / 2, "d_fake": (0.3 + 1.3) / 4, "d_mismatch": (2.3 + 1.3) / 4})
    terms = discriminator_terms(judge, real, fake, c, conditional=False, penalty=2.0)
    assert terms.keys() == {"d_real", "d_penalty", "d_fake"}
    assert terms["d_fake"].item() == pytest.approx((0.3 + 1.3) / 2)
    assert terms["d_penalty"].item() == pytest.approx(2 * 101**3, rel=1e-5)


def test_a_real_image_under_an_equal_embedding_is_no_mismatch():
    judge = Linear([1.0, 0.0, 0.0], [1.0, 0.0])
    image, c = torch.zeros(3, 3, 1, 1), torch.tensor([[1.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    terms = discriminator_terms(judge, image, image, c)
    c[1] += 1e-6  # rounding, as in a batch of other images
    # rolled: 2, 1, 1; the second has its own
    assert terms["d_mismatch"].item() == pytest.approx((3 + 0 + 2) / 3 / 2)
    assert discriminator_terms(judge, image, image, c[:1].expand(3, -1))["d_mismatch"].item() == 0


@pytest.mark.parametrize("n", [2, 3, 5])
def test_rolled_by_one_no_example_meets_itself(n):
    c = torch.arange(n).float()[:, None]
    other = rolled(c)
    assert not (other == c).any()
    assert sorted(other.flatten().tolist()) == c.flatten().tolist()


def test_processes_roll_the_joined_batch(monkeypatch):
    """Each has its part of one batch; that they make it together is shown by test_two_processes.py."""
    joined = torch.arange(6).float()[:, None] * torch.ones(4)
    monkeypatch.setattr(losses, "gather", lambda part: joined)
    made = []
    for rank in range(2):
        monkeypatch.setattr(losses, "rank", lambda rank=rank: rank)
        made.append(rolled(joined[3 * rank : 3 * rank + 3]))
    assert torch.cat(made)[:, 0].tolist() == [5, 0, 1, 2, 3, 4]


def test_identity_loss_is_0_for_equal_and_2_for_opposite_vectors():
    e = nn.functional.normalize(torch.randn(3, 5), dim=1)
    assert identity_loss(e, e).item() == pytest.approx(0, abs=1e-6)
    assert identity_loss(e, -e).item() == pytest.approx(2)


def test_diversity_by_hand():
    first, second = torch.zeros(2, 3, 2, 2, requires_grad=True), torch.full((2, 3, 2, 2), 0.25, requires_grad=True)
    z1, z2 = torch.zeros(2, 4), torch.full((2, 4), 0.5)
    loss = diversity(first, second, z1, z2, "distance")
    loss.backward()
    assert loss.item() == -0.25
    assert first.grad is not None and second.grad is None
    assert diversity(first, second, z1, z2, "mode_seeking").item() == pytest.approx(2, rel=1e-3)


# ---- the phases -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["a2g", "g2a"])
@pytest.mark.parametrize("encoder", ["retrieval", "trainable"])
@pytest.mark.parametrize("fakes", ["fresh", "shared"])
def test_who_gets_a_gradient(direction, encoder, fakes):
    system, nets, frozen, batch = build(direction=direction, encoder=encoder, fakes=fakes)
    if encoder == "trainable":
        nets["E"].train()
    assert nets.keys() == system.plan(system.config, SCHEMA, 10).optimizers.keys()
    memo = {"progress": 0.0}
    for phase in system.plan(system.config, SCHEMA, 10).phases:
        terms = step(system, nets, frozen, batch, phase.name, memo)
        assert all(np.isfinite(value) for value in terms.values())
        learns = {name for name, net in nets.items() if with_gradient(net)}
        assert learns == set(phase.nets)
        assert not any(weight.grad is not None for weight in frozen["embedder"].parameters())
    assert system.plan(system.config, SCHEMA, 10).phases[0].name == ("D" if fakes == "fresh" else "G")


@pytest.mark.parametrize("encoder", ["retrieval", "trainable"])
@pytest.mark.parametrize("identity", ["target", "source"])
@pytest.mark.parametrize("conditioning", ["pooled", "head"])
def test_the_identity_loss_alone_moves_the_generator(encoder, identity, conditioning):
    length = 24 if conditioning == "pooled" else 48
    system, nets, frozen, batch = build(
        identity=identity,
        encoder=encoder,
        conditioning=conditioning,
        embedding=length,
        projected=None if conditioning == "pooled" else 24,
        weights={**NO, "identity": 1},
    )
    assert nets.keys() == ({"G"} if encoder == "retrieval" else {"G", "E"})
    system.check(frozen)
    terms = step(system, nets, frozen, batch, "G", {"progress": 0.0})
    assert terms.keys() == {"g_identity"} and 0 < terms["g_identity"] < 2
    assert "to_rgb.weight" in with_gradient(nets["G"])
    # the embedding of the view that is asked for is what a fake should have
    fake, *_ = nets["G"](system.condition(nets, frozen, batch["source"]), batch["z"], batch["noise"])
    view, image = ("ground", batch["target"]) if identity == "target" else ("aerial", batch["source"])

    def embed(tower, images):
        return tower.pooled(images) if conditioning == "pooled" else tower(images)

    wanted = embed(frozen["embedder"][view], image)
    made = embed(frozen["embedder"]["ground"], fake)
    assert terms["g_identity"] == pytest.approx(1 - (made * wanted).sum(1).mean().item(), abs=1e-5)


def test_terms_are_weighted_and_those_of_no_weight_are_left_out():
    weights = {"adversarial": 1, "reconstruction": 1, "identity": 1, "diversity": 1, "low_resolution": 1}
    once, twice = (
        step(*build(weights={**NO, **{k: factor * v for k, v in weights.items()}}), "G", {"progress": 0.0})
        for factor in (1, 2)
    )
    assert once.keys() == {f"g_{name}" for name in weights}
    assert twice == pytest.approx({name: 2 * value for name, value in once.items()}, rel=1e-5)
    few = {"reconstruction": 1, "low_resolution": 1}
    terms = step(*build(weights={**NO, **few}), "G", {"progress": 0.0})
    assert terms == pytest.approx({f"g_{name}": once[f"g_{name}"] for name in few}, rel=1e-5)


def test_the_perceptual_term_is_that_of_the_frozen_network():
    system, nets, frozen, batch = build(weights={**NO, "perceptual": 3})
    frozen["perceptual"] = Perceptual(0)
    terms = step(system, nets, frozen, batch, "G", {"progress": 0.0})
    fake, _ = nets["G"](system.condition(nets, frozen, batch["source"]), batch["z"], batch["noise"])
    assert terms["g_perceptual"] == pytest.approx(3 * frozen["perceptual"](fake, batch["target"]).item(), rel=1e-4)
    assert frozen["perceptual"](batch["target"], batch["target"]).item() == 0


@pytest.mark.parametrize("form", ["distance", "mode_seeking"])
def test_the_reward_for_diversity_falls_linearly_to_nothing(form):
    system, nets, frozen, batch = build(diversity=form, weights={**NO, "reconstruction": 1, "diversity": 2})
    start, middle, end = (
        step(system, nets, frozen, batch, "G", {"progress": progress})["g_diversity"] for progress in (0, 0.75, 1)
    )
    assert start != 0 and middle == pytest.approx(start / 4) and end == 0


def test_equal_noise_is_no_diversity():
    system, nets, frozen, batch = build(weights={**NO, "reconstruction": 1, "diversity": 1})
    batch |= {"other_z": batch["z"], "other_noise": batch["noise"]}
    assert step(system, nets, frozen, batch, "G", {"progress": 0.0})["g_diversity"] == 0


def test_an_unconditional_discriminator_knows_no_mismatch():
    system, nets, frozen, batch = build(alpha_d=0.0)
    terms = step(system, nets, frozen, batch, "D", {"progress": 0.0})
    assert terms.keys() == {"d_real", "d_fake", "d_penalty"}


def test_without_a_discriminator_there_is_one_phase():
    system, nets, _, _ = build(weights={**NO, "reconstruction": 1})
    plan = system.plan(system.config, SCHEMA, 10)
    assert [phase.name for phase in plan.phases] == ["G"] and nets.keys() == plan.optimizers.keys() == {"G"}


def test_the_sixth_power_is_computed_in_fp32():
    system, *_ = build()
    (phase,) = (phase for phase in system.plan(system.config, SCHEMA, 10).phases if phase.name == "D")
    assert phase.precision == "fp32"


@pytest.mark.parametrize(
    ("changed", "trains_with", "synthesizes_with"),
    [
        ({}, True, True),
        ({"encoder": "trainable"}, True, False),
        ({"encoder": "trainable", "weights": {"identity": 0}}, False, False),
        ({"weights": {"identity": 0}}, True, True),
    ],
)
def test_the_embedder_is_asked_for_where_it_is_used(changed, trains_with, synthesizes_with):
    config = CrossviewConfig.model_validate({**SMALL, **changed})
    plan = Crossview.plan(config, SCHEMA, 10)
    wanted = {"embedder": "embedder-crossview"}
    assert plan.train.frozen == (wanted if trains_with else {})
    assert plan.synthesize.frozen == (wanted if synthesizes_with else {})
    assert plan.train.views == ("aerial", "ground") and plan.synthesize.views == ("aerial",)


def test_bf16_changes_little_and_the_embedding_not_at_all():
    system, nets, frozen, batch = build()
    exact = system.condition(nets, frozen, batch["source"])
    terms = step(system, nets, frozen, batch, "G", {"progress": 0.0})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(system.condition(nets, frozen, batch["source"]), exact)
        rough = step(system, nets, frozen, batch, "G", {"progress": 0.0})
    assert rough == pytest.approx(terms, rel=0.05, abs=0.02)
    torch.testing.assert_close(exact, 24**0.5 * frozen["embedder"]["aerial"].pooled(batch["source"]))


def test_stored_embeddings_are_those_computed_while_training():
    """An index keeps what `rgs train index` computed; at the embedder's own size a training sees the same numbers."""
    system, nets, frozen, _ = build(conditioning="head", embedding=48)
    frozen["embedder"]["aerial"].size = (32, 32)
    photos = list(np.random.default_rng(0).integers(0, 256, (3, 50, 40, 3), dtype=np.uint8))
    requests = [
        system.request(PhotoItem("a", photo), Sources(), CrossviewOptions(), np.random.default_rng(0))
        for photo in photos
    ]
    seen = system.condition(nets, frozen, system.collate(requests)["source"])
    stored = embed_images(frozen["embedder"]["aerial"], photos, 2, "cpu", "the embedder")
    np.testing.assert_allclose(seen.numpy(), 48**0.5 * stored, atol=1e-5)


# ---- configs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("conditioning", ["pooled", "head"])
def test_an_embedder_of_another_length_is_refused(conditioning):
    length = {"pooled": 24, "head": 48}[conditioning]
    system, _, frozen, _ = build(conditioning=conditioning, embedding=length)
    system.check(frozen)
    system, _, frozen, _ = build(conditioning=conditioning, embedding=10)
    with pytest.raises(ConfigError, match=f"have {length} numbers and the config says 10"):
        system.check(frozen)
    build(embedding=10, encoder="trainable")[0].check(frozen)  # this one is asked only whom a fake shows


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"sizes": {"ground": (32, 100)}}, "power of two"),
        ({"sizes": {"ground": (8, 32)}}, "power of two from 16"),
        ({"sizes": {"ground": (64, 256)}}, "4 blocks make images of"),
        ({"widths": {"ground": (8, 8, 8)}}, "2 blocks make images of"),
        ({"structure": 3}, "3 of 2 blocks cannot paint structure"),
        ({"structure": 0, "weights": {"low_resolution": 1}}, "0 of 2 blocks"),
        ({"direction": "g2a", "circular": True}, "other edge"),
        ({"rotate": "any", "sizes": {**SMALL["sizes"], "aerial": (32, 64)}}, "square"),
        ({"weights": NO}, "nothing to train"),
    ],
)
def test_a_config_that_cannot_be_built_is_refused(changed, said):
    with pytest.raises(ValidationError, match=said):
        CrossviewConfig.model_validate({**SMALL, **changed})


# ---- examples and requests ------------------------------------------------------------------------------------------


@pytest.fixture
def pairs(tmp_path: Path) -> Sources:
    """Two places of one group, one of another, and a distractor without a street view."""
    rng, records = np.random.default_rng(0), []
    for name, group in (("a", "g"), ("b", "g"), ("c", ""), ("d", "")):
        views = {}
        for view, size in (("aerial", (40, 40)), ("ground", (20, 80)))[: 1 if name == "d" else 2]:
            path = tmp_path / f"{view}-{name}.png"
            cv2.imwrite(str(path), rng.integers(0, 256, (*size, 3), dtype=np.uint8))
            views[view] = View(path)
        extra = {"street_kind": "perspective" if name == "b" else "panorama_crop"}
        records.append(SceneRecord(name, "train", None, group=group, views=views, extra=extra))
    dataset = ListedDataset(tmp_path, "pairs", SCHEMA, records, lambda record: (None, None))
    return Sources(dataset, records)


def test_an_example_depends_on_its_generator_alone(pairs):
    system, *_ = build()
    assert system.sampling(pairs).ids == ["a", "b", "c"]
    assert system.sampling(pairs).groups == ["g", "g", "c"]
    one, again, another = (system.example("a", pairs, np.random.default_rng(seed), 0) for seed in (0, 0, 1))
    for name, value in one.items():
        assert torch.equal(value, again[name])
        assert torch.equal(value, another[name]) == (name in ("source", "target"))
    assert one["source"].shape == (3, 32, 32) and one["target"].shape == (3, 16, 64)
    assert one["z"].shape == (6,) and one["noise"].shape == (2 * (8 * 32 + 16 * 64),)
    assert not torch.equal(one["z"], one["other_z"])
    turned, *_ = build(direction="g2a")
    assert torch.equal(turned.example("a", pairs, np.random.default_rng(0), 0)["source"], one["target"])
    plain, *_ = build(weights={"diversity": 0, "perceptual": 0})
    assert "other_z" not in plain.example("a", pairs, np.random.default_rng(0), 0)


def test_a_turn_moves_both_views_of_a_panorama_and_no_perspective(pairs):
    system, *_ = build(rotate="quarters")
    still, *_ = build()
    seen = set()
    for seed in range(8):
        turned = system.example("a", pairs, np.random.default_rng(seed), 0)
        plain = still.example("a", pairs, np.random.default_rng(seed), 0)
        quarters = [
            k
            for k in range(4)
            if torch.equal(turned["target"], plain["target"].roll(16 * k, 2))
            and torch.equal(turned["source"], plain["source"].rot90(-k, (1, 2)))
        ]
        assert len(quarters) == 1
        seen.add(quarters[0])
        perspective = system.example("b", pairs, np.random.default_rng(seed), 0)
        assert torch.equal(perspective["source"], still.example("b", pairs, np.random.default_rng(9), 0)["source"])
    assert len(seen) > 2


def test_an_image_depends_on_its_photo_noise_and_options(pairs):
    system, nets, frozen, _ = build()
    nn.init.normal_(nets["G"].blocks[1].norm1.of_embedding[-1].weight)
    photo = pairs.dataset.read_view(pairs.records[0], "aerial")
    other = pairs.dataset.read_view(pairs.records[2], "aerial")

    @torch.no_grad()
    def make(photo=photo, seed=0, **options):
        asked = CrossviewOptions(**options)
        request = system.request(PhotoItem("a", photo), pairs, asked, np.random.default_rng(seed))
        return system.synthesize(nets, frozen, system.collate([request]), asked).images

    image = make()
    assert image.shape == (1, 3, 16, 64) and image.abs().max() <= 1
    assert torch.equal(make(), image)
    for changed in (make(seed=1), make(photo=other), make(strength=0.5), make(mean=True)):
        assert not torch.equal(changed, image)
    assert torch.equal(make(seed=1, mean=True), make(mean=True))
    assert not torch.equal(make(photo=other, mean=True), make(mean=True))


@pytest.mark.parametrize("changed", [{"modulation": "plain"}, {"blocks": "S"}, {"structure": 2}])
def test_a_strength_of_nothing_is_refused(pairs, changed):
    system, *_ = build(**changed)
    photo = PhotoItem("a", pairs.dataset.read_view(pairs.records[0], "aerial"))
    with pytest.raises(ConfigError, match="a strength changes nothing"):
        system.request(photo, pairs, CrossviewOptions(strength=0.5), np.random.default_rng(0))
    system.request(photo, pairs, CrossviewOptions(), np.random.default_rng(0))


def test_a_preview_shows_the_source_what_is_made_and_the_target(pairs):
    system, nets, frozen, _ = build()
    batch = system.collate([system.example(name, pairs, np.random.default_rng(0), 0) for name in "abc"])
    columns = system.preview(nets, frozen, batch)
    assert list(columns) == ["source", "output", "target"]
    assert torch.equal(columns["source"], batch["source"]) and torch.equal(columns["target"], batch["target"])
    assert columns["output"].shape == batch["target"].shape


# ---- learning -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_learns_eight_pairs_by_heart():
    """Reconstruction and identity: the mean error falls below 0.08 of 2, and each fake is nearest to its own place."""
    system, nets, frozen, batch = build(weights={**NO, "reconstruction": 10, "identity": 1})
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(8, 3, 2, 4, generator=generator) * 2 - 1
    target = nn.functional.interpolate(coarse, (16, 64), mode="bilinear")
    source = nn.functional.interpolate(coarse.flip(1), (32, 32), mode="bilinear")
    batch = {**batch_of(system, 8), "source": source, "target": target}
    slow = torch.optim.Adam(nets["G"].parameters(), lr=4e-3, betas=(0.0, 0.9))
    rng = np.random.default_rng(0)
    for number in range(160):
        batch |= system.collate([system._noise(rng) for _ in range(8)])
        for group in slow.param_groups:
            group["lr"] = 4e-3 * min(1, 2 - number / 80)
        terms = step(system, nets, frozen, batch, "G", {"progress": 0.0})
        slow.step()
    assert terms["g_reconstruction"] / 10 < 0.08
    with torch.no_grad():
        fake = nets["G"](system.condition(nets, frozen, source), batch["z"], batch["noise"])[0]
        similarity = frozen["embedder"]["ground"].pooled(fake) @ frozen["embedder"]["ground"].pooled(target).T
    assert (similarity.argmax(1) == torch.arange(8)).float().mean() > 0.9


def test_the_average_follows_the_generator():
    system, nets, _, _ = build()
    assert system.plan(system.config, SCHEMA, 10).averaged == {"G": 0.999}
    averaged = system.networks()["G"]
    average(averaged, nets["G"], 0.9, 1000)
    before = {name: value.clone() for name, value in averaged.named_parameters()}
    average(averaged, nets["G"], 0.9, 1000)
    for name, value in averaged.named_parameters():
        torch.testing.assert_close(value, before[name].lerp(dict(nets["G"].named_parameters())[name], 0.1))
