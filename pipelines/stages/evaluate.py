"""rgs eval: scores of samples against references and under a judge, as report.json and a page that stands alone.

The reference of a sample is the real image of the same layout; the judge is a segmenter that took no part in training
what it judges. What cannot be computed is listed with its reason; what was asked for by name and cannot is an error.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    verify_files,
    writing,
)
from pipelines.config import Config
from pipelines.data.scene import Schema
from pipelines.errors import ConfigError, DataError
from pipelines.metrics import divergence, perceptual, segmentation
from pipelines.metrics.choice import OF_JUDGE, OF_PAIRS, OF_SCENES, Choice, Given, Job, Metric, Space, choose
from pipelines.metrics.distances import LAYERS, distance_score
from pipelines.metrics.divergence import divergence_score
from pipelines.metrics.extract import segment
from pipelines.metrics.history import History, trace
from pipelines.metrics.instruments import JUDGE, TRAINED, build
from pipelines.metrics.measure import Measured, measure, owners
from pipelines.metrics.report import render
from pipelines.metrics.samples import Reference, Sample, SubjectName, find_reference, read_samples, take_subject
from pipelines.metrics.scores import (
    Context,
    NotComputed,
    Score,
    agreement_score,
    pairwise,
    pairwise_score,
    resizing_text,
    sizes_text,
)
from pipelines.metrics.sharpness import Variant
from pipelines.progress import Progress, silent
from pipelines.runtime import pick_device
from pipelines.segment.networks import SegmenterNet
from pipelines.stages.evaluate_bank import Subject
from pipelines.stages.evaluate_crossview import Witness, lacking_witness, look_at_views, open_witness, open_witnesses
from pipelines.stages.evaluate_graph_judges import Recognizer, open_recognizer
from pipelines.stages.evaluate_graphs import Graphs, Vectors, lacking_graphs, look_at_graphs, of_graphs, open_graphs
from pipelines.stages.evaluate_judge import Segmenter, open_segmenter
from pipelines.stages.evaluate_pieces import Seen, lacking, look_at_pieces, open_seen
from pipelines.stages.evaluate_sheet import Column, choose_examples, standouts
from pipelines.stages.evaluate_training import JudgeView

OF_SUBJECT = {"output": "images", "guidance": "guidance images", "shuffled": "images under other sources"}


class Evaluate(Config):
    """What decides a report, beside the samples, the reference and the judge."""

    metrics: tuple[Metric, ...] | None = Field(None, min_length=1)
    """The scores to compute; all that can be when not given. One asked for by name that cannot be is an error."""
    subject: SubjectName = "output"
    """Measure the outputs, the guidance images in their place, or the outputs against the layouts of others."""
    split: str | None = None
    """With a reference dataset: which split; all of it when not given."""
    training_split: str | None = None
    """With training images to compare with: which split of their dataset."""
    allow_own_judge: bool = False
    """Accept a judge that helped to train what it judges; the report then says so."""
    allow_few: bool = False
    """Compute fid, kid, is, precision and recall of fewer images than they take; the count is then in their names."""
    lpips: perceptual.Net = "alex"
    """Trunk of LPIPS: alex, vgg (the score is lpips[vgg]) or squeeze."""
    batch: int = Field(8, ge=1)
    """Images that pass the judge together; the scores do not depend on it."""
    sd: Variant = "signed"
    """Form of the sharpness difference: signed, or abs (the score is sd[abs])."""
    columns: tuple[Column, ...] = ("layout", "graph", "source", "guidance", "output", "reference")
    """Columns of the page's contact sheet; those that the samples lack are left out."""
    rows: int = Field(12, ge=1, le=100)
    """Rows of the contact sheet."""
    seed: int = Field(0, ge=0)
    """Which samples the contact sheet shows is drawn with it, and what the intervals resample."""


@dataclass(frozen=True)
class Opened:
    """What was given, opened and checked. features: the judge (of graphs the classifier where there is none), unless
    another was named; space: as it was named.

    witnesses: embedders that are asked about samples of photos. graphs: what samples of scene graphs are asked.
    """

    artifact: Artifact
    schema: Schema
    samples: list[Sample]
    reference: Reference | None
    judge: Segmenter | None
    features: Segmenter | Witness | Recognizer | None
    space: Space | None
    seen: Seen
    witnesses: list[Witness]
    graphs: Graphs | None
    inputs: list[Input]

    @property
    def layouts(self) -> int:
        return len({sample.source for sample in self.samples})


