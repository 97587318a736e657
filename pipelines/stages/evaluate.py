"""rgs eval: scores of samples against references and under a judge, as report.json and a page that stands alone.

The reference of a sample is the real image of the same layout; the judge is a segmenter that took no part in training
what it judges. What cannot be computed is listed with its reason; what was asked for by name and cannot is an error.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from pipelines.artifact import (
    Artifact,
    Input,
    command_line,
    environment,
    open_artifact,
    require_free,
    tool_version,
    writing,
)
from pipelines.config import Config
from pipelines.data.augment import Size, resize_image
from pipelines.data.palette import paint_labels
from pipelines.data.pixels import read_image
from pipelines.data.scene import Schema
from pipelines.errors import ArtifactError, ConfigError, DataError
from pipelines.metrics import quality, segmentation
from pipelines.metrics.extract import segment
from pipelines.metrics.history import History, trace
from pipelines.metrics.report import Example, render
from pipelines.metrics.samples import Reference, Sample, find_reference, read_labels, read_samples
from pipelines.metrics.scores import (
    JudgeName,
    NotComputed,
    Score,
    agreement_score,
    frechet_score,
    psnr_score,
    resizing_text,
    sizes_text,
    ssim_score,
)
from pipelines.progress import Progress, silent
from pipelines.runtime import pick_device
from pipelines.segment.networks import SegmenterNet
from pipelines.stages.train import require_same_classes
from pipelines.systems.trained import LoadedRun, load_networks
from pipelines.train.run import identity, parse_reference

Metric = Literal["psnr", "ssim", "miou", "accuracy", "frechet"]
METRICS: tuple[Metric, ...] = ("psnr", "ssim", "miou", "accuracy", "frechet")
OF_REFERENCE = {"psnr", "ssim", "frechet"}
OF_JUDGE = {"miou", "accuracy", "frechet"}

Column = Literal["layout", "guidance", "output", "reference"]


class Evaluate(Config):
    """What decides a report, beside the samples, the reference and the judge."""

    metrics: tuple[Metric, ...] | None = Field(None, min_length=1)
    """The scores to compute; all that can be when not given. One asked for by name that cannot be is an error."""
    split: str | None = None
    """With a reference dataset: which split; all of it when not given."""
    allow_own_judge: bool = False
    """Accept a judge that helped to train what it judges; the report then says so."""
    batch: int = Field(8, ge=1)
    """Images that pass the judge together; the scores do not depend on it."""
    columns: tuple[Column, ...] = ("layout", "guidance", "output", "reference")
    """Columns of the page's contact sheet; those that the samples lack are left out."""
    rows: int = Field(12, ge=1, le=100)
    """Rows of the contact sheet."""
    seed: int = Field(0, ge=0)
    """Which samples the contact sheet shows is drawn with it."""


@dataclass(frozen=True)
class Opened:
    """What was given, opened and checked."""

    artifact: Artifact
    schema: Schema
    samples: list[Sample]
    reference: Reference | None
    judge: LoadedRun | None
    own_judge: bool
    inputs: list[Input]


@dataclass
class Measured:
    """What was seen of the images, in the order of the samples; `real_…` of the distinct references."""

    psnr: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    counts: list[np.ndarray] = field(default_factory=list)
    features: list[np.ndarray] = field(default_factory=list)
    real_counts: list[np.ndarray] = field(default_factory=list)
    real_features: list[np.ndarray] = field(default_factory=list)
    sizes: set[Size] = field(default_factory=set)
    real_sizes: set[Size] = field(default_factory=set)


