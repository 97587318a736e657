"""The eval stage on planted samples: painted layouts under a judge that reads colors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines import weights as published
from pipelines.artifact import Artifact, Input, open_artifact, writing
from pipelines.config import Config
from pipelines.data.palette import paint_labels
from pipelines.data.scene import Category, Schema
from pipelines.errors import ArtifactError, ConfigError, DataError, EnvironmentFault, RgsError
from pipelines.metrics import fidelity
from pipelines.metrics.choice import Metric
from pipelines.metrics.samples import read_samples, take_subject
from pipelines.segment import segmenter
from pipelines.segment.networks import SegmenterNet
from pipelines.segment.segmenter import Segmenter, SegmenterConfig
from pipelines.stages import evaluate
from pipelines.stages.evaluate import Evaluate
from pipelines.stages.train import config_of
from pipelines.train.run import RunWriter, identity
from tests.metrics.planted import plant, squeezenet_state

SCHEMA = Schema(
    (
        Category(3, "sky", (40, 90, 200), False),
        Category(7, "wall", (200, 60, 40), False),
        Category(9, "door", (30, 190, 60), True),
    ),
    ignored=(255,),
)
SIZE = (24, 32)


NEED_WEIGHTS = {"lpips", "style", "fid", "is", "kid", "precision", "recall"}
NEED_SOURCES = {"copy/segments", "copy/photos"}
"""Need a bank and training images."""
"""What no machine without published weights computes."""


class ColorJudge(SegmenterNet):
    """A judge that is never wrong about painted layouts. Features: the mean color."""

    feature_size = 3

    def __init__(self, schema: Schema = SCHEMA) -> None:
        super().__init__()
        self.palette = torch.nn.Parameter(torch.from_numpy(schema.palette).float() / 127.5 - 1)

    def forward(self, images: Tensor) -> Tensor:
        return -(images[:, None] - self.palette[None, :, :, None, None]).square().sum(2)

    def logits_and_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self(images), images.mean((2, 3))


@pytest.fixture(autouse=True)
def color_judge(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "no-weights"))
    monkeypatch.setattr(segmenter, "build_network", lambda config, classes: ColorJudge())


def layouts(count: int) -> dict[str, np.ndarray]:
    """Class indices with blocks, so that each holds every class; the top row is ignored."""
    made = {}
    for number in range(count):
        rng = np.random.default_rng(number)
        labels = rng.integers(0, 3, (6, 8)).repeat(4, 0).repeat(4, 1).astype(np.int16)
        labels[0] = -1
        made[f"s{number:02d}"] = labels
    return made


def write_png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels[..., ::-1] if pixels.ndim == 3 else pixels)


def label_ids(labels: np.ndarray) -> np.ndarray:
    return np.append(SCHEMA.ids, 255)[labels].astype(np.uint8)


class SamplesConfig(Config):
    seed: int = 5
    """The seed."""


def make_samples(
    out: Path,
    draw: Callable[[str, np.ndarray], np.ndarray] = lambda name, labels: paint_labels(labels, SCHEMA),
    *,
    count: int = 4,
    variants: int = 1,
    trained_with: dict[str, str] | None = None,
    teachers: dict[str, str] | None = None,
    run: Input | None = None,
    schema: Schema = SCHEMA,
    listed: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] = list,
) -> Path:
    """A samples artifact, an image per layout and variant. listed: changes the list of samples before it is kept."""
    statistics: dict[str, Any] = {
        "schema": schema.to_json(),
        "system": "resail",
        "trained_with": trained_with or {},
        "teachers": teachers or {},
        "count": count * variants,
    }
    inputs = [run] if run else []
    with writing(out, "samples", SamplesConfig(), inputs, statistics) as folder:
        lines = []
        for source, labels in layouts(count).items():
            for variant in range(variants):
                name = source if variants == 1 else f"{source}-{variant + 1}"
                write_png(folder / "images" / f"{name}.png", draw(name, labels))
                write_png(folder / "layouts" / f"{name}.png", label_ids(labels))
                write_png(folder / "guidance" / f"{name}.png", draw(name, labels) // 2)
                paths = {k: f"{p}/{name}.png" for k, p in (("image", "images"), ("layout", "layouts"))}
                guidance = f"guidance/{name}.png"
                lines.append({"name": name, "source": source, "variant": variant, "guidance": guidance, **paths})
        (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in listed(lines)))
    return out


def make_reference(folder: Path, count: int = 4, size: tuple[int, int] = SIZE) -> Path:
    for name, labels in layouts(count).items():
        scaled = labels.repeat(size[0] // 24, 0).repeat(size[1] // 32, 1)
        write_png(folder / f"{name}.png", paint_labels(scaled, SCHEMA))
    return folder


def make_judge(
    out: Path, *, schema: Schema = SCHEMA, status: str = "finished", seed: float = 0, inputs: Sequence[Input] = ()
) -> Path:
    config = config_of("segmenter").model_validate({"model": {"arch": "lraspp", "size": SIZE}})
    writer = RunWriter(out, "segmenter", config, list(inputs), {"schema": schema.to_json(), "trained_with": {}})
    writer.begin()
    nets = Segmenter(SegmenterConfig(), SCHEMA).networks()
    with torch.no_grad():
        nets["S"].get_parameter("palette").add_(seed)
    writer.checkpoint(7, nets, {}, {}, 2, status, {})
    return out


def weights_digest(run: Path) -> str:
    return str(open_artifact(run, "run").manifest["weights"][-1]["sha256"])


def report_of(artifact: Artifact) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((artifact.path / "report.json").read_text())
    return found


def values(artifact: Artifact) -> dict[str, float]:
    return {s["name"]: s["value"] for s in report_of(artifact)["scores"]}


def numbers(artifact: Artifact) -> dict[str, float]:
    """Scores and the ends of their intervals."""
    found = values(artifact)
    for score in report_of(artifact)["scores"]:
        found |= {f"{score['name']} {end}": value for end, value in enumerate(score["interval"] or ())}
    return found


def noisy(name: str, labels: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(sum(map(ord, name))).integers(-90, 90, (*labels.shape, 3))
    return np.clip(paint_labels(labels, SCHEMA) + noise, 0, 255).astype(np.uint8)


def test_a_perfect_judge_on_perfect_images(tmp_path: Path) -> None:
    samples = make_samples(tmp_path / "samples" / "x")
    artifact = evaluate.run(
        Evaluate(),
        samples=samples,
        reference=make_reference(tmp_path / "real"),
        judge=make_judge(tmp_path / "judge"),
        out=tmp_path / "report",
        device="cpu",
    )
    found = values(artifact)
    perfect = {"psnr": 100, "ssim": 1, "miou": 1, "accuracy": 1, "precision": 1, "recall": 1, "frechet": 0}
    of_features = ("frechet", "precision", "recall")
    expected = {f"{name}[segmenter:judge]" if name in of_features else name: v for name, v in perfect.items()}
    kid = found.pop("kid[segmenter:judge]")
    assert found == pytest.approx(expected, abs=1e-9)
    assert kid < 0  # unbiased: a set has no distance to itself, and pairs of equal images count on one side only
    report = report_of(artifact)
    assert [s["on_real"] for s in report["scores"] if s["name"] in ("miou", "accuracy")] == [1, 1]
    assert {n["name"] for n in report["not_computed"]} == NEED_WEIGHTS | NEED_SOURCES
    assert [c["iou"] for c in report["classes"]] == [1, 1, 1]
    assert sum(c["share"] for c in report["classes"]) == pytest.approx(1)


def test_a_planted_mistake_has_its_price(tmp_path: Path) -> None:
    def wrong(name: str, labels: np.ndarray) -> np.ndarray:
        return paint_labels(np.where(labels == 2, 0, labels) if name == "s00" else labels, SCHEMA)

    artifact = evaluate.run(
        Evaluate(metrics=("miou", "accuracy")),
        samples=make_samples(tmp_path / "x", wrong),
        reference=None,
        judge=make_judge(tmp_path / "judge"),
        out=tmp_path / "report",
        device="cpu",
    )
    maps = layouts(4)
    lost = (maps["s00"] == 2).sum()
    area = [sum((m == c).sum() for m in maps.values()) for c in range(3)]
    iou = [area[0] / (area[0] + lost), 1, (area[2] - lost) / area[2]]
    assert values(artifact) == pytest.approx({"miou": np.mean(iou), "accuracy": 1 - lost / sum(area)})
    scores = report_of(artifact)["scores"]
    assert all(s["on_real"] is None and "unknown" in s["warning"] for s in scores)
    rows = scores[0]["per_image"]
    assert rows[0]["2"] == [0, lost, 0]
    assert sum(sum(row[str(c)][1] for c in range(3)) for row in rows) == sum(area)


def test_scores_do_not_depend_on_batch_or_order(tmp_path: Path) -> None:
    reference, judge = make_reference(tmp_path / "real"), make_judge(tmp_path / "judge")
    samples = make_samples(tmp_path / "x", noisy, variants=2)
    turned = make_samples(tmp_path / "y", noisy, variants=2, listed=lambda lines: lines[::-1])
    found = [
        numbers(
            evaluate.run(
                Evaluate(batch=batch), samples=path, reference=reference, judge=judge, out=tmp_path / out, device="cpu"
            )
        )
        for batch, path, out in ((1, samples, "a"), (3, samples, "b"), (8, turned, "c"))
    ]
    assert 0 < found[0]["miou"] < 1 and found[0]["frechet[segmenter:judge]"] > 0
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    assert found[1] == pytest.approx(found[2], abs=1e-6)


def test_variants_share_a_reference_that_counts_once(tmp_path: Path) -> None:
    artifact = evaluate.run(
        Evaluate(),
        samples=make_samples(tmp_path / "x", noisy, variants=3),
        reference=make_reference(tmp_path / "real"),
        judge=make_judge(tmp_path / "judge"),
        out=tmp_path / "report",
        device="cpu",
    )
    for score in report_of(artifact)["scores"]:
        assert (score["protocol"]["images"], score["protocol"]["real images"]) == (12, 4)
    assert len(report_of(artifact)["scores"][0]["per_image"]) == len(report_of(artifact)["images"]) == 12


def test_larger_references_are_averaged_down_and_the_protocol_says_so(tmp_path: Path) -> None:
    artifact = evaluate.run(
        Evaluate(),
        samples=make_samples(tmp_path / "x"),
        reference=make_reference(tmp_path / "real", size=(48, 64)),
        out=tmp_path / "report",
        device="cpu",
    )
    assert values(artifact) == pytest.approx({"psnr": 100, "ssim": 1})
    report = report_of(artifact)
    assert report["scores"][0]["protocol"]["size"] == "32x24"
    assert report["scores"][0]["protocol"]["reference"].startswith("64x48, resized to the output (OpenCV INTER_AREA")
    reasons = {n["name"]: n["reason"] for n in report["not_computed"]}
    assert reasons.keys() == {"miou", "accuracy", "frechet"} | NEED_WEIGHTS | NEED_SOURCES
    assert all("--judge" in reasons[name] for name in ("miou", "accuracy", "frechet"))
    assert all("are not on this machine" in reasons[name] for name in ("lpips", "style"))
    assert all("--allow-few" in reasons[name] for name in NEED_WEIGHTS - {"lpips", "style"})


def test_a_dataset_can_be_the_reference(tmp_path: Path) -> None:
    root = tmp_path / "town"
    for name, labels in layouts(5).items():
        for split in ("train", "val"):
            write_png(root / split / "img" / f"{name}.png", paint_labels(labels, SCHEMA))
            write_png(root / split / "label" / f"{name}.png", label_ids(labels))
    classes = [{"id": c.id, "name": c.name, "color": list(c.color), "thing": c.thing} for c in SCHEMA.classes]
    (root / "classes.json").write_text(json.dumps({"classes": classes, "ignore_id": 255}))
    samples = make_samples(tmp_path / "x")
    artifact = evaluate.run(
        Evaluate(split="val"), samples=samples, reference=root, out=tmp_path / "report", device="cpu"
    )
    assert values(artifact) == pytest.approx({"psnr": 100, "ssim": 1})
    assert report_of(artifact)["reference"]["kind"] == "folder dataset, split val"
    with pytest.raises(ConfigError, match="several reference images are named 's00'") as error:
        evaluate.run(Evaluate(), samples=samples, reference=root, out=tmp_path / "other", device="cpu")
    assert "--split" in str(error.value)


def test_every_number_has_its_protocol(tmp_path: Path) -> None:
    judge = make_judge(tmp_path / "judge")
    artifact = evaluate.run(
        Evaluate(),
        samples=make_samples(tmp_path / "x"),
        reference=make_reference(tmp_path / "real"),
        judge=judge,
        out=tmp_path / "report",
        device="cpu",
    )
    for score in report_of(artifact)["scores"]:
        protocol = score["protocol"]
        assert {"variant", "library", "images", "real images", "size", "reference", "codec", "synthesis seed"} <= set(
            protocol
        )
        assert re.search(r"\d+\.\d+", protocol["library"])
        if score["name"] not in ("psnr", "ssim"):
            key = "judge weights" if score["name"] in ("miou", "accuracy") else "features weights"
            assert protocol[key] == weights_digest(judge)[:8]
        assert "layouts" in protocol["interval_protocol"]
        assert "fid" not in score["name"].lower()


REFUSALS: dict[str, tuple[type[RgsError], str, Callable[[Path], dict[str, Any]]]] = {
    "wrong names": (
        DataError,
        "4 of 4 layouts have no reference image of their name, for instance 's00', 's01', 's02'",
        lambda t: {"reference": _renamed(make_reference(t / "real"))},
    ),
    "one missing": (
        DataError,
        "1 of 4 layouts have no reference image of their name, for instance 's03'",
        lambda t: {"reference": make_reference(t / "real", count=3)},
    ),
    "nothing given": (ConfigError, "nothing to measure", lambda t: {"reference": None}),
    "judge asked for but not given": (
        ConfigError,
        r"miou needs a trained segmenter \(--judge\)",
        lambda t: {"reference": None, "config": Evaluate(metrics=("miou",))},
    ),
    "reference asked for but not given": (
        ConfigError,
        r"frechet\[segmenter:judge\] needs reference images \(--reference\)",
        lambda t: {"reference": None, "judge": make_judge(t / "judge"), "config": Evaluate(metrics=("frechet",))},
    ),
    "judge with other classes": (
        ArtifactError,
        "the judge has other classes: 'gate' where 'door' is expected",
        lambda t: {"reference": None, "judge": make_judge(t / "judge", schema=_gate())},
    ),
    "judge that is no segmenter": (
        ArtifactError,
        "there is no such artifact",
        lambda t: {"reference": None, "judge": t / "nowhere"},
    ),
    "unfinished judge": (
        ArtifactError,
        r"the judge is not finished \(step 7\)",
        lambda t: {"reference": None, "judge": make_judge(t / "judge", status="stopped")},
    ),
    "reference that is a file": (DataError, "no folder", lambda t: {"reference": _touched(t / "file")}),
}


def _renamed(folder: Path) -> Path:
    for path in sorted(folder.iterdir()):
        path.rename(folder / f"other-{path.name}")
    return folder


def _touched(path: Path) -> Path:
    path.touch()
    return path


def _gate() -> Schema:
    *rest, last = SCHEMA.classes
    return Schema((*rest, Category(last.id, "gate", last.color, last.thing)), SCHEMA.ignored)


@pytest.mark.parametrize("case", REFUSALS)
def test_what_does_not_fit_is_refused(tmp_path: Path, case: str) -> None:
    kind, words, given = REFUSALS[case]
    arguments = {"config": Evaluate(), "judge": None, **given(tmp_path)}
    with pytest.raises(kind, match=words):
        evaluate.run(
            arguments.pop("config"),
            samples=make_samples(tmp_path / "x"),
            out=tmp_path / "report",
            device="cpu",
            **arguments,
        )
    assert not (tmp_path / "report").exists()


def test_an_unfinished_judge_may_be_named_by_its_step(tmp_path: Path) -> None:
    make_judge(tmp_path / "judge", status="stopped")
    artifact = evaluate.run(
        Evaluate(),
        samples=make_samples(tmp_path / "x"),
        reference=None,
        judge=f"{tmp_path}/judge@7",
        out=tmp_path / "report",
        device="cpu",
    )
    assert values(artifact) == {"miou": 1, "accuracy": 1}


def test_a_judge_that_helped_to_train_is_refused_or_named(tmp_path: Path) -> None:
    judge = make_judge(tmp_path / "judge")
    samples = make_samples(tmp_path / "x", trained_with={"segmenter": weights_digest(judge)})
    with pytest.raises(ConfigError, match="helped to train"):
        evaluate.run(Evaluate(), samples=samples, reference=None, judge=judge, out=tmp_path / "report", device="cpu")
    artifact = evaluate.run(
        Evaluate(allow_own_judge=True), samples=samples, reference=None, judge=judge, out=tmp_path / "r", device="cpu"
    )
    assert all(s["warning"] == "this judge helped to train what it judges" for s in report_of(artifact)["scores"])
    stranger = make_judge(tmp_path / "stranger", seed=0.01)
    evaluate.run(Evaluate(), samples=samples, reference=None, judge=stranger, out=tmp_path / "fair", device="cpu")


def test_a_judge_is_known_by_its_run_and_by_what_it_grew_out_of(tmp_path: Path) -> None:
    teacher = make_judge(tmp_path / "teacher", inputs=[Input("data", "photos", "d" * 64)])
    known: dict[str, Any] = {
        "trained_with": {"segmenter": weights_digest(teacher)},
        "teachers": {"segmenter": identity(open_artifact(teacher, "run").manifest)},
    }
    samples = make_samples(tmp_path / "x", **known)
    later = make_judge(tmp_path / "later", seed=0.01, inputs=[Input("data", "elsewhere", "d" * 64)])
    grown = make_judge(tmp_path / "grown", seed=0.02, inputs=[Input("init", "teacher", weights_digest(teacher), 7)])
    for judge in (later, grown):  # other weights than those that taught, of the same run or begun with them
        assert weights_digest(judge) not in known["trained_with"].values()
        with pytest.raises(ConfigError, match="helped to train"):
            evaluate.run(Evaluate(), samples=samples, reference=None, judge=judge, out=tmp_path / "r", device="cpu")


def test_one_image_has_no_frechet_distance(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "samples": make_samples(tmp_path / "x", count=1),
        "reference": make_reference(tmp_path / "real", 1),
        "judge": make_judge(tmp_path / "judge"),
    }
    artifact = evaluate.run(Evaluate(), **given, out=tmp_path / "report", device="cpu")
    missing = {n["name"]: n["reason"] for n in report_of(artifact)["not_computed"]}
    assert "2 images" in missing["frechet[segmenter:judge]"] and "2 images" in missing["kid[segmenter:judge]"]
    assert "4 images" in missing["precision[segmenter:judge]"] and "4 images" in missing["recall[segmenter:judge]"]
    assert all(s["interval"] is None for s in report_of(artifact)["scores"])
    with pytest.raises(DataError, match="2 images"):
        evaluate.run(Evaluate(metrics=("frechet",)), **given, out=tmp_path / "other", device="cpu")


def test_few_images_are_warned_of(tmp_path: Path) -> None:
    artifact = evaluate.run(
        Evaluate(metrics=("frechet",)),
        samples=make_samples(tmp_path / "x", noisy, count=3),
        reference=make_reference(tmp_path / "real", 3),
        judge=make_judge(tmp_path / "judge"),
        out=tmp_path / "report",
        device="cpu",
    )
    assert "3 images for 3 features" in report_of(artifact)["scores"][0]["warning"]


def test_scores_have_intervals_over_layouts(tmp_path: Path) -> None:
    reference, judge = make_reference(tmp_path / "real", 12), make_judge(tmp_path / "judge")

    def scores(variants: int) -> dict[str, dict[str, Any]]:
        drawn = make_samples(
            tmp_path / f"x{variants}", lambda name, labels: noisy(name[:3], labels), count=12, variants=variants
        )
        out = tmp_path / f"r{variants}"
        artifact = evaluate.run(Evaluate(), samples=drawn, reference=reference, judge=judge, out=out, device="cpu")
        return {s["name"]: s for s in report_of(artifact)["scores"]}

    once, thrice = scores(1), scores(3)
    for name, found in once.items():
        low, high = found["interval"]
        assert low <= found["value"] <= high and "12 layouts" in found["protocol"]["interval_protocol"], name
    assert once["psnr"]["interval"][0] < once["psnr"]["interval"][1]
    for name in ("psnr", "ssim", "miou", "accuracy"):  # the same images three times say no more
        assert thrice[name]["interval"] == pytest.approx(once[name]["interval"], rel=1e-9)


def test_features_of_another_segmenter(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "samples": make_samples(tmp_path / "x", noisy, count=8),
        "reference": make_reference(tmp_path / "real", 8),
        "device": "cpu",
    }
    judge, other = make_judge(tmp_path / "judge"), make_judge(tmp_path / "other", seed=0.01)
    of_judge = evaluate.run(Evaluate(), **given, judge=judge, out=tmp_path / "a")
    of_other = evaluate.run(Evaluate(), **given, features=f"segmenter:{other}", out=tmp_path / "b")
    both = evaluate.run(Evaluate(), **given, judge=judge, features=f"segmenter:{other}", out=tmp_path / "c")
    names = ("frechet", "kid", "precision", "recall")
    assert set(values(of_other)) == {"psnr", "ssim", *(f"{name}[segmenter:other]" for name in names)}
    assert set(values(both)) == {"miou", "accuracy", *values(of_other)}
    for name in names:  # these networks differ in their palettes, not in their features
        one, two = values(of_judge)[f"{name}[segmenter:judge]"], values(of_other)[f"{name}[segmenter:other]"]
        assert one == pytest.approx(two, abs=1e-6) == values(both)[f"{name}[segmenter:other]"]
    protocol = next(s for s in report_of(both)["scores"] if s["name"].startswith("kid"))["protocol"]
    assert protocol["features"] == "segmenter:other" and protocol["features weights"] == weights_digest(other)[:8]
    assert [i["role"] for i in both.manifest["inputs"]] == ["samples", "reference", "judge", "features"]


@pytest.mark.parametrize("text", ["clip", "segmenter:", "segmenter", "inception:x", ""])
def test_unknown_features_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown features"):
        evaluate.run(
            Evaluate(), samples=make_samples(tmp_path / "x"), reference=None, features=text, out=tmp_path / "r"
        )


def test_features_that_helped_to_train_are_refused_or_named(tmp_path: Path) -> None:
    teacher = make_judge(tmp_path / "teacher")
    given: dict[str, Any] = {
        "samples": make_samples(tmp_path / "x", trained_with={"segmenter": weights_digest(teacher)}),
        "reference": make_reference(tmp_path / "real"),
        "features": f"segmenter:{teacher}",
        "device": "cpu",
    }
    with pytest.raises(ConfigError, match="helped to train"):
        evaluate.run(Evaluate(), **given, out=tmp_path / "r")
    artifact = evaluate.run(Evaluate(allow_own_judge=True, metrics=("frechet",)), **given, out=tmp_path / "r")
    assert "helped to train" in report_of(artifact)["scores"][0]["warning"]


def test_weights_missing_or_images_few(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "samples": make_samples(tmp_path / "x"),
        "reference": make_reference(tmp_path / "real"),
        "weights": tmp_path / "mine",
        "out": tmp_path / "report",
        "device": "cpu",
    }
    with pytest.raises(ConfigError, match="2048 images or more, and there are 4"):
        evaluate.run(Evaluate(metrics=("fid",)), **given)
    for metrics in (("fid",), ("lpips",), ("style",)):
        with pytest.raises(EnvironmentFault, match=f"{metrics[0]} cannot be computed") as error:
            evaluate.run(Evaluate(metrics=metrics, allow_few=True), **given)
        assert str(tmp_path / "mine") in str(error.value)
    assert not (tmp_path / "report").exists()


def test_published_networks_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a few images can be asked for; Inception and VGG-16, which take seconds, are stood in for by colors."""

    def colors(names: Sequence[str]) -> Callable[..., Any]:
        def features(images: np.ndarray) -> dict[str, np.ndarray]:
            found = np.concatenate([images.mean((1, 2)), images.std((1, 2))], axis=1).astype(np.float32) / 64
            return dict.fromkeys(names, found)

        return lambda weights, device: features

    folder = tmp_path / "weights"
    monkeypatch.setattr(published, "SQUEEZENET", plant(folder, "squeezenet1_1", squeezenet_state()).name)
    for name, stem in (("INCEPTION", "weights-inception"), ("VGG16", "vgg16")):
        monkeypatch.setattr(published, name, plant(folder, stem, {"x": torch.zeros(1)}).name)
    monkeypatch.setattr(fidelity, "inception", colors(("pool", "logits")))
    monkeypatch.setattr(fidelity, "vgg16", colors(("fc2",)))
    given: dict[str, Any] = {
        "samples": make_samples(tmp_path / "x", noisy, count=20),
        "reference": make_reference(tmp_path / "real", 20),
        "weights": folder,
        "device": "cpu",
    }
    wanted: tuple[Metric, ...] = ("fid", "kid", "is", "precision", "recall", "lpips")
    config = Evaluate(metrics=wanted, allow_few=True, lpips="squeeze")
    planned = evaluate.plan(config, **{k: v for k, v in given.items() if k != "device"}, out=tmp_path / "a")
    assert planned["metrics"] == [*wanted[:5], "lpips[squeeze]"] and len(planned["weights"]) == 3
    first = evaluate.run(config, **given, out=tmp_path / "a")
    scores = {s["name"]: s for s in report_of(first)["scores"]}
    assert set(scores) == {*(f"{name}@20" for name in wanted[:5]), "lpips[squeeze]"}
    for name, score in scores.items():
        assert score["interval"][0] <= score["value"] <= score["interval"][1]
        assert re.search(r"-(\w{8})\.pth \(sha256 \1\)", score["protocol"]["weights"])
        assert ("not to be set beside published numbers" in (score["warning"] or "")) == name.endswith("@20")
    second = evaluate.run(config.model_copy(update={"batch": 3}), **given, out=tmp_path / "b")
    assert values(first) == pytest.approx(values(second), rel=1e-5)
    (folder / published.SQUEEZENET).write_bytes(b"another file")
    with pytest.raises(ArtifactError, match="sha256"):
        evaluate.run(config, **given, out=tmp_path / "c")
    rest = evaluate.run(Evaluate(lpips="squeeze"), **given, out=tmp_path / "d")
    assert "sha256" in {n["name"]: n["reason"] for n in report_of(rest)["not_computed"]}["lpips[squeeze]"]


