"""rgs data toy|check|graph|palette|split: a dataset to start from, and validation of one's own."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rgs_cli import console
from rgs_cli.commands.graph import SchemaOf, check_graphs, graph
from rgs_cli.options import DryRun, Format, Jobs, Json, Out, parse_size

if TYPE_CHECKING:
    from pipelines.data.check import CheckReport

app = typer.Typer(no_args_is_help=True, help="Make, check and prepare datasets.")


class ToyKind(StrEnum):
    """What a toy town is written as."""

    SCENES = "scenes"
    PAIRS = "pairs"


class ToyViews(StrEnum):
    """Which street views of a place."""

    PANORAMA = "panorama"
    PERSPECTIVE = "perspective"
    BOTH = "both"


Dataset = Annotated[Path, typer.Argument(metavar="DATASET", help="A dataset.", show_default=False)]


@app.command("toy")
def toy(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Directory to write; must not exist yet.")],
    kind: Annotated[
        ToyKind, typer.Option("--kind", help="Labelled street scenes, or pairs of an aerial and a street view.")
    ] = ToyKind.SCENES,
    train: Annotated[int, typer.Option("--train", min=1, help="Scenes (pairs: places) of the train split.")] = 200,
    val: Annotated[int, typer.Option("--val", min=0, help="Scenes (pairs: places) of the val split.")] = 40,
    size: Annotated[
        str, typer.Option("--size", metavar="H[xW]", help="Size of the images; panoramas are H/2 x 2H.")
    ] = "256",
    views: Annotated[
        ToyViews | None, typer.Option("--views", help="Street views of pairs.", show_default="both")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The town is a function of it.")] = 0,
    jobs: Jobs = 1,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Draw a procedural town: labelled street scenes, or places seen from above and from the street.

    Example: rgs data toy town --train 200 --val 40; rgs data toy places --kind pairs --size 64
    """
    from pipelines.artifact import require_free
    from pipelines.config import dump_yaml
    from pipelines.data.toy import write_pairs, write_town
    from pipelines.errors import ConfigError

    require_free(out)
    height, width = parse_size(size)
    settings = {"out": str(out), "train": train, "val": val, "size": [height, width], "seed": seed}
    street_kinds = ["panorama", "perspective"] if views in (None, ToyViews.BOTH) else [str(views)]
    if kind == ToyKind.PAIRS:
        if height != width:
            raise ConfigError(f"aerial images are square, not {height}x{width}", where="--size", fix="give one number")
        settings |= {"kind": str(kind), "views": street_kinds}
    elif views is not None:
        raise ConfigError("labelled scenes have no --views", where="--views", fix="add --kind pairs")
    # bytes of a pixel as PNG with its labels, or of a pixel of the aerial image with its street views: measured
    pixels = {ToyKind.SCENES: 2.2, ToyKind.PAIRS: 2.1 * (1 + len(street_kinds))}[kind]
    if dry_run:
        console.emit(dump_yaml({**settings, "bytes": int((train + val) * height * width * pixels)}).rstrip())
        return
    with console.progress() as progress:
        if kind == ToyKind.PAIRS:
            write_pairs(
                out,
                seed=seed,
                train=train,
                val=val,
                size=height,
                kinds=street_kinds,
                jobs=jobs,
                progress=lambda done, total: progress("places", done, total),
            )
        else:
            write_town(
                out,
                seed=seed,
                train=train,
                val=val,
                size=(height, width),
                jobs=jobs,
                progress=lambda done, total: progress("scenes", done, total),
            )
    console.emit_json({**settings, "path": str(out)}) if json else console.emit(out)


@app.command("check")
def check(
    dataset: Annotated[
        Path, typer.Argument(metavar="DATASET|GRAPHS", help="A dataset, or a file of graphs.", show_default=False)
    ],
    schema: SchemaOf = None,
    format_: Format = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many faults to name.")] = 10,
    json: Json = False,
) -> None:
    """Read every file of a dataset, count its classes or pairs, and name what is wrong. Exit code 3 when anything is.

    A file of scene graphs (.json, .txt) is read against the classes and relations of --schema.

    Examples: rgs data check photos; rgs data check graphs.json --schema banks/p
    """
    from pipelines.data.check import check_dataset
    from pipelines.errors import ConfigError

    if dataset.suffix in (".json", ".txt") and not dataset.is_dir():
        check_graphs(dataset, schema, format_, limit, json)
        return
    if schema is not None:
        raise ConfigError("a dataset has its own classes", where="--schema", fix="leave it out")
    with console.progress() as progress:
        report = check_dataset(dataset, format_, limit, lambda done, total: progress("scenes", done, total))
    if json:
        console.emit_json(report.to_json())
    else:
        _print_report(report, dataset)
        if report.valid:
            console.emit(dataset)
    if not report.valid:
        raise typer.Exit(3)


