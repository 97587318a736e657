"""The eval stage on planted samples of scene graphs, under a classifier that reads colors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.artifact import Artifact, Input, open_artifact
from pipelines.bank.bank import Bank
from pipelines.embed.bank_vectors import PIECE
from pipelines.errors import ArtifactError, ConfigError
from pipelines.segment import classifier
from pipelines.stages import compare, evaluate
from pipelines.stages.embedders import open_embedder
from pipelines.stages.evaluate import Evaluate
from pipelines.train.run import RunWriter, identity, open_weights
from tests.stages.graphs import (
    GIVEN,
    ColorClassifier,
    make_classifier,
    make_graph_samples,
    make_photos,
    painted,
    train_companion,
)
from tests.stages.test_evaluate import make_samples


@pytest.fixture(scope="module")
def bank(patches: Path) -> Bank:
    return Bank.open(patches)


@pytest.fixture(scope="module")
def companions(workspace: Path, patches: Path) -> dict[str, Path]:
    """Co-occurrence embedders of the first half of the bank, of its second half, and of all of it."""
    halves = {"first": "first", "second": "second", "whole": None}
    return {name: train_companion(workspace / f"f-{name}", patches, half) for name, half in halves.items()}


@pytest.fixture(autouse=True)
def color_classifier(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bank: Bank) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "no-weights"))
    monkeypatch.setattr(classifier, "CropClassifier", lambda classes, width: ColorClassifier(bank.schema))


def evaluated(tmp_path: Path, samples: Path, name: str = "report", **given: Any) -> Artifact:
    config = given.pop("config", Evaluate())
    given.setdefault("reference", None)
    return evaluate.run(config, samples=samples, out=tmp_path / name, device="cpu", **given)


def report_of(artifact: Artifact) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((artifact.path / "report.json").read_text())
    return found


def scores_of(artifact: Artifact) -> dict[str, dict[str, Any]]:
    return {score["name"]: score for score in report_of(artifact)["scores"]}


def missing_of(artifact: Artifact) -> dict[str, str]:
    return {one["name"]: one["reason"] for one in report_of(artifact)["not_computed"]}


# ---- objects --------------------------------------------------------------------------------------------------------


def test_painted_objects_are_recognized(tmp_path: Path, bank: Bank) -> None:
    artifact = evaluated(
        tmp_path,
        make_graph_samples(tmp_path / "samples", bank),
        reference=make_photos(tmp_path / "photos", bank, scale=2),
        classifier=str(make_classifier(tmp_path / "c", bank.schema)),
    )
    found, missing = scores_of(artifact), missing_of(artifact)
    for name in ("object_accuracy[classifier:c]", "object_accuracy_balanced[classifier:c]"):
        assert found[name]["value"] == found[name]["on_real"] == 1 and found[name]["interval"] == [1, 1]
    assert found["frechet_objects[classifier:c]"]["value"] == pytest.approx(0, abs=1e-6)
    assert found["frechet[classifier:c]"]["value"] == pytest.approx(0, abs=1e-6)  # of whole images, its features
    assert not any(name.startswith(("fid", "kid[seg", "is")) for name in found)
    assert found["class_score[classifier:c]"]["value"] > 1
    assert all("given" in missing[name] for name in ("box_iou", "box_l1", "relations"))
    assert "co-occurrence" in missing["compatibility"] and "--num" in missing["diversity"]
    objects = report_of(artifact)["objects"]
    assert sum(row["objects"] for row in objects["classes"]) == 12 and not objects["own"]
    assert all(row["accuracy"] == row["on_real"] == 1 for row in objects["classes"])
    roles = {i["role"] for i in artifact.manifest["inputs"]}
    assert roles == {"samples", "reference", "classifier"}
    page = (artifact.path / "report.html").read_text()
    assert "<h3>Objects</h3>" in page and "scene graphs" in page and "<th>graph</th>" in page


def test_objects_of_wrong_colors_or_places_have_their_price(tmp_path: Path, bank: Bank) -> None:
    def draw(graph: Any, variant: int) -> np.ndarray:
        image = painted(graph, bank.schema)
        image[:, :16] = bank.schema.palette[(graph.categories[0] + 4) % len(bank.schema.classes)]
        return image

    judge = str(make_classifier(tmp_path / "c", bank.schema))
    colors = evaluated(tmp_path, make_graph_samples(tmp_path / "a", bank, draw=draw), "x", classifier=judge)
    score = scores_of(colors)["object_accuracy[classifier:c]"]
    assert score["value"] == pytest.approx(2 / 3) and score["on_real"] is None
    assert "--reference" in missing_of(colors)["frechet_objects[classifier:c]"]

    swapped = make_graph_samples(tmp_path / "b", bank, boxes=lambda number: GIVEN[[1, 0, 2]])
    places = evaluated(tmp_path, swapped, "y", classifier=judge)
    found = scores_of(places)
    assert found["object_accuracy[classifier:c]"]["value"] == pytest.approx(1 / 3)
    assert found["box_iou"]["value"] == pytest.approx(1 / 3)
    assert found["box_l1"]["value"] == pytest.approx((1 / 6 + 1 / 6 + 0) / 3, abs=1e-6)
    assert found["relations"]["value"] == pytest.approx(2 / 3) and found["relations"]["on_real"] == 1


def test_bounds_are_asked_for_their_objects_alone(tmp_path: Path, bank: Bank, companions: dict[str, Path]) -> None:
    samples = make_graph_samples(tmp_path / "a", bank, boxes=lambda number: GIVEN, variants=2, guidance=True)
    judge = str(make_classifier(tmp_path / "c", bank.schema))
    for subject in ("guidance", "shuffled"):
        artifact = evaluated(
            tmp_path,
            samples,
            subject,
            config=Evaluate(subject=subject),  # type: ignore[arg-type]
            classifier=judge,
            cooccurrence=str(companions["second"]),
        )
        names = {name.partition("[")[0] for name in scores_of(artifact)}
        assert names == {"object_accuracy", "object_accuracy_balanced", "class_score"}
    shuffled = scores_of(artifact)["object_accuracy[classifier:c]"]["value"]
    assert shuffled < 0.5  # the classes of neighbors in the list are shifted by one


# ---- what needs a label map -----------------------------------------------------------------------------------------


def test_what_needs_a_label_map_is_not_computed(
    tmp_path: Path, bank: Bank, judge: Path, companions: dict[str, Path]
) -> None:
    samples = make_graph_samples(tmp_path / "samples", bank, variants=2)
    given: dict[str, Any] = {"reference": make_photos(tmp_path / "photos", bank), "judge": judge}
    artifact = evaluated(tmp_path, samples, **given)
    for metric in ("miou", "accuracy"):
        assert "scene graphs, which have no label maps" in missing_of(artifact)[metric]
        with pytest.raises(ConfigError, match="no label maps"):
            evaluated(tmp_path, samples, metric, config=Evaluate(metrics=(metric,)), **given)  # type: ignore[arg-type]
    found = scores_of(artifact)
    assert found["frechet[segmenter:judge]"]["value"] == pytest.approx(0, abs=1e-6)
    assert found["diversity[segmenter:judge]"]["value"] == pytest.approx(0, abs=1e-6)
    assert "psnr" not in found and "psnr" not in missing_of(artifact)  # a graph does not say what a pixel shows
    asked = evaluated(tmp_path, samples, "psnr", config=Evaluate(metrics=("psnr",)), **given)
    assert scores_of(asked)["psnr"]["value"] == 100
    assert "<h2>Classes</h2>" not in (artifact.path / "report.html").read_text()


# ---- patches --------------------------------------------------------------------------------------------------------


def test_patches_are_measured_by_a_stranger(tmp_path: Path, bank: Bank, companions: dict[str, Path]) -> None:
    rows = {0: [0, 1, 2], 1: [0, len(bank) - 1, None], 2: [5, 5, 5], 3: [None, None, 3]}
    artifact = evaluated(
        tmp_path,
        make_graph_samples(tmp_path / "samples", bank, picks=lambda number, variant: list(rows[number])),
        reference=make_photos(tmp_path / "photos", bank),
        cooccurrence=str(companions["second"]),
    )
    embedder = open_embedder(str(companions["second"]))

    def oracle(chosen: list[int]) -> float:
        vectors = embedder.embed([bank.crop(row) for row in chosen], PIECE)
        apart = [np.linalg.norm(a - b) for i, a in enumerate(vectors) for b in vectors[:i]]
        return float(np.mean(apart))

    score = scores_of(artifact)["compatibility[cooccurrence:f-second]"]
    wanted = [oracle([0, 1, 2]), oracle([0, len(bank) - 1]), 0.0]
    assert score["per_image"] == pytest.approx([*wanted, None], abs=1e-5)
    assert score["value"] == pytest.approx(np.mean(wanted), abs=1e-5)
    reals = [embedder.embed([painted_object(bank, n, k) for k in range(3)], PIECE) for n in range(4)]
    apart = [np.mean([np.linalg.norm(v[i] - v[j]) for i, j in ((0, 1), (0, 2), (1, 2))]) for v in reals]
    assert score["on_real"] == pytest.approx(np.mean(apart), abs=1e-5) and score["warning"] is None
    first, last = bank.source_of(0).id, bank.source_of(len(bank) - 1).id
    assert first == bank.source_of(2).id and first != last
    assert scores_of(artifact)["same_source"]["per_image"] == [1, 0, 1, None]
    assert {i["role"] for i in artifact.manifest["inputs"]} == {"samples", "reference", "cooccurrence", "bank"}


def painted_object(bank: Bank, number: int, k: int) -> np.ndarray:
    color = bank.schema.palette[(number + k) % len(bank.schema.classes)]
    return np.tile(color, (32, 16, 1))


def test_outputs_of_one_graph_are_compared(tmp_path: Path, bank: Bank) -> None:
    """Graph 0 gives equal images of equal patches, the others black and white ones of other patches."""

    def draw(graph: Any, variant: int) -> np.ndarray:
        image = painted(graph, bank.schema)
        return image if graph.categories[0] == 0 else np.full_like(image, 255 * variant)

    samples = make_graph_samples(
        tmp_path / "samples",
        bank,
        draw=draw,
        variants=2,
        picks=lambda number, variant: [0, 1, 2] if number == 0 else [variant, 2 + variant, None],
    )
    photos = make_photos(tmp_path / "photos", bank)
    judge = make_classifier(tmp_path / "c", bank.schema)
    artifact = evaluated(tmp_path, samples, reference=photos, classifier=str(judge))
    found, missing = scores_of(artifact), missing_of(artifact)
    assert found["repeats"]["value"] == pytest.approx(1 / 4)
    score = found["diversity[classifier:c]"]
    assert score["value"] == pytest.approx(2 * 3 / 4)  # black and white are opposite vectors: 2 apart
    assert score["protocol"]["deviation over sources"] == pytest.approx(np.std([0, 2, 2, 2]))
    assert "not LPIPS" in score["protocol"]["features"] and "diversity[lpips]" in missing
    assert found["repetition[classifier:c]"]["value"] == pytest.approx(1 / 4)
    without = evaluated(tmp_path, samples, "x")
    assert "diversity[lpips]" in missing_of(without) and "classifier" in missing_of(without)["object_accuracy"]


def test_boxes_can_be_measured_with_nothing_else(tmp_path: Path, bank: Bank) -> None:
    samples = make_graph_samples(tmp_path / "samples", bank, boxes=lambda number: GIVEN, given=False)
    artifact = evaluated(tmp_path, samples)
    found = scores_of(artifact)
    assert found.keys() == {"relations", "same_source"} and found["relations"]["value"] == 1
    assert "came without boxes" in missing_of(artifact)["box_iou"]


# ---- strangers ------------------------------------------------------------------------------------------------------


def test_a_classifier_that_helped_to_train_is_refused(tmp_path: Path, bank: Bank) -> None:
    own, other = make_classifier(tmp_path / "own", bank.schema), make_classifier(tmp_path / "o", bank.schema, seed=0.01)
    digest = open_weights(own).sha256
    samples = make_graph_samples(tmp_path / "a", bank, trained_with={"classifier": digest})
    teachers = {"classifier": identity(open_artifact(own, "run").manifest)}
    later = make_graph_samples(tmp_path / "b", bank, trained_with={"classifier": "0" * 64}, teachers=teachers)
    for one in (samples, later):  # the very weights, or others of the same run
        with pytest.raises(ConfigError, match="helped to train") as error:
            evaluated(tmp_path, one, classifier=str(own))
        assert "--allow-own-judge" in str(error.value.fix)
    grown = Input("init", "own", digest, 7)
    with pytest.raises(ConfigError, match="helped to train"):  # or what grew out of it
        evaluated(tmp_path, samples, classifier=str(make_classifier(tmp_path / "g", bank.schema, inputs=(grown,))))
    assert "object_accuracy[classifier:o]" in scores_of(evaluated(tmp_path, samples, "x", classifier=str(other)))
    marked = evaluated(tmp_path, samples, "y", classifier=str(own), config=Evaluate(allow_own_judge=True))
    assert "helped to train" in scores_of(marked)["object_accuracy[classifier:own]"]["warning"]
    assert report_of(marked)["objects"]["own"]


def test_an_unfinished_or_other_classifier_is_refused(tmp_path: Path, bank: Bank, judge: Path) -> None:
    samples = make_graph_samples(tmp_path / "samples", bank)
    running = make_classifier(tmp_path / "c", bank.schema, status="training")
    with pytest.raises(ArtifactError, match="the classifier is not finished"):
        evaluated(tmp_path, samples, classifier=str(running))
    assert scores_of(evaluated(tmp_path, samples, "x", classifier=f"{running}@7"))
    with pytest.raises(ArtifactError, match="not of classifier"):
        evaluated(tmp_path, samples, classifier=str(judge))


def generator(out: Path, teacher: Path) -> tuple[Path, dict[str, str]]:
    """A run that was trained against a co-occurrence embedder, as samples know it: its path, and who taught it."""
    weights = open_weights(teacher)
    config = evaluate.Evaluate()  # any config does
    given = [weights.as_input("cooccurrence", out.parent)]
    writer = RunWriter(out, "retrievegan", config, given, {"trained_with": {"cooccurrence": weights.sha256}})
    writer.begin()
    return out, {"cooccurrence": weights.sha256}


def taught_samples(tmp_path: Path, bank: Bank, teacher: Path, teachers: dict[str, str] | None = None) -> Path:
    run, trained_with = generator(tmp_path / "g", teacher)
    inputs = (bank.artifact.as_input("bank", tmp_path), Input("run", run.name, "0" * 64, 1))
    return make_graph_samples(tmp_path / "samples", bank, trained_with=trained_with, teachers=teachers, inputs=inputs)


def test_the_embedder_that_was_trained_against_is_refused(
    tmp_path: Path, bank: Bank, companions: dict[str, Path]
) -> None:
    samples = taught_samples(tmp_path, bank, companions["first"])
    with pytest.raises(ConfigError, match="was trained against this co-occurrence embedder"):
        evaluated(tmp_path, samples, cooccurrence=str(companions["first"]))
    marked = evaluated(
        tmp_path, samples, "y", cooccurrence=str(companions["first"]), config=Evaluate(allow_own_judge=True)
    )
    assert "no stranger" in scores_of(marked)["compatibility[cooccurrence:f-first]"]["warning"]


def test_an_embedder_of_the_same_images_is_refused(
    tmp_path: Path, bank: Bank, companions: dict[str, Path], workspace: Path
) -> None:
    """Another seed is not enough: those of the whole bank, or of the same half, have learned from its images."""
    samples = taught_samples(tmp_path, bank, companions["first"])
    again = train_companion(tmp_path / "again", bank.path, "first", seed=1)
    for same in (again, companions["whole"]):
        with pytest.raises(ConfigError, match="learned from the images") as error:
            evaluated(tmp_path, samples, cooccurrence=str(same))
        assert "model.half" in str(error.value.fix)
    assert "compatibility[cooccurrence:f-second]" in scores_of(
        evaluated(tmp_path, samples, "x", cooccurrence=str(companions["second"]))
    )


def test_a_teacher_that_is_gone_is_asked_for(tmp_path: Path, bank: Bank, companions: dict[str, Path]) -> None:
    teacher = Path(shutil.copytree(companions["first"], tmp_path / "f1"))
    samples = taught_samples(tmp_path, bank, teacher)
    assert scores_of(evaluated(tmp_path, samples, "x", cooccurrence=str(companions["second"])))
    shutil.rmtree(teacher)
    with pytest.raises(ArtifactError, match="that the generator was trained against is not found"):
        evaluated(tmp_path, samples, cooccurrence=str(companions["second"]))
    shutil.copytree(companions["whole"], teacher)
    with pytest.raises(ArtifactError, match="there are other weights"):
        evaluated(tmp_path, samples, cooccurrence=str(companions["second"]))
    shutil.rmtree(tmp_path / "g")
    with pytest.raises(ArtifactError, match="not found"):
        evaluated(tmp_path, samples, cooccurrence=str(companions["second"]))


# ---- inputs that do not belong together -----------------------------------------------------------------------------


def test_the_bank_must_be_the_one_of_the_patches(
    tmp_path: Path, bank: Bank, town: Path, companions: dict[str, Path]
) -> None:
    from pipelines.stages import build_bank

    samples = make_graph_samples(tmp_path / "samples", bank)
    settings = build_bank.BuildBank.model_validate({"kind": "patches", "patch": 8, "graph": {"overflow": "largest"}})
    other = build_bank.run(settings, data=town, out=tmp_path / "other").path
    for given in (None, str(companions["second"])):
        with pytest.raises(ArtifactError, match="the samples were made from bank"):
            evaluated(tmp_path, samples, cooccurrence=given, bank=other)
    with pytest.raises(ArtifactError, match="one of patches"):
        evaluated(tmp_path, samples, bank=build_bank.run(build_bank.BuildBank(), data=town, out=tmp_path / "s").path)
    moved = make_graph_samples(
        tmp_path / "moved", bank, inputs=(Input("bank", "nowhere", bank.digest),), picks=lambda number, v: [0, 1, None]
    )
    with pytest.raises(ArtifactError, match="not at nowhere") as error:
        evaluated(tmp_path, moved, cooccurrence=str(companions["second"]))
    assert "--bank" in str(error.value.fix)
    assert scores_of(evaluated(tmp_path, moved, "x", cooccurrence=str(companions["second"]), bank=bank.path))


def test_samples_without_patches_have_none_to_compare(tmp_path: Path, bank: Bank, companions: dict[str, Path]) -> None:
    bare = make_graph_samples(tmp_path / "bare", bank, inputs=(), picks=lambda number, variant: [None] * 3)
    with pytest.raises(ConfigError, match="made without patches"):
        evaluated(tmp_path, bare, cooccurrence=str(companions["second"]))
    artifact = evaluated(tmp_path, bare, classifier=str(make_classifier(tmp_path / "c", bank.schema)))
    assert not {"compatibility", "same_source", "repeats"} & {*scores_of(artifact), *missing_of(artifact)}


def test_a_patch_that_the_bank_does_not_have_is_refused(
    tmp_path: Path, bank: Bank, companions: dict[str, Path]
) -> None:
    samples = make_graph_samples(tmp_path / "samples", bank)
    file = samples / "graphs" / "g0.json"
    file.write_text(file.read_text().replace('"row": 0', f'"row": {len(bank)}'))
    with pytest.raises(ArtifactError):  # a changed file is seen at once
        evaluated(tmp_path, samples, cooccurrence=str(companions["second"]))


def test_networks_of_graphs_are_for_graphs(tmp_path: Path, bank: Bank, embedder: Path) -> None:
    samples = make_samples(tmp_path / "samples")
    for given in ({"classifier": str(make_classifier(tmp_path / "c", bank.schema))}, {"cooccurrence": "runs/f"}):
        with pytest.raises(ConfigError, match="measures images of scene graphs"):
            evaluated(tmp_path, samples, **given)
    made = make_graph_samples(tmp_path / "graphs", bank)
    with pytest.raises(ConfigError, match="is of crossview, not of co-occurrence"):
        evaluated(tmp_path, made, cooccurrence=str(embedder))


# ---- side by side ---------------------------------------------------------------------------------------------------


def test_two_reports_stand_side_by_side(tmp_path: Path, bank: Bank, companions: dict[str, Path]) -> None:
    given: dict[str, Any] = {
        "reference": make_photos(tmp_path / "photos", bank),
        "classifier": str(make_classifier(tmp_path / "c", bank.schema)),
        "cooccurrence": str(companions["second"]),
    }
    first = evaluated(tmp_path, make_graph_samples(tmp_path / "a", bank, boxes=lambda number: GIVEN), "x", **given)
    swapped = make_graph_samples(
        tmp_path / "b", bank, boxes=lambda number: GIVEN[[1, 0, 2]], picks=lambda number, variant: [0, 0, None]
    )
    second = evaluated(tmp_path, swapped, "y", **given)
    both = compare.run(compare.Compare(), reports=[first.path, second.path], out=tmp_path / "both")
    rows = {row["name"]: row for row in json.loads((both.path / "report.json").read_text())["rows"]}
    for name in ("object_accuracy[classifier:c]", "box_iou", "relations", "compatibility[cooccurrence:f-second]"):
        entry = rows[name]["entries"][1]
        assert entry is not None and entry["difference_interval"] is not None and "paired" in entry["note"], name
    assert rows["box_iou"]["entries"][1]["difference"] == pytest.approx(-2 / 3, abs=1e-5)
    assert ">graph</th>" in (both.path / "report.html").read_text()
