"""A dry run prints the plan as YAML and writes nothing; the config that it prints is one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.artifact import read_manifest
from tests.rgs_cli.conftest import SMALL, content, succeed


def dry(workspace: Path, *words: object) -> dict[str, Any]:
    """The plan of a command that leaves the workspace as it was."""
    before = content(workspace)
    printed = succeed(*words, "--dry-run").out
    assert content(workspace) == before
    plan = yaml.safe_load(printed)
    assert isinstance(plan, dict)
    return plan


def test_of_data(workspace: Path, town: Path, tmp_path: Path) -> None:
    plan = dry(workspace, "data", "toy", tmp_path / "x", "--train", 5, "--val", 1, "--size", "64x96", "--seed", 3)
    assert (plan["train"], plan["val"], plan["size"], plan["seed"]) == (5, 1, [64, 96], 3) and plan["bytes"] > 0
    plan = dry(workspace, "data", "palette", town, "-o", tmp_path / "x", "--fill", "sky")
    assert plan["size"] == [256, 256] and plan["fill"] == "sky" and "building" in plan["classes"]
    plan = dry(workspace, "data", "split", town, "--folds", 2, "-o", tmp_path / "x")
    assert sum(plan["scenes"]) == 16
    assert not content(tmp_path)


def test_of_build_bank(workspace: Path, town: Path, bank: Path, tmp_path: Path) -> None:
    plan = dry(workspace, "build-bank", town, "-o", tmp_path / "x")
    assert plan["sources"] == 12 and plan["shards"] == {"shared": 0, "written": 1}
    taken = sum(file["bytes"] for file in read_manifest(bank)["files"])
    assert taken / 3 < plan["bytes"] < 3 * taken
    removed = read_manifest(bank)["statistics"]
    plan = dry(workspace, "build-bank", "--from", bank, "--remove-source", "train/00003", "-o", tmp_path / "x")
    assert plan["config"]["removed"] == ["train/00003"] and plan["sources"] == removed["sources"] - 1
    assert not content(tmp_path)


def test_of_train_index(workspace: Path, bank: Path, index: Path, tmp_path: Path) -> None:
    plan = dry(workspace, "train", "index", "--bank", bank, "-o", tmp_path / "x", "--k", 3)
    assert plan["config"]["k"] == 3 and plan["pieces"] == read_manifest(bank)["statistics"]["items"]
    taken = sum(file["bytes"] for file in read_manifest(index)["files"])
    assert taken / 5 < plan["bytes"] < 5 * taken
    assert not content(tmp_path)


def test_of_training(workspace: Path, generator_words: list[object], generator: Path, tmp_path: Path) -> None:
    plan = dry(workspace, *generator_words, "--steps", 2, "-o", tmp_path / "x")
    manifest = read_manifest(generator)
    assert plan["config"] == manifest["config"]
    assert [(i["role"], i["digest"]) for i in plan["inputs"]] == [(i["role"], i["digest"]) for i in manifest["inputs"]]
    written = sum(file["bytes"] for file in manifest["files"]) / len(manifest["weights"])
    assert plan["parameters"].keys() == {"G", "D"}
    assert plan["bytes_per_checkpoint"] == pytest.approx(written, rel=0.1)
    assert not content(tmp_path)


def test_of_synthesize(workspace: Path, generator: Path, samples: Path, town: Path, tmp_path: Path) -> None:
    plan = dry(workspace, "synthesize", generator, "--data", town, "--split", "val", "--num", 3, "-o", tmp_path / "x")
    assert plan["images"] == 12 and plan["system"] == "resail" and plan["options"]["retrieval"] == "shape"
    assert plan["inputs"][:3] == [
        {**i, "path": plan["inputs"][n]["path"]} for n, i in enumerate(read_manifest(samples)["inputs"][:3])
    ]
    assert not content(tmp_path)


def test_of_eval(workspace: Path, samples: Path, town: Path, judge: Path, tmp_path: Path) -> None:
    plan = dry(workspace, "eval", samples, "-r", town, "--split", "val", "--judge", judge, "-o", tmp_path / "x")
    assert plan["images"] == 4 and {"psnr", "miou", "frechet[segmenter:judge]"} <= set(plan["metrics"])
    lacking = {entry["name"] for entry in plan["not_computed"]}
    unseen = {"retrieval", "copy/segments", "copy/photos"}
    assert lacking == {"lpips", "style", "fid", "kid", "precision", "recall", "is"} | unseen
    plan = dry(workspace, "eval", samples, "-r", town, "--split", "val", "-o", tmp_path / "x")
    assert {entry["name"] for entry in plan["not_computed"]} == lacking | {"miou", "accuracy", "frechet"}
    assert not content(tmp_path)


@pytest.mark.parametrize("verb", ["build-bank", "train index", "train segmenter", "synthesize", "eval"])
def test_the_printed_config_is_a_config(
    verb: str, workspace: Path, town: Path, bank: Path, generator: Path, samples: Path, judge: Path, tmp_path: Path
) -> None:
    """Given back by --config and without the flags, it means the same."""
    words, flags = {
        "build-bank": ([town], ["--set", "codec=jpeg", "--set", "decompose.min_area=9"]),
        "train index": (["--bank", bank], ["--gamma", 0.5, "--exclude", "group"]),
        "train segmenter": (["--data", town], [*SMALL, "--preset", "judge", "--set", "train.accumulate=2"]),
        "synthesize": ([generator, "--data", town], ["--size", "32x48", "--num", 2, "--set", "options.rank=4"]),
        "eval": ([samples, "--judge", judge], ["--metric", "miou", "--set", "rows=3"]),
    }[verb]
    flags = [word for word in flags if word not in ("--device", "cpu")]
    start = [*verb.split(), *words, "-o", tmp_path / "x"]
    plan = dry(workspace, *start, *flags)
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(plan["config"]))
    assert dry(workspace, *start, "--config", config) == plan
    assert dry(workspace, *start)["config"] != plan["config"]