def run(
    config: Evaluate,
    *,
    samples: Path,
    reference: Path | None,
    reference_format: str | None = None,
    judge: Path | str | None = None,
    features: str | None = None,
    embedders: Sequence[str] = (),
    classifier: str | None = None,
    cooccurrence: str | None = None,
    bank: Path | None = None,
    training: Path | None = None,
    weights: Path | None = None,
    out: Path,
    device: str = "auto",
    progress: Progress = silent,
) -> Artifact:
    """Measure the samples and write the report.

    judge: a run, which may name a step, runs/s@12000. features: what distances are measured in, «inception»,
    «segmenter:RUN», «embedder:RUN» or «classifier:RUN»; the judge's where there is one when not given. embedders: runs
    that are asked whether the outputs show their places. classifier, cooccurrence: runs that are asked about objects
    and patches of scene graphs. bank, training: what retrieval is measured on and copies are looked for in. weights: a
    directory of published weights beside torch's cache. Raises ConfigError when a metric asked for by name lacks its
    input or images, or a judge is no stranger to the samples; EnvironmentFault when it lacks its weights; ArtifactError
    when the judge has other classes; DataError when a sample has no reference.
    """
    trained = (judge, features, embedders, classifier, cooccurrence)
    opened = open_request(config, samples, reference, reference_format, *trained, bank, training, out)
    choice = choose_for(config, opened, weights)
    statistics: dict[str, Any] = {}
    with writing(out, "report", config, opened.inputs, statistics) as folder:
        on = pick_device(device)
        judge_net = None if opened.judge is None else opened.judge.network(on)
        other = None if opened.features in (None, opened.judge) else opened.features.extractor(on)
        instruments = build(choice, config.lpips, config.sd, judge_net, other, on)
        measured = measure(opened.samples, opened.reference, opened.schema, instruments, config.batch, progress)
        context = _context(opened, measured, config)
        scores, failed = score(opened, measured, choice, context, config)
        if failed and config.metrics is not None:
            raise DataError(f"{failed[0].name} cannot be computed: {failed[0].reason}", where=samples)
        subject = Subject(opened.artifact, opened.schema, opened.samples, opened.reference)
        pieces = look_at_pieces(opened.seen, subject, context, progress, _judge_view(opened, measured, judge_net, on))
        views = look_at_views(opened.witnesses, subject, context, config.lpips, weights, on, progress)
        pieces.add(views)
        outputs = config.subject == "output"
        of_whole = _vectors(opened, measured)
        pieces.add(
            look_at_graphs(opened.graphs, subject, outputs, of_whole, context, config.lpips, weights, on, progress)
        )
        scores, failed = scores + pieces.scores, failed + pieces.missing
        history = trace(opened.artifact)
        shown = (opened.samples, opened.reference, opened.schema)
        examples, columns, selection = choose_examples(*shown, config.columns, config.rows, config.seed)
        what = f"{len(opened.samples)} {OF_SUBJECT[config.subject]} of {sizes_text(measured.sizes)}"
        report = {
            "title": f"{history.system}: {what}",
            "summary": _summary(opened, history),
            "scores": [s.to_json() for s in scores],
            "not_computed": [n.to_json() for n in (*choice.missing, *failed)],
            "images": [s.name for s in opened.samples],
            "sources": [s.source for s in opened.samples],
            "reference": None if opened.reference is None else opened.reference.to_json(),
            "judge": _judge_json(opened),
            "classes": _classes_json(opened, measured),
            "selection": selection,
            **pieces.sections,
            "inputs": [*history.inputs, *({"of": "report", "step": None, **i.to_json()} for i in opened.inputs)],
            "commands": [*history.commands, {"what": "Evaluation", "text": shlex.join(command_line())}],
            "environment": {"samples": opened.artifact.manifest["environment"], "report": environment()},
        }
        page = render(
            report, examples, columns, history.curves, standouts=standouts(*shown, scores), figures=pieces.figures
        )
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
    features: str | None = None,
    embedders: Sequence[str] = (),
    classifier: str | None = None,
    cooccurrence: str | None = None,
    bank: Path | None = None,
    training: Path | None = None,
    weights: Path | None = None,
    out: Path,
) -> dict[str, Any]:
    """What `run` would do: the config, the inputs with their digests, the metrics and those it cannot compute."""
    require_free(out)
    trained = (judge, features, embedders, classifier, cooccurrence)
    opened = open_request(config, samples, reference, reference_format, *trained, bank, training, out)
    choice = choose_for(config, opened, weights)
    return {
        "config": config.model_dump(mode="json"),
        "inputs": [i.to_json() for i in opened.inputs],
        "images": len(opened.samples),
        "metrics": [job.name for job in choice.jobs],
        "weights": [str(path) for path in choice.files.values()],
        "not_computed": [m.to_json() for m in choice.missing],
        "out": str(out),
    }


