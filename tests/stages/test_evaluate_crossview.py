"""rgs eval of images made from another view: planted outputs, planted embedders, hits and distances known by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipelines.artifact import writing
from pipelines.config import Config
from pipelines.data.scene import Schema
from pipelines.errors import ConfigError, EnvironmentFault
from pipelines.stages import compare, evaluate, evaluate_embedder
from pipelines.stages.evaluate import Evaluate
from tests.stages.test_evaluate_embedder import Planted, plant_run

SIZE = (24, 48)
PLACES = [*(("alpha", number) for number in range(8)), *(("beta", number) for number in range(4))]
"""Source and number of each place; numbers of beta look like those of alpha."""


def picture(number: int, view: int, noise: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Red tells the place, green the view (1 aerial, 2 ground), blue the noise."""
    return np.full((*size, 3), (number, view, noise), np.uint8)


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels[..., ::-1])


class NoConfig(Config):
    """Nothing."""


@dataclass
class Noisy(Planted):
    """Place and noise as axes of a space: outputs of one place differ by their noise."""

    def embed(self, images: Iterable[np.ndarray], view: str, batch: int = 64, device: Any = "cpu") -> np.ndarray:
        vectors = []
        for image in images:
            number, of, noise = (int(v) for v in image[0, 0])
            assert of == {"aerial": 1, "ground": 2}[view]
            vector = np.zeros(64, np.float32)
            vector[self.vector(number, view)] = 1
            vector[60] = noise / 10
            vectors.append(vector / np.linalg.norm(vector))
        return np.stack(vectors)


@pytest.fixture(autouse=True)
def no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "no-weights"))


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    root = tmp_path / "pairs"
    lines = ["id,source,group,aerial,street"]
    for source, number in PLACES:
        name = f"{source}{number}"
        write(root / "aerial" / f"{name}.png", picture(number, 1, size=(16, 16)))
        write(root / "street" / f"{name}.png", picture(number, 2))
        lines.append(f"{name},{source},g{name},aerial/{name}.png,street/{name}.png")
    (root / "pairs.csv").write_text("\n".join(lines) + "\n")
    return root


