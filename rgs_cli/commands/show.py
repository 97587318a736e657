"""rgs show: look at artifacts, systems, weights and this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from rgs_cli import console
from rgs_cli.options import Json, Weights


def show(
    what: Annotated[str, typer.Argument(metavar="systems|system|environment|weights|ARTIFACT", help="What to show.")],
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="With system: which.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Recompute the hash of every file of an artifact.")] = False,
    sources: Annotated[
        bool, typer.Option("--sources", help="Of samples or a bank: all sources, with licences and pixels.")
    ] = False,
    source: Annotated[
        list[str] | None,
        typer.Option("--source", metavar="ID", help="Of samples: every output that used this source; repeatable."),
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", metavar="NAME", help="Of samples: the pieces of one output.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option("--picture", metavar="FILE", help="With --output: draw what fed which pixels.")
    ] = None,
    bank: Annotated[
        Path | None, typer.Option("--bank", help="With --source: the bank of the samples, if it was moved.")
    ] = None,
    weights: Weights = None,
    json: Json = False,
) -> None:
    """Show what there is: systems and their settings, an artifact, this machine, published weights.

    Of samples also which photos they were made from: all of them, the outputs of some, the pieces of an output.

    Examples: rgs show systems; rgs show system resail; rgs show banks/x --verify; rgs show samples/x --sources;
    rgs show samples/x --source train/0007; rgs show samples/x --output 0012 --picture pieces.png
    """
    from pipelines.config import dump_yaml
    from pipelines.errors import ConfigError
    from pipelines.stages import show as stage

    asked = [flag for flag, given in (("--verify", verify), ("--sources", sources), ("--source", source)) if given]
    asked += ["--output"] if output is not None else []
    if len(asked) > 1:
        raise ConfigError(f"one question at a time: {' or '.join(asked)}", where=what)
    if asked and what in ("systems", "system", "environment", "weights"):
        raise ConfigError(f"{asked[0]} is asked of an artifact", where=what, fix=f"rgs show ARTIFACT {asked[0]}")
    if picture is not None and output is None:
        raise ConfigError("--picture draws one output", fix="say which with --output NAME")
    if bank is not None and not source:
        raise ConfigError("--bank helps --source only", fix="leave out --bank")
    if what == "system" and name is None:
        raise ConfigError("which system?", fix="rgs show systems lists them; then rgs show system NAME")
    if what != "system" and name is not None:
        raise ConfigError(f"one thing at a time: {what} takes no further name", where=name)
    if what == "systems":
        rows = stage.systems()
        _emit(
            {"systems": rows}, json, [f"{r['name']:<10} {r['about']}  presets: {', '.join(r['presets'])}" for r in rows]
        )
    elif what == "system":
        assert name is not None
        about = stage.system(name)
        _emit(about, json, _describe(about))
    elif what == "environment":
        found = stage.machine()
        _emit(found, json, [dump_yaml(found).rstrip()])
    elif what == "weights":
        files = stage.weights(weights)
        lines = [f"{f['file']:<42} {f['found'] or 'not on this machine':<20} {f['for']}" for f in files]
        _emit({"weights": files}, json, lines)
    elif sources:
        _show_sources(Path(what), json)
    elif source:
        _show_uses(Path(what), source, bank, json)
    elif output is not None:
        _show_output(Path(what), output, picture, json)
    else:
        found = stage.artifact(Path(what), verify)
        _emit(found, json, [dump_yaml(_brief(found)).rstrip()])


def _show_sources(path: Path, json: bool) -> None:
    from pipelines.compose.attribution import percent
    from pipelines.stages import provenance as stage

    found = stage.sources(path)
    of_bank = found["kind"] == "bank"
    columns = ["source", "licence", *(["group", "pieces"] if of_bank else ["outputs", "pieces"]), "pixels"]
    totals = ["licence", "sources", "pixels"]
    if not of_bank:
        columns, totals = [*columns, "share"], [*totals, "share"]

    def table(names: list[str], rows: list[dict[str, Any]]) -> list[str]:
        shown = {"licence": lambda licence: licence or UNSTATED, "share": percent}
        return _table(names, [[shown.get(name, lambda same: same)(row[name]) for name in names] for row in rows])

    lines = [*table(columns, found["sources"]), "", *table(totals, found["licences"])]
    _answer(found, json, lines if found["sources"] else [])


def _show_uses(path: Path, ids: list[str], bank: Path | None, json: bool) -> None:
    from pipelines.compose.attribution import percent
    from pipelines.stages import provenance as stage

    found = stage.uses(path, ids, bank)
    lines: list[str] = []
    for row in found["sources"]:
        lines += [""] if lines and lines[-1] else []
        who = f"{row['source']} ({row['licence'] or UNSTATED})" if row["status"] != "removed" else row["source"]
        if row["status"] == "in the bank":
            pieces = [[p["id"], p["category"], "{},{} {}x{}".format(*p["box"]), p["area"]] for p in row["pieces"]]
            lines += [f"{who}: {len(pieces)} pieces, {row['pixels']} pixels"]
            lines += _table(["piece", "class", "box", "pixels"], pieces)
        elif row["status"] == "used":
            outputs = [
                [o["name"], o["pixels"], percent(o["share"]), o["pieces"], ", ".join(o["categories"])]
                for o in row["outputs"]
            ]
            lines += [
                f"{who}: in {len(outputs)} of {found['outputs']} outputs, {percent(row['share'])} of their pixels"
            ]
            lines += _table(["output", "pixels", "share", "pieces", "classes"], outputs)
        else:
            lines += [f"{who}: {STATUS[row['status']]}"]
    _answer(found, json, lines)


def _show_output(path: Path, name: str, picture: Path | None, json: bool) -> None:
    from pipelines.compose.attribution import write_picture
    from pipelines.stages import provenance as stage

    found = stage.output(path, name)
    if picture is not None:
        picture.parent.mkdir(parents=True, exist_ok=True)
        write_picture(picture, stage.picture(path, found))
        console.say(f"picture: {picture}")
    most_first = sorted(found["pieces"], key=lambda p: -p["pixels"])
    columns = ["index", "category", "pixels", "source", "licence", "rank", "score", "id"]
    pieces = [
        {
            **p,
            "licence": p["licence"] or UNSTATED,
            "rank": p["rank"] or "–",
            "score": "–" if p["score"] is None else f"{p['score']:.4f}",
        }
        for p in most_first
    ]
    _answer(found, json, _table(columns, [[p[column] for column in columns] for p in pieces]) if pieces else [])


UNSTATED = "not stated"
"""The licence of a photo whose dataset gives none."""
STATUS = {
    "unused": "in the bank, but no output used it",
    "removed": "removed from the bank",
    "unguided": "no output used it",
}


def _answer(found: dict[str, Any], json: bool, lines: list[str]) -> None:
    if found.get("note"):
        console.say(found["note"])
    if json or lines:
        _emit(found, json, lines)


def _table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Rows under their names, numbers at the right."""
    cells = [list(names), *([str(value) for value in row] for row in rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(names))]
    right = [bool(rows) and (isinstance(rows[0][k], int) or names[k] == "share") for k in range(len(names))]
    return [
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)).rstrip()
        for row in cells
    ]


def _emit(value: dict[str, Any], json: bool, lines: list[str]) -> None:
    if json:
        console.emit_json(value)
    else:
        console.emit("\n".join(lines))


def _describe(about: dict[str, Any]) -> list[str]:
    lines = [about["paper"], "", f"presets: {', '.join(about['presets']) or 'none'}"]
    for title, key, flag in (("synthesis options", "options", "--set options."), ("config", "config", "--set ")):
        if about.get(key):
            lines += ["", f"{title} ({flag}KEY=VALUE):"]
            lines += [f"  {row['key']} = {row['default']}\n      {row['help']}" for row in about[key]]
    return lines


def _brief(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest without its class table, which is long."""
    statistics = dict(manifest["statistics"])
    for holder in (manifest, statistics):
        if "schema" in holder:
            holder["schema"] = {"classes": [c["name"] for c in holder["schema"]["classes"]]}
    return {**manifest, "statistics": statistics}
