"""Which scores are computed from what is given, and how the others are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipelines import weights as published
from pipelines.errors import ArtifactError, ConfigError, EnvironmentFault
from pipelines.metrics.choice import METRICS, OF_PHOTOS, Choice, Given, Metric, choose
from pipelines.metrics.distances import FEWEST
from pipelines.metrics.scores import JudgeName
from tests.metrics.planted import plant

JUDGE = JudgeName("judge", "0123abcd", own=False)
MANY = Given(images=6000, references=6000)
UNDER_JUDGE = [
    "frechet[segmenter:judge]",
    "kid[segmenter:judge]",
    "precision[segmenter:judge]",
    "recall[segmenter:judge]",
]
FILES = ("INCEPTION", "VGG16", "VGG19", "ALEXNET", "SQUEEZENET")


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nothing"))


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A directory with a file for each published one, under names that hold their own hashes."""
    for number, name in enumerate(FILES):
        monkeypatch.setattr(published, name, plant(tmp_path / "w", name.lower(), {"x": torch.tensor(number)}).name)
    return tmp_path / "w"


def names(choice: Choice) -> list[str]:
    return [job.name for job in choice.jobs]


def test_all_that_can_be_computed_is(weights: Path) -> None:
    choice = choose(None, replace(MANY, judge=True, features=JUDGE, weights=weights))
    published_ones = ["psnr", "ssim", "lpips", "style", "miou", "accuracy", "fid", "kid", "precision", "recall", "is"]
    assert sorted(names(choice)) == sorted([*published_ones, *UNDER_JUDGE]) and choice.missing == []
    assert {path.parent for path in choice.files.values()} == {weights} and len(choice.files) == 4


def test_without_weights_what_needs_them_is_listed() -> None:
    choice = choose(None, replace(MANY, judge=True, features=JUDGE))
    assert sorted(names(choice)) == sorted(["psnr", "ssim", "miou", "accuracy", *UNDER_JUDGE])
    reasons = {missing.name: missing.reason for missing in choice.missing}
    assert reasons.keys() == {"lpips", "style", *FEWEST}
    assert all("are not on this machine" in reason for reason in reasons.values())
    assert "weights-inception-2015-12-05-6726825d.pth" in reasons["fid"] and "alexnet-owt-7be5be79" in reasons["lpips"]


@pytest.mark.parametrize("metric", ["fid", "kid", "is", "precision", "recall", "lpips", "style"])
def test_asked_for_by_name_missing_weights_end_with_exit_4(metric: Metric, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault) as error:
        choose([metric], replace(MANY, weights=tmp_path / "mine"))
    text = str(error.value)
    assert error.value.exit_code == 4 and metric in text
    assert ".pth" in text and str(tmp_path / "mine") in text and str(tmp_path / "nothing") in text
    assert "://" not in text


def test_a_file_with_another_hash_is_refused(weights: Path) -> None:
    file = weights / published.INCEPTION
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(ArtifactError, match="sha256"):
        choose(["fid"], replace(MANY, weights=weights))
    missing = choose(None, replace(MANY, weights=weights)).missing
    assert {m.name for m in missing if "sha256" in m.reason} == {"fid", "kid", "is"}


@pytest.mark.parametrize("metric", list(FEWEST))
def test_few_images_are_refused_unless_asked_for(metric: Metric, weights: Path) -> None:
    few = replace(MANY, images=FEWEST[metric] - 1, weights=weights)
    with pytest.raises(
        ConfigError, match=f"{FEWEST[metric]} images or more, and there are {FEWEST[metric] - 1}"
    ) as error:
        choose([metric], few)
    assert "--allow-few" in str(error.value)
    assert metric in {missing.name for missing in choose(None, few).missing}
    for enough in (replace(few, allow_few=True), replace(few, images=FEWEST[metric])):
        assert names(choose([metric], enough)) == [metric]


