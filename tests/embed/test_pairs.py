"""The cross-view embedder: what it is shown, what it learns, and how its recall is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from pipelines.config import Layer, dump_yaml, parse_yaml, resolve
from pipelines.data.scene import SceneRecord
from pipelines.embed.pairs import NET, PairEmbedder, PairsConfig, allowed_negatives, identity, turn_pair
from pipelines.embed.tower import AverageHead, Tower
from pipelines.errors import ConfigError, DataError, NumericalError
from pipelines.nn.reduce import all_reduce_sum, gather
from pipelines.systems.base import Sources, stack
from tests.embed.places import AERIAL, GROUND, TINY, Places

CPU = torch.device("cpu")


def embedder(**changed: Any) -> PairEmbedder:
    return PairEmbedder(PairsConfig.model_validate(TINY | changed), Places(1).schema)


def sources(dataset: Places) -> Sources:
    return Sources(dataset, dataset.records(), dataset.records())


def fit(trainable: PairEmbedder, given: Sources, steps: int) -> dict[str, nn.Module]:
    """All pairs in each of some steps of plain AdamW."""
    torch.manual_seed(0)
    nets = trainable.networks()
    optimizer = torch.optim.AdamW(nets[NET].parameters(), lr=1e-3)
    rng = np.random.default_rng(0)
    for step in range(steps):
        batch = trainable.collate([trainable.example(name, given, rng, step) for name in trainable.sampling(given).ids])
        loss = trainable.losses(NET, nets, {}, batch, {}, step)["contrastive"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    nets[NET].eval()
    return nets


@pytest.mark.parametrize("changed", [{}, {"head": "smd"}, {"towers": "one", "ground": AERIAL}])
def test_it_learns_eight_pairs(changed: dict[str, Any]) -> None:
    trainable, given = embedder(**changed), sources(Places(8))
    nets = fit(trainable, given, 50)
    measured = trainable.validate(nets, given, CPU)
    assert measured["recall@1"] == measured["recall@1_published"] == 1.0
    assert measured["tie_alarm"] == 0.0
    batch = trainable.collate([trainable.example(r.id, given, np.random.default_rng(0), 0) for r in given.records])
    with torch.no_grad():
        shown = trainable.preview(nets, {}, batch)
    assert torch.equal(shown["retrieved"], shown["aerial"]) and torch.equal(shown["ground"], batch["ground"])


class Constant(nn.Module):
    """Every image becomes one token of the same numbers."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.full((1, 1, 4), value))

    def forward(self, images: Tensor) -> Tensor:
        return self.token.expand(len(images), -1, -1)


def constant(value: float) -> dict[str, nn.Module]:
    towers = {view: Tower(Constant(value), AverageHead(), GROUND, 4, 4) for view in ("aerial", "ground")}
    return {NET: nn.ModuleDict(towers)}


@pytest.mark.parametrize("value", [0.3, 0.0])
def test_an_embedder_that_collapsed_scores_nothing_and_rings(value: float) -> None:
    measured = embedder().validate(constant(value), sources(Places(20)), CPU)
    assert measured["recall@1"] == measured["recall@5"] == measured["recall@10"] == measured["recall@1%"] == 0.0
    assert measured["recall@1_published"] == 1.0
    assert measured["tie_alarm"] == 1.0


def test_an_embedder_of_no_numbers_is_refused() -> None:
    with pytest.raises(NumericalError, match="aerial tower gives image 0"):
        embedder().validate(constant(float("nan")), sources(Places(3)), CPU)


