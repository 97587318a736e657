"""rgs data graph: scene graphs out of words, files, a dataset or a bank; and the check of files of graphs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rgs_cli import console
from rgs_cli.options import ConfigFile, DryRun, Format, Json, Set, user_layers

if TYPE_CHECKING:
    from pipelines.stages.graphs import GraphReport

SchemaOf = Annotated[
    Path | None,
    typer.Option("--schema", metavar="RUN|BANK|DATASET", help="Whose classes and relations graphs may use."),
]


def graph(
    given: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TEXT|FILE]...", help='Graphs: "sky; road below sky", .json, .txt with one a line.'),
    ] = None,
    schema: SchemaOf = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DATASET|BANK", help="Make the graphs of its scenes instead.")
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="With a dataset: the split, or a .txt list.")] = None,
    scene: Annotated[
        list[str] | None, typer.Option("--scene", metavar="ID", help="With --data: only this scene; repeatable.")
    ] = None,
    format_: Format = None,
    picture: Annotated[
        Path | None, typer.Option("--picture", metavar="PNG", help="Draw the graph, or a sheet of several.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="JSON", help="Write here instead of to standard output.")
    ] = None,
    config: ConfigFile = None,
    set_: Set = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Turn words into scene graphs, or annotated photos, and draw them.

    Graphs are written as a JSON list of {"name", "objects", "relationships", "boxes"}; docs/graphs.md has all of it.

    Examples: rgs data graph "car left of tree" --schema banks/p --picture street.png; rgs data
    graph --data photos --split val --set graph.min_area=0.002 --set graph.overflow=sample -o graphs.json
    """
    from pipelines.artifact import require_free
    from pipelines.config import dump_yaml, resolve
    from pipelines.errors import ConfigError
    from pipelines.stages import graphs as stage

    if bool(given) == (data is not None):
        raise ConfigError("give either graphs or what to make them of", fix="TEXT or FILE…, or --data DATASET|BANK")
    if data is None:
        for flag, value in (("--split", split), ("--scene", scene), ("--config", config), ("--set", set_)):
            if value:
                raise ConfigError(f"{flag} goes with --data", where=flag, fix="leave it out")
    elif schema is not None:
        raise ConfigError("what --data names has its own classes", where="--schema", fix="leave it out")
    of_bank = data is not None and (data / "manifest.json").is_file()
    if of_bank and (split or config or set_):
        raise ConfigError("a bank has one split, and the settings that it was built with", fix="leave yours out")
    for path in (out, picture):
        if path is not None:
            require_free(path)
    resolved = resolve(stage.GraphsConfig, user_layers(config, set_, {}))
    if dry_run:
        plan: dict[str, Any] = {"out": out and str(out), "picture": picture and str(picture)}
        if data is None:
            plan |= {"schema": str(schema), "given": given}
        else:
            scenes = stage.scenes_of(data, split, scene or [], format_)
            plan |= {"data": str(data), "scenes": len(scenes), "config": None if of_bank else resolved.model_dump()}
        console.emit(dump_yaml(plan).rstrip())
        return
    if data is None:
        if schema is None:
            raise ConfigError("whose classes do the graphs use?", where="--schema", fix="name a run, bank or dataset")
        made = stage.of_words(given or [], stage.vocabulary(schema, format_))
    else:
        with console.progress() as progress:
            made = stage.of_data(data, resolved, split, scene or [], format_, progress)
    if made.left_out:
        console.say(f"{made.left_out} scenes make no graph: they have too few objects, or too many")
    if picture is not None:
        stage.write_picture(made, picture)
        console.say(f"picture: {picture}")
    if out is not None:
        stage.write(made, out)
    if json:
        console.emit_json({"path": out and str(out), "picture": picture and str(picture), **made.counts()})
    else:
        console.emit(stage.to_text(made).rstrip() if out is None else out)


def check_graphs(path: Path, schema: Path | None, format_: str | None, limit: int, json: bool) -> None:
    """`rgs data check` of a file of graphs. Exit code 3 when anything is wrong with it."""
    from pipelines.errors import ConfigError
    from pipelines.stages import graphs as stage

    if schema is None:
        raise ConfigError("whose classes do the graphs use?", where="--schema", fix="name a run, bank or dataset")
    report = stage.check([str(path)], stage.vocabulary(schema, format_), limit)
    if json:
        console.emit_json({"path": str(path), **report.to_json()})
    else:
        _print_report(report, path)
        if report.valid:
            console.emit(path)
    if not report.valid:
        raise typer.Exit(3)


def _print_report(report: GraphReport, path: Path) -> None:
    from rich.console import Console

    people = Console(stderr=True, soft_wrap=True, quiet=console.quiet)

    def say(text: str) -> None:
        people.print(text, markup=False, highlight=False)

    say(f"{path}: {report.graphs} graphs, {report.objects} objects, {report.relations} relations")
    for title, counts in (("objects", report.classes), ("relations", report.predicates)):
        if counts:
            say(f"{title}: " + ", ".join(f"{name} ({n})" for name, n in counts.most_common(20)))
    say(f"note: {report.with_boxes} graphs have boxes; {report.alone} objects are in no relation")
    if report.faults:
        more = f", the first {len(report.faults)}" if report.total_faults > len(report.faults) else ""
        say(f"{report.total_faults} fault{'s' * (report.total_faults > 1)}{more}:")
        for fault in report.faults:
            say(f"  {fault.file}: {fault.reason}")
    else:
        say("no faults")
