"""Which scores can be computed from what was given, and why the others cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from pipelines import weights as published
from pipelines.errors import ConfigError, EnvironmentFault, RgsError
from pipelines.metrics import perceptual
from pipelines.metrics.distances import DEFINITIONS, FEWEST, UNDER_SEGMENTER, score_name, weights_file
from pipelines.metrics.scores import JudgeName, NotComputed

Metric = Literal[
    "psnr", "ssim", "lpips", "style", "miou", "accuracy", "frechet", "fid", "kid", "precision", "recall", "is"
]
METRICS: tuple[Metric, ...] = get_args(Metric)
OF_PAIRS = ("psnr", "ssim", "lpips", "style")
OF_JUDGE = ("miou", "accuracy")
OF_SETS = tuple(DEFINITIONS)

Space = Literal["segmenter", "inception"]
"""Features of a trained segmenter, or of the networks of the published numbers (Inception and VGG-16)."""


@dataclass(frozen=True)
class Job:
    """One score to compute. name: as the report calls it. space: of a distance. weights: the file that it needs."""

    metric: Metric
    name: str
    space: Space | None = None
    weights: str | None = None


@dataclass(frozen=True)
class Given:
    """What there is to measure with.

    images, references: how many; references are 0 without any. features: the run whose features distances are measured
    in, if any; space: as asked for. net: trunk of LPIPS. weights: a directory beside torch's cache.
    """

    images: int
    references: int
    judge: bool = False
    features: JudgeName | None = None
    space: Space | None = None
    net: perceptual.Net = "alex"
    weights: Path | None = None
    allow_few: bool = False


@dataclass
class Choice:
    """Scores to compute with the files of their weights by name, and those that cannot be."""

    jobs: list[Job] = field(default_factory=list)
    missing: list[NotComputed] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)


def choose(asked: Sequence[Metric] | None, given: Given) -> Choice:
    """The scores asked for, or all that can be computed.

    One that was asked for by name and cannot be is an error: ConfigError for what was not given or too few images,
    EnvironmentFault or ArtifactError for weights.
    """
    choice = Choice()
    for job in (job for metric in dict.fromkeys(asked or METRICS) for job in _jobs(metric, asked is not None, given)):
        try:
            _require(job, given, choice.files)
        except RgsError as error:
            if asked is not None:
                raise
            choice.missing.append(NotComputed(job.name, error.what))
        else:
            choice.jobs.append(job)
    return choice


def _jobs(metric: Metric, asked: bool, given: Given) -> list[Job]:
    """The one or two scores that a metric stands for: kid, precision and recall exist under either kind of features.

    Asked for by name, they are the segmenter's where there is one; not asked for, all that can be are computed.
    """
    if metric == "lpips":
        name = metric if given.net == "alex" else f"lpips[{given.net}]"
        return [Job(metric, name, weights=perceptual.lpips_file(given.net))]
    if metric == "style":
        return [Job(metric, metric, weights=perceptual.style_file())]
    if metric not in OF_SETS:
        return [Job(metric, metric)]
    spaces: list[Space] = ["segmenter"] if metric in UNDER_SEGMENTER else []
    spaces += ["inception"] if metric in FEWEST else []
    if asked and given.space is not None and given.space not in spaces:
        raise ConfigError(
            f"{metric} is not measured in {given.space} features",
            fix="ask for frechet"
            if metric == "fid"
            else "ask for fid"
            if metric == "frechet"
            else "leave out --features",
        )
    if given.space is not None:
        spaces = [space for space in spaces if space == given.space]
    elif len(spaces) == 2 and (asked or given.features is None):
        spaces = ["inception" if given.features is None else "segmenter"]
    return [_distance_job(metric, space, given) for space in spaces]


def _distance_job(metric: Metric, space: Space, given: Given) -> Job:
    if space == "inception":
        return Job(metric, metric, space, weights_file(metric))
    return Job(metric, metric if given.features is None else score_name(metric, given.features), space)


def _require(job: Job, given: Given, files: dict[str, Path]) -> None:
    """Raise what keeps a score from being computed; else put the file of its weights into files."""
    lacks = []
    if job.metric not in OF_JUDGE and job.metric != "is" and not given.references:
        lacks.append("reference images (--reference)")
    if job.metric in OF_JUDGE and not given.judge:
        lacks.append("a trained segmenter (--judge)")
    if job.space == "segmenter" and given.features is None:
        lacks.append("a trained segmenter (--judge, or --features segmenter:RUN)")
    if lacks:
        raise ConfigError(f"{job.name} needs {' and '.join(lacks)}", fix="give it, or leave the metric out")
    fewer = given.images if job.metric == "is" else min(given.images, given.references)
    if job.space == "inception" and fewer < FEWEST[job.metric] and not given.allow_few:
        raise ConfigError(
            f"{job.name} takes {FEWEST[job.metric]} images or more, and there are {fewer} (--allow-few computes it as "
            f"{job.name}@{fewer})",
            fix="give more images and references, accept few with --allow-few, or measure in a segmenter's features",
        )
    if job.weights is not None and job.weights not in files:
        try:
            files[job.weights] = published.resolve(job.weights, given.weights)
        except EnvironmentFault as error:
            raise EnvironmentFault(
                f"{job.name} cannot be computed: {error.what}", where=error.where, fix=error.fix
            ) from error
