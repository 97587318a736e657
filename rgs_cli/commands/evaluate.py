"""rgs eval: measure samples or an embedder and write a report, or put reports side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rgs_cli import console
from rgs_cli.options import ConfigFile, Device, DryRun, Format, Json, Out, Set, Weights, user_layers


def evaluate(
    given: Annotated[
        list[Path],
        typer.Argument(
            metavar="SAMPLES|RUN…",
            help="What rgs synthesize wrote; a run of an embedder, or one a fold; with --compare two reports or more.",
            show_default=False,
        ),
    ],
    out: Out,
    compare: Annotated[
        bool, typer.Option("--compare", help="Put reports side by side; differences are to the first.")
    ] = False,
    reference: Annotated[
        Path | None, typer.Option("--reference", "-r", help="A dataset, or a folder of images named as the samples.")
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="With a dataset: the split.")] = None,
    format_: Format = None,
    judge: Annotated[str | None, typer.Option("--judge", metavar="RUN[@STEP]", help="A run of a segmenter.")] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            help="psnr, ssim, psnr_lower, ssim_lower, sd, lpips, style, miou, accuracy, frechet, fid, kid, precision, "
            "recall, is, kl, kl_exp or a scene_… number; repeatable. All that can be computed if not given.",
        ),
    ] = None,
    subject: Annotated[
        str | None,
        typer.Option(
            "--subject",
            help="output; or as bounds to compare with: guidance (the guidance images in their place) or shuffled "
            "(outputs against the layouts of others).",
        ),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            "--features",
            metavar="inception|segmenter:RUN|embedder:RUN|classifier:RUN",
            help="What distances between sets are measured in; a trained network's are never called FID. The judge's, "
            "and Inception's where its weights are, if not given.",
        ),
    ] = None,
    embedder: Annotated[
        list[str] | None,
        typer.Option(
            "--embedder",
            metavar="RUN[@STEP]",
            help="Samples of photos: an embedder that tells whether an output shows its place, and how outputs differ; "
            "repeatable. One that the generator was trained against is marked.",
        ),
    ] = None,
    classifier: Annotated[
        str | None,
        typer.Option(
            "--classifier",
            metavar="RUN[@STEP]",
            help="Samples of scene graphs: a classifier that tells whether their objects can be recognized.",
        ),
    ] = None,
    cooccurrence: Annotated[
        str | None,
        typer.Option(
            "--cooccurrence",
            metavar="RUN[@STEP]",
            help="Samples of scene graphs: an embedder, of other images than the one trained against, that tells "
            "whether the patches go together.",
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            "--by", help="Embedders: source, to tell places apart within their source and show a row of each."
        ),
    ] = None,
    folds: Annotated[
        Path | None,
        typer.Option("--folds", help="Embedders: what rgs data split wrote; one run for each fold, in their order."),
    ] = None,
    bank: Annotated[
        Path | None,
        typer.Option("--bank", help="The samples' bank: measure retrieval, and look for pieces that were copied."),
    ] = None,
    training: Annotated[
        Path | None,
        typer.Option("--training", metavar="DATA", help="The training dataset: look for images that were copied."),
    ] = None,
    training_split: Annotated[str | None, typer.Option("--training-split", help="With --training: the split.")] = None,
    weights: Weights = None,
    allow_few: Annotated[
        bool,
        typer.Option("--allow-few", help="Compute fid, kid, is, precision and recall of few images, as fid@100."),
    ] = False,
    allow_own_judge: Annotated[
        bool, typer.Option("--allow-own-judge", help="Accept a judge that helped to train what it judges.")
    ] = False,
    config: ConfigFile = None,
    set_: Set = None,
    device: Device = "auto",
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Score images against real ones and under a judge, or an embedder on pairs it has not seen: report.json, and
    report.html to send to a colleague.

    Examples: rgs eval samples/x -r photos --split val --judge runs/judge -o reports/x;
    rgs eval samples/x -r photos --split val --bank banks/x --training photos --training-split train -o reports/z;
    rgs eval --compare reports/x reports/y -o reports/x-y;
    rgs eval samples/x -r photos --split val --metric fid --metric kid --weights weights --allow-few -o reports/y;
    rgs eval samples/g -r photos --split val --classifier runs/c --cooccurrence runs/f2 --judge runs/s -o reports/g;
    rgs eval samples/a2g -r pairs --split val --embedder runs/e2 --embedder runs/e -o reports/a2g;
    rgs eval runs/e -r pairs --split val --by source -o reports/e;
    rgs eval runs/e0 runs/e1 runs/e2 runs/e3 runs/e4 -r pairs --folds folds --by source -o reports/e
    """
    from pipelines.config import dump_yaml, resolve
    from pipelines.errors import ConfigError
    from pipelines.stages import evaluate as stage

    if compare:
        _compare(given, out, user_layers(config, set_, {}), json=json, dry_run=dry_run)
        return
    of_embedders = {"--by": by, "--folds": folds}
    of_samples: dict[str, Any] = {
        "--judge": judge,
        "--metric": metric,
        "--subject": subject,
        "--features": features,
        "--embedder": embedder,
        "--classifier": classifier,
        "--cooccurrence": cooccurrence,
        "--bank": bank,
        "--training": training,
        "--training-split": training_split,
        "--allow-few": allow_few,
        "--allow-own-judge": allow_own_judge,
    }
    if _is_run(given[0]):
        for option in (option for option, value in of_samples.items() if value):
            raise ConfigError(f"{option} is for samples, this is a run", where=given[0], fix=f"leave out {option}")
        if reference is None:
            raise ConfigError("an embedder is measured on pairs", where="--reference", fix="give -r PAIRS")
        layers = user_layers(config, set_, {"split": split, "by": by})
        _embedders([str(run) for run in given], reference, format_, folds, out, layers, device, json, dry_run)
        return
    for option in (option for option, value in of_embedders.items() if value is not None):
        raise ConfigError(f"{option} is for runs of embedders", where=given[0], fix=f"leave out {option}")
    if len(given) > 1:
        raise ConfigError("one folder of samples at a time", where=given[1], fix="or compare reports with --compare")
    flags = {
        "subject": subject,
        "split": split,
        "training_split": training_split,
        "metrics": metric or None,
        "allow_own_judge": allow_own_judge or None,
        "allow_few": allow_few or None,
    }
    resolved = resolve(stage.Evaluate, user_layers(config, set_, flags))
    asked: dict[str, Any] = {
        "samples": given[0],
        "reference": reference,
        "reference_format": format_,
        "judge": judge,
        "features": features,
        "embedders": embedder or (),
        "classifier": classifier,
        "cooccurrence": cooccurrence,
        "bank": bank,
        "training": training,
        "weights": weights,
        "out": out,
    }
    if dry_run:
        console.emit(dump_yaml(stage.plan(resolved, **asked)).rstrip())
        return
    with console.progress() as progress:
        artifact = stage.run(resolved, **asked, device=device, progress=progress)
    _say(artifact.statistics["scores"], out, json)