def make_samples(
    out: Path, shows: Callable[[int], int] = lambda number: number, *, num: int = 1, trained_with: str = ""
) -> Path:
    """Samples from aerial to ground; shows: which place the output of a place shows."""
    statistics: dict[str, Any] = {
        "schema": Schema(()).to_json(),
        "system": "crossview",
        "trained_with": {"embedder": trained_with} if trained_with else {},
        "teachers": {},
        "source_view": "aerial",
        "target_view": "ground",
    }
    with writing(out, "samples", NoConfig(), [], statistics) as folder:
        lines = []
        for source, number in PLACES:
            for variant in range(num):
                name = f"{source}{number}" if num == 1 else f"{source}{number}-{variant + 1}"
                write(folder / "images" / f"{name}.png", picture(shows(number), 2, variant))
                write(folder / "inputs" / f"{name}.png", picture(number, 1, size=(16, 16)))
                files = {"image": f"images/{name}.png", "photo": f"inputs/{name}.png", "guidance": None}
                lines.append({"name": name, "source": f"{source}{number}", "variant": variant, **files})
        (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return out


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    known: dict[str, Noisy] = {}
    monkeypatch.setattr(evaluate_embedder, "open_embedder", lambda reference: known[reference])

    def plant(name: str, vector: Callable[[int, str], int] = lambda number, view: number, **facts: Any) -> str:
        known[str(tmp_path / name)] = Noisy(plant_run(tmp_path / name, **facts), vector)
        return str(tmp_path / name)

    plant.known = known  # type: ignore[attr-defined]
    return plant


def run(out: Path, samples: Path, reference: Path | None, settings: Any = None, **given: Any) -> dict[str, Any]:
    evaluate.run(Evaluate.model_validate(settings or {}), samples=samples, reference=reference, out=out, **given)
    return dict(json.loads((out / "report.json").read_text()))


def by_name(report: dict[str, Any]) -> dict[str, Any]:
    return {score["name"]: score for score in report["scores"]}


def test_outputs_that_show_their_places(tmp_path, pairs, planted):
    report = run(tmp_path / "report", make_samples(tmp_path / "s"), pairs, embedders=[planted("e")])
    scores = by_name(report)
    for name in ("r@1[embedder:e]", "r@1_target[embedder:e]"):
        assert scores[name]["value"] == scores[name]["on_real"] == 1
        assert scores[name]["interval"] == pytest.approx([12 / (12 + 1.96**2), 1], abs=1e-4)
    (row, _) = report["correspondence"]
    assert row["chance"] == pytest.approx((8 / 8 + 4 / 4) / 12) and row["p"] < 0.01 and not row["own"]
    assert scores["psnr"]["value"] == scores["psnr_lower"]["value"] == 100
    assert scores["ssim_lower"]["value"] == pytest.approx(1)
    assert scores["sd"]["value"] == pytest.approx(88.131, abs=5e-4)
    reasons = {item["name"]: item["reason"] for item in report["not_computed"]}
    assert "made from photos" in reasons["miou"] and "alexnet_places365" in reasons["kl"]
    assert "several outputs" in reasons["diversity[embedder:e]"]
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.index("R@1 by e") < page.index("PSNR") and "source of alpha0" in page and "ignored, counted" not in page


def test_shuffled_and_wrong_outputs_miss(tmp_path, pairs, planted):
    samples, embedder = make_samples(tmp_path / "s"), planted("e")
    shuffled = by_name(run(tmp_path / "shuffled", samples, pairs, {"subject": "shuffled"}, embedders=[embedder]))
    assert shuffled["r@1[embedder:e]"]["value"] < 0.4
    # alpha's places show the next one, and the last one shows the place that only beta has under its number
    wrong = make_samples(tmp_path / "wrong", lambda number: 0)
    found = by_name(run(tmp_path / "report", wrong, pairs, embedders=[embedder]))
    assert found["r@1[embedder:e]"]["value"] == pytest.approx(2 / 12) and found["r@1[embedder:e]"]["on_real"] == 1


def test_the_embedder_of_the_training_is_marked_and_no_headline(tmp_path, pairs, planted):
    own, other = planted("own"), planted("other", lambda number, view: number + (view == "aerial"))
    samples = make_samples(tmp_path / "s", trained_with=planted.known[own].weights.sha256)
    report = run(tmp_path / "report", samples, pairs, embedders=[own, other])
    assert [(row["score"], row["own"]) for row in report["correspondence"]] == [
        ("r@1[embedder:other]", False),
        ("r@1_target[embedder:other]", False),
        ("r@1[embedder:own]", True),
        ("r@1_target[embedder:own]", True),
    ]
    scores = by_name(report)
    assert "trained against this embedder" in scores["r@1[embedder:own]"]["warning"]
    assert scores["r@1[embedder:other]"]["value"] == scores["r@1[embedder:other]"]["on_real"] == 0
    assert scores["r@1_target[embedder:other]"]["value"] == 1
    assert not any("own" in name for name in scores if not name.startswith("r@"))  # diversity is of independent ones
    cards = (tmp_path / "report" / "report.html").read_text().partition("<h2>Scores")[0]
    assert "R@1 by other" in cards and "R@1 by own" not in cards
    alone = run(tmp_path / "alone", samples, pairs, embedders=[own])
    assert {"name": "r@1", "reason": "needs an independent embedder (--embedder)"} in alone["not_computed"]


def test_an_embedder_that_saw_the_places_is_marked(tmp_path, pairs, planted):
    report = run(tmp_path / "r", make_samples(tmp_path / "s"), pairs, embedders=[planted("e", places=["galpha1"])])
    assert by_name(report)["r@1[embedder:e]"]["warning"] == "the embedder was trained on 1 of these places"


def test_diversity_of_several_noises(tmp_path, pairs, planted):
    samples = make_samples(tmp_path / "s", num=3)
    report = run(tmp_path / "report", samples, pairs, embedders=[planted("e")])
    scores = by_name(report)
    turns = np.arctan([0, 0.1, 0.2])
    wanted = np.mean([1 - np.cos(turns[j] - turns[i]) for i, j in ((0, 1), (0, 2), (1, 2))])
    assert scores["diversity[embedder:e]"]["value"] == pytest.approx(wanted, abs=1e-6)
    # real places are 1 apart, or 0 where beta looks like alpha: 4 of 66 pairs, so the threshold is 0
    assert scores["diversity[embedder:e]"]["on_real"] == pytest.approx(62 / 66)
    assert scores["repetition[embedder:e]"]["value"] == 0
    assert scores["clusters[embedder:e]"]["on_real"] == pytest.approx(scores["clusters[embedder:e]"]["value"])
    assert "bootstrap" in scores["r@1[embedder:e]"]["protocol"]["interval_protocol"]
    assert any(item["name"] == "diversity[lpips]" for item in report["not_computed"])


def test_distances_in_the_features_of_an_embedder(tmp_path, pairs, planted):
    samples, name = make_samples(tmp_path / "s"), planted("e")
    report = run(tmp_path / "r", samples, pairs, {"metrics": ["frechet", "precision"]}, features=f"embedder:{name}")
    scores = by_name(report)
    assert scores["frechet[embedder:e]"]["value"] == pytest.approx(0, abs=1e-6)
    assert scores["precision[embedder:e]"]["value"] == 1
    assert "embedder's unit vectors (d = 64)" in scores["frechet[embedder:e]"]["protocol"]["variant"]
    assert scores["frechet[embedder:e]"]["title"] == "Frechet distance (embedder's features)"
    with pytest.raises(ConfigError, match="fid is not measured in embedder features"):
        run(tmp_path / "fid", samples, pairs, {"metrics": ["fid"]}, features=f"embedder:{name}")


def test_copies_are_looked_for_among_training_images_of_the_same_view(tmp_path, pairs, planted):
    report = run(tmp_path / "r", make_samples(tmp_path / "s"), pairs, {"metrics": ["psnr"]}, training=pairs)
    assert by_name(report)["copy/photos"]["value"] == 0 and len(report["audit"]["leaks"]) >= 12
    assert "from 12 aerial photos" in report["summary"]


def test_what_cannot_be_asked_of_photos_is_refused(tmp_path, pairs, planted):
    samples = make_samples(tmp_path / "s")
    with pytest.raises(ConfigError, match="made from photos"):
        run(tmp_path / "r", samples, pairs, {"metrics": ["miou"]})
    with pytest.raises(ConfigError, match="a judge compares with layouts"):
        run(tmp_path / "r", samples, pairs, judge="runs/s")
    with pytest.raises(ConfigError, match="no pieces of a bank"):
        run(tmp_path / "r", samples, pairs, bank=tmp_path)
    with pytest.raises(EnvironmentFault, match="alexnet_places365"):
        run(tmp_path / "r", samples, pairs, {"metrics": ["kl"]})
    with pytest.raises(ConfigError, match="two embedders are named 'embedder:e'"):
        run(tmp_path / "r", samples, pairs, embedders=[planted("e"), planted("e2") and str(tmp_path / "e")])


def test_without_a_reference_the_other_view_is_still_asked(tmp_path, planted):
    report = run(tmp_path / "r", make_samples(tmp_path / "s"), None, embedders=[planted("e")])
    score = by_name(report)["r@1[embedder:e]"]
    # one gallery of all: the places of beta look like those of alpha, equal photos are one item
    assert score["value"] == 1 and score["on_real"] is None and score["protocol"]["gallery"] == 8
    assert {"name": "r@1_target[embedder:e]", "reason": "needs reference images (--reference)"} in report[
        "not_computed"
    ]


def test_reports_of_two_generators_are_compared_in_pairs(tmp_path, pairs, planted):
    embedder = planted("e")
    for name, shows in (("bad", lambda number: 0), ("good", lambda number: number)):
        run(tmp_path / f"r-{name}", make_samples(tmp_path / name, shows), pairs, embedders=[embedder])
    compare.run(compare.Compare(), reports=[tmp_path / "r-bad", tmp_path / "r-good"], out=tmp_path / "both")
    rows = {row["name"]: row for row in json.loads((tmp_path / "both" / "report.json").read_text())["rows"]}
    entry = rows["r@1[embedder:e]"]["entries"][1]
    assert entry["difference"] == pytest.approx(10 / 12) and entry["difference_interval"][0] > 0
    assert "source of alpha0" in (tmp_path / "both" / "report.html").read_text()