def open_request(
    config: Evaluate,
    samples: Path,
    reference: Path | None,
    format: str | None,
    judge: Path | str | None,
    features: str | None,
    embedders: Sequence[str],
    classifier: str | None,
    cooccurrence: str | None,
    bank: Path | None,
    training: Path | None,
    out: Path,
) -> Opened:
    """Open samples, reference, judge and the run of the features, and check that they belong together."""
    home = out.parent
    artifact = open_artifact(samples, "samples")
    verify_files(artifact)  # a damaged image may be decoded all the same
    schema = Schema.from_json(artifact.statistics["schema"])
    listed = take_subject(read_samples(artifact), config.subject, config.seed, samples)
    if config.subject != "output" and (bank or training):
        raise ConfigError("pieces and copies are looked for in outputs", fix="leave out --bank and --training")
    inputs = [artifact.as_input("samples", home)]
    found = None
    if reference is not None:
        found = find_reference(reference, listed, format, config.split, artifact.statistics.get("target_view"))
        inputs.append(found.as_input(home))
    if judge is not None and _of_photos(artifact):
        raise ConfigError(
            "a judge compares with layouts, and these samples were made from photos",
            where="--judge",
            fix="measure in its features: --features segmenter:RUN",
        )
    if bank is not None and _of_photos(artifact):
        raise ConfigError("samples made from photos have no pieces of a bank", fix="leave out --bank")
    role = "features" if of_graphs(artifact) else "judge"  # of a picture without a label map it can say nothing more
    segmenter = None if judge is None else open_segmenter(str(judge), role, artifact, schema, config.allow_own_judge)
    graphs = open_graphs(classifier, cooccurrence, bank, artifact, listed, schema, config.allow_own_judge, home)
    chosen: Segmenter | Witness | Recognizer | None = segmenter or (graphs.recognizer if graphs else None)
    space: Space | None = None
    if features is not None:
        chosen, space = open_features(features, artifact, schema, config)
    witnesses = open_witnesses(embedders, artifact)
    for name, network in (("judge", segmenter), ("features", None if features is None else chosen)):
        if network is not None:
            inputs.append(network.weights.as_input(name, home))
    inputs += [witness.weights.as_input(f"embedder {n}", home) for n, witness in enumerate(witnesses)]
    of_pieces = None if graphs else bank
    seen = open_seen(of_pieces, training, format, config.training_split, artifact, schema, home)
    inputs += [*seen.inputs, *(graphs.inputs if graphs else ())]
    return Opened(artifact, schema, listed, found, segmenter, chosen, space, seen, witnesses, graphs, inputs)


def open_features(
    text: str, samples: Artifact, schema: Schema, config: Evaluate
) -> tuple[Segmenter | Witness | Recognizer | None, Space]:
    """What distances are measured in, by what --features says; no network for the published ones."""
    kind, _, run = text.partition(":")
    if text == "inception":
        return None, "inception"
    if kind == "segmenter" and run:
        return open_segmenter(run, "features", samples, schema, config.allow_own_judge), "segmenter"
    if kind == "embedder" and run:
        return open_witness(run, samples), "embedder"
    if kind == "classifier" and run:
        return open_recognizer(run, samples, schema, config.allow_own_judge), "classifier"
    fix = "give inception, segmenter:RUN, embedder:RUN or classifier:RUN"
    raise ConfigError(f"unknown features {text!r}", where="--features", fix=fix)


def _of_photos(samples: Artifact) -> bool:
    """Were they made from one view of a place, not from layouts?"""
    return "source_view" in samples.statistics


def choose_for(config: Evaluate, opened: Opened, weights: Path | None) -> Choice:
    """The scores to compute; ConfigError when there are none."""
    choice = choose(
        config.metrics,
        Given(
            images=len(opened.samples),
            references=0 if opened.reference is None else opened.layouts,
            judge=opened.judge is not None,
            features=None if opened.features is None else opened.features.name,
            space=opened.space,
            net=config.lpips,
            weights=weights,
            allow_few=config.allow_few,
            sd=config.sd,
            view=opened.artifact.statistics.get("target_view"),
            graphs=opened.graphs is not None,
        ),
    )
    if not choice.jobs and not opened.seen.inputs and not opened.witnesses and not opened.graphs:
        raise ConfigError("there is nothing to measure with", fix="give --reference, --judge, or both")
    if config.metrics is None:
        choice.missing += lacking(opened.seen, opened.artifact)
        choice.missing += lacking_witness(opened.artifact, opened.witnesses)
        choice.missing += lacking_graphs(opened.graphs)
    return choice