def _say(scores: dict[str, Any], out: Path, json: bool) -> None:
    for name, value in scores.items():
        console.say(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
    console.emit_artifact(out, json)
    console.say(f"open {out / 'report.html'}")


def _is_run(path: Path) -> bool:
    """Is this a run, which may name a step? What cannot be read is left to the stage that will say why."""
    from pipelines.artifact import read_manifest
    from pipelines.errors import ArtifactError
    from pipelines.train.run import parse_reference

    try:
        return str(read_manifest(parse_reference(str(path))[0])["format"]).startswith("rgs/run")
    except ArtifactError:
        return False


def _embedders(
    runs: list[str],
    reference: Path,
    format_: str | None,
    folds: Path | None,
    out: Path,
    layers: list[Any],
    device: str,
    json: bool,
    dry_run: bool,
) -> None:
    from pipelines.config import dump_yaml, resolve
    from pipelines.stages import evaluate_embedder as stage

    resolved = resolve(stage.EvaluateEmbedder, layers)
    asked: dict[str, Any] = {
        "runs": runs,
        "reference": reference,
        "reference_format": format_,
        "folds": folds,
        "out": out,
    }
    if dry_run:
        console.emit(dump_yaml(stage.plan(resolved, **asked)).rstrip())
        return
    with console.progress() as progress:
        artifact = stage.run(resolved, **asked, device=device, progress=progress)
    for text in artifact.statistics["warnings"]:
        console.say(f"warning: {text}")
    _say(artifact.statistics["scores"], out, json)


def _compare(reports: list[Path], out: Path, layers: list[Any], *, json: bool, dry_run: bool) -> None:
    from pipelines.config import dump_yaml, resolve
    from pipelines.stages import compare as stage

    resolved = resolve(stage.Compare, layers)
    if dry_run:
        console.emit(dump_yaml(stage.plan(resolved, reports=reports, out=out)).rstrip())
        return
    stage.run(resolved, reports=reports, out=out)
    console.emit_artifact(out, json)
    console.say(f"open {out / 'report.html'}")
