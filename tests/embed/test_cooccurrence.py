"""The co-occurrence embedder: its triplets against loops, what it may learn from, planted and real banks."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from pipelines.bank.bank import Bank
from pipelines.config import Layer, resolve
from pipelines.data.graph import GraphSettings
from pipelines.data.scene import Schema
from pipelines.embed.bank_vectors import bank_vectors
from pipelines.embed.cooccurrence import (
    NET,
    CooccurrenceConfig,
    CooccurrenceEmbedder,
    in_half,
    triplet_accuracy,
    triplet_loss,
)
from pipelines.embed.pieces import held_out
from pipelines.embed.tower import Tower
from pipelines.errors import ArtifactError, ConfigError, DataError
from pipelines.nn.layers.joined import JoinedBatchNorm
from pipelines.stages import build_bank
from pipelines.stages import train as stage
from pipelines.stages.embedders import open_embedder
from pipelines.systems.base import Sources

NARROW: dict[str, Any] = {"size": (16, 16), "crop_widths": (8, 16), "dimension": 8}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tinted(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    """24 pictures of 4 objects each, every picture of a color of its own; the classes are the same in all."""
    root = tmp_path_factory.mktemp("tinted")
    rng = np.random.default_rng(0)
    write_pictures(root / "data", [int(hue) for hue in rng.permutation(24) * 7], objects=4)
    return build(root)


def write_pictures(root: Path, hues: list[int], objects: int, groups: int | None = None) -> None:
    """A folder dataset of 32 x 32 pictures in stripes, one class each, of one hue."""
    rng = np.random.default_rng(1)
    for name in ("img", "label"):
        (root / "train" / name).mkdir(parents=True)
    classes = [{"id": k, "name": f"c{k}", "color": [k, 0, 0], "thing": False} for k in range(objects)]
    (root / "classes.json").write_text(json.dumps({"classes": classes}))
    for k, hue in enumerate(hues):
        labels = np.repeat(np.arange(objects, dtype=np.uint8), 32 // objects)[:, None].repeat(32, 1)
        value = rng.integers(80, 256, (32, 32))
        hsv = np.stack([np.full((32, 32), hue), np.full((32, 32), 200), value], 2).astype(np.uint8)
        cv2.imwrite(str(root / f"train/img/{k:03d}.png"), cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR))
        cv2.imwrite(str(root / f"train/label/{k:03d}.png"), labels)
    if groups is not None:
        rows = "".join(f"train,{k:03d},{k % groups}\n" for k in range(len(hues)))
        (root / "domains.csv").write_text("split,id,group\n" + rows)


def build(root: Path) -> Bank:
    settings = GraphSettings(min_area=0.0, min_objects=1, max_objects=8)
    config = build_bank.BuildBank(kind="patches", patch=16, graph=settings)
    return Bank.open(build_bank.run(config, data=root / "data", out=root / "bank").path)


def trainable(bank: Bank, **config: Any) -> CooccurrenceEmbedder:
    return CooccurrenceEmbedder(CooccurrenceConfig(**{**NARROW, **config}), bank.schema)


def unit(rng: np.random.Generator, n: int, d: int = 3) -> np.ndarray:
    vectors = rng.standard_normal((n, d))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


# ---- the loss -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("negatives", ["all", "semi_hard"])
@pytest.mark.parametrize("seed", range(4))
def test_the_loss_is_that_of_its_triplets(negatives: str, seed: int) -> None:
    """Every pair is anchor and positive both ways; written out with loops."""
    rng = np.random.default_rng(seed)
    first, second = unit(rng, 5), unit(rng, 5)
    keys = [0, 1, 1, 3, 4]
    loss = triplet_loss(torch.from_numpy(first), torch.from_numpy(second), torch.tensor(keys), 0.5, negatives)  # type: ignore[arg-type]
    vectors, of = [*first, *second], keys * 2
    losses = []
    for a in range(10):
        positive = float(np.linalg.norm(vectors[a] - vectors[(a + 5) % 10]))
        far = [float(np.linalg.norm(vectors[a] - vectors[n])) for n in range(10) if of[n] != of[a]]
        if negatives == "semi_hard":
            beyond = [d for d in far if d > positive]
            far = [min(beyond) if beyond else max(far)]
        losses += [max(0.0, 0.5 + positive - d) for d in far]
    assert float(loss) == pytest.approx(sum(losses) / len(losses), rel=1e-5)


@pytest.mark.parametrize("negatives", ["all", "semi_hard"])
def test_vectors_that_are_equal_have_a_gradient(negatives: str) -> None:
    vectors = torch.ones(4, 3, requires_grad=True)
    unit_vectors = torch.nn.functional.normalize(vectors, dim=1)
    loss = triplet_loss(unit_vectors[:2], unit_vectors[2:], torch.tensor([0, 1]), 0.5, negatives)  # type: ignore[arg-type]
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.5, abs=1e-5)
    assert vectors.grad is not None and bool(vectors.grad.isfinite().all())


def test_a_batch_without_negatives_weighs_nothing(tinted: Bank) -> None:
    rng = np.random.default_rng(0)
    pairs = torch.from_numpy(unit(rng, 4))
    assert float(triplet_loss(pairs[:2], pairs[2:], torch.tensor([5, 5]), 0.5)) == 0
    assert float(triplet_loss(pairs[:2], pairs[2:], torch.tensor([5, 5]), 0.5, "semi_hard")) == 0
    made, sources = trainable(tinted), Sources(bank=tinted)
    one = made.collate([made.example(made.sampling(sources).ids[0], sources, rng, 0)])
    with pytest.raises(ConfigError, match="batch of one picture"):
        made.losses(NET, made.networks(), {}, one, {}, 0)


# ---- what it learns from --------------------------------------------------------------------------------------------


def test_examples_are_two_objects_of_one_picture(tinted: Bank) -> None:
    made, sources = trainable(tinted), Sources(bank=tinted)
    stored = {tinted.crop(row).tobytes(): row for row in range(len(tinted))}
    for name in made.sampling(sources).ids:
        example = made.example(name, sources, np.random.default_rng(0), 0)
        rows = [stored[example[key].numpy().tobytes()] for key in ("first", "second")]
        assert rows[0] != rows[1]
        assert [tinted.source_of(row).id for row in rows] == [name, name]
        assert int(example["key"]) == tinted.exclusion_keys("group")[rows[0]]
    seen = {made.example(name, sources, np.random.default_rng(k), 0)["first"].numpy().tobytes() for k in range(40)}
    assert len(seen) == 4


def test_groups_are_held_out_and_halves_share_none(tinted: Bank) -> None:
    sources = Sources(bank=tinted)
    whole, first, second = (
        set(trainable(tinted, half=half, holdout=0.25).sampling(sources).ids) for half in (None, "first", "second")
    )
    held = {tinted.source_of(row).id for row in np.flatnonzero(held_out(tinted, 0.25)).tolist()}
    assert len(held) == 6 and not held & whole and len(whole) == 18
    assert first | second == whole and not first & second and min(len(first), len(second)) >= 4
    np.testing.assert_array_equal(in_half(tinted, "first"), ~in_half(tinted, "second"))


def test_pictures_of_one_object_are_left_out(tmp_path: Path) -> None:
    write_pictures(tmp_path / "data", [10, 60, 110, 160], objects=2)
    alone = np.zeros((32, 32), np.uint8)
    cv2.imwrite(str(tmp_path / "data/train/label/002.png"), alone)
    bank = build(tmp_path)
    assert len(bank) == 7
    assert "train/002" not in trainable(bank, holdout=0.0).sampling(Sources(bank=bank)).ids


def test_one_group_has_no_negatives(tmp_path: Path) -> None:
    write_pictures(tmp_path / "data", [10, 60, 110, 160], objects=2, groups=2)
    bank = build(tmp_path)
    assert len({source.group for source in bank.source_table}) == 2
    with pytest.raises(DataError, match=r"of one group(.|\n)*distinct=source"):
        trainable(bank, holdout=0.5).sampling(Sources(bank=bank))
    assert len(trainable(bank, holdout=0.5, distinct="source").sampling(Sources(bank=bank)).ids) == 2


def test_patches_must_be_large_enough_for_the_convolutions() -> None:
    with pytest.raises(ValidationError, match="need patches of 32 pixels at least"):
        CooccurrenceConfig(size=(16, 32), crop_widths=(4, 4, 4, 4, 4))


# ---- measures -------------------------------------------------------------------------------------------------------


def test_the_accuracy_is_the_share_of_triplets_in_order() -> None:
    rng = np.random.default_rng(3)
    vectors, sources = unit(rng, 12).astype(np.float32), np.repeat(np.arange(4), 3)
    keys, categories = sources // 2, rng.integers(0, 2, 12)
    right, alike = [], []
    for a in range(12):
        for p in range(12):
            for n in range(12):
                if p != a and sources[p] == sources[a] and keys[n] != keys[a]:
                    near = float(((vectors[a] - vectors[p]) ** 2).sum()) < float(((vectors[a] - vectors[n]) ** 2).sum())
                    right.append(near)
                    alike += [near] if categories[n] == categories[p] else []
    measured = triplet_accuracy(vectors, sources, keys, categories)
    assert measured["triplet_accuracy"] == pytest.approx(np.mean(right))
    assert measured["triplet_accuracy_same_class"] == pytest.approx(np.mean(alike))


class MeanColor(Tower):
    """The mean color of a patch on the unit sphere."""

    def __init__(self) -> None:
        super().__init__(nn.Identity(), nn.Identity(), (16, 16), 3, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(images.mean((2, 3)) + 1.01, dim=1)


class Collapsed(MeanColor):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(images), 3) / math.sqrt(3)


def test_measures_of_knowing_and_of_collapsed_embedders(tinted: Bank) -> None:
    made, sources = trainable(tinted, holdout=0.3), Sources(bank=tinted)
    perfect = made.validate({NET: MeanColor()}, sources, CPU)
    assert perfect["triplet_accuracy"] > 0.95 and perfect["triplet_accuracy_same_class"] > 0.95
    assert set(made.validate({NET: Collapsed()}, sources, CPU).values()) == {0.0}
    assert made.measure({NET: MeanColor()}, tinted, [0], CPU) == {}
    assert trainable(tinted, holdout=0.0).validate({NET: MeanColor()}, sources, CPU) == {}
    few = trainable(tinted, holdout=0.3, measured=8)
    asked: list[int] = []

    class Counting(MeanColor):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            asked.append(len(images))
            return super().forward(images)

    assert few.validate({NET: Counting()}, sources, CPU) and sum(asked) == 8


# ---- the network and training ---------------------------------------------------------------------------------------


def test_the_network_gives_unit_vectors_and_passes_gradients_to_patches() -> None:
    torch.manual_seed(0)
    tower = CooccurrenceEmbedder(CooccurrenceConfig(), Schema(())).networks()[NET].eval()
    assert sum(isinstance(module, JoinedBatchNorm) for module in tower.modules()) == 3
    patches = (torch.rand(5, 3, 32, 32) * 2 - 1).requires_grad_()
    vectors = tower(patches)
    assert vectors.shape == (5, 128)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(5))
    vectors[0, 0].backward()
    assert patches.grad is not None
    assert float(patches.grad[0].abs().max()) > 0 and float(patches.grad[1:].abs().max()) == 0
    assert tower(torch.zeros(2, 3, 50, 20)).shape == (2, 128)  # any size is resized


def test_it_learns_which_patches_are_of_one_picture(tinted: Bank, tmp_path: Path) -> None:
    tiny = {
        "model": {**NARROW, "lr": 3e-3, "holdout": 0.3},
        "train": {"steps": 60, "batch": 12},
        "log": {"workers": 0},
    }
    config = resolve(stage.config_of("embedder-cooccurrence"), [Layer("tiny", tiny)])
    run = stage.run("embedder-cooccurrence", config, stage.Given(bank=tinted.path), tmp_path / "run", device="cpu")
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["validation/triplet_accuracy"] > 0.85 and lines[-1]["validation/triplet_accuracy_same_class"] > 0.8
    assert run.input("data") is None and (run.path / "samples").is_dir()
    embedder = open_embedder(str(run.path))
    assert (embedder.kind, embedder.gate, embedder.label) == ("cooccurrence", "none", "run (cooccurrence)")
    vectors = np.concatenate([vectors for _, vectors in bank_vectors(tinted, embedder, batch=7)])
    assert vectors.shape == (len(tinted), 8)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_it_needs_a_bank_of_patches(bank: Path, town: Path, tmp_path: Path) -> None:
    config = resolve(stage.config_of("embedder-cooccurrence"), [])
    for given, says in (
        (stage.Given(bank=bank), "this is a bank of segments"),
        (stage.Given(), "needs a bank of patches"),
        (stage.Given(data=town), "learns from a bank alone"),
    ):
        with pytest.raises((ArtifactError, ConfigError), match=says):
            stage.run("embedder-cooccurrence", config, given, tmp_path / "run")
    assert not (tmp_path / "run").exists()
