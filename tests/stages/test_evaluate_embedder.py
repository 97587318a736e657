"""rgs eval of embedders: planted vectors on planted pairs, with hits counted by hand."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from pipelines.artifact import Input
from pipelines.config import Config
from pipelines.data.split import write_folds
from pipelines.errors import ArtifactError, ConfigError, DataError
from pipelines.stages import compare, evaluate_embedder
from pipelines.stages.evaluate_embedder import EvaluateEmbedder
from pipelines.train.run import RunWriter, Weights, open_weights

SIZE = 8


def write_pairs(root: Path, rows: Sequence[tuple[str, str, str, int]]) -> Path:
    """A pack of pairs: (id, source, group, number); a picture's red says its number, its green which view it is.

    Pairs of one number and source share their aerial picture.
    """
    lines = ["id,source,group,aerial,street"]
    for name, source, group, number in rows:
        for folder, view in (("aerial", 1), ("street", 2)):
            file = root / folder / (f"{source}-{number}.png" if view == 1 else f"{name}.png")
            file.parent.mkdir(parents=True, exist_ok=True)
            picture = np.full((SIZE, SIZE, 3), (number, view, 0), np.uint8)
            cv2.imwrite(str(file), picture[..., ::-1])
        lines.append(f"{name},{source},{group},aerial/{source}-{number}.png,street/{name}.png")
    (root / "pairs.csv").write_text("\n".join(lines) + "\n")
    return root


ROWS = [
    *[(f"a{i}", "alpha", f"ga{i}", i) for i in range(4)],
    *[(f"b{i}", "beta", f"gb{i}", i) for i in range(2)],
]
"""Two sources whose pictures look alike: number 0 of alpha is number 0 of beta."""


class NoConfig(Config):
    """Nothing."""


def plant_run(
    out: Path, places: Sequence[str] = (), inputs: Sequence[Input] = (), status: str = "finished", **facts: Any
) -> Weights:
    writer = RunWriter(out, "embedder-crossview", NoConfig(), list(inputs), {"places": list(places), **facts})
    writer.begin()
    writer.checkpoint(1, {"E": torch.nn.Linear(1, 1)}, {}, {}, 1, status, {})
    return open_weights(out)


@dataclass
class Planted:
    """Maps a picture's number to a unit vector, by view."""

    weights: Weights
    vector: Callable[[int, str], int]
    towers: dict[str, Any] = field(default_factory=lambda: {"aerial": None, "ground": None})

    @property
    def label(self) -> str:
        return self.weights.run.name

    @property
    def sha256(self) -> str:
        return self.weights.sha256

    def embed(self, images: Iterable[np.ndarray], view: str, batch: int = 64, device: Any = "cpu") -> np.ndarray:
        numbers = []
        for image in images:
            assert image[0, 0, 1] == {"aerial": 1, "ground": 2}[view]
            numbers.append(int(image[0, 0, 0]))
        return np.eye(64, dtype=np.float32)[[self.vector(number, view) for number in numbers]]


def same(number: int, view: str) -> int:
    return number


def collapsed(number: int, view: str) -> int:
    return 7