def _context(opened: Opened, seen: Measured, config: Evaluate) -> Context:
    """What the scores share."""
    common: dict[str, Any] = {"images": len(opened.samples), "size": sizes_text(seen.sizes)}
    if config.subject != "output":
        common["of"] = OF_SUBJECT[config.subject]
    if opened.reference is not None:
        common["real images"] = opened.layouts
        common["reference"] = resizing_text(seen.real_sizes, seen.sizes)
    common |= {"codec": "PNG", "synthesis seed": opened.artifact.config.get("seed")}
    return Context(common, *owners(opened.samples), config.seed)


def score(
    opened: Opened, seen: Measured, choice: Choice, context: Context, config: Evaluate
) -> tuple[list[Score], list[NotComputed]]:
    """The scores with their protocols and intervals, and those that these images do not allow."""
    results = [_score(job, opened, seen, choice, context, config) for job in choice.jobs]
    return [r for r in results if isinstance(r, Score)], [r for r in results if isinstance(r, NotComputed)]


def _judge_view(opened: Opened, seen: Measured, net: SegmenterNet | None, device: torch.device) -> JudgeView | None:
    """The judge's features for the copy check; None without a judge or with images of several sizes."""
    if opened.judge is None or net is None or len(seen.sizes) > 1:
        return None
    outputs = np.stack(seen.features[JUDGE])
    reals = np.stack(seen.real_features[JUDGE]) if opened.reference is not None else None
    label = f"{opened.judge.name.label}, weights {opened.judge.name.weights}"
    return JudgeView(label, outputs, reals, next(iter(seen.sizes)), lambda images: segment(net, images, device)[1])


def _vectors(opened: Opened, seen: Measured) -> Vectors | None:
    """Features of whole images of what distances are measured in, in the order of samples and of references."""
    if opened.features is None:
        return None
    layer = JUDGE if opened.features is opened.judge else TRAINED
    reals = np.stack(seen.real_features[layer]) if opened.reference is not None else None
    return Vectors(opened.features.name, np.stack(seen.features[layer]), reals)


def _score(
    job: Job, opened: Opened, seen: Measured, choice: Choice, context: Context, config: Evaluate
) -> Score | NotComputed:
    if job.metric in OF_PAIRS:
        kind = pairwise(job.metric, config.lpips, config.sd)
        return pairwise_score(job.name, kind, seen.values[job.metric], context)
    if job.metric in OF_SCENES:
        p, q = seen.features[divergence.LAYER], seen.real_features[divergence.LAYER]
        return divergence_score(job.metric, p, q, choice.files[str(job.weights)], context)
    if job.metric in OF_JUDGE:
        assert opened.judge is not None
        return agreement_score(job.metric, seen.counts, seen.real_counts, opened.judge.name, context)
    if job.space == "inception":
        layer, name = LAYERS[job.metric], None
    else:
        assert opened.features is not None
        layer, name = JUDGE if opened.features is opened.judge else TRAINED, opened.features.name
    return distance_score(job.metric, name, seen.features[layer], seen.real_features[layer], context)


def _summary(opened: Opened, history: History) -> str:
    """One sentence: made from what, by what, compared with what."""
    view = opened.artifact.statistics.get("source_view")
    what = f"{view} photos" if view else "scene graphs" if opened.graphs else "layouts"
    text = f"Made from {opened.layouts} {what} by {history.made_by}"
    if opened.reference is not None:
        reference = opened.reference
        text += (
            f"; compared with {len(reference.images)} real images of {reference.root.resolve().name} ({reference.kind})"
        )
    return f"{text}. Measured by rgs {tool_version()}."


def _judge_json(opened: Opened) -> dict[str, Any] | None:
    if opened.judge is None:
        return None
    weights = opened.judge.run.weights
    model = weights.manifest["config"]["model"]
    return {
        "name": weights.run.name,
        "architecture": model["arch"],
        "size": "x".join(map(str, model["size"][::-1])),
        "weights": weights.sha256,
        "step": weights.step,
        "own": opened.judge.own,
    }


def _classes_json(opened: Opened, seen: Measured) -> list[dict[str, Any]]:
    """Each class with its color and, under a judge, its share of labelled pixels and its IoU."""
    listed: list[dict[str, Any]] = [{"name": c.name, "color": list(c.color)} for c in opened.schema.classes]
    if opened.judge is None or not seen.counts:
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
