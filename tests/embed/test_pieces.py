"""The embedder of pieces: its views and negatives are what they should be, it holds groups out, and it learns."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipelines.bank.bank import Bank
from pipelines.config import Layer, resolve
from pipelines.embed.bank_vectors import NEUTRAL, bank_vectors
from pipelines.embed.embedder import Embedder
from pipelines.embed.pieces import FULLNESS, NET, PieceEmbedder, PiecesConfig, draw_crop, held_out
from pipelines.embed.tower import Tower
from pipelines.errors import ConfigError, DataError
from pipelines.runtime import make_runtime
from pipelines.stages import build_bank
from pipelines.stages import train as stage
from pipelines.stages.build_bank import BuildBank
from pipelines.stages.embedders import open_embedder
from pipelines.systems.base import Sources
from pipelines.train.config import LogConfig, LoopConfig
from pipelines.train.loop import train
from pipelines.train.run import RunWriter
from tests.bank.photos import write_dataset

SMALL = (16, 16)


class Identity(Tower):
    """The images themselves, as unit vectors."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Identity(), SMALL, 3 * 256, 3 * 256)

    def forward(self, images: Tensor) -> Tensor:
        return torch.nn.functional.normalize(images.flatten(1), dim=1)


class Collapsed(Identity):
    """Everything is one point."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(torch.ones_like(images))


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    """The segments of eight noisy photos, three of them of two groups."""
    data = write_dataset(tmp_path_factory.mktemp("photos") / "data", range(8), groups={1: "a", 2: "b", 7: "a"})
    return Bank.open(build_bank.run(BuildBank(), data=data, out=data.parent / "x").path)


@pytest.fixture(scope="module")
def photos(pieces: Bank) -> Bank:
    """The same photos, whole."""
    root = pieces.path.parent
    return Bank.open(build_bank.run(BuildBank(kind="images"), data=root / "data", out=root / "y").path)


def trainable(bank: Bank, **config: Any) -> PieceEmbedder:
    return PieceEmbedder(PiecesConfig(**{"size": SMALL, **config}), bank.schema)


# ---- views ----------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(h=st.integers(1, 60), w=st.integers(1, 60), least=st.floats(0.05, 1), seed=st.integers(0, 999))
def test_crops_lie_within_and_are_large_enough(h: int, w: int, least: float, seed: int) -> None:
    x, y, part_w, part_h = draw_crop((h, w), None, least, np.random.default_rng(seed))
    assert 0 <= x < x + part_w <= w and 0 <= y < y + part_h <= h
    rounding = (part_h + 0.5) * (part_w + 0.5)
    assert rounding >= least * h * w
    if least == 1:
        assert (x, y, part_w, part_h) == (0, 0, w, h)
    elif min(h, w) >= 20:
        assert 0.65 < (part_w / w) / (part_h / h) < 1.55  # 4/3, and rounding


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 999), share=st.floats(0.01, 1))
def test_crops_are_not_emptier_than_half_of_their_piece(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros((30, 40), bool)
    mask[: max(1, round(30 * share)), : max(1, round(40 * share))] = True
    x, y, w, h = draw_crop((30, 40), mask, 0.2, rng)
    assert mask[y : y + h, x : x + w].mean() >= FULLNESS * mask.mean()


def test_examples_are_two_views_of_one_piece(pieces: Bank) -> None:
    made = trainable(pieces, distinct="group", crop=1.0, jitter=0.0, flip=False)
    sources = Sources(bank=pieces)
    rows = [int(name) for name in made.sampling(sources).ids]
    for row in rows[:6]:
        example = made.example(str(row), sources, np.random.default_rng(0), 0)
        assert example["first"].shape == (3, *SMALL) and example["first"].dtype == torch.float32
        assert torch.equal(example["first"], example["second"])  # nothing is random here
        assert int(example["category"]) == pieces.categories[row]
        assert int(example["key"]) == pieces.exclusion_keys("group")[row]
        if not pieces.mask(row).all() and pieces.mask(row).mean() < 0.5:
            assert (example["first"] == NEUTRAL / 127.5 - 1).any()


def test_views_differ_and_depend_on_the_generator_alone(pieces: Bank) -> None:
    made, sources = trainable(pieces), Sources(bank=pieces)
    name = made.sampling(sources).ids[0]
    one, again, other = (made.example(name, sources, np.random.default_rng(seed), 0) for seed in (1, 1, 2))
    assert torch.equal(one["first"], again["first"]) and torch.equal(one["second"], again["second"])
    assert not torch.equal(one["first"], other["first"]) and not torch.equal(one["first"], one["second"])
    assert one["first"].abs().max() <= 1


def test_photos_have_no_mask_and_no_class(photos: Bank) -> None:
    made, sources = trainable(photos), Sources(bank=photos)
    example = made.example(made.sampling(sources).ids[0], sources, np.random.default_rng(0), 0)
    assert int(example["category"]) == -1
    for setting in ("gate", "negatives"):
        with pytest.raises(ConfigError, match="need pieces with classes"):
            trainable(photos, **{setting: "category"}).sampling(sources)


# ---- negatives ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("negatives", ["all", "category"])
def test_the_loss_is_that_of_the_negatives_which_are_allowed(pieces: Bank, negatives: str) -> None:
    """CLIP's symmetric cross-entropy, written out with loops."""
    made = trainable(pieces, negatives=negatives, temperature=0.5)
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(2, 6, 3, *SMALL, generator=rng) * 2 - 1
    keys, categories = [0, 0, 2, 3, 4, 4], [0, 1, 0, 1, 0, 1]
    batch = {
        "first": images[0],
        "second": images[1],
        "key": torch.tensor(keys),
        "category": torch.tensor(categories),
    }
    loss = made.losses(NET, {NET: Identity()}, {}, batch, {}, 0)["contrastive"]
    a, b = ((v.reshape(6, -1) / np.linalg.norm(v.reshape(6, -1), axis=1)[:, None]) for v in images.double().numpy())
    s = a @ b.T / 0.5
    total = 0.0
    for i in range(6):
        others = [j for j in range(6) if keys[j] != keys[i]]
        if negatives == "category":
            others = [j for j in others if categories[j] == categories[i]]
        for of in (lambda i, j: s[i, j], lambda i, j: s[j, i]):
            total += math.log(sum(math.exp(of(i, j)) for j in [i, *others])) - s[i, i]
    assert float(loss) == pytest.approx(total / 12, rel=1e-5)


