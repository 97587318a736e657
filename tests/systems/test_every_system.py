"""What every system in the table can do, no exceptions: train, be interrupted, make images, be measured."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

from pipelines.artifact import Artifact
from pipelines.config import Layer, resolve
from pipelines.data.open import open_dataset
from pipelines.stages import evaluate, synthesize, train
from pipelines.systems.base import Needs
from pipelines.systems.table import SYSTEMS, find_system, preset_layer
from pipelines.systems.trained import load_networks
from pipelines.train.checkpoint import AVERAGE, checkpoint_path, read_state, read_weights
from pipelines.train.run import open_weights
from tests.systems.double import NARROW

Train = Callable[..., Artifact]


@pytest.fixture(scope="module")
def train_system(
    town: Path,
    pairs: Path,
    bank: Path,
    index: Path,
    patches: Path,
    patch_index: Path,
    segmenter: Path,
    embedder: Path,
    cooccurrence: Path,
) -> Train:
    """Train a system on the toy town by its toy preset, made narrow, with whatever its plan says that it needs."""
    banks, indexes = {"segments": bank, "patches": patches}, {"shape": index, "embedding": patch_index}
    runs = {
        "segmenter": str(segmenter),
        "embedder-crossview": str(embedder),
        "embedder-cooccurrence": str(cooccurrence),
    }

    def run(
        name: str,
        out: Path,
        steps: int,
        model: Mapping[str, Any] | None = None,
        stop_after: int | None = None,
        seed: int = 0,
    ) -> Artifact:
        kind = find_system(name)
        values = {key: value for key, value in NARROW.items() if key in kind.Config.model_fields}
        tiny = {
            "model": {**values, **(model or {})},
            "train": {"steps": steps, "batch": 2, "seed": seed},
            "perceptual": "random",
            "log": {"every": 1, "workers": 0},
        }
        config = resolve(train.config_of(name), [preset_layer(name, "toy"), Layer("tiny", tiny)])
        needs = kind.plan(config.model, open_dataset(town).schema, steps).train
        given = train.Given(
            pairs if needs.views else town,
            bank=banks[needs.bank] if needs.bank else None,
            index=indexes[needs.index] if needs.index else None,
            frozen={role: runs[trainable] for role, trainable in needs.frozen.items()},
        )
        done: list[int] = []

        def stop() -> bool:
            done.append(1)
            return len(done) == stop_after

        return train.run(name, config, given, out, device="cpu", stop=stop)

    return run


@pytest.fixture
def two_layouts(town: Path) -> list[Path]:
    return sorted((town / "val" / "label").iterdir())[:2]


def images_of(samples: Artifact) -> list[Path]:
    return sorted((samples.path / "images").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_trains_makes_images_and_is_measured(
    name: str, train_system: Train, two_layouts: list[Path], town: Path, pairs: Path, judge: Path, tmp_path: Path
) -> None:
    run = train_system(name, tmp_path / "run", steps=2)
    assert (run.manifest["status"], run.manifest["step"]) == ("finished", 2)
    turns, graphs = bool(needs_of(run).views), needs_of(run).graph
    inputs = sorted((pairs / "aerial").iterdir())[:2] if turns else two_layouts
    requested = synthesize.Requested(str(run.path), inputs)
    if graphs:
        inputs = sorted((town / "val" / "img").iterdir())
        requested = synthesize.Requested(str(run.path), data=town)
    config = synthesize.Synthesize(split="val" if graphs else None)
    samples, _ = synthesize.run(config, requested, tmp_path / "samples", device="cpu")
    assert [path.stem for path in images_of(samples)] == [path.stem for path in inputs]
    assert all(cv2.imread(str(path)).shape == (32, 128, 3) if turns else (64, 64, 3) for path in images_of(samples))
    reference = town / "val" / "img"
    if turns:
        reference = tmp_path / "reference"
        reference.mkdir()
        for path in inputs:
            shutil.copyfile(pairs / "street" / f"toy_pano_{path.stem}.png", reference / path.name)
    report = evaluate.run(
        evaluate.Evaluate(),
        samples=samples.path,
        reference=reference,
        judge=None if turns or graphs else judge,
        out=tmp_path / "report",
        device="cpu",
    )
    scores = report.statistics["scores"]
    if graphs:
        assert 0 <= scores["box_iou"] <= 1
    else:
        assert {"psnr", "ssim"} <= scores.keys()
        assert 0 < scores["psnr"] < 50
        assert turns or 0 <= scores["accuracy"] <= 1
    assert (report.path / "report.html").stat().st_size > 1000


def needs_of(run: Artifact) -> Needs:
    """What the synthesis of a run needs."""
    loaded = load_networks(run.path)
    return find_system(loaded.name).plan(loaded.config, loaded.schema, 1).synthesize


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_interrupted_equals_uninterrupted(name: str, train_system: Train, tmp_path: Path) -> None:
    whole = train_system(name, tmp_path / "whole", steps=4)
    stopped = train_system(name, tmp_path / "parts", steps=4, stop_after=2)
    assert (stopped.manifest["status"], stopped.manifest["step"]) == ("stopped", 2)
    parts = train_system(name, tmp_path / "parts", steps=4)
    assert (parts.manifest["status"], parts.manifest["step"]) == ("finished", 4)

    first, second = (read_weights(open_weights(run.path).file) for run in (whole, parts))
    assert first.keys() == second.keys() and {"G", "G" + AVERAGE} <= first.keys()
    assert any(net.startswith("D") for net in first)
    for net, tensors in first.items():
        for key, value in tensors.items():
            assert torch.equal(value, second[net][key]), f"{net}/{key}"
    moments = [_flat(read_state(checkpoint_path(run.path, 4))) for run in (whole, parts)]
    assert moments[0].keys() == moments[1].keys()
    for key, value in moments[0].items():
        other = moments[1][key]
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other, key
    assert _losses(whole) == _losses(parts)


def test_another_seed_is_another_training(train_system: Train, tmp_path: Path) -> None:
    """So what the test above compares does depend on the draws."""
    runs = [train_system("oasis", tmp_path / str(seed), steps=1, seed=seed) for seed in (0, 1)]
    assert _losses(runs[0]) != _losses(runs[1])


VARIANTS: list[dict[str, Any]] = [
    *({"variant": variant} for variant in ("spade_guided", "pix2pixhd_plus", "sean_plus", "spade")),
    {"retrieval": "random"},
    {"retrieval": "none"},
    {"distorted": False},
    {"distorted": False, "retrieval": "random"},
    {"fakes": "fresh", "scales": 2, "norm": "group", "average": 0.0},
]


@pytest.mark.slow
@pytest.mark.parametrize("changed", VARIANTS, ids=lambda c: ",".join(f"{k}={v}" for k, v in c.items()))
def test_every_variant_of_resail_trains_and_makes_images(
    changed: dict[str, Any], train_system: Train, two_layouts: list[Path], tmp_path: Path
) -> None:
    run = train_system("resail", tmp_path / "run", 2, {**changed, "weights": {"perceptual": 0, "segmentation": 0}})
    for branch in ("distorted", "retrieved"):
        trained = any(branch in name for line in _losses(run) for name in line)
        assert trained == (branch == "retrieved" or changed.get("distorted", True))
    requested = synthesize.Requested(str(run.path), two_layouts)
    samples, _ = synthesize.run(synthesize.Synthesize(), requested, tmp_path / "samples", device="cpu")
    assert len(images_of(samples)) == 2


def _losses(run: Artifact) -> list[dict[str, float]]:
    """The lines of metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("time", "images_per_second", "memory_gb")} for line in lines]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested mappings and lists by path."""
    if not isinstance(value, dict | list | tuple):
        return {prefix: value}
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    return {k: v for key, inner in pairs for k, v in _flat(inner, f"{prefix}/{key}").items()}
