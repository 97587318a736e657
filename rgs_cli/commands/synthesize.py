"""rgs synthesize: from layouts, scene graphs or photos to images."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rgs_cli import console
from rgs_cli.options import (
    ConfigFile,
    Device,
    DryRun,
    Format,
    Json,
    Out,
    Set,
    With,
    parse_roles,
    parse_size,
    user_layers,
)


def synthesize(
    run: Annotated[str, typer.Argument(metavar="RUN[@STEP]", help="A run of a generator.", show_default=False)],
    out: Out,
    inputs: Annotated[
        list[Path] | None,
        typer.Option(
            "--inputs", "-i", help="Layouts, or photos to turn: a folder, files, a .txt list, or - for a list on stdin."
        ),
    ] = None,
    graph: Annotated[
        list[str] | None,
        typer.Option(
            "--graph",
            metavar="FILE|TEXT",
            help='Scene graphs: .json, .txt with one a line, or words: "sky; road below sky".',
        ),
    ] = None,
    instances: Annotated[
        Path | None, typer.Option("--instances", help="Folder of instance maps named as the layouts.")
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="A dataset instead of files.")] = None,
    split: Annotated[str | None, typer.Option("--split", help="With --data: the split.")] = None,
    format_: Format = None,
    bank: Annotated[Path | None, typer.Option("--bank", help="Another bank than the training one.")] = None,
    index: Annotated[Path | None, typer.Option("--index", help="The index of that bank.")] = None,
    with_: With = None,
    retrieval: Annotated[
        str | None, typer.Option("--retrieval", help="shape, random, oracle or none, where the system retrieves.")
    ] = None,
    exclude: Annotated[
        str | None, typer.Option("--exclude", help="With --data: none, source or group may not be retrieved.")
    ] = None,
    num: Annotated[int | None, typer.Option("--num", min=1, help="Images per layout.")] = None,
    size: Annotated[
        str | None, typer.Option("--size", metavar="layout|run|H[xW]", help="Size of the images.  \\[default: layout]")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Every random draw depends on it.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Layouts that pass together.")] = None,
    precision: Annotated[str | None, typer.Option("--precision", help="fp32 or bf16.")] = None,
    pictures: Annotated[
        bool | None,
        typer.Option("--pictures/--no-pictures", help="Draw what fed which pixels.  \\[default: yes]"),
    ] = None,
    config: ConfigFile = None,
    set_: Set = None,
    device: Device = "auto",
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Make images of layouts (index PNGs, or RGB PNGs in the classes' colors), scene graphs, or photos of another view.

    Examples: rgs synthesize runs/g -i layouts -o samples/x; ls layouts/*.png | rgs synthesize runs/g -i - -o
    samples/y; rgs synthesize runs/crossview -i aerials --num 3 -o samples/z
    """
    from pipelines.config import dump_yaml, resolve
    from pipelines.errors import DataError
    from pipelines.stages import synthesize as stage

    flags = {
        "split": split,
        "format": format_,
        "exclude": exclude,
        "num": num,
        "seed": seed,
        "batch": batch,
        "precision": precision,
        "pictures": pictures,
        "size": size if size in (None, "layout", "run") else list(parse_size(size)),
        "options.retrieval": retrieval,
    }
    paths = list(inputs or [])
    if paths == [Path("-")]:
        paths = [Path(line.strip()) for line in sys.stdin if line.strip()]
        if not paths:
            raise DataError("nothing came on standard input", fix="give the path of a layout or photo on each line")
    resolved = resolve(stage.Synthesize, user_layers(config, set_, flags))
    requested = stage.Requested(run, paths, graph or (), instances, data, bank, index, parse_roles(with_))
    if dry_run:
        console.emit(dump_yaml(stage.plan(resolved, requested, out)).rstrip())
        return
    with console.progress() as progress:
        _, notes = stage.run(resolved, requested, out, device=device, progress=progress)
    for note in notes:
        console.say(note)
    console.emit_artifact(out, json)
