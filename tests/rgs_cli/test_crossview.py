"""Embedders and the cross-view system on the command line: what they take, what they write, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from pipelines.artifact import read_manifest
from pipelines.data.pixels import read_image
from pipelines.train.log import Status
from rgs_cli import console
from tests.data.pair_trees import pair, write_pairs
from tests.rgs_cli.conftest import content, fails, succeed

CPU = ["--device", "cpu"]
FAST = ["--batch", 4, "--workers", 0, *CPU]
TOY = ["train", "embedder", "--kind", "crossview", "--preset", "toy"]


def records(samples: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (samples / "samples.jsonl").read_text().splitlines()]


def images(samples: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((samples / "images").iterdir())}


@pytest.fixture(scope="session")
def crossview(workspace: Path, pairs: Path, embedder: Path) -> Path:
    """A finished run that makes street photos of aerial ones."""
    words = ["train", "generator", "--system", "crossview", "--preset", "toy", "--data", pairs]
    words += ["--with", f"embedder={embedder}", "--set", "model.weights.perceptual=0", "--precision", "fp32"]
    succeed(*words, "--steps", 1, "--batch", 2, "--workers", 0, *CPU, "-o", workspace / "crossview")
    return workspace / "crossview"


@pytest.fixture(scope="session")
def another(workspace: Path, embedder: Path, pairs: Path) -> Path:
    """An embedder of the same config and other weights."""
    succeed(*TOY, "--data", pairs, "--steps", 1, "--seed", 7, *FAST, "-o", workspace / "another")
    return workspace / "another"


@pytest.fixture
def aerials(pairs: Path) -> list[Path]:
    return sorted((pairs / "aerial").iterdir())


def test_an_embedder_of_pairs_is_measured_while_it_trains(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "e"
    ended = succeed(*TOY, "--data", pairs, "--validation", "val", "--steps", 2, *FAST, "-o", out)
    assert ended.out == f"{out}\n" and "step 2/2  validation: recall@1 " in ended.err
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    measured = next(line for line in lines if "validation/recall@1" in line)
    ks = {"recall@1", "recall@5", "recall@10", "recall@1%", "recall@1_published", "tie_alarm", "chance@1"}
    assert {f"validation/{k}" for k in ks} <= measured.keys() and measured["step"] == 2
    manifest = read_manifest(out)
    assert [entry["role"] for entry in manifest["inputs"]] == ["data", "validation"]
    assert manifest["scenes"] == 16 and len(manifest["places"]) == 8


def test_an_embedder_of_pieces_learns_from_a_bank_alone(bank: Path, tmp_path: Path) -> None:
    words = ["train", "embedder", "--kind", "pieces", "--bank", bank, "--steps", 1, *FAST]
    plan = yaml.safe_load(succeed(*words, "--dry-run", "-o", tmp_path / "p").out)
    pieces = read_manifest(bank)["statistics"]["items"]
    assert plan["pieces"] == pieces and "scenes" not in plan
    assert not content(tmp_path)
    head = succeed(*words, "--json", "-o", tmp_path / "p").json
    assert (head["path"], head["status"], head["step"]) == (str(tmp_path / "p"), "finished", 1)
    assert read_manifest(tmp_path / "p")["pieces"] == pieces


def test_an_alarm_where_ties_decide(capsys: pytest.CaptureFixture[str]) -> None:
    watch = console.watch_training()
    found = {"validation/recall@1": 0.0, "validation/recall@1_published": 1.0, "validation/tie_alarm": 1.0}
    watch(Status(5, 9, 0.0, 0.0, 0.0, {}, found))
    said = capsys.readouterr().err
    assert "step 5/9  validation: recall@1 0  recall@1_published 1" in said and "warning: ties decide" in said
    watch(Status(5, 9, 0.0, 0.0, 0.0, {}, {**found, "validation/tie_alarm": 0.0}))
    assert "warning" not in capsys.readouterr().err


def test_embedders_ask_for_what_they_need(pairs: Path, bank: Path, town: Path, tmp_path: Path) -> None:
    def said(code: int, *words: object) -> str:
        return fails(code, "train", "embedder", *words, "-o", tmp_path / "x", *CPU)

    assert "Missing option '--kind'" in said(2, "--data", pairs)
    told = said(2, "--kind", "shape", "--bank", bank)
    assert "no kind of embedder 'shape'" in told and "crossview, pieces" in told
    for words in ([], ["--bank", bank]):  # it is the data that is wanted, whatever else was given
        told = said(2, "--kind", "crossview", *words)
        assert "needs a dataset" in told and "give --data" in told
    assert "leave out --bank" in said(2, "--kind", "crossview", "--data", pairs, "--bank", bank)
    told = said(2, "--kind", "pieces")
    assert "needs a bank" in told and "give --bank" in told and "of any" not in told
    assert "leave out --data" in said(2, "--kind", "pieces", "--data", pairs)
    for key, value in (("split", "val"), ("validation", "val"), ("format", "pairs")):
        assert f"leave out --{key}" in said(2, "--kind", "pieces", "--bank", bank, f"--{key}", value)
    assert "no scene has the views aerial and ground" in said(3, "--kind", "crossview", "--data", town)
    told = said(2, "--kind", "crossview", "--data", pairs, "--validation", "test")
    assert "there is no split 'test'" in told and "train, val" in told
    told = said(2, *TOY[4:], "--kind", "crossview", "--data", pairs, "--batch", 9)
    assert "a batch of 9 needs as many groups, and there are 8" in told
    assert not content(tmp_path)


def test_a_group_on_both_sides_is_refused(tmp_path: Path) -> None:
    rows = [pair(f"p{n}", group=f"g{n // 2}", split="val" if n in (3, 4) else "train") for n in range(8)]
    root = write_pairs(tmp_path / "pairs", rows)
    before = content(tmp_path)
    told = fails(3, *TOY, "--data", root, "--validation", "val", *FAST, "-o", tmp_path / "x")
    assert "the group 'g1' is both trained on (p2) and held out (p3); 2 groups are on both sides" in told
    assert "rgs data split" in told and content(tmp_path) == before


def test_missing_and_broken_pictures_are_left_out_up_to_a_limit(tmp_path: Path) -> None:
    """Those of the validation split too: nothing stops a training after hours that could be known before."""
    root = write_pairs(tmp_path / "pairs", [pair(f"p{n}", split="val" if n > 5 else "train") for n in range(9)])
    (root / "street" / "p1.png").unlink()
    (root / "aerial" / "p7.png").write_bytes(b"no picture")
    words = [*TOY, "--data", root, "--validation", "val", "--steps", 1, *FAST]
    told = fails(3, *words, "--max-bad", 1, "-o", tmp_path / "x")
    assert "more than 1 scenes cannot be used" in told and "p1" in told and "p7" in told
    assert not (tmp_path / "x").exists()
    told = succeed(*words, "--max-bad", 2, "-o", tmp_path / "x").err
    assert "not usable: p1: street/p1.png" in told and "not usable: p7: aerial/p7.png" in told
    manifest = read_manifest(tmp_path / "x")
    assert manifest["scenes"] == 5 and manifest["places"] == sorted(f"aerial/p{n}.png" for n in (0, 2, 3, 4, 5))
    (root / "street" / "p6.png").unlink()
    (root / "street" / "p8.png").unlink()
    told = fails(3, *words, "-o", tmp_path / "y")
    assert "no scene of the validation split has the views aerial and ground that can be used" in told


def test_a_run_knows_the_places_of_the_run_that_it_starts_from(embedder: Path, tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "pairs", [pair(f"p{n}", group=f"other-{n}") for n in range(4)])
    words = [*TOY, "--data", root, "--init", embedder, "--steps", 1, *FAST]
    succeed(*words, "-o", tmp_path / "x")
    assert set(read_manifest(tmp_path / "x")["places"]) == {
        *read_manifest(embedder)["places"],
        *(f"other-{n}" for n in range(4)),
    }


def test_photos_come_as_a_folder_files_a_list_or_a_dataset(
    crossview: Path, pairs: Path, aerials: list[Path], tmp_path: Path
) -> None:
    listed = tmp_path / "some.txt"
    listed.write_text(f"{aerials[0]}\n{aerials[1]}\n")
    given = {
        "folder": ["-i", pairs / "aerial"],
        "files": ["-i", aerials[0], "-i", aerials[1]],
        "list": ["-i", listed],
        "dataset": ["--data", pairs, "--split", "val"],
    }
    for name, words in given.items():
        succeed("synthesize", crossview, *words, "-o", tmp_path / name, *CPU)
    assert images(tmp_path / "files").keys() == {path.name for path in aerials[:2]}
    assert images(tmp_path / "files") == images(tmp_path / "list")
    assert images(tmp_path / "folder").keys() == {path.name for path in aerials}
    assert read_manifest(tmp_path / "files")["digest"] == read_manifest(tmp_path / "list")["digest"]
    assert len(images(tmp_path / "dataset")) == 8  # a panorama and a perspective of each of 4 places
    for line in records(tmp_path / "dataset"):
        place = line["source"].rpartition("_")[2]
        np.testing.assert_array_equal(
            cv2.imread(str(tmp_path / "dataset" / line["photo"])), cv2.imread(str(pairs / "aerial" / f"{place}.png"))
        )


def test_samples_of_photos(crossview: Path, aerials: list[Path], tmp_path: Path) -> None:
    head = succeed("synthesize", crossview, "-i", aerials[0], "--num", 2, "--json", "-o", tmp_path / "x", *CPU).json
    statistics = head["statistics"]
    assert (statistics["source_view"], statistics["target_view"]) == ("aerial", "ground")
    assert (statistics["count"], statistics["photos"]) == (2, 1)
    folders = {path.name for path in (tmp_path / "x").iterdir() if path.is_dir()}
    assert folders == {"images", "inputs"}  # no layout, guidance or provenance
    stem = aerials[0].stem
    first, second = records(tmp_path / "x")
    assert (first["name"], second["name"]) == (f"{stem}-1", f"{stem}-2")
    assert first["source"] == second["source"] == stem and "layout" not in first
    photo = cv2.imread(str(tmp_path / "x" / first["photo"]))
    np.testing.assert_array_equal(photo, cv2.imread(str(aerials[0])))
    made = [read_image(tmp_path / "x" / line["image"]) for line in (first, second)]
    assert made[0].shape == (32, 128, 3) and not np.array_equal(made[0], made[1])
    roles = [entry["role"] for entry in read_manifest(tmp_path / "x")["inputs"]]
    assert roles == ["run", "embedder", "photos"]


def test_a_dry_run_of_photos(crossview: Path, pairs: Path, workspace: Path, tmp_path: Path) -> None:
    before = content(workspace)
    words = ["synthesize", crossview, "--data", pairs, "--split", "val", "--num", 3, "--set", "options.strength=0.5"]
    plan = yaml.safe_load(succeed(*words, "--dry-run", "-o", tmp_path / "x").out)
    assert plan["images"] == 24 and plan["options"] == {"strength": 0.5, "mean": False}
    assert content(workspace) == before and not content(tmp_path)


def test_what_makes_no_sense_for_photos_is_refused(
    crossview: Path, embedder: Path, town: Path, aerials: list[Path], tmp_path: Path
) -> None:
    def said(code: int, *words: object, run: Path = crossview) -> str:
        return fails(code, "synthesize", run, *words, "-o", tmp_path / "x", *CPU)

    photo = ["-i", aerials[0]]
    assert "give either photos or a dataset" in said(2)
    for size in ("64", "run"):
        assert "leave out --size" in said(2, *photo, "--size", size)
    assert "leave out --instances" in said(2, *photo, "--instances", tmp_path)
    assert "leave out --bank" in said(2, *photo, "--bank", tmp_path)
    assert "leave out --exclude" in said(2, *photo, "--exclude", "group")
    assert "unknown key 'retrieval'" in said(2, *photo, "--retrieval", "shape")
    assert "uses no 'segmenter'" in said(2, *photo, "--with", f"segmenter={embedder}")
    assert "the photo is missing" in said(3, "-i", tmp_path / "nowhere.png")
    assert "no scene has the aerial view" in said(3, "--data", town)
    assert "which makes no images" in said(3, *photo, run=embedder)
    twin = tmp_path / "twin" / f"{aerials[0].stem}.jpg"
    twin.parent.mkdir()
    cv2.imwrite(str(twin), np.zeros((8, 8, 3), np.uint8))
    assert "two photos have the name" in said(3, *photo, "-i", twin)
    assert not (tmp_path / "x").exists()


def test_the_embedder_must_be_that_of_the_training(
    crossview: Path, embedder: Path, another: Path, aerials: list[Path], tmp_path: Path
) -> None:
    """Spec T14: by digest, wherever it lies now."""
    words = ["synthesize", crossview, "-i", aerials[0], *CPU]
    told = fails(3, *words, "--with", f"embedder={another}", "-o", tmp_path / "x")
    ours, other = (read_manifest(run)["weights"][-1]["sha256"] for run in (embedder, another))
    assert f"the embedder {ours[:8]}…, this one is {other[:8]}…" in told and str(another) in told
    alone = tmp_path / "elsewhere" / "run"  # without the embedder beside it
    shutil.copytree(crossview, alone)
    told = fails(3, "synthesize", alone, "-i", aerials[0], "-o", tmp_path / "x", *CPU)
    assert "the embedder of the run is not at" in told and "give --with embedder=RUN" in told
    assert not (tmp_path / "x").exists()
    succeed("synthesize", alone, "-i", aerials[0], "--with", f"embedder={embedder}", "-o", tmp_path / "x", *CPU)
    succeed(*words, "-o", tmp_path / "y")
    assert images(tmp_path / "x") == images(tmp_path / "y")


def test_a_generator_asks_for_its_embedder(pairs: Path, segmenter: Path, embedder: Path, tmp_path: Path) -> None:
    words = ["train", "generator", "--system", "crossview", "--preset", "toy", "--data", pairs, "-o", tmp_path / "x"]
    words += ["--set", "model.weights.perceptual=0", *CPU]
    told = fails(2, *words)
    assert "needs a trained embedder-crossview" in told and "--with embedder=" in told
    told = fails(3, *words, "--with", f"embedder={segmenter}")
    assert "segmenter" in told and "embedder-crossview" in told
    told = fails(2, *words, "--with", f"embedder={embedder}", "--size", 64)
    assert "crossview trains on views of two sizes" in told and "rgs show system crossview" in told
    assert not content(tmp_path)