def next_one(number: int, view: str) -> int:
    return number + (view == "ground")


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Plants an embedder and returns how a command names it."""
    known: dict[str, Planted] = {}
    monkeypatch.setattr(evaluate_embedder, "open_embedder", lambda reference: known[reference])

    def plant(name: str, vector: Callable[[int, str], int] = same, **facts: Any) -> str:
        known[str(tmp_path / name)] = Planted(plant_run(tmp_path / name, **facts), vector)
        return str(tmp_path / name)

    return plant


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs", ROWS)


def evaluate(out: Path, runs: Sequence[str], pairs: Path, folds: Path | None = None, **settings: Any) -> dict[str, Any]:
    config = EvaluateEmbedder.model_validate({"by": "source", **settings})
    artifact = evaluate_embedder.run(config, runs=runs, reference=pairs, folds=folds, out=out)
    assert json.loads((out / "manifest.json").read_text())["digest"] == artifact.digest
    return dict(json.loads((out / "report.json").read_text()))


def test_a_perfect_embedder_finds_every_place_within_its_source(tmp_path, planted, pairs):
    report = evaluate(tmp_path / "report", [planted("e")], pairs)
    rows = {row["source"]: row for row in report["retrieval"]["ground-aerial"]}
    assert [*rows] == ["alpha", "beta", "all"]
    assert [(r["queries"], r["gallery"]) for r in rows.values()] == [(4, 4), (2, 2), (6, 6)]
    assert all(r["recall"]["1"]["value"] == 1 and r["alarm"] is None for r in rows.values())
    assert rows["alpha"]["chance"] == pytest.approx(1 / 4)
    assert rows["all"]["chance"] == pytest.approx((4 / 4 + 2 / 2) / 6)
    # within the sources 4! x 2! deals are possible and one of them hits 6 times
    assert rows["all"]["p"] == pytest.approx(1 / 48, abs=0.006)
    scores = {score["name"]: score for score in report["scores"]}
    assert scores["r@1"]["per_image"] == [1] * 6 and scores["r@1[aerial-ground]"]["value"] == 1
    assert scores["r@1"]["interval"] == pytest.approx([6 / (6 + 1.96**2), 1], abs=1e-4)
    page = (tmp_path / "report" / "report.html").read_text()
    assert "a0 (alpha): rank 1 of 4" in page and "http" not in page


def test_one_gallery_of_all_confuses_sources_that_look_alike(tmp_path, planted, pairs):
    report = evaluate(tmp_path / "report", [planted("e")], pairs, by=None)
    (row,) = report["retrieval"]["ground-aerial"]
    assert row["gallery"] == 6
    assert row["recall"]["1"]["value"] == pytest.approx(2 / 6) and row["recall"]["1"]["published"] == 1
    assert "ties decide: R@1 is 33.3%" in row["alarm"]


def test_a_collapsed_embedder_scores_nothing_and_raises_an_alarm(tmp_path, planted, pairs):
    report = evaluate(tmp_path / "report", [planted("e", collapsed)], pairs)
    row = report["retrieval"]["ground-aerial"][-1]
    assert row["recall"]["1"]["value"] == 0 and row["recall"]["1"]["published"] == 1
    assert row["p"] == 1 and "ties decide" in row["alarm"]
    assert all(score["warning"] for score in report["scores"])
    warnings = json.loads((tmp_path / "report" / "manifest.json").read_text())["statistics"]["warnings"]
    assert [text.partition(":")[0] for text in warnings] == ["alpha", "beta", "all"]
    assert "ties decide" in (tmp_path / "report" / "report.html").read_text()


def test_street_views_of_one_place_share_an_aerial_picture(tmp_path, planted):
    rows = [("x0", "s", "g0", 0), ("x0b", "s", "g0", 0), ("x1", "s", "g1", 1)]
    report = evaluate(tmp_path / "report", [planted("e")], write_pairs(tmp_path / "pairs", rows))
    (ground,) = report["retrieval"]["ground-aerial"]
    assert (ground["queries"], ground["gallery"], ground["chance"]) == (3, 2, 0.5)
    (aerial,) = report["retrieval"]["aerial-ground"]
    assert (aerial["queries"], aerial["gallery"]) == (2, 3)
    assert aerial["recall"]["1"]["value"] == 1 and aerial["chance"] == pytest.approx((2 / 3 + 1 / 3) / 2)


FOLDS = [["a0", "a1", "b0"], ["a2", "a3", "b1"]]


def fold_places(number: int) -> list[str]:
    return [f"g{name}" for fold, names in enumerate(FOLDS) if fold != number for name in names]


def test_each_pair_is_asked_of_the_run_that_has_not_seen_it(tmp_path, planted, pairs):
    write_folds(FOLDS, tmp_path / "folds")
    runs = [planted("e0", same, places=fold_places(0)), planted("e1", next_one, places=fold_places(1))]
    report = evaluate(tmp_path / "report", runs, pairs, tmp_path / "folds")
    rows = {row["source"]: row for row in report["retrieval"]["ground-aerial"]}
    # the first run is right about a0, a1 and b0; the second takes every place for the next one, in the full gallery
    assert [rows[s]["recall"]["1"]["hits"] for s in ("alpha", "beta", "all")] == [2, 1, 3]
    assert (rows["alpha"]["queries"], rows["alpha"]["gallery"]) == (4, 4)
    assert report["images"] == ["a0", "a1", "a2", "a3", "b0", "b1"]
    assert next(s for s in report["scores"] if s["name"] == "r@1")["per_image"] == [1, 1, 0, 0, 1, 0]


def test_distractors_dealt_into_folds_are_in_the_gallery_and_asked_of_nobody(tmp_path, planted, pairs):
    cv2.imwrite(str(pairs / "aerial" / "alpha-5.png"), np.full((SIZE, SIZE, 3), (0, 1, 5), np.uint8))
    with (pairs / "pairs.csv").open("a") as table:
        table.write("d,alpha,gd,aerial/alpha-5.png,\n")
    write_folds([FOLDS[0], [*FOLDS[1], "d"]], tmp_path / "folds")
    runs = [planted(f"e{k}", places=fold_places(k)) for k in range(2)]
    report = evaluate(tmp_path / "report", runs, pairs, tmp_path / "folds")
    rows = {row["source"]: row for row in report["retrieval"]["ground-aerial"]}
    assert (rows["alpha"]["queries"], rows["alpha"]["gallery"], rows["all"]["queries"]) == (4, 5, 6)


def test_a_run_that_saw_what_it_is_asked_for_is_refused(tmp_path, planted, pairs):
    write_folds(FOLDS, tmp_path / "folds")
    runs = [planted("e0", places=fold_places(0)), planted("e1", places=fold_places(1))]
    with pytest.raises(ConfigError, match="was trained on 3 of the places"):
        evaluate(tmp_path / "report", runs[::-1], pairs, tmp_path / "folds")
    report = evaluate(tmp_path / "report", runs[:1], pairs, allow_seen=True)
    (said,) = report["seen"]
    assert said.startswith("e0 was trained on 3 of the places that it is asked for: its hits there say")


def test_what_a_run_grew_out_of_counts_as_seen(tmp_path, planted, pairs):
    old = planted("old", places=["ga2"])
    grown = planted("new", inputs=[Input("init", Path(old).name, "0" * 64)])
    with pytest.raises(ConfigError, match="for instance 'ga2'"):
        evaluate(tmp_path / "report", [grown], pairs)


def test_weights_from_elsewhere_may_have_seen_anything(tmp_path, planted, pairs):
    old = planted("old", imported={"part": "embedder"})
    grown = planted("new", inputs=[Input("init", Path(old).name, "0" * 64)])
    for name, run in (("old", old), ("new", grown)):
        report = evaluate(tmp_path / f"report-{name}", [run], pairs)
        assert report["seen"] == [f"{name} was imported: nobody here knows whether it was trained on these places"]
        assert f"{name} was imported" in (tmp_path / f"report-{name}" / "report.html").read_text()


def test_a_run_that_still_trains_is_refused_unless_its_step_is_named(tmp_path, planted, pairs, monkeypatch):
    training = planted("e", status="training")
    with pytest.raises(ArtifactError, match=r"not finished \(step 1\)"):
        evaluate(tmp_path / "report", [training], pairs)
    embedder = evaluate_embedder.open_embedder(training)
    monkeypatch.setattr(evaluate_embedder, "open_embedder", lambda reference: embedder)
    assert evaluate(tmp_path / "report", [f"{training}@1"], pairs)["scores"][0]["value"] == 1


def test_folds_that_do_not_fit_are_refused(tmp_path, planted, pairs):
    run = planted("e")
    with pytest.raises(ConfigError, match="one run at a time"):
        evaluate(tmp_path / "report", [run, run], pairs)
    write_folds(FOLDS, tmp_path / "folds")
    with pytest.raises(ConfigError, match="2 folds need as many runs"):
        evaluate(tmp_path / "report", [run], pairs, tmp_path / "folds")
    (tmp_path / "other.json").write_text(json.dumps({"folds": [["a0"], ["z"]]}))
    with pytest.raises(DataError, match=r"1 pairs that .* lacks, for instance 'z'"):
        evaluate(tmp_path / "report", [run, run], pairs, tmp_path / "other.json")
    (tmp_path / "few.json").write_text(json.dumps({"folds": [["a0", "a1", "a2"], ["b0", "b1"]]}))
    with pytest.raises(DataError, match=r"1 pairs of .* are in no fold, for instance 'a3'"):
        evaluate(tmp_path / "report", [run, run], pairs, tmp_path / "few.json")
    (tmp_path / "bad.json").write_text("[]")
    with pytest.raises(DataError, match="cannot be read"):
        evaluate(tmp_path / "report", [run, run], pairs, tmp_path / "bad.json")
    divided = write_pairs(tmp_path / "divided", [("a0", "s", "g", 0), ("a1", "s", "g", 1), ("a2", "s", "h", 2)])
    (tmp_path / "cut.json").write_text(json.dumps({"folds": [["a0"], ["a1", "a2"]]}))
    with pytest.raises(DataError, match="the place 'g' is in the folds 0 and 1"):
        evaluate(tmp_path / "report", [run, run], divided, tmp_path / "cut.json")


def test_two_embedders_are_compared_in_pairs(tmp_path, planted, pairs):
    evaluate(tmp_path / "one", [planted("e", next_one)], pairs)
    evaluate(tmp_path / "two", [planted("f")], pairs)
    compare.run(compare.Compare(), reports=[tmp_path / "one", tmp_path / "two"], out=tmp_path / "both")
    rows = {row["name"]: row for row in json.loads((tmp_path / "both" / "report.json").read_text())["rows"]}
    entry = rows["r@1"]["entries"][1]
    assert entry["difference"] == 1 and entry["difference_interval"] == [1, 1]


def test_a_plan_writes_nothing(tmp_path, planted, pairs):
    planned = evaluate_embedder.plan(
        EvaluateEmbedder(by="source"), runs=[planted("e")], reference=pairs, out=tmp_path / "report"
    )
    assert planned["galleries"]["alpha"] == {"queries": 4, "aerial": 4, "ground": 4}
    assert not (tmp_path / "report").exists()


REAL = Path(os.environ.get("RGS_REAL_DATA", "/nowhere")) / "crossview"


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason="needs RGS_REAL_DATA")
def test_colors_of_the_real_pairs_by_a_plain_loop(tmp_path, monkeypatch):
    """The baseline on the pack: galleries as its README counts them, hits at 1 as a loop over its files finds them."""

    def plain(path: str) -> np.ndarray:
        image = cv2.imread(str(REAL / path))[..., ::-1].reshape(-1, 3)
        return np.histogramdd(image, bins=8, range=[(0, 256)] * 3)[0].reshape(-1) / len(image)

    with (REAL / "pairs.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    colors = {row["id"]: (plain(row["aerial"]), plain(row["street"])) for row in rows}
    hits = dict.fromkeys((row["source"] for row in rows), 0)
    for row in rows:
        q = colors[row["id"]][1]
        distances = {}
        for other in rows:
            if other["source"] == row["source"]:
                p = colors[other["id"]][0]
                distances[other["id"]] = 0.5 * ((p - q) ** 2 / np.maximum(p + q, 1e-12)).sum()
        own = distances.pop(row["id"])
        hits[row["source"]] += min(distances.values()) > own + 1e-6

    class Blind(Planted):
        def embed(self, images: Iterable[np.ndarray], view: str, batch: int = 64, device: Any = "cpu") -> np.ndarray:
            return np.ones((sum(1 for _ in images), 1), np.float32)

    weights = plant_run(tmp_path / "e")
    monkeypatch.setattr(evaluate_embedder, "open_embedder", lambda reference: Blind(weights, same))
    report = evaluate(tmp_path / "report", [str(tmp_path / "e")], REAL)
    table = {row["source"]: row for row in report["retrieval"]["ground-aerial"]}
    assert {name: row["histogram"]["recall"]["1"]["hits"] for name, row in table.items() if name != "all"} == hits
    assert (table["cvusa_pano"]["gallery"], table["dayton"]["gallery"], table["all"]["queries"]) == (24, 28, 99)
    assert table["all"]["recall"]["1"]["hits"] == 0 and table["all"]["chance"] == pytest.approx(6 / 99)
