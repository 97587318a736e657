"""rgs data graph and rgs data check of graphs: words, files, a dataset and a bank, there and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from tests.rgs_cli.conftest import SMALL, call, fails, succeed

LINE = "sky; road below sky; car#1 inside road; car#2 left of car#1"
LOOSE = ["--set", "graph.min_area=0.01", "--set", "graph.overflow=sample"]


def listed(text: str) -> list[dict[str, Any]]:
    graphs = json.loads(text)
    assert isinstance(graphs, list)
    return graphs


def picture(path: Path) -> np.ndarray:
    pixels = cv2.imread(str(path))
    assert pixels is not None
    return pixels


def test_words_become_json_on_standard_output(town: Path, bank: Path) -> None:
    expected = {
        "name": "graph-0000",
        "objects": ["sky", "road", "car", "car"],
        "relationships": [[1, "below", 0], [2, "inside", 1], [3, "left of", 2]],
    }
    for schema in (town, bank):
        assert listed(succeed("data", "graph", LINE, "--schema", schema).out) == [expected]
    both = listed(succeed("data", "graph", LINE, "tree", "--schema", town).out)
    assert [entry["name"] for entry in both] == ["graph-0000", "graph-0001"]


def test_files_are_read_written_and_read_again(town: Path, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text(f"{LINE}\ntree\n")
    first, second = tmp_path / "a.json", tmp_path / "new" / "b.json"
    assert succeed("data", "graph", tmp_path / "lines.txt", "--schema", town, "-o", first).out == f"{first}\n"
    told = succeed("data", "graph", first, "--schema", town, "-o", second, "--json").json
    assert told == {"path": str(second), "picture": None, "graphs": 2, "objects": 5, "relations": 3, "left_out": 0}
    assert first.read_text() == second.read_text()
    assert [entry["name"] for entry in listed(first.read_text())] == ["lines-0000", "lines-0001"]
    assert "exists already" in fails(3, "data", "graph", first, "--schema", town, "-o", second)


def test_graphs_of_a_dataset_are_the_same_every_time(town: Path, tmp_path: Path) -> None:
    words = ["data", "graph", "--data", town, "--split", "train", *LOOSE]
    once = succeed(*words)
    assert once.out == succeed(*words).out
    graphs = listed(once.out)
    assert 0 < len(graphs) <= 12
    for entry in graphs:
        n = len(entry["objects"])
        assert 3 <= n <= 8 and len(entry["boxes"]) == n == len(entry["relationships"])
    (tmp_path / "g.json").write_text(once.out)
    assert listed(succeed("data", "graph", tmp_path / "g.json", "--schema", town).out) == graphs
    assert succeed("data", "check", tmp_path / "g.json", "--schema", town).out == f"{tmp_path / 'g.json'}\n"


def test_a_bank_gives_the_graphs_that_its_dataset_gives(town: Path, patches: Path) -> None:
    """Boxes of a bank are of whole pixels, as those of the toy town are; so nothing differs."""
    of_data = listed(succeed("data", "graph", "--data", town, "--split", "train", *LOOSE).out)
    of_bank = listed(succeed("data", "graph", "--data", patches).out)
    assert len(of_bank) == len(of_data)
    for one, other in zip(of_bank, of_data, strict=True):
        assert one["name"] == other["name"] and one["objects"] == other["objects"]
        assert one["relationships"] == other["relationships"]
        np.testing.assert_allclose(one["boxes"], other["boxes"], atol=1e-6)


def test_scenes_can_be_chosen_and_those_left_out_are_counted(town: Path) -> None:
    graphs = listed(
        succeed("data", "graph", "--data", town, "--scene", "val/00012", "--scene", "val/00013", *LOOSE).out
    )
    assert [entry["name"] for entry in graphs] == ["00012", "00013"]
    strict = ["--set", "graph.min_area=0.3", "--set", "graph.max_objects=3"]
    ended = call("data", "graph", "--data", town, *strict)
    assert ended.code == 0 and "make no graph" in ended.err
    assert "there is no scene 'val/9'" in fails(2, "data", "graph", "--data", town, "--scene", "val/9")
    huge = ["--set", "graph.min_area=0.99"]
    assert "none of 16 scenes makes a graph" in fails(3, "data", "graph", "--data", town, *huge)


def test_pictures(town: Path, patches: Path, tmp_path: Path) -> None:
    succeed("data", "graph", LINE, "--schema", town, "--picture", tmp_path / "words.png")
    assert picture(tmp_path / "words.png").shape[0] == 512
    one = ["--scene", "train/00000"]
    succeed("data", "graph", "--data", town, *one, *LOOSE, "--picture", tmp_path / "photo.png")
    succeed("data", "graph", "--data", patches, *one, "--picture", tmp_path / "bank.png")
    photo, plain = picture(tmp_path / "photo.png"), picture(tmp_path / "bank.png")
    assert photo.shape == plain.shape and photo.shape[0] == 384
    assert (plain == 255).all(axis=2).mean() > (photo == 255).all(axis=2).mean()
    told = succeed("data", "graph", "--data", patches, "--picture", tmp_path / "new" / "sheet.png", "--json")
    assert told.json["picture"] == str(tmp_path / "new" / "sheet.png")
    assert min(picture(tmp_path / "new" / "sheet.png").shape[:2]) > 1000
    assert "exists already" in fails(3, "data", "graph", LINE, "--schema", town, "--picture", tmp_path / "words.png")


def test_a_dry_run_writes_nothing(town: Path, patches: Path, tmp_path: Path) -> None:
    out = ["-o", tmp_path / "g.json", "--picture", tmp_path / "g.png", "--dry-run"]
    plan = yaml.safe_load(succeed("data", "graph", "--data", town, "--split", "val", *LOOSE, *out).out)
    assert plan["scenes"] == 4 and plan["config"]["graph"]["min_area"] == 0.01
    plan = yaml.safe_load(succeed("data", "graph", "--data", patches, *out).out)
    assert plan["scenes"] == 12 and plan["config"] is None
    plan = yaml.safe_load(succeed("data", "graph", LINE, "--schema", town, *out).out)
    assert plan["given"] == [LINE]
    assert not list(tmp_path.iterdir())


def test_wrong_combinations_of_options(town: Path, bank: Path, patches: Path) -> None:
    assert "give either" in fails(2, "data", "graph")
    assert "give either" in fails(2, "data", "graph", LINE, "--data", town)
    assert "whose classes" in fails(2, "data", "graph", LINE)
    assert "--set goes with --data" in fails(2, "data", "graph", LINE, "--schema", town, "--set", "graph.min_area=0")
    assert "--split goes with --data" in fails(2, "data", "graph", LINE, "--schema", town, "--split", "val")
    assert "its own classes" in fails(2, "data", "graph", "--data", town, "--schema", town)
    assert "a bank has one split" in fails(2, "data", "graph", "--data", patches, "--set", "graph.min_area=0")
    assert "did you mean" in fails(2, "data", "graph", "--data", town, "--set", "graph.min_arae=0")
    assert "a scene graph" in fails(3, "data", "graph", "--data", bank)
    assert "no dataset is recognized" in fails(3, "data", "graph", LINE, "--schema", town / "train")
    assert "names no relations" in fails(3, "data", "graph", "--data", town, "--set", "graph.relations=annotated")


def test_an_error_in_a_line_points_at_the_word(town: Path) -> None:
    said = fails(3, "data", "graph", "sky; rod below sky", "--schema", town).splitlines()
    quoted = next(number for number, line in enumerate(said) if line == "  sky; rod below sky")
    assert "no class 'rod'" in said[quoted - 1]
    assert said[quoted + 1] == "       ^^^"
    assert any("did you mean 'road'?" in line for line in said)


def test_check_names_every_graph_that_is_wrong(town: Path, tmp_path: Path) -> None:
    bad = [
        {"objects": ["sky", "car"], "relationships": [[0, "above", 4]]},
        {"objects": ["car", "road"], "relationships": [[0, "inside", 1], [0, "surrounding", 1]]},
        {"objects": []},
        {"objects": ["sky", "road"], "boxes": [[0, 0, 1, 1], [0, 0, 1, 1]], "relationships": [[1, "below", 0]]},
        {"objects": ["zebra"], "name": "zoo"},
    ]
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(bad))
    said = fails(3, "data", "check", path, "--schema", town)
    for expected in ("4 faults:", "graph 0: relation 0", "in a circle", "it has no objects", "graph 4 (zoo): object 0"):
        assert expected in said
    ended = call("data", "check", path, "--schema", town, "--json", "--limit", 2)
    assert ended.code == 3
    report = ended.json
    assert not report["valid"] and report["total_faults"] == 4 and len(report["faults"]) == 2
    assert (report["graphs"], report["objects"], report["relations"], report["with_boxes"]) == (5, 2, 1, 1)
    assert report["classes"] == {"sky": 1, "road": 1} and report["predicates"] == {"below": 1}
    path.write_text("[")
    assert "no valid JSON" in fails(3, "data", "check", path, "--schema", town)
    lines = tmp_path / "lines.txt"
    lines.write_text("sky\nskyy\nroad below sky; car\n")
    assert "no class 'skyy'" in fails(3, "data", "check", lines, "--schema", town)
    assert "cannot be read" in fails(3, "data", "check", tmp_path / "none.json", "--schema", town)
    assert "whose classes" in fails(2, "data", "check", path)
    assert "its own classes" in fails(2, "data", "check", town, "--schema", town)


@pytest.mark.slow
def test_images_are_made_of_words_and_files(
    town: Path, patches: Path, patch_index: Path, cooccurrence: Path, tmp_path: Path
) -> None:
    given = ["--data", town, "--bank", patches, "--index", patch_index, "--with", f"cooccurrence={cooccurrence}"]
    words = ["train", "generator", "--system", "retrievegan", "--preset", "toy", *given, *SMALL[2:]]
    succeed(*words, "--steps", 1, "-o", tmp_path / "run")
    (tmp_path / "lines.txt").write_text("tree\nroad below sky\n")
    placed = {"objects": ["sky", "road"], "boxes": [[0, 0, 1, 0.5], [0, 0.5, 1, 1]], "name": "placed"}
    (tmp_path / "g.json").write_text(json.dumps(placed))
    graphs = [word for one in (LINE, tmp_path / "lines.txt", tmp_path / "g.json") for word in ("--graph", one)]
    succeed("synthesize", tmp_path / "run", *graphs, "-o", tmp_path / "samples", "--device", "cpu")
    names = ["graph-0000", "lines-0000", "lines-0001", "placed"]
    assert sorted(path.stem for path in (tmp_path / "samples" / "images").iterdir()) == names
    for name in names:
        made = json.loads((tmp_path / "samples" / "graphs" / f"{name}.json").read_text())
        assert len(made["boxes"]) == len(made["objects"])
    assert made["relationships"] == [] and made["objects"] == ["sky", "road"]
    twice = [*graphs, "--graph", tmp_path / "g.json"]
    said = fails(3, "synthesize", tmp_path / "run", *twice, "-o", tmp_path / "more", "--device", "cpu")
    assert "another graph is named 'placed'" in said
    said = fails(3, "synthesize", tmp_path / "run", "--graph", "sky; rod below sky", "-o", tmp_path / "more")
    assert "no class 'rod'" in said and "       ^^^" in said