def test_a_piece_drawn_twice_is_no_negative_of_itself(pieces: Bank) -> None:
    made, sources = trainable(pieces), Sources(bank=pieces)
    name = made.sampling(sources).ids[0]
    batch = made.collate([made.example(name, sources, np.random.default_rng(seed), 0) for seed in (0, 1)])
    assert float(made.losses(NET, {NET: Identity()}, {}, batch, {}, 0)["contrastive"]) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ConfigError, match="no negatives"):
        made.losses(NET, {NET: Identity()}, {}, {key: value[:1] for key, value in batch.items()}, {}, 0)


# ---- what is held out -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "groups"), [(0.0, 0), (0.01, 1), (0.3, 2), (0.99, 6)])
def test_whole_groups_are_held_out(pieces: Bank, share: float, groups: int) -> None:
    held = held_out(pieces, share)
    keys = pieces.exclusion_keys("group")
    assert len(np.unique(keys)) == 7
    assert len(np.unique(keys[held])) == groups and not np.isin(keys[held], keys[~held]).any()
    made = trainable(pieces, holdout=share, min_area=30)
    trained = np.array([int(name) for name in made.sampling(Sources(bank=pieces)).ids])
    np.testing.assert_array_equal(trained, np.flatnonzero(~held & (pieces.areas >= 30)))


def test_which_groups_does_not_depend_on_rows(pieces: Bank, tmp_path: Path) -> None:
    build_bank.run(BuildBank(), base=pieces.path, remove=["train/0004"], out=tmp_path / "x")
    fewer = Bank.open(tmp_path / "x")
    kept = [
        {bank.source_of(row).id for row in np.flatnonzero(held_out(bank, 0.5)).tolist()} for bank in (pieces, fewer)
    ]
    assert len(kept[0] & kept[1]) >= 2