class FirstPixel(nn.Module):
    """The color in a corner as the one token: an oracle whose nearest neighbors can be told by looking."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:, None, :, 0, 0]


def oracle() -> dict[str, nn.Module]:
    sizes = {"aerial": AERIAL, "ground": GROUND}
    return {NET: nn.ModuleDict({view: Tower(FirstPixel(), AverageHead(), sizes[view], 3, 3) for view in sizes})}


def test_distractors_and_galleries_within_a_source() -> None:
    trainable = embedder()
    alone = trainable.validate(oracle(), sources(Places(4)), CPU)
    assert alone["recall@1"] == 1.0  # places draw their corners at random, and both views show the same one
    double = Places(4, sources=("east", "west"), distractors=2)
    copy = replace(double.listed[4], id="q/000")  # a distractor that looks as place 0 does
    double.listed[4] = copy
    measured = trainable.validate(oracle(), sources(double), CPU)
    assert measured["recall@1"] == 0.75 and measured["recall@1_published"] == 1.0
    assert (
        measured["recall@1[east]"] == 0.5 and measured["recall@1[west]"] == 1.0
    )  # place 0 and its copy are in the east
    assert "recall@1[east]" not in alone


def test_semi_positives_are_neither_right_nor_wrong() -> None:
    places = Places(4, distractors=1)
    places.listed[4] = replace(places.listed[4], id="q/000")  # looks as place 0 does
    places.listed[0] = replace(places.listed[0], extra=places.listed[0].extra | {"semi": ["q/000", "elsewhere"]})
    assert embedder().validate(oracle(), sources(places), CPU)["recall@1"] == 1.0


def test_several_street_views_may_share_an_aerial_image() -> None:
    places = Places(3)
    shared = {"aerial_id": "tile", "street_kind": "panorama"}
    places.listed = [replace(places.listed[0], extra=shared), replace(places.listed[0], id="q/000", extra=shared)]
    measured = embedder().validate(oracle(), sources(places), CPU)
    assert measured["recall@1"] == 1.0 and measured["tie_alarm"] == 0.0


def test_sources_may_share_aerial_images() -> None:
    """The toy town's panoramas and perspectives do."""
    places = Places(4)
    asked = [replace(r, extra=r.extra | {"aerial_id": r.id}, domain="pano") for r in places.listed]
    places.listed = asked + [replace(r, id=f"q/{r.id[-3:]}", domain="persp") for r in asked[:2]]
    measured = embedder().validate(oracle(), sources(places), CPU)
    assert [measured[f"recall@1{of}"] for of in ("", "[pano]", "[persp]")] == [1.0, 1.0, 1.0]


def test_a_validation_split_without_street_views_is_refused() -> None:
    with pytest.raises(DataError, match="validation split"):
        embedder().validate(oracle(), sources(Places(0, distractors=3)), CPU)


def test_what_a_batch_is_drawn_from() -> None:
    places = Places(3, distractors=2)
    places.listed[1] = replace(places.listed[1], group="")
    drawn = embedder().sampling(sources(places))
    assert list(drawn.ids) == ["p/000", "p/001", "p/002"]
    assert list(drawn.groups or ()) == ["place 0", "p/001", "place 2"]
    with pytest.raises(DataError, match="both"):
        embedder().sampling(sources(Places(0, distractors=3)))


def test_which_pairs_are_negatives() -> None:
    def pair(name: str, group: str, aerial: str, source: str, semi: Sequence[str] = ()) -> dict[str, Tensor]:
        extra = {"aerial_id": aerial, "semi": list(semi)}
        return identity(SceneRecord(name, "train", None, group=group, domain=source, extra=extra))

    batch = stack(
        [
            pair("a", "one", "x", "east"),
            pair("b", "one", "y", "east"),  # the place of a
            pair("c", "two", "x", "east"),  # the aerial image of a
            pair("d", "three", "z", "west", semi=["y"]),  # its street view also shows in the aerial image of b
            pair("e", "", "", "east"),
            pair("f", "", "", "east"),  # as e, of no known place: one aerial id, so the same
        ]
    )
    allowed = allowed_negatives(**batch, within_source=False)
    forbidden = {(0, 1), (1, 0), (0, 2), (2, 0), (1, 3), (4, 5), (5, 4), *((i, i) for i in range(6))}
    assert {(int(i), int(j)) for i, j in (~allowed).nonzero()} == forbidden  # rows aerial, columns ground
    within = allowed_negatives(**batch, within_source=True)
    assert not within[3].any() and not within[:, 3].any()
    assert torch.equal(within[:3, :3], allowed[:3, :3])


def test_too_many_semi_positives_are_refused() -> None:
    record = SceneRecord("a", "train", None, extra={"semi": list("abcdefghi")})
    with pytest.raises(DataError, match="9 semi-positives"):
        identity(record)


