"""rgs import: an author's checkpoint becomes a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rgs_cli import console
from rgs_cli.options import DryRun, Json, Out, user_layers


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Weights: .pth or .safetensors.", show_default=False)],
    out: Out,
    system: Annotated[str, typer.Option("--system", help="resail, spade, oasis or crossview.", show_default=False)],
    classes: Annotated[
        Path | None, typer.Option("--classes", help="A classes.json: a class per channel of the labels, if it has any.")
    ] = None,
    part: Annotated[
        str, typer.Option("--part", help="Which network it is: G, D, for SPADE's VAE E, for crossview embedder.")
    ] = "G",
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML file of the authors' options: semantic_nc, ngf, norm_G, …")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One of those options, e.g. semantic_nc=151; repeatable."),
    ] = None,
    licence: Annotated[str, typer.Option("--licence", help="Terms of the weights, kept in the run.")] = "",
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Make a run of weights that a system's authors published, for `rgs synthesize` or for --init RUN:G.

    Examples: rgs import latest_net_G.pth --system spade --config ade20k.yaml --classes classes.json -o runs/spade;
    rgs import saig.pth --system crossview --part embedder -o runs/saig
    """
    from pipelines.config import dump_yaml, merge
    from pipelines.stages import import_published as stage

    options: dict[str, object] = {}
    for layer in user_layers(config, set_, {}):
        options = merge(options, layer.values)
    published = stage.Published(file, system, part, options, classes, licence)
    if dry_run:
        console.emit(dump_yaml(stage.plan(published, out)).rstrip())
        return
    artifact = stage.run(published, out)
    if taken := artifact.statistics["unwrapped"]:
        console.say(f"taken off around the tensors: {', '.join(taken)}")
    console.emit_artifact(out, json)