def test_few_references_are_few_too(weights: Path) -> None:
    with pytest.raises(ConfigError, match="there are 100"):
        choose(["fid"], replace(MANY, references=100, weights=weights))
    assert names(choose(["is"], replace(MANY, references=0, weights=weights))) == ["is"]


@pytest.mark.parametrize(
    ("given", "kid"),
    [
        (replace(MANY), "kid"),
        (replace(MANY, features=JUDGE), "kid[segmenter:judge]"),
        (replace(MANY, features=JUDGE, space="segmenter"), "kid[segmenter:judge]"),
        (replace(MANY, features=JUDGE, space="inception"), "kid"),
    ],
)
def test_kid_asked_for_by_name_is_of_one_kind_of_features(given: Given, kid: str, weights: Path) -> None:
    assert names(choose(["kid"], replace(given, weights=weights))) == [kid]


def test_features_that_were_asked_for_are_the_only_ones(weights: Path) -> None:
    segmenter = names(choose(None, replace(MANY, features=JUDGE, space="segmenter", weights=weights)))
    assert set(segmenter) == {"psnr", "ssim", "lpips", "style", *UNDER_JUDGE}
    inception = names(choose(None, replace(MANY, space="inception", weights=weights)))
    assert set(inception) == {"psnr", "ssim", "lpips", "style", *FEWEST}


@pytest.mark.parametrize(
    ("metric", "given"),
    [
        ("fid", replace(MANY, features=JUDGE, space="segmenter")),
        ("is", replace(MANY, features=JUDGE, space="segmenter")),
        ("frechet", replace(MANY, space="inception")),
    ],
)
def test_a_name_never_stands_for_other_features(metric: Metric, given: Given) -> None:
    with pytest.raises(ConfigError, match=f"{metric} is not measured in {given.space} features"):
        choose([metric], given)


def test_lpips_names_its_trunk(weights: Path) -> None:
    for net, name in (("alex", "lpips"), ("vgg", "lpips[vgg]"), ("squeeze", "lpips[squeeze]")):
        assert names(choose(["lpips"], replace(MANY, net=net, weights=weights))) == [name]  # type: ignore[arg-type]


def test_every_metric_lacks_something_when_nothing_is_given() -> None:
    choice = choose(None, Given(images=3, references=0))
    assert choice.jobs == [] and {missing.name for missing in choice.missing} == set(METRICS) - set(OF_PHOTOS)
    choice = choose(None, Given(images=3, references=0, view="ground"))
    assert choice.jobs == [] and {missing.name for missing in choice.missing} == set(METRICS)


def test_what_samples_of_photos_add() -> None:
    given = Given(images=3, references=3, view="ground")
    assert names(choose(None, given)) == ["psnr", "ssim", "psnr_lower", "ssim_lower", "sd"]
    assert names(choose(None, replace(given, view="aerial", sd="abs"))) == ["psnr", "ssim", "sd[abs]"]
    assert names(choose(None, replace(given, view=None))) == ["psnr", "ssim"]
    assert names(choose(["sd", "ssim_lower"], replace(given, view=None))) == ["sd", "ssim_lower"]
    reasons = {missing.name: missing.reason for missing in choose(None, given).missing}
    assert "made from photos" in reasons["miou"] and "not on this machine" in reasons["kl"]
    with pytest.raises(ConfigError, match="made from photos"):
        choose(["accuracy"], replace(given, judge=True))


def test_an_embedder_measures_what_a_segmenter_does_under_its_own_name() -> None:
    given = replace(MANY, features=JudgeName("e", "0123abcd", False, "embedder"), space="embedder")
    wanted = ["frechet[embedder:e]", "kid[embedder:e]", "precision[embedder:e]", "recall[embedder:e]"]
    assert names(choose(["frechet", "kid", "precision", "recall"], given)) == wanted
    with pytest.raises(ConfigError, match="fid is not measured in embedder features"):
        choose(["fid"], given)
