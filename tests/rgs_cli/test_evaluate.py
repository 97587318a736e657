"""rgs eval on images that rgs made, with their bank and training images, and reports side by side."""

from __future__ import annotations

import json
from pathlib import Path

from tests.rgs_cli.conftest import fails, succeed


def test_pieces_and_copies_of_real_samples(
    samples: Path, spade: Path, town: Path, bank: Path, index: Path, tmp_path: Path
) -> None:
    given = ["-r", town, "--split", "val", "--bank", bank, "--training", town, "--training-split", "train"]
    succeed("eval", samples, *given, "-o", tmp_path / "a", "--device", "cpu")
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    scores = {score["name"]: score for score in report["scores"]}
    assert 0 <= scores["retrieval/sigma"]["value"] < 2 and 0.2 < scores["retrieval/iou"]["value"] <= 1
    assert 0.3 < scores["retrieval/coverage"]["value"] <= 1
    assert scores["copy/segments"]["value"] > 0 and scores["copy/photos"]["on_real"] > 0
    assert report["audit"]["leaks"] == [] and report["audit"]["training"] == 12

    words = ["synthesize", spade, "--data", town, "--split", "val", "-o", tmp_path / "plain", "--device", "cpu"]
    succeed(*words)
    succeed("eval", tmp_path / "plain", *given, "-o", tmp_path / "b", "--device", "cpu")
    succeed("eval", "--compare", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "both")
    rows = {row["name"]: row for row in json.loads((tmp_path / "both" / "report.json").read_text())["rows"]}
    assert rows["copy/segments"]["entries"][1]["difference_interval"] is not None
    assert rows["retrieval/iou"]["entries"][1] is None
    page = (tmp_path / "both" / "report.html").read_text()
    assert "Retrieval" in page and "no per" not in page


def test_a_bank_of_other_pieces_is_refused(samples: Path, town: Path, tmp_path: Path) -> None:
    succeed("build-bank", town, "--set", "decompose.min_area=40", "-o", tmp_path / "bank")
    words = fails(3, "eval", samples, "--bank", tmp_path / "bank", "-o", tmp_path / "x", "--device", "cpu")
    assert "the samples were made from bank" in words and "fix:" in words
    assert "--training-split" in fails(2, "eval", samples, "--training-split", "train", "-o", tmp_path / "x")