app.command("graph")(graph)


@app.command("palette")
def palette(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET|BANK|RUN", help="What has the classes.")],
    out: Out,
    size: Annotated[str, typer.Option("--size", metavar="H[xW]", help="Size of the blank layout.")] = "256",
    fill: Annotated[str | None, typer.Option("--fill", help="Class that covers the blank layout.")] = None,
    format_: Format = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Write the classes' colors as palette.png and a blank layout.png to draw on with them.

    Example: rgs data palette town -o palette --fill sky
    """
    from pipelines.artifact import filling, require_free
    from pipelines.config import dump_yaml
    from pipelines.data.palette import write_blank_layout, write_palette
    from pipelines.stages.show import schema_of

    require_free(out)
    height, width = parse_size(size)
    schema = schema_of(dataset, format_)
    settings = {"out": str(out), "size": [height, width], "fill": fill, "classes": schema.names}
    if dry_run:
        console.emit(dump_yaml(settings).rstrip())
        return
    with filling(out) as partial:
        write_palette(schema, partial / "palette.png")
        write_blank_layout(schema, (height, width), partial / "layout.png", fill)
    console.emit_json({**settings, "path": str(out)}) if json else console.emit(out)


@app.command("split")
def split(
    dataset: Dataset,
    out: Out,
    by: Annotated[str, typer.Option("--by", help="What may not be split; group is all there is.")] = "group",
    folds: Annotated[int, typer.Option("--folds", min=2, help="How many folds.")] = 5,
    from_split: Annotated[str | None, typer.Option("--split", help="Only scenes of this split.")] = None,
    format_: Format = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Write folds that never divide a group, as lists of scenes that --split takes.

    Example: rgs data split photos --folds 5 -o folds && rgs build-bank photos --split folds/fold-1/train.txt -o banks/1
    """
    from pipelines.artifact import require_free
    from pipelines.config import dump_yaml
    from pipelines.data.open import open_dataset
    from pipelines.data.split import folds_by_group, write_folds
    from pipelines.errors import ConfigError

    if by != "group":
        raise ConfigError(f"cannot split by {by!r}", where="--by", fix="use --by group")
    require_free(out)
    dealt = folds_by_group(open_dataset(dataset, format_).records(from_split), folds)
    settings = {"out": str(out), "by": by, "scenes": [len(fold) for fold in dealt]}
    if dry_run:
        console.emit(dump_yaml(settings).rstrip())
        return
    write_folds(dealt, out)
    console.emit_json({**settings, "path": str(out)}) if json else console.emit(out)


def _print_report(report: CheckReport, dataset: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    people = Console(stderr=True, soft_wrap=True, quiet=console.quiet)

    def told(sizes: dict[tuple[int, int], int]) -> str:
        return ", ".join(f"{w}x{h} ({n})" for (h, w), n in sorted(sizes.items(), key=lambda kv: -kv[1])[:5])

    if report.sources:
        people.print(f"{dataset}: {report.pairs} pairs of {report.groups} groups", markup=False)
        for name, sizes in report.views.items():
            people.print(f"{name} views: sizes {told(sizes)}", markup=False)
        table = Table("source", "pairs", "aerials", "groups", box=None)
        for source in report.sources:
            table.add_row(source.name, str(source.pairs), str(source.aerials), str(source.groups))
    else:
        people.print(
            f"{dataset}: {report.scenes} scenes; sizes {told(report.sizes)}; unlabelled {report.unlabelled:.1%}"
        )
        table = Table("id", "class", "pixels", "scenes", "instances", box=None)
        for c in report.classes:
            table.add_row(str(c.id), c.name, f"{c.share:.2%}", str(c.scenes), str(c.instances or ""))
    people.print(table)
    for title, faults, total in (
        ("fault", report.faults, report.total_faults),
        ("warning", report.warnings, report.total_warnings),
    ):
        if total:
            people.print(
                f"{total} {title}{'s' * (total > 1)}" + (f", the first {len(faults)}:" if total > len(faults) else ":")
            )
            for fault in faults:
                people.print(f"  {fault.file}: {fault.reason}", markup=False)
    for note in report.notes:
        people.print(f"note: {note}", markup=False)
    if report.valid:
        people.print("no faults")
