"""rgs build-bank: cut images into a bank of pieces."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rgs_cli import console
from rgs_cli.options import ConfigFile, DryRun, Format, Jobs, Json, Out, Set, user_layers


class Engine(StrEnum):
    local = "local"
    ray = "ray"


def build_bank(
    out: Out,
    data: Annotated[Path | None, typer.Argument(metavar="[DATASET]", help="A dataset.")] = None,
    kind: Annotated[
        str | None, typer.Option("--kind", help="What it holds: segments, images, patches.  \\[default: segments]")
    ] = None,
    view: Annotated[str | None, typer.Option("--view", help="Of pairs, with --kind images: aerial, ground.")] = None,
    split: Annotated[str | None, typer.Option("--split", help="A split, or a .txt list.  \\[default: train]")] = None,
    format_: Format = None,
    add_to: Annotated[Path | None, typer.Option("--add-to", help="A bank to grow by DATASET's new images.")] = None,
    base: Annotated[Path | None, typer.Option("--from", help="A bank to take over without --remove-source.")] = None,
    remove_source: Annotated[
        list[str] | None, typer.Option("--remove-source", metavar="ID", help="A source to leave out; repeatable.")
    ] = None,
    max_bad: Annotated[int, typer.Option("--max-bad", min=0, help="Unusable images tolerated; they are listed.")] = 10,
    jobs: Jobs = 1,
    engine: Annotated[Engine, typer.Option("--engine", help="What runs the jobs: this machine, or a Ray cluster.")] = (
        Engine.local
    ),
    ray_address: Annotated[
        str | None,
        typer.Option("--ray-address", help="A Ray cluster; else RAY_ADDRESS; else a Ray of --jobs on this machine."),
    ] = None,
    config: ConfigFile = None,
    set_: Set = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Cut labelled photos into a bank of segments or patches, or store whole photos; killed and run again, it goes on.

    Patches are the boxes of annotated objects, with the scene graphs that they make: --set graph.min_area=0.002
    --set graph.overflow=sample, and other settings of graphs, say which objects count; --set patch=64 is their size.

    Examples: rgs build-bank photos -o banks/x; rgs build-bank more --add-to banks/x -o banks/y; rgs build-bank --from
    banks/x --remove-source train/0007 -o banks/z; rgs build-bank pairs --kind images --view aerial -o banks/a; rgs
    build-bank photos --kind patches -o banks/p
    """
    from pipelines.config import dump_yaml, resolve
    from pipelines.stages import build_bank as stage

    flags = {"kind": kind, "view": view, "split": split, "format": format_}
    resolved = resolve(stage.BuildBank, user_layers(config, set_, flags))
    remove = remove_source or []
    if dry_run:
        plan = stage.plan(resolved, out=out, data=data, add_to=add_to, base=base, remove=remove)
        console.emit(dump_yaml(plan).rstrip())
        return
    with console.progress() as progress, redirect_stdout(sys.stderr):  # Ray prints which workers died
        artifact = stage.run(
            resolved,
            out=out,
            data=data,
            add_to=add_to,
            base=base,
            remove=remove,
            jobs=jobs,
            engine=engine.value,
            ray_address=ray_address,
            max_bad=max_bad,
            progress=progress,
        )
    for bad in artifact.statistics["bad"]:
        console.say(f"not usable: {bad['id']}: {bad['reason']}")
    console.emit_artifact(out, json)
