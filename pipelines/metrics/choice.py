"""Which scores can be computed from what was given, and why the others cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from pipelines import weights as published
from pipelines.data.pairs import GROUND
from pipelines.errors import ConfigError, EnvironmentFault, RgsError
from pipelines.metrics import divergence, perceptual, sharpness
from pipelines.metrics.distances import DEFINITIONS, FEWEST, UNDER_TRAINED, score_name, weights_file
from pipelines.metrics.scores import LOWER, JudgeName, NotComputed

Metric = Literal[
    "psnr",
    "ssim",
    "psnr_lower",
    "ssim_lower",
    "sd",
    "lpips",
    "style",
    "miou",
    "accuracy",
    "frechet",
    "fid",
    "kid",
    "precision",
    "recall",
    "is",
    "kl",
    "kl_exp",
    "scene_top1",
    "scene_top5",
    "scene_top1_sure",
    "scene_top5_sure",
    "scene_score",
    "scene_score_top1",
    "scene_score_top5",
]
METRICS: tuple[Metric, ...] = get_args(Metric)
OF_PAIRS = ("psnr", "ssim", "psnr_lower", "ssim_lower", "sd", "lpips", "style")
OF_JUDGE = ("miou", "accuracy")
OF_SETS = tuple(DEFINITIONS)
OF_SCENES = tuple(divergence.DEFINITIONS)
OF_PHOTOS = ("psnr_lower", "ssim_lower", "sd", *OF_SCENES)
"""What is made of samples of photos unless asked for by name: the protocol of one view turned into another."""

Space = Literal["segmenter", "embedder", "classifier", "inception"]
"""Features of a trained network, or of the networks of the published numbers (Inception and VGG-16)."""


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
    in, if any; space: as asked for. net: trunk of LPIPS. sd: form of the sharpness difference. weights: a directory
    beside torch's cache. view: which view the samples show that were made from photos of another; None of layouts.
    graphs: the samples were made from scene graphs.
    """

    images: int
    references: int
    judge: bool = False
    features: JudgeName | None = None
    space: Space | None = None
    net: perceptual.Net = "alex"
    weights: Path | None = None
    allow_few: bool = False
    sd: sharpness.Variant = "signed"
    view: str | None = None
    graphs: bool = False


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
    usual = [metric for metric in METRICS if given.view or metric not in OF_PHOTOS]
    if given.graphs:  # which do not say what every pixel of a picture should be
        usual = [metric for metric in usual if metric not in OF_PAIRS]
    if given.view != GROUND:  # only a level view has its sky above
        usual = [metric for metric in usual if not metric.endswith(LOWER)]
    for job in (job for metric in dict.fromkeys(asked or usual) for job in _jobs(metric, asked is not None, given)):
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

    Asked for by name, they are the trained network's where there is one; not asked for, all that can be are computed.
    """
    if metric == "lpips":
        name = metric if given.net == "alex" else f"lpips[{given.net}]"
        return [Job(metric, name, weights=perceptual.lpips_file(given.net))]
    if metric == "sd":
        return [Job(metric, "sd" if given.sd == "signed" else f"sd[{given.sd}]")]
    if metric in OF_SCENES:
        return [Job(metric, metric, weights=published.PLACES)]
    if metric == "style":
        return [Job(metric, metric, weights=perceptual.style_file())]
    if metric not in OF_SETS:
        return [Job(metric, metric)]
    trained: Space = given.space if given.space in ("embedder", "classifier") else "segmenter"
    spaces: list[Space] = [trained] if metric in UNDER_TRAINED else []
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
        spaces = ["inception" if given.features is None else trained]
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
    if job.metric in OF_JUDGE and (given.graphs or given.view is not None):
        other = "scene graphs, which have no label maps" if given.graphs else "photos"
        raise ConfigError(
            f"{job.name} compares with a layout, and these samples were made from {other}", fix="leave the metric out"
        )
    if job.metric in OF_JUDGE and not given.judge:
        lacks.append("a trained segmenter (--judge)")
    if job.space == "segmenter" and given.features is None:
        lacks.append(
            "a trained segmenter (--judge, or --features segmenter:RUN)"
            if given.view is None
            else "a trained network (--features embedder:RUN or segmenter:RUN)"
        )
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