def run(
    config: Evaluate,
    *,
    samples: Path,
    reference: Path | None,
    reference_format: str | None = None,
    judge: Path | str | None = None,
    out: Path,
    device: str = "auto",
    progress: Progress = silent,
) -> Artifact:
    """Measure the samples and write the report. `judge` may name a step, runs/s@12000.

    Raises ConfigError when a metric asked for by name lacks its input or the judge is no stranger to the samples,
    ArtifactError when the judge has other classes, DataError when a sample has no reference.
    """
    opened = open_request(config, samples, reference, reference_format, judge, out)
    wanted, missing = choose(config, opened)
    statistics: dict[str, Any] = {}
    with writing(out, "report", config, opened.inputs, statistics) as folder:
        measured = measure(opened, wanted, config.batch, pick_device(device), progress)
        scores, failed = score(opened, measured, wanted)
        if failed and config.metrics is not None:
            raise DataError(f"{failed[0].name} cannot be computed: {failed[0].reason}", where=samples)
        history = trace(opened.artifact)
        examples, columns, selection = _examples(config, opened)
        report = {
            "title": f"{history.system}: {len(opened.samples)} images of {sizes_text(measured.sizes)}",
            "summary": _summary(opened, history),
            "scores": [s.to_json() for s in scores],
            "not_computed": [n.to_json() for n in (*missing, *failed)],
            "images": [s.name for s in opened.samples],
            "reference": None if opened.reference is None else opened.reference.to_json(),
            "judge": _judge_json(opened),
            "classes": _classes_json(opened, measured),
            "selection": selection,
            "inputs": [*history.inputs, *({"of": "report", "step": None, **i.to_json()} for i in opened.inputs)],
            "commands": [*history.commands, {"what": "Evaluation", "text": shlex.join(command_line())}],
            "environment": {"samples": opened.artifact.manifest["environment"], "report": environment()},
        }
        page = render(report, examples, columns, history.curves)
        (folder / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        (folder / "report.html").write_text(page, encoding="utf-8")
        statistics.update({"count": len(opened.samples), "scores": {s.name: s.value for s in scores}})
    return open_artifact(out, "report")


def plan(
    config: Evaluate,
    *,
    samples: Path,
    reference: Path | None,
    reference_format: str | None = None,
    judge: Path | str | None = None,
    out: Path,
) -> dict[str, Any]:
    """What `run` would do: the config, the inputs with their digests, the metrics and those it cannot compute."""
    require_free(out)
    opened = open_request(config, samples, reference, reference_format, judge, out)
    wanted, missing = choose(config, opened)
    return {
        "config": config.model_dump(mode="json"),
        "inputs": [i.to_json() for i in opened.inputs],
        "images": len(opened.samples),
        "metrics": wanted,
        "not_computed": [m.to_json() for m in missing],
        "out": str(out),
    }


def open_request(
    config: Evaluate, samples: Path, reference: Path | None, format: str | None, judge: Path | str | None, out: Path
) -> Opened:
    """Open samples, reference and judge, and check that they belong together."""
    home = out.parent
    artifact = open_artifact(samples, "samples")
    schema = Schema.from_json(artifact.statistics["schema"])
    listed = read_samples(artifact)
    inputs = [artifact.as_input("samples", home)]
    found = None
    if reference is not None:
        found = find_reference(reference, listed, format, config.split)
        inputs.append(found.as_input(home))
    loaded, own = None, False
    if judge is not None:
        loaded, own = _open_judge(str(judge), artifact, schema, config.allow_own_judge)
        inputs.append(loaded.weights.as_input("judge", home))
    return Opened(artifact, schema, listed, found, loaded, own, inputs)


def _open_judge(text: str, samples: Artifact, schema: Schema, allow_own: bool) -> tuple[LoadedRun, bool]:
    """The judge and whether any of its weights helped to train the samples' system."""
    path, step = parse_reference(text)
    judge = load_networks(path, step, trainable="segmenter")
    manifest = judge.weights.manifest
    if step is None and manifest["status"] != "finished":
        raise ArtifactError(
            f"the judge is not finished (step {judge.weights.step})",
            where=path,
            fix=f"let it finish, or name the step: --judge {path}@{judge.weights.step}",
        )
    require_same_classes(schema, judge.schema, "the judge", path)
    used = set(samples.statistics.get("trained_with", {}).values())
    own = bool(used & {judge.digest, *(str(w["sha256"]) for w in manifest["weights"])})
    own |= identity(manifest) in samples.statistics.get("teachers", {}).values()  # whatever its step
    own |= any(i["role"] == "init" and i["digest"] in used for i in manifest["inputs"])  # or what grew out of it
    if own and not allow_own:
        raise ConfigError(
            "this judge helped to train what it would judge, so its scores mean little",
            where=path,
            fix="train another: rgs train segmenter --arch deeplabv3 …; or accept it with --allow-own-judge",
        )
    return judge, own


def choose(config: Evaluate, opened: Opened) -> tuple[list[Metric], list[NotComputed]]:
    """Metrics whose inputs are there, and the others with the reason; ConfigError if one asked for is among those."""
    wanted: list[Metric] = []
    missing: list[NotComputed] = []
    for name in config.metrics or METRICS:
        lacks = []
        if name in OF_REFERENCE and opened.reference is None:
            lacks.append("reference images (--reference)")
        if name in OF_JUDGE and opened.judge is None:
            lacks.append("a trained segmenter (--judge)")
        if lacks and config.metrics is not None:
            raise ConfigError(f"{name} needs {' and '.join(lacks)}", fix="give it, or leave the metric out")
        if lacks:
            missing.append(NotComputed(name, f"needs {' and '.join(lacks)}"))
        else:
            wanted.append(name)
    if not wanted:
        raise ConfigError("there is nothing to measure with", fix="give --reference, --judge, or both")
    return wanted, missing


def measure(opened: Opened, wanted: Sequence[Metric], batch: int, device: torch.device, progress: Progress) -> Measured:
    """Read every sample and its reference once, and let the judge see them."""
    seen = Measured()
    net = None
    if opened.judge is not None:
        found = opened.judge.nets["S"]
        assert isinstance(found, SegmenterNet)
        net = found.to(device).eval()
    firsts = {sample.source: sample for sample in reversed(opened.samples)}  # a reference is judged once
    done = 0
    for chunk in _same_size(opened.samples, batch):
        outputs = np.stack([image for _, image in chunk])
        size: Size = outputs.shape[1:3]
        seen.sizes.add(size)
        members = [sample for sample, _ in chunk]
        layouts = [read_labels(sample.layout, opened.schema, size) for sample in members]
        if net is not None:
            counts, features = _judged(net, outputs, layouts, opened.schema, device)
            seen.counts += counts
            seen.features += features
        if opened.reference is not None:
            references = []
            for sample in members:
                real = read_image(opened.reference.images[sample.source])
                seen.real_sizes.add((real.shape[0], real.shape[1]))
                references.append(resize_image(real, size))
            if "psnr" in wanted:
                seen.psnr += quality.psnr(outputs, np.stack(references)).tolist()
            if "ssim" in wanted and min(size) >= quality.SSIM_SIDE:
                seen.ssim += quality.ssim(outputs, np.stack(references)).tolist()
            new = [i for i, sample in enumerate(members) if firsts[sample.source] is sample]
            if net is not None and new:
                reals = np.stack([references[i] for i in new])
                counts, features = _judged(net, reals, [layouts[i] for i in new], opened.schema, device)
                seen.real_counts += counts
                seen.real_features += features
        done += len(chunk)
        progress("eval", done, len(opened.samples))
    return seen


def _same_size(samples: Sequence[Sample], batch: int) -> Iterator[list[tuple[Sample, np.ndarray]]]:
    """Consecutive samples of one size with their images, at most `batch` of them."""
    read = ((sample, read_image(sample.image)) for sample in samples)
    for _, group in groupby(read, key=lambda pair: pair[1].shape):
        chunk = []
        for pair in group:
            chunk.append(pair)
            if len(chunk) == batch:
                yield chunk
                chunk = []
        if chunk:
            yield chunk


def _judged(
    net: SegmenterNet, images: np.ndarray, layouts: Sequence[np.ndarray], schema: Schema, device: torch.device
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """For each image: class counts (classes, 3) of the judge's prediction against its layout, and features (d,)."""
    classes = len(schema.classes)
    predicted, features = segment(net, images, device)
    pairs = zip(layouts, predicted, strict=True)
    counts = [segmentation.class_counts(segmentation.confusion(wanted, p, classes)) for wanted, p in pairs]
    return counts, list(features)


def score(opened: Opened, seen: Measured, wanted: Sequence[Metric]) -> tuple[list[Score], list[NotComputed]]:
    """The scores with their protocols, and those that these images do not allow."""
    common: dict[str, Any] = {"images": len(opened.samples), "size": sizes_text(seen.sizes)}
    if opened.reference is not None:
        common["real images"] = len({sample.source for sample in opened.samples})
        common["reference"] = resizing_text(seen.real_sizes, seen.sizes)
    common |= {"codec": "PNG", "synthesis seed": opened.artifact.config.get("seed")}
    results: list[Score | NotComputed] = []
    for name in wanted:
        if name == "psnr":
            results.append(psnr_score(seen.psnr, common))
        elif name == "ssim":
            results.append(ssim_score(seen.ssim, len(opened.samples), common))
        else:
            assert opened.judge is not None
            judge = JudgeName(opened.judge.weights.run.name, opened.judge.digest[:8], opened.own_judge)
            if name == "frechet":
                results.append(frechet_score(seen.features, seen.real_features, judge, common))
            else:
                results.append(agreement_score(name, seen.counts, seen.real_counts, judge, common))
    scores = [r for r in results if isinstance(r, Score)]
    return scores, [r for r in results if isinstance(r, NotComputed)]


def _summary(opened: Opened, history: History) -> str:
    """One sentence: made from what, by what, compared with what."""
    text = f"Made from {len({s.source for s in opened.samples})} layouts by {history.made_by}"
    if opened.reference is not None:
        reference = opened.reference
        text += (
            f"; compared with {len(reference.images)} real images of {reference.root.resolve().name} ({reference.kind})"
        )
    return f"{text}. Measured by rgs {tool_version()}."


def _judge_json(opened: Opened) -> dict[str, Any] | None:
    if opened.judge is None:
        return None
    manifest = opened.judge.weights.manifest
    model = manifest["config"]["model"]
    return {
        "name": opened.judge.weights.run.name,
        "architecture": model["arch"],
        "size": "x".join(map(str, model["size"][::-1])),
        "weights": opened.judge.digest,
        "step": opened.judge.weights.step,
        "own": opened.own_judge,
    }


def _classes_json(opened: Opened, seen: Measured) -> list[dict[str, Any]]:
    """Each class with its color and, under a judge, its share of labelled pixels and its IoU."""
    listed: list[dict[str, Any]] = [{"name": c.name, "color": list(c.color)} for c in opened.schema.classes]
    if opened.judge is None:
        return listed
    counts = np.sum(seen.counts, axis=0)
    iou = segmentation.agreement(counts).iou
    real = np.full(len(iou), np.nan)
    if seen.real_counts:
        real = segmentation.agreement(np.sum(seen.real_counts, axis=0)).iou
    for i, entry in enumerate(listed):
        entry["share"] = float(counts[i, 1] / max(counts[:, 1].sum(), 1))
        entry["iou"], entry["iou_real"] = (None if math.isnan(v[i]) else float(v[i]) for v in (iou, real))
    return listed


def _examples(config: Evaluate, opened: Opened) -> tuple[list[Example], list[str], str]:
    """Rows and columns of the page's contact sheet, and a sentence on how the rows were chosen."""
    total = len(opened.samples)
    count = min(config.rows, total)
    rng = np.random.default_rng(config.seed)
    chosen = [opened.samples[i] for i in sorted(rng.choice(total, count, replace=False))]
    rows = [Example(sample.name, _row(sample, opened)) for sample in chosen]
    columns = [str(c) for c in config.columns if any(row.images[c] is not None for row in rows)]
    note = f"{count} of {total}, drawn at random (seed {config.seed}), not picked by eye." if count < total else ""
    return rows, columns, note or f"All {total}."


def _row(sample: Sample, opened: Opened) -> Mapping[str, np.ndarray | None]:
    output = read_image(sample.image)
    size = (output.shape[0], output.shape[1])
    reference = None
    if opened.reference is not None:
        reference = resize_image(read_image(opened.reference.images[sample.source]), size)
    return {
        "layout": paint_labels(read_labels(sample.layout, opened.schema, size), opened.schema),
        "guidance": read_image(sample.guidance) if sample.guidance else None,
        "output": output,
        "reference": reference,
    }
