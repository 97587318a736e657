"""A classifier of objects from a bank of patches, and rgs eval on images of scene graphs, as a user asks for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.bank.bank import Bank
from tests.rgs_cli.conftest import fails, succeed
from tests.stages.graphs import GIVEN, make_graph_samples, make_photos, train_companion

TINY = ["--steps", 2, "--batch", 4, "--size", 16, "--set", "model.width=4", "--workers", 0, "--device", "cpu"]


@pytest.fixture(scope="module")
def trained(workspace: Path, patches: Path) -> Path:
    """A finished run of a classifier, which the command line made."""
    ended = succeed("train", "classifier", "--bank", patches, *TINY, "-o", workspace / "classifier")
    assert ended.out == f"{workspace / 'classifier'}\n"
    return workspace / "classifier"


@pytest.fixture(scope="module")
def companion(workspace: Path, patches: Path) -> Path:
    return train_companion(workspace / "companion", patches, "second")


def test_a_classifier_measures_itself_and_says_what_it_learned_from(trained: Path, patches: Path) -> None:
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    validated = lines[-1]
    names = ("accuracy", "accuracy_balanced", "chance", "chance_balanced")
    assert all(0 <= validated[f"validation/{name}"] <= 1 for name in names)
    manifest = json.loads((trained / "manifest.json").read_text())
    assert manifest["trainable"] == "classifier" and [i["role"] for i in manifest["inputs"]] == ["bank"]
    plan = succeed("train", "classifier", "--bank", patches, "--preset", "small", "-o", "x", "--dry-run").out
    assert "width: 24" in plan and "cross_entropy" not in plan


def test_a_classifier_needs_a_bank_of_patches(bank: Path, town: Path, tmp_path: Path) -> None:
    out = ["-o", tmp_path / "c"]
    assert "needs one of patches" in fails(3, "train", "classifier", "--bank", bank, *TINY, *out)
    assert "--bank" in fails(2, "train", "classifier", *TINY, *out)
    assert "--data" in fails(2, "train", "classifier", "--bank", bank, "--data", town, *out)


def test_images_of_scene_graphs_are_measured(
    tmp_path: Path, trained: Path, companion: Path, patches: Path, judge: Path
) -> None:
    bank = Bank.open(patches)
    samples = make_graph_samples(tmp_path / "samples", bank, boxes=lambda number: GIVEN, variants=2, guidance=True)
    photos = make_photos(tmp_path / "photos", bank)
    given = ["-r", photos, "--classifier", trained, "--cooccurrence", companion, "--judge", judge]
    plan = succeed("eval", samples, *given, "-o", tmp_path / "x", "--dry-run").out
    assert all(role in plan for role in ("classifier", "cooccurrence", "judge", "no label maps"))
    ended = succeed("eval", samples, *given, "-o", tmp_path / "x", "--device", "cpu")
    assert ended.out == f"{tmp_path / 'x'}\n" and "object_accuracy[classifier:classifier]: " in ended.err
    report = json.loads((tmp_path / "x" / "report.json").read_text())
    names = {score["name"] for score in report["scores"]}
    assert {
        "object_accuracy[classifier:classifier]",
        "object_accuracy_balanced[classifier:classifier]",
        "frechet_objects[classifier:classifier]",
        "frechet[segmenter:judge]",
        "diversity[segmenter:judge]",
        "compatibility[cooccurrence:companion]",
        "same_source",
        "repeats",
        "box_iou",
        "box_l1",
        "relations",
    } <= names
    assert not any(name.startswith(("fid", "miou", "accuracy")) for name in names)
    page = (tmp_path / "x" / "report.html").read_text()
    assert "<th>graph</th>" in page and "<th>guidance</th>" in page and "Objects" in page


def test_features_of_a_classifier_can_be_asked_for(tmp_path: Path, trained: Path, patches: Path, judge: Path) -> None:
    bank = Bank.open(patches)
    samples = make_graph_samples(tmp_path / "samples", bank)
    given = ["-r", make_photos(tmp_path / "photos", bank), "--judge", judge, "--device", "cpu"]
    succeed("eval", samples, *given, "--features", f"classifier:{trained}", "-o", tmp_path / "x")
    names = {score["name"] for score in json.loads((tmp_path / "x" / "report.json").read_text())["scores"]}
    assert "frechet[classifier:classifier]" in names and not any("segmenter" in name for name in names)
    words = ["eval", samples, *given, "--metric", "fid", "--features", f"classifier:{trained}", "-o", tmp_path / "y"]
    assert "fid is not measured in classifier features" in fails(2, *words)
    assert "classifier:RUN" in fails(2, "eval", samples, *given, "--features", "classifier:", "-o", tmp_path / "y")


def test_what_is_for_graphs_alone_is_refused_for_others(
    tmp_path: Path, trained: Path, samples: Path, town: Path, companion: Path
) -> None:
    for flag, run in (("--classifier", trained), ("--cooccurrence", companion)):
        said = fails(2, "eval", samples, "-r", town, "--split", "val", flag, run, "-o", tmp_path / "x")
        assert f"{flag} measures images of scene graphs" in said
    assert "--classifier is for samples, this is a run" in fails(2, "eval", trained, "--classifier", trained, "-o", "x")
    assert "miou compares with a layout" in fails(
        2,
        *("eval", make_graph_samples(tmp_path / "g", Bank.open(trained.parent / "patches")), "--metric", "miou"),
        *("-o", tmp_path / "x"),
    )