def test_one_group_cannot_be_held_out(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", range(3), groups={k: "a" for k in range(3)})
    bank = Bank.open(build_bank.run(BuildBank(), data=data, out=tmp_path / "x").path)
    with pytest.raises(DataError, match=r"of one group.*\n.*\nfix: set model.holdout=0"):
        trainable(bank).sampling(Sources(bank=bank))
    assert len(trainable(bank, holdout=0.0, min_area=1).sampling(Sources(bank=bank)).ids) == len(bank)
    assert trainable(bank, holdout=0.0).validate({NET: Identity()}, Sources(bank=bank), torch.device("cpu")) == {}


def test_measures_of_perfect_and_of_collapsed_towers(pieces: Bank) -> None:
    plain = trainable(pieces, holdout=0.5, crop=1.0, jitter=0.0, flip=False)
    sources, cpu = Sources(bank=pieces), torch.device("cpu")
    perfect = plain.validate({NET: Identity()}, sources, cpu)
    assert perfect["recall@1"] == perfect["recall@10"] == perfect["recall@1_published"] == 1
    assert perfect["tie_alarm"] == 0
    collapsed = plain.validate({NET: Collapsed()}, sources, cpu)
    assert collapsed["recall@1"] == 0 and collapsed["recall@1_published"] == 1 and collapsed["tie_alarm"] == 1
    few = trainable(pieces, holdout=0.5, measured=4).validate({NET: Identity()}, sources, cpu)
    assert few["chance@1"] == 0.25


# ---- training -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_learns_to_tell_pieces_apart(bank: Path, tmp_path: Path) -> None:
    """On the toy town: a piece's nearest among those of other places is of its class far more often than chance."""
    town = Bank.open(bank)
    config = PiecesConfig(size=(32, 32), holdout=0.4, negatives="all", lr=2e-3)
    made, sources = PieceEmbedder(config, town.schema), Sources(bank=town)
    torch.manual_seed(0)
    nets = made.networks()
    loop, log = LoopConfig(steps=40, batch=24), LogConfig(workers=0, validate_every=40)
    run = RunWriter(tmp_path / "run", "embedder-pieces", config, [], {})
    run.begin()
    train(made, made.plan(config, town.schema, 40), sources, {}, nets, loop, log, run, make_runtime("cpu", "fp32", 0))
    nets[NET].eval()
    embedder = Embedder("pieces", made.towers(nets), nets[NET].dimension, "made", None)  # type: ignore[arg-type]
    shown = np.flatnonzero(town.areas >= 16)
    asked = held_out(town, 0.4)[shown]
    vectors = np.concatenate([vectors for _, vectors in bank_vectors(town, embedder, shown)])
    similar = vectors[asked] @ vectors.T
    keys, classes = town.exclusion_keys("group")[shown], town.categories[shown]
    similar[keys[asked][:, None] == keys] = -2
    right = (classes[similar.argmax(1)] == classes[asked]).mean()
    chance = (np.bincount(classes, minlength=14) / len(classes))[classes[asked]].mean()
    assert chance < 0.15 and right > 3 * chance
    last = (tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1]
    assert '"validation/recall@1"' in last


def test_its_run_is_an_embedder_of_any_bank(pieces: Bank, photos: Bank, tmp_path: Path) -> None:
    tiny = {
        "model": {"size": SMALL, "gate": "category"},
        "train": {"steps": 2, "batch": 4},
        "log": {"workers": 0},
    }
    config = resolve(stage.config_of("embedder-pieces"), [Layer("tiny", tiny)])
    run = stage.run("embedder-pieces", config, stage.Given(bank=pieces.path), tmp_path / "run")
    assert run.input("bank").digest == pieces.digest and run.input("data") is None  # type: ignore[union-attr]
    embedder = open_embedder(str(run.path))
    assert embedder.kind == "pieces" and embedder.gate == "category" and list(embedder.towers) == ["piece"]
    for bank in (pieces, photos):
        vectors = np.concatenate([vectors for _, vectors in bank_vectors(bank, embedder, batch=8, workers=1)])
        assert vectors.shape == (len(bank), embedder.dimension)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        some = next(bank_vectors(bank, embedder, [len(bank) - 1, 2]))[1]
        np.testing.assert_allclose(some, vectors[[-1, 2]], atol=1e-5)


def test_a_training_that_cannot_begin_leaves_no_run(photos: Bank, pieces: Bank, tmp_path: Path) -> None:
    for bank, model, says in (
        (photos, {"gate": "category"}, "need pieces with classes"),
        (pieces, {"min_area": 10**6}, "no example to train on"),
    ):
        config = resolve(stage.config_of("embedder-pieces"), [Layer("test", {"model": model})])
        with pytest.raises((ConfigError, DataError), match=says):
            stage.run("embedder-pieces", config, stage.Given(bank=bank.path), tmp_path / "run")
        assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="embedder-pieces needs a bank\n"):
        stage.plan("embedder-pieces", resolve(stage.config_of("embedder-pieces"), []), stage.Given(), tmp_path / "run")
