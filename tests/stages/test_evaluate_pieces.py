"""Retrieval and the copy check on planted samples: exact copies of training scenes, and noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipelines.artifact import Artifact, Input, writing
from pipelines.bank.bank import Bank
from pipelines.data.pixels import read_image
from pipelines.data.scene import Category, Schema
from pipelines.errors import ArtifactError, ConfigError
from pipelines.stages import build_bank, evaluate
from pipelines.stages.evaluate import Evaluate
from tests.stages.test_evaluate import SamplesConfig, report_of, write_png

SCHEMA = Schema((Category(1, "sky", (40, 90, 200), False), Category(2, "wall", (200, 60, 40), False)), (255,))
NAMES = ["a", "b", "c", "d"]
SIDE = 32


def labels_of(seed: int) -> np.ndarray:
    """Sky above a wall, at another height in each scene."""
    labels = np.full((SIDE, SIDE), 2, np.uint8)
    labels[: 10 + seed % 13] = 1
    return labels


def photo(seed: int) -> np.ndarray:
    """Coarse colors with grain, other ones in each scene."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.integers(0, 256, (4, 4, 3)).astype(np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    return np.clip(coarse.astype(int) + rng.integers(-9, 10, coarse.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training scenes s0 to s7."""
    root = tmp_path_factory.mktemp("photos")
    for seed in range(8):
        write_png(root / "train" / "img" / f"s{seed}.png", photo(seed))
        write_png(root / "train" / "label" / f"s{seed}.png", labels_of(seed))
    classes = [{"id": c.id, "name": c.name, "color": list(c.color), "thing": c.thing} for c in SCHEMA.classes]
    (root / "classes.json").write_text(json.dumps({"classes": classes, "ignore_id": 255}))
    return root


