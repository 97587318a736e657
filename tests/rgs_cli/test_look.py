"""rgs eval, search and show: what there is and how good it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import pytest

from pipelines.artifact import read_manifest
from pipelines.bank.bank import Bank
from pipelines.systems.table import SYSTEMS
from tests.rgs_cli.conftest import content, fails, succeed

CPU = ["--device", "cpu"]


def test_a_judge_must_not_judge_what_it_taught(
    samples: Path, town: Path, segmenter: Path, judge: Path, tmp_path: Path
) -> None:
    words = ["eval", samples, "-r", town, "--split", "val", *CPU]
    said = fails(2, *words, "--judge", segmenter, "-o", tmp_path / "x")
    assert "this judge helped to train what it would judge" in said and "--allow-own-judge" in said
    assert not content(tmp_path)
    succeed(*words, "--judge", segmenter, "--allow-own-judge", "-o", tmp_path / "own")
    assert json.loads((tmp_path / "own" / "report.json").read_text())["judge"]["own"] is True
    told = succeed(*words, "--judge", judge, "-o", tmp_path / "fair")
    assert "miou" in told.err and "report.html" in told.err
    assert json.loads((tmp_path / "fair" / "report.json").read_text())["judge"]["own"] is False


def test_what_an_evaluation_lacks(
    samples: Path, town: Path, generator: Path, judge: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    words = ["eval", samples, "-o", tmp_path / "x", *CPU]
    assert "there is nothing to measure with" in fails(2, *words)
    assert "miou needs a trained segmenter (--judge)" in fails(2, *words, "-r", town, "--metric", "miou")
    assert "not 'fvd'" in fails(2, *words, "-r", town, "--metric", "fvd")
    real = ["-r", town, "--split", "val", "--metric"]
    assert "2048 images or more, and there are 4" in fails(2, *words, *real, "fid")
    for metric in (
        ["fid", "--allow-few"],
        ["lpips"],
        ["style"],
        ["precision", "--allow-few", "--features", "inception"],
    ):
        said = fails(4, *words, *real, *metric, "--weights", tmp_path / "w")
        assert f"{metric[0]} cannot be computed" in said and ".pth" in said and str(tmp_path / "w") in said
    assert "fid is not measured in segmenter features" in fails(
        2, *words, *real, "fid", "--features", f"segmenter:{judge}"
    )
    assert "this is a run of resail, not of segmenter" in fails(3, *words, "--judge", generator)
    said = fails(3, *words, "-r", town, "--split", "train")
    assert "4 of 4 layouts have no reference image of their name" in said and "'00012'" in said


def test_search_finds_pieces_of_other_images(bank: Path, index: Path, tmp_path: Path) -> None:
    opened = Bank.open(bank)
    row = len(opened) // 2
    query = f"{int(opened.ids[row]):016x}"
    found = succeed("search", index, query, "--k", 3, "--json").json
    assert found["query"] == query and [hit["rank"] for hit in found["hits"]] == [1, 2, 3]
    assert all(hit["source"] != opened.source_of(row).id for hit in found["hits"])
    scores = [hit["score"] for hit in found["hits"]]
    assert scores == sorted(scores)
    lines = succeed("search", index, query, "--k", 3).out.splitlines()
    assert [line.split("\t")[2] for line in lines] == [hit["id"] for hit in found["hits"]]
    assert "0000000000000000" in fails(3, "search", index, "0" * 16)
    assert "neither a piece's id nor a layout file" in fails(2, "search", index, "nothing")


def test_search_by_layout_answers_for_every_segment(index: Path, layouts: list[Path], tmp_path: Path) -> None:
    sheet = tmp_path / "sheets" / "hits.png"
    ended = succeed("search", index, layouts[0], "--k", 2, "--json", "--sheet", sheet)
    lines = [json.loads(line) for line in ended.out.splitlines()]
    assert len(lines) > 5 and [line["segment"] for line in lines] == list(range(len(lines)))
    assert all(len(line["hits"]) <= 2 for line in lines)
    assert cv2.imread(str(sheet)) is not None


def test_search_needs_the_bank_where_it_was(index: Path, bank: Path, layouts: list[Path], tmp_path: Path) -> None:
    moved = tmp_path / "away" / "index"
    shutil.copytree(index, moved)
    assert "give --bank" in fails(3, "search", moved, layouts[0])
    succeed("search", moved, layouts[0], "--bank", bank, "--k", 1)


def test_show_lists_systems_and_their_settings() -> None:
    rows = succeed("show", "systems", "--json").json["systems"]
    assert [row["name"] for row in rows] == list(SYSTEMS)
    text = succeed("show", "systems").out
    assert all(name in text for name in SYSTEMS) and "toy" in text
    about = succeed("show", "system", "resail", "--json").json
    assert "model.framing.size" in {row["key"] for row in about["config"]}
    assert all(row["help"] for row in [*about["config"], *about["options"]])
    text = succeed("show", "system", "resail").out
    assert "--set options.KEY=VALUE" in text and "model.weights.perceptual = 10.0" in text
    assert "which system?" in fails(2, "show", "system")
    assert "unknown system 'gaugan'" in fails(2, "show", "system", "gaugan")
    assert "one thing at a time" in fails(2, "show", "systems", "resail")


def test_show_an_artifact_and_verify_it(bank: Path, generator: Path, samples: Path, tmp_path: Path) -> None:
    for artifact in (bank, generator, samples):
        assert succeed("show", artifact, "--json").json["digest"] == read_manifest(artifact)["digest"]
        assert succeed("show", artifact, "--verify", "--json").json["verified"] is True
    copy = tmp_path / "copy"
    shutil.copytree(samples, copy)
    image = next((copy / "images").iterdir())
    data = bytearray(image.read_bytes())
    data[-5] ^= 1
    image.write_bytes(data)
    succeed("show", copy)
    said = fails(3, "show", copy, "--verify")
    assert "was changed after it was written" in said and image.name in said
    image.unlink()
    assert "is missing" in fails(3, "show", copy)


def test_show_weights_and_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    rows = succeed("show", "weights", "--json").json["weights"]
    assert [row["found"] for row in rows] == [None] * len(rows)
    text = succeed("show", "weights").out
    assert all(name in text for name in ("vgg19-", "vgg16-", "weights-inception-", "alexnet-", "squeezenet1_1-"))
    assert all(metric in text for metric in ("FID", "LPIPS", "precision and recall", "style loss"))
    found = succeed("show", "environment", "--json").json
    assert "torch" in found["packages"] and found["cores"] >= 1
