"""A bank of patches by the commands, and what the other verbs make of it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from pipelines.bank.bank import Bank
from pipelines.bank.patches import bank_graph, bank_objects, graph_rows, graph_sources
from pipelines.data.digest import record_digests
from pipelines.data.graph import GraphSettings
from pipelines.data.objects import scene_objects
from pipelines.data.open import open_dataset
from pipelines.errors import ArtifactError
from pipelines.index.neighbors import Neighbors
from pipelines.stages import provenance
from pipelines.stages.train import open_retrieval
from pipelines.systems.base import Needs
from tests.rgs_cli.conftest import content, fails, succeed
from tests.stages.indexed import MadeEmbedder

GRAPH = ["--set", "graph.min_area=0.01", "--set", "graph.overflow=sample"]


@pytest.fixture(scope="module")
def patches(workspace: Path, town: Path) -> Path:
    """The objects of the toy town's 12 scenes."""
    words = ["build-bank", town, "--kind", "patches", *GRAPH, "--set", "patch=16", "--set", "shard_sources=5"]
    before = content(workspace)
    plan = yaml.safe_load(succeed(*words, "-o", workspace / "patches-of-five", "--dry-run").out)
    assert content(workspace) == before and plan["sources"] == 12 and plan["config"]["patch"] == 16
    made = succeed(*words, "-o", workspace / "patches-of-five").out
    assert made == f"{workspace / 'patches-of-five'}\n"
    return workspace / "patches-of-five"


def test_the_town_makes_graphs(patches: Path, town: Path) -> None:
    bank, dataset = Bank.open(patches), open_dataset(town)
    assert bank.config["graph"] == GraphSettings(min_area=0.01, overflow="sample").model_dump()
    assert len(graph_sources(bank)) == 12 and len(bank) > 100
    for record in dataset.records("train"):
        scene = dataset.read(record)
        assert scene.image is not None
        height, width = scene.image.shape[:2]
        wanted, (found, _) = scene_objects(scene, dataset.schema, 0.01), bank_objects(bank, record.id)
        assert [(o.category, o.ordinal) for o in found] == [(o.category, o.ordinal) for o in wanted]
        for one, other in zip(found, wanted, strict=True):
            assert np.abs((np.array(one.box) - other.box) * ([width, height] * 2)).max() <= 0.5 + 1e-6
            np.testing.assert_allclose(one.centre, other.centre, atol=1e-6)
        graph = bank_graph(bank, record.id, np.random.default_rng(0))
        assert graph is not None and len(graph) <= 8
        assert len(np.unique(graph_rows(bank, record.id, graph))) == len(graph)


def test_a_segments_bank_has_the_same_input(patches: Path, bank: Path, town: Path) -> None:
    """What the pieces are changes nothing about what the dataset is."""
    one, other = Bank.open(patches).artifact.input("data"), Bank.open(bank).artifact.input("data")
    assert one is not None and other is not None and one.digest == other.digest
    dataset = open_dataset(town)
    assert record_digests(dataset, dataset.records("train"))["train/00000"] == Bank.open(patches).source_table[0].digest


def test_it_is_shown(patches: Path) -> None:
    shown = succeed("show", patches, "--verify")
    assert "graphs: 12" in shown.out and "overflow: sample" in shown.out and "decompose" not in shown.out
    assert "train/00003" in succeed("show", patches, "--sources").out
    told = provenance.uses(patches, ["train/00003"])["sources"][0]
    bank = Bank.open(patches)
    rows = bank.rows_of_source("train/00003")
    assert told["status"] == "in the bank" and told["pixels"] == bank.areas[rows].sum()
    assert [piece["box"] for piece in told["pieces"]] == bank.boxes[rows].tolist()


def test_it_is_indexed_and_searched(patches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the vectors of any embedder, class by class; a source that leaves takes its vectors along."""
    embedder = MadeEmbedder(gate="category").give_to(monkeypatch)
    words = ["train", "index", "--kind", "embedding", "--bank", patches, "--embedder", "made", "--k", 3]
    succeed(*words, "--exclude", "source", "-o", tmp_path / "index")
    bank = Bank.open(patches)
    near = Neighbors.open(tmp_path / "index", bank)
    vectors = embedder.vectors(bank.ids)
    for row in range(0, len(bank), 7):
        others = np.flatnonzero((bank.categories == bank.categories[row]) & (bank.sources != bank.sources[row]))
        order = others[np.argsort(1 - vectors[others] @ vectors[row], kind="stable")][:3]
        assert near.rows[row][: len(order)].tolist() == order.tolist()
    query = f"{int(bank.ids[7]):016x}"
    found = succeed("search", tmp_path / "index", query, "--bank", patches, "--sheet", tmp_path / "sheet.png").out
    assert f"{int(bank.ids[near.rows[7][0]]):016x}" in found
    assert cv2.imread(str(tmp_path / "sheet.png")) is not None
    succeed("build-bank", "--from", patches, "--remove-source", "train/00003", "-o", tmp_path / "less")
    less = Bank.open(tmp_path / "less")
    assert less.config["graph"] == bank.config["graph"] and len(graph_sources(less)) == 11
    count = len(embedder.embedded)
    succeed(
        "train",
        "index",
        "--update",
        tmp_path / "index",
        "--bank",
        less.path,
        "--embedder",
        "made",
        "-o",
        tmp_path / "i2",
    )
    assert len(embedder.embedded) == count  # nothing is embedded again


def test_it_learns_to_tell_its_pieces(patches: Path, tmp_path: Path) -> None:
    words = ["train", "embedder", "--kind", "pieces", "--bank", patches, "--device", "cpu"]
    succeed(*words, "--set", "train.steps=1", "--set", "train.batch=4", "--set", "log.workers=0", "-o", tmp_path / "e")
    vectors = ["train", "index", "--kind", "embedding", "--bank", patches, "--embedder", tmp_path / "e"]
    succeed(*vectors, "--device", "cpu", "-o", tmp_path / "index")
    neighbors = Neighbors.open(tmp_path / "index", bank := Bank.open(patches))
    assert np.array_equal(neighbors.ids, bank.ids)
    for row in range(len(bank)):
        found, _ = neighbors.of(int(bank.ids[row]))
        assert len(found) and (bank.sources[found] != bank.sources[row]).all()


def test_what_needs_shapes_refuses_it(patches: Path, tmp_path: Path) -> None:
    said = fails(3, "train", "index", "--kind", "shape", "--bank", patches, "-o", tmp_path / "x")
    assert "one of patches, which have no shapes" in said
    with pytest.raises(ArtifactError, match="a bank of patches, resail needs one of segments"):
        open_retrieval(Needs(bank="segments"), patches, None, "resail")


def test_settings_are_checked(town: Path, tmp_path: Path) -> None:
    words = ["build-bank", town, "-o", tmp_path / "x"]
    said = fails(2, *words, "--kind", "patches", "--set", "graph.min_areas=0.1")
    assert "did you mean 'min_area'" in said
    assert "max_objects 2" in fails(2, *words, "--kind", "patches", "--set", "graph.max_objects=2")
    assert "patch is of banks of patches" in fails(2, *words, "--set", "patch=32")
    assert "patch: Input should be greater" in fails(2, *words, "--kind", "patches", "--set", "patch=0")
    assert "segments', 'images' or 'patches" in fails(2, *words, "--kind", "patch")
    said = fails(3, *words, "--kind", "patches", "--set", "graph.relations=annotated")
    assert "names no relations" in said