@pytest.fixture(scope="module")
def bank(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Bank:
    made = build_bank.run(build_bank.BuildBank(), data=photos, out=tmp_path_factory.mktemp("banks") / "x")
    return Bank.open(made.path)


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    """Held-out photos of the layouts a to d."""
    for number, name in enumerate(NAMES):
        write_png(tmp_path / "real" / f"{name}.png", photo(100 + number))
    return tmp_path / "real"


def make_samples(out: Path, bank: Bank, *, copied: bool, used: str | None = None) -> Path:
    """Four images of the layouts of s0 to s3: the training photos themselves, or noise; pieces are the scene's own."""
    inputs = [Input("bank", "../banks/x", used or bank.digest)]
    statistics = {"schema": SCHEMA.to_json(), "system": "resail", "trained_with": {}, "teachers": {}, "count": 4}
    with writing(out, "samples", SamplesConfig(), inputs, statistics) as folder:
        listed, records = [], []
        for seed, name in enumerate(NAMES):
            noise = np.random.default_rng(900 + seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            image, labels = photo(seed) if copied else noise, labels_of(seed)
            rows = bank.rows_of_source(f"train/s{seed}").tolist()
            pieces = [
                {
                    "category": SCHEMA.names[bank.categories[row]],
                    "box": bank.boxes[row].tolist(),
                    "bank_row": row,
                    "source": f"train/s{seed}",
                    "score": 0.25 * k,
                    "pixels": int(bank.areas[row]),
                }
                for k, row in enumerate(rows)
            ]
            index = np.zeros(labels.shape, np.uint16)
            for k, row in enumerate(rows, start=1):
                index[labels == SCHEMA.ids[bank.categories[row]]] = k
            for kind, pixels in (("images", image), ("layouts", labels), ("guidance", photo(seed))):
                write_png(folder / kind / f"{name}.png", pixels)
            write_png(folder / "provenance" / f"{name}.png", index)
            files = {"image": f"images/{name}.png", "layout": f"layouts/{name}.png", "guidance": f"guidance/{name}.png"}
            listed.append({"name": name, "source": name, "variant": 0, **files})
            records.append({"name": name, "pieces": pieces})
        for file, lines in (("samples.jsonl", listed), ("provenance.jsonl", records)):
            (folder / file).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return out


def evaluated(tmp_path: Path, samples: Path, reference: Path | None, **given: Any) -> Artifact:
    config = given.pop("config", Evaluate())
    return evaluate.run(config, samples=samples, reference=reference, out=tmp_path / "report", device="cpu", **given)


def scores_of(artifact: Artifact) -> dict[str, dict[str, Any]]:
    return {score["name"]: score for score in report_of(artifact)["scores"]}


def test_an_exact_copy_has_distance_0_and_is_flagged(tmp_path: Path, photos: Path, bank: Bank, reference: Path) -> None:
    samples = make_samples(tmp_path / "x", bank, copied=True)
    artifact = evaluated(tmp_path, samples, reference, bank=bank.path, training=photos)
    found = scores_of(artifact)
    for key in ("copy/segments", "copy/photos"):
        assert found[key]["value"] == 0 and found[key]["on_real"] > 10
        assert found[f"{key}_ratio"]["value"] == 0 and found[f"{key}_close"]["value"] == 1
        assert found[f"{key}_z"]["value"] < -2
        assert "4 of 4 outputs" in found[f"{key}_ratio"]["warning"]
        assert found[key]["per_image"] == [0, 0, 0, 0]
        assert found[key]["interval"] == [0, 0]
    assert found["copy/pasted"]["value"] == 1 and found["copy/pasted"]["on_real"] < 0.2
    page = (artifact.path / "report.html").read_text()
    assert "4 of 4 outputs" in page and "piece of train/s0" in page and "a and train/s0" in page
    assert 'alt="training image' in page and 'alt="nearest piece' in page
    assert [i["role"] for i in artifact.manifest["inputs"]] == ["samples", "reference", "bank", "training"]


def test_noise_is_not_flagged(tmp_path: Path, photos: Path, bank: Bank, reference: Path) -> None:
    samples = make_samples(tmp_path / "x", bank, copied=False)
    found = scores_of(evaluated(tmp_path, samples, reference, bank=bank.path, training=photos))
    for key in ("copy/segments", "copy/photos"):
        assert found[key]["value"] > 10 and found[f"{key}_close"]["value"] == 0
        assert found[f"{key}_ratio"]["warning"] is None
    assert found["copy/pasted"]["value"] < 0.1


def test_retrieval_of_a_scenes_own_pieces(tmp_path: Path, bank: Bank) -> None:
    samples = make_samples(tmp_path / "x", bank, copied=True)
    artifact = evaluated(tmp_path, samples, None, bank=bank.path)
    found = scores_of(artifact)
    values = {name: found[f"retrieval/{name}"]["value"] for name in ("sigma", "iou", "coverage", "without", "sources")}
    assert values == {"sigma": 0.125, "iou": 1, "coverage": 1, "without": 0, "sources": 1}
    areas = np.array([[(labels_of(s) == c).sum() for c in (1, 2)] for s in range(4)])
    by_pixels = np.mean(areas @ [0, 0.25] / areas.sum(1))
    assert found["retrieval/sigma_by_pixels"]["value"] == pytest.approx(by_pixels)
    assert found["retrieval/sources_of_all"]["value"] == 4
    for name, score in found.items():
        assert {"variant", "images", "size"} <= score["protocol"].keys(), name
        assert bank.digest[:8] in str(score["protocol"]) or name == "copy/pasted"
    reasons = {entry["name"]: entry["reason"] for entry in report_of(artifact)["not_computed"]}
    assert "--reference" in reasons["copy/segments_ratio"] and "--training" in reasons["copy/photos"]


def test_a_photo_that_was_trained_on_is_found_under_any_name(
    tmp_path: Path, photos: Path, bank: Bank, reference: Path
) -> None:
    write_png(reference / "b.png", photo(5))
    twin = np.clip(photo(6).astype(int) + 1, 0, 255).astype(np.uint8)
    write_png(reference / "d.png", twin)
    samples = make_samples(tmp_path / "x", bank, copied=False)
    artifact = evaluated(tmp_path, samples, reference, training=photos)
    leaks = report_of(artifact)["audit"]["leaks"]
    assert [(leak["reference"], leak["training"], leak["identical"]) for leak in leaks] == [
        ("b", "train/s5", True),
        ("d", "train/s6", False),
    ]
    page = (artifact.path / "report.html").read_text()
    assert "2 of the real photos are training images too" in page and "the same pixels" in page


def test_an_unreadable_training_image_is_counted(tmp_path: Path, bank: Bank, photos: Path, reference: Path) -> None:
    broken = tmp_path / "photos"
    (broken / "train").mkdir(parents=True)
    (broken / "classes.json").write_bytes((photos / "classes.json").read_bytes())
    for kind in ("img", "label"):
        (broken / "train" / kind).mkdir()
        for file in (photos / "train" / kind).iterdir():
            (broken / "train" / kind / file.name).write_bytes(file.read_bytes())
    (broken / "train" / "img" / "s3.png").write_bytes(b"no image")
    samples = make_samples(tmp_path / "x", bank, copied=True)
    artifact = evaluated(tmp_path, samples, reference, training=broken)
    audit = report_of(artifact)["audit"]
    assert audit["training"] == 7 and len(audit["unreadable"]) == 1 and "train/s3" in audit["unreadable"][0]


def test_what_does_not_belong_together_is_refused(tmp_path: Path, photos: Path, bank: Bank) -> None:
    samples = make_samples(tmp_path / "x", bank, copied=True)
    foreign = make_samples(tmp_path / "y", bank, copied=True, used="0" * 64)
    with pytest.raises(ArtifactError, match="were made from bank 000000000000 but this one is"):
        evaluated(tmp_path, foreign, None, bank=bank.path)
    with pytest.raises(ConfigError, match="--training-split"):
        evaluated(tmp_path, samples, None, bank=bank.path, config=Evaluate(training_split="train"))
    with pytest.raises(ConfigError, match="no split 'nowhere'"):
        evaluated(tmp_path, samples, None, training=photos, config=Evaluate(training_split="nowhere"))
    assert not (tmp_path / "report").exists()


def test_samples_without_pieces_can_still_be_checked_for_copies(tmp_path: Path, bank: Bank, reference: Path) -> None:
    samples = tmp_path / "x"
    statistics = {"schema": SCHEMA.to_json(), "system": "spade", "trained_with": {}, "teachers": {}, "count": 4}
    with writing(samples, "samples", SamplesConfig(), [], statistics) as folder:
        lines = []
        for seed, name in enumerate(NAMES):
            write_png(folder / "images" / f"{name}.png", photo(seed))
            write_png(folder / "layouts" / f"{name}.png", labels_of(seed))
            lines.append({"name": name, "source": name, "variant": 0, "image": f"images/{name}.png"})
            lines[-1] |= {"layout": f"layouts/{name}.png", "guidance": None}
        (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    artifact = evaluated(tmp_path, samples, reference, bank=bank.path)
    assert scores_of(artifact)["copy/segments"]["value"] == 0
    reasons = {entry["name"]: entry["reason"] for entry in report_of(artifact)["not_computed"]}
    assert "without retrieved pieces" in reasons["retrieval"] and "without retrieved" in reasons["copy/pasted"]


def test_the_plan_names_bank_and_training(tmp_path: Path, photos: Path, bank: Bank) -> None:
    samples = make_samples(tmp_path / "x", bank, copied=True)
    plan = evaluate.plan(
        Evaluate(), samples=samples, reference=None, bank=bank.path, training=photos, out=tmp_path / "report"
    )
    assert [i["role"] for i in plan["inputs"]] == ["samples", "bank", "training"]
    without = evaluate.plan(Evaluate(), samples=samples, reference=None, bank=bank.path, out=tmp_path / "report")
    assert "copy/photos" in {entry["name"] for entry in without["not_computed"]}
    assert read_image(samples / "images" / "a.png").shape == (SIDE, SIDE, 3) and not (tmp_path / "report").exists()