def test_a_batch_of_one_is_refused() -> None:
    trainable, given = embedder(), sources(Places(2))
    batch = trainable.collate([trainable.example("p/000", given, np.random.default_rng(0), 0)])
    with pytest.raises(ConfigError, match="batch of one"):
        trainable.losses(NET, trainable.networks(), {}, batch, {}, 0)


def world(side: int = 64, width: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """A panorama and an aerial photo of a marker that is west of the camera: SAFA's polar formula puts it at W / 4."""
    aerial = np.zeros((side, side, 3), np.uint8)
    aerial[side // 2 - 2 : side // 2 + 2, 6:12] = 255
    ground = np.zeros((16, width, 3), np.uint8)
    ground[:, width // 4 - 1 : width // 4 + 2] = 255
    return ground, aerial


def polar(aerial: np.ndarray, width: int) -> np.ndarray:
    """(W,) how much of the marker each column of a panorama looks at, by SAFA's polar formula."""
    side = len(aerial)
    radius, column = np.meshgrid(np.linspace(0, side / 2 - 1, side), np.arange(width), indexing="ij")
    angle = 2 * np.pi * column / width
    rows = (side - 1) / 2 + radius * np.cos(angle)
    columns = (side - 1) / 2 - radius * np.sin(angle)
    return aerial[rows.round().astype(int), columns.round().astype(int), 0].sum(0)


@pytest.mark.parametrize("turn", [0.0, 0.25, 0.5, 0.75, 1 / 12, 1 / 3, 0.9])
def test_a_panorama_and_its_aerial_photo_turn_together(turn: float) -> None:
    ground, aerial = turn_pair(*world(), turn)
    seen = np.exp(2j * np.pi * np.arange(96) / 96)
    directions = [np.angle((weights * seen).sum()) for weights in (ground[0, :, 0].astype(float), polar(aerial, 96))]
    apart = np.angle(np.exp(1j * (directions[0] - directions[1])))
    assert abs(apart) < np.deg2rad(4)
    expected = np.angle(np.exp(2j * np.pi * (0.25 + turn)))
    assert abs(np.angle(np.exp(1j * (directions[0] - expected)))) < np.deg2rad(4)


def test_quarters_lose_no_pixel() -> None:
    ground, aerial = world()
    aerial = np.random.default_rng(0).integers(0, 256, aerial.shape, dtype=np.uint8)
    for quarters in range(4):
        turned = turn_pair(ground, aerial, quarters / 4)[1]
        assert np.array_equal(turned, np.rot90(aerial, -quarters))


@pytest.mark.parametrize("rotate", ["quarters", "any"])
def test_perspectives_do_not_turn(rotate: str) -> None:
    given = sources(Places(2))
    turned = [embedder(rotate=rotate).example("p/000", given, np.random.default_rng(s), 0)["ground"] for s in range(8)]
    assert any(not torch.equal(turned[0], other) for other in turned)
    listed = given.dataset.listed  # type: ignore[union-attr]
    listed[1] = replace(listed[1], extra={"street_kind": "perspective"})
    given = Sources(given.dataset, listed, listed)
    for view in ("ground", "aerial"):
        still = [embedder(rotate=rotate).example("p/001", given, np.random.default_rng(s), 0)[view] for s in range(8)]
        assert all(torch.equal(still[0], other) for other in still)


def test_examples_are_functions_of_their_generator() -> None:
    trainable, given = embedder(rotate="any", jitter=0.2), sources(Places(2))
    first, again, other = (trainable.example("p/001", given, np.random.default_rng(s), 0) for s in (1, 1, 2))
    for view, size in (("aerial", AERIAL), ("ground", GROUND)):
        assert first[view].shape == (3, *size)
        assert torch.equal(first[view], again[view]) and not torch.equal(first[view], other[view])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"backbone": "saig-m"}, "unknown backbone 'saig-m'"),
        ({"towers": "one"}, "one tower sees both views at one size"),
        ({"rotate": "any", "aerial": [16, 64]}, "only square aerial images"),
        ({"ground": [20, 64]}, "multiples of 16"),
        ({"lr": 0}, "lr"),
        ({"backbone": "torchvision:resnet18", "head": "smd"}, "no smd head"),
    ],
)
def test_configs_that_make_no_sense_are_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        resolve(PairsConfig, [Layer("tiny", TINY), Layer("changed", changed)])
    assert said in str(error.value)