def test_a_changed_image_is_refused(tmp_path: Path) -> None:
    samples = make_samples(tmp_path / "x")
    write_png(samples / "images" / "s01.png", np.zeros((*SIZE, 3), dtype=np.uint8))
    with pytest.raises(ArtifactError, match=r"s01\.png"):
        evaluate.run(Evaluate(), samples=samples, reference=make_reference(tmp_path / "real"), out=tmp_path / "report")


def test_a_path_that_climbs_out_is_refused(tmp_path: Path) -> None:
    line = {"name": "s", "source": "s", "variant": 0, "image": "../out.png", "layout": "layouts/s00.png"}
    samples = make_samples(tmp_path / "x", listed=lambda lines: [line])
    write_png(tmp_path / "out.png", np.zeros((*SIZE, 3), dtype=np.uint8))
    with pytest.raises(DataError, match="outside"):
        evaluate.run(Evaluate(), samples=samples, reference=tmp_path, out=tmp_path / "report", device="cpu")


def test_the_page_stands_alone_and_shows_what_it_should(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "g"
    config = config_of("segmenter")()
    writer = RunWriter(run, "resail", config, [Input("data", "../town", "d" * 64)], {})
    writer.begin()
    writer.checkpoint(40, {"S": ColorJudge()}, {}, {}, 2, "finished", {})
    lines = [{"step": s, "time": 1.0, "G/hinge": 1 / s, "D/<b>": s / 9, "images_per_second": 8.0} for s in range(1, 60)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 60, "ti')
    made_by = Input("run", "../runs/g", weights_digest(run), 40)
    artifact = evaluate.run(
        Evaluate(rows=2),
        samples=make_samples(tmp_path / "samples" / "x", noisy, run=made_by),
        reference=make_reference(tmp_path / "real"),
        judge=make_judge(tmp_path / "judge"),
        out=tmp_path / "report",
        device="cpu",
    )
    page = (artifact.path / "report.html").read_text()
    links = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]*)""", page)
    assert links and all(link.startswith(("data:image/png;base64,", "#")) for link in links)
    assert not re.findall(r"url\((?!#)", page) and "@import" not in page and "<script" not in page
    images = re.findall(r'<img src="data:image/png;base64,[^"]+" alt="(\w+) of s\d+"', page)
    assert images == ["layout", "guidance", "output", "reference"] * 2
    assert "2 of 4, drawn at random (seed 0)" in page
    svg = page[page.index("<svg") : page.index("</svg>")]
    assert "G/hinge" in svg and "D/&lt;b&gt;" in svg and "currentColor" in svg
    assert "Loss terms over 40 steps" in page and "8 images per second" in page
    assert "dddddddddddddddd" in page and made_by.digest[:16] in page
    for word in ("resail: 4 images of 32x24", "PSNR", "mIoU", "Frechet", "sky", "wall", "door", "Training"):
        assert word in page


@pytest.mark.parametrize(
    ("path", "digest", "words"),
    [
        ("../runs/nowhere", "0" * 64, "is not found at ../runs/nowhere"),
        ("../judge", "0" * 64, "does not hold the weights"),
    ],
)
def test_a_run_that_is_gone_is_said_so(tmp_path: Path, path: str, digest: str, words: str) -> None:
    make_judge(tmp_path / "judge")
    artifact = evaluate.run(
        Evaluate(),
        samples=make_samples(tmp_path / "samples" / "x", run=Input("run", path, digest, 3)),
        reference=make_reference(tmp_path / "real"),
        out=tmp_path / "report",
        device="cpu",
    )
    page = (artifact.path / "report.html").read_text()
    assert words in page and "<svg" not in page


def test_names_cannot_inject_markup(tmp_path: Path) -> None:
    classes = tuple(Category(c.id, f"<i>{c.name}</i>", c.color, c.thing) for c in SCHEMA.classes)
    artifact = evaluate.run(
        Evaluate(),
        samples=make_samples(tmp_path / "x", schema=Schema(classes, SCHEMA.ignored)),
        reference=make_reference(tmp_path / "real"),
        out=tmp_path / "report",
        device="cpu",
    )
    page = (artifact.path / "report.html").read_text()
    assert "&lt;i&gt;sky" in page and "<i>" not in page


def test_the_report_is_an_artifact_with_its_inputs(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "samples": make_samples(tmp_path / "x"),
        "reference": make_reference(tmp_path / "real"),
        "judge": make_judge(tmp_path / "judge"),
    }
    planned = evaluate.plan(Evaluate(), **given, out=tmp_path / "a")
    first = evaluate.run(Evaluate(), **given, out=tmp_path / "a", device="cpu")
    second = evaluate.run(Evaluate(), **given, out=tmp_path / "b", device="cpu")
    assert [i["role"] for i in planned["inputs"]] == ["samples", "reference", "judge"]
    assert planned["inputs"] == first.manifest["inputs"]
    assert planned["metrics"] == list(values(first))
    assert {n["name"] for n in planned["not_computed"]} == NEED_WEIGHTS | NEED_SOURCES
    assert first.digest == second.digest
    assert first.statistics["scores"] == values(first)


def subject_values(tmp_path: Path, samples: Path, subject: str) -> dict[str, float]:
    asked: tuple[Any, ...] = ("psnr", "miou", "accuracy")
    artifact = evaluate.run(
        Evaluate(subject=subject, metrics=asked),  # type: ignore[arg-type]
        samples=samples,
        reference=make_reference(tmp_path / "real") if not (tmp_path / "real").exists() else tmp_path / "real",
        judge=make_judge(tmp_path / "judge") if not (tmp_path / "judge").exists() else tmp_path / "judge",
        out=tmp_path / subject,
        device="cpu",
    )
    return values(artifact)


def test_the_bounds_of_an_output(tmp_path: Path) -> None:
    samples = make_samples(tmp_path / "x")
    assert subject_values(tmp_path, samples, "output")["psnr"] == 100
    # the guidance of these samples is the output at half its brightness
    dark = [paint_labels(labels, SCHEMA).astype(float) for labels in layouts(4).values()]
    expected = np.mean([10 * np.log10(255**2 / np.mean((image - image // 2) ** 2)) for image in dark])
    assert subject_values(tmp_path, samples, "guidance")["psnr"] == pytest.approx(expected, abs=1e-3)
    # perfect images of other layouts agree with a layout as often as the layouts agree with each other
    shuffled = subject_values(tmp_path, samples, "shuffled")
    maps = list(layouts(4).values())
    agreements = [np.mean((a == b)[a >= 0]) for i, a in enumerate(maps) for j, b in enumerate(maps) if i != j]
    assert min(agreements) <= shuffled["accuracy"] <= max(agreements) < 1
    assert shuffled["miou"] < 0.5


def test_shuffled_no_layout_keeps_its_own_image(tmp_path: Path) -> None:
    samples = read_samples(open_artifact(make_samples(tmp_path / "x", count=5, variants=2), "samples"))
    for seed in range(20):
        other = take_subject(samples, "shuffled", seed, tmp_path)
        assert all(a.source != b.source and a.image == b.image for a, b in zip(samples, other, strict=True))
        assert all(b.layout.stem.startswith(b.source) for b in other)
        assert sorted(b.source for b in other) == sorted(a.source for a in samples)
    with pytest.raises(ConfigError, match="one layout"):
        take_subject(samples[:2], "shuffled", 0, tmp_path)
    with pytest.raises(ArtifactError, match="no guidance"):
        take_subject([replace(samples[0], guidance=None)], "guidance", 0, tmp_path)
