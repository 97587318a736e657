"""rgs eval: measure samples and write a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rgs_cli import console
from rgs_cli.options import ConfigFile, Device, DryRun, Format, Json, Out, Set, user_layers


def evaluate(
    samples: Annotated[Path, typer.Argument(metavar="SAMPLES", help="What rgs synthesize wrote.", show_default=False)],
    out: Out,
    reference: Annotated[
        Path | None, typer.Option("--reference", "-r", help="A dataset, or a folder of images named as the samples.")
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="With a dataset: the split.")] = None,
    format_: Format = None,
    judge: Annotated[str | None, typer.Option("--judge", metavar="RUN[@STEP]", help="A run of a segmenter.")] = None,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", help="A score to compute; repeatable. All that can be if not given.")
    ] = None,
    allow_own_judge: Annotated[
        bool, typer.Option("--allow-own-judge", help="Accept a judge that helped to train what it judges.")
    ] = False,
    config: ConfigFile = None,
    set_: Set = None,
    device: Device = "auto",
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Score images against real ones and under a judge: report.json, and report.html to send to a colleague.

    Example: rgs eval samples/x -r photos --split val --judge runs/judge -o reports/x
    """
    from pipelines.config import dump_yaml, resolve
    from pipelines.stages import evaluate as stage

    flags = {"split": split, "metrics": metric or None, "allow_own_judge": allow_own_judge or None}
    resolved = resolve(stage.Evaluate, user_layers(config, set_, flags))
    if dry_run:
        plan = stage.plan(
            resolved, samples=samples, reference=reference, reference_format=format_, judge=judge, out=out
        )
        console.emit(dump_yaml(plan).rstrip())
        return
    with console.progress() as progress:
        artifact = stage.run(
            resolved,
            samples=samples,
            reference=reference,
            reference_format=format_,
            judge=judge,
            out=out,
            device=device,
            progress=progress,
        )
    for name, value in artifact.statistics["scores"].items():
        console.say(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
    console.emit_artifact(out, json)
    console.say(f"open {out / 'report.html'}")