def test_a_config_survives_its_dump() -> None:
    config = PairsConfig.model_validate(TINY | {"rho": 2.0, "clip": None, "rotate": "any"})
    assert resolve(PairsConfig, [Layer("dump", parse_yaml(dump_yaml(config), "dump"))]) == config


def test_the_published_schedule() -> None:
    config = PairsConfig()
    plan = PairEmbedder.plan(config, Places(1).schema, 100)
    adam = plan.optimizers[NET]
    assert (adam.weight_decay, adam.decoupled, adam.clip, adam.rho) == (0.03, True, 1.0, None)
    assert adam.lr(0) == pytest.approx(1e-4) and adam.lr(50) == pytest.approx(5e-5, rel=1e-3)
    assert adam.lr(99) < 1e-7 and adam.lr(100) == pytest.approx(1e-10)
    warm = PairEmbedder.plan(config.model_copy(update={"warmup": 9}), Places(1).schema, 100).optimizers[NET]
    assert [warm.lr(s) for s in (0, 4, 9)] == pytest.approx([1e-5, 5e-5, 1e-4])


def test_one_tower_is_one() -> None:
    trainable = embedder(towers="one", ground=AERIAL)
    nets = trainable.networks()
    towers = trainable.towers(nets)
    assert towers["aerial"] is towers["ground"]
    other = embedder(ground=AERIAL)
    assert len(list(other.networks()[NET].parameters())) == 2 * len(list(nets[NET].parameters()))
    copied = trainable.networks()
    copied[NET].load_state_dict(nets[NET].state_dict())
    assert torch.equal(
        trainable.towers(copied)["ground"].backbone.pos_embed,  # type: ignore[arg-type]
        towers["aerial"].backbone.pos_embed,  # type: ignore[arg-type]
    )


CASES: dict[str, dict[str, Any]] = {
    "triplet": {"negatives": "source"},
    "infonce": {"objective": "infonce", "temperature": 0.1, "head": "smd"},
    "torchvision": {"backbone": "torchvision:shufflenet_v2_x0_5", "objective": "semi_hard"},
}


@patch.object(Tensor, "float", Tensor.double)  # the vectors that meet are float32 at least, here float64
def measure(case: str, mine: slice) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
    """The loss, gradients and state after one backward pass over some of eight pairs of two sources, in float64."""
    torch.manual_seed(0)
    trainable, given = embedder(**CASES[case]), sources(Places(8, ("east", "west")))
    nets = {name: net.double() for name, net in trainable.networks().items()}
    examples = [trainable.example(r.id, given, np.random.default_rng(0), 0) for r in given.records[mine]]
    batch = {k: v.double() if v.is_floating_point() else v for k, v in trainable.collate(examples).items()}
    loss = trainable.losses(NET, nets, {}, batch, {}, 0)["contrastive"]
    loss.backward()
    return loss.detach(), [p.grad for p in nets[NET].parameters() if p.grad is not None], nets[NET].state_dict()


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    assert gather(torch.arange(3) + 10 * rank).tolist() == [0, 1, 2, 10, 11, 12]
    for case in CASES:
        loss, gradients, state = measure(case, slice(4 * rank, 4 * rank + 4))
        torch.save((loss, [all_reduce_sum(g) / 2 for g in gradients], state), f"{folder}/{case}{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one_on_the_joined_batch(tmp_path: Path) -> None:
    mp.spawn(work, (str(tmp_path),), nprocs=2)
    for case in CASES:
        loss, gradients, state = measure(case, slice(None))
        assert loss.dtype == torch.float64 and loss > 0
        for rank in range(2):
            theirs = torch.load(tmp_path / f"{case}{rank}.pt")
            torch.testing.assert_close(theirs, (loss, gradients, state), rtol=1e-8, atol=1e-10, msg=case)
