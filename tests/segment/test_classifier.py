"""The classifier of objects: what it is shown and how often, what it is measured on, and that it learns."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines.bank.bank import Bank
from pipelines.config import Layer, resolve
from pipelines.data.augment import image_tensor
from pipelines.embed.pieces import held_out
from pipelines.errors import ArtifactError, DataError
from pipelines.segment import classifier
from pipelines.segment.classifier import NET, Classifier, ClassifierConfig, CropClassifier, accuracies, classify
from pipelines.stages import build_bank
from pipelines.stages import train as stage
from pipelines.systems.base import Sources

SMALL: dict[str, Any] = {"size": (16, 16), "width": 4}


@pytest.fixture(scope="module")
def bank(patches: Path) -> Bank:
    return Bank.open(patches)


def trainable(bank: Bank, **config: Any) -> Classifier:
    return Classifier(ClassifierConfig(**{**SMALL, **config}), bank.schema)


class Told(CropClassifier):
    """Answers what it was told to, one crop after the other."""

    def __init__(self, classes: int, answers: Iterable[int]) -> None:
        super().__init__(classes, 4)
        self.feature_size, self.answers = 3, iter(answers)

    def logits_and_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        given = torch.tensor([next(self.answers) for _ in images])
        return torch.nn.functional.one_hot(given, self.head.out_features).float(), images.mean((2, 3))


@pytest.mark.parametrize("size", [(16, 16), (33, 20), (64, 64)])
def test_features_are_the_pooled_input_of_the_head(size: tuple[int, int]) -> None:
    net = CropClassifier(5, 4).eval()
    images = torch.rand(3, 3, *size) * 2 - 1
    logits, features = net.logits_and_features(images)
    assert features.shape == (3, 32) and logits.shape == (3, 5)
    torch.testing.assert_close(net.head(features), logits)
    torch.testing.assert_close(net(images), logits)


def test_classes_are_drawn_as_evenly_as_asked(bank: Bank) -> None:
    counts = Counter(bank.categories.tolist())

    def frequency(balance: float) -> dict[int, float]:
        sampling = trainable(bank, holdout=0, balance=balance).sampling(Sources(bank=bank))
        assert sampling.weights is not None
        total: dict[int, float] = dict.fromkeys(counts, 0.0)
        for row, weight in zip(sampling.ids, sampling.weights / sampling.weights.sum(), strict=True):
            total[int(bank.categories[int(row)])] += weight
        return total

    assert frequency(0) == pytest.approx({c: n / len(bank) for c, n in counts.items()})
    assert frequency(1) == pytest.approx({c: 1 / len(counts) for c in counts})
    roots = sum(np.sqrt(n) for n in counts.values())
    assert frequency(0.5) == pytest.approx({c: np.sqrt(n) / roots for c, n in counts.items()})


def test_groups_that_are_measured_on_are_not_drawn(bank: Bank) -> None:
    made = trainable(bank, holdout=0.3)
    drawn = {int(row) for row in made.sampling(Sources(bank=bank)).ids}
    held = set(np.flatnonzero(held_out(bank, 0.3)).tolist())
    assert drawn and held and not drawn & held
    keys = bank.exclusion_keys("group")
    assert not {keys[row] for row in drawn} & {keys[row] for row in held}
    small = trainable(bank, holdout=0, min_area=50)
    assert {int(row) for row in small.sampling(Sources(bank=bank)).ids} == set(np.flatnonzero(bank.areas >= 50))


def test_one_class_alone_cannot_be_told_apart(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank, "categories", np.zeros_like(bank.categories))
    with pytest.raises(DataError, match="nothing to tell apart"):
        trainable(bank).sampling(Sources(bank=bank))


def test_an_example_is_the_patch_where_nothing_is_changed(bank: Bank) -> None:
    plain = trainable(bank, crop=1, shrink=1, jitter=0, flip=False)
    for row in (0, 5, len(bank) - 1):
        made = plain.example(str(row), Sources(bank=bank), np.random.default_rng(row), 0)
        torch.testing.assert_close(made["image"], image_tensor(bank.crop(row)))
        assert int(made["category"]) == bank.categories[row]


def test_examples_depend_on_their_draw_alone(bank: Bank) -> None:
    made = trainable(bank)
    looks = [made.example("3", Sources(bank=bank), np.random.default_rng(seed), 0)["image"] for seed in (0, 0, 1)]
    assert torch.equal(looks[0], looks[1]) and not torch.equal(looks[0], looks[2])
    assert looks[0].shape == (3, 16, 16) and float(looks[0].abs().max()) <= 1


def test_accuracies_by_hand() -> None:
    wanted, given = np.array([0, 0, 0, 2]), np.array([0, 0, 1, 2])
    assert accuracies(given, wanted) == (pytest.approx(3 / 4), pytest.approx((2 / 3 + 1) / 2))
    assert accuracies(np.array([1]), np.array([1])) == (1, 1)


def test_a_perfect_and_a_constant_classifier_are_measured(bank: Bank) -> None:
    made, device = trainable(bank, holdout=0.3, min_area=1), torch.device("cpu")
    wanted = bank.categories[held_out(bank, 0.3)].tolist()
    counts, classes = Counter(wanted), len(bank.schema.classes)
    ((common, most),) = counts.most_common(1)
    chance = {"chance": most / len(wanted), "chance_balanced": 1 / len(counts)}
    perfect = Told(classes, wanted).eval()
    best = {"accuracy": 1.0, "accuracy_balanced": 1.0, **chance}
    assert made.validate({NET: perfect}, Sources(bank=bank), device) == pytest.approx(best)
    constant = Told(classes, [common] * len(wanted)).eval()
    none = {"accuracy": chance["chance"], "accuracy_balanced": chance["chance_balanced"], **chance}
    assert made.validate({NET: constant}, Sources(bank=bank), device) == pytest.approx(none)
    assert trainable(bank, holdout=0).validate({NET: perfect}, Sources(bank=bank), device) == {}


def test_answers_do_not_depend_on_the_batch(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    net = CropClassifier(5, 4).eval()
    crops = [np.random.default_rng(k).integers(0, 256, (4 + k, 20 - k, 3), dtype=np.uint8) for k in range(7)]
    whole = classify(net, crops, (16, 16), torch.device("cpu"))
    monkeypatch.setattr(classifier, "BATCH", 2)
    parts = classify(net, iter(crops), (16, 16), torch.device("cpu"))
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert classify(net, [], (16, 16), torch.device("cpu"))[0].shape == (0, 5)


def test_it_learns_from_a_bank_of_patches_alone(patches: Path, tmp_path: Path) -> None:
    tiny = {
        "model": {**SMALL, "width": 8, "holdout": 0.2},
        "train": {"steps": 60, "batch": 16},
        "log": {"every": 60, "workers": 0},
    }
    config = resolve(stage.config_of("classifier"), [Layer("tiny", tiny)])
    run = stage.run("classifier", config, stage.Given(bank=patches), tmp_path / "c", device="cpu")
    found = json.loads((run.path / "metrics.jsonl").read_text().splitlines()[-1])
    assert found["validation/accuracy"] > 1.5 * found["validation/chance"]
    assert found["validation/accuracy_balanced"] > 1.5 * found["validation/chance_balanced"]
    assert run.manifest["schema"]["classes"] and run.manifest["pieces"] > 0


def test_a_bank_of_segments_is_refused(town: Path, tmp_path: Path) -> None:
    segments = build_bank.run(build_bank.BuildBank(), data=town, out=tmp_path / "segments").path
    config = resolve(stage.config_of("classifier"), [])
    with pytest.raises(ArtifactError, match="needs one of patches"):
        stage.run("classifier", config, stage.Given(bank=segments), tmp_path / "c", device="cpu")
