"""rgs eval of embedders as it is typed: a run on pairs, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pipelines.data.scene import Schema
from pipelines.embed.pairs import PairEmbedder
from pipelines.stages.train import config_of
from pipelines.train.run import RunWriter
from tests.rgs_cli.conftest import fails, succeed
from tests.stages.test_evaluate_embedder import ROWS, write_pairs


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of a small embedder of random weights, and pairs."""
    folder = tmp_path_factory.mktemp("embedder")
    model = {"backbone": "saig-small", "aerial": (32, 32), "ground": (32, 32)}
    config = config_of("embedder-crossview").model_validate({"model": model})
    torch.manual_seed(0)
    facts = {"schema": Schema(()).to_json(), "trained_with": {}, "places": []}
    writer = RunWriter(folder / "e", "embedder-crossview", config, [], facts)
    writer.begin()
    writer.checkpoint(1, PairEmbedder(config.model, Schema(())).networks(), {}, {}, 1, "finished", {})
    return folder / "e", write_pairs(folder / "pairs", ROWS)


def test_an_embedder_is_asked_for_places(untrained: tuple[Path, Path], tmp_path: Path) -> None:
    run, pairs = untrained
    ended = succeed(
        "eval", f"{run}@1", "-r", pairs, "--by", "source", "-o", tmp_path / "r", "--device", "cpu", "--json"
    )
    assert ended.json["path"] == str(tmp_path / "r")
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert [row["source"] for row in report["retrieval"]["ground-aerial"]] == ["alpha", "beta", "all"]
    assert report["inputs"][1]["role"] == "embedder" and "saig-small" in report["title"]
    planned = succeed("eval", run, "-r", pairs, "-o", tmp_path / "dry", "--dry-run").out
    assert "galleries" in planned and not (tmp_path / "dry").exists()


def test_options_of_the_other_subject_are_refused(untrained: tuple[Path, Path], tmp_path: Path) -> None:
    run, pairs = untrained
    assert "--judge is for samples" in fails(2, "eval", run, "-r", pairs, "--judge", "x", "-o", tmp_path / "r")
    assert "-r PAIRS" in fails(2, "eval", run, "-o", tmp_path / "r")
    assert "--by is for runs" in fails(2, "eval", tmp_path, "-r", pairs, "--by", "source", "-o", tmp_path / "r")
    assert "one run at a time" in fails(2, "eval", run, run, "-r", pairs, "-o", tmp_path / "r")
    assert "by" in fails(2, "eval", run, "-r", pairs, "--by", "place", "-o", tmp_path / "r")
