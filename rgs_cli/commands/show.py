"""rgs show: look at artifacts, systems, weights and this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rgs_cli import console
from rgs_cli.options import Json, Weights


def show(
    what: Annotated[str, typer.Argument(metavar="systems|system|environment|weights|ARTIFACT", help="What to show.")],
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="With system: which.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Recompute the hash of every file of an artifact.")] = False,
    weights: Weights = None,
    json: Json = False,
) -> None:
    """Show what there is: systems and their settings, an artifact, this machine, published weights.

    Examples: rgs show systems; rgs show system resail; rgs show banks/x --verify
    """
    from pipelines.config import dump_yaml
    from pipelines.errors import ConfigError
    from pipelines.stages import show as stage

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
        lines = [f"{f['file']:<28} {f['found'] or 'not on this machine':<28} {f['for']}" for f in files]
        _emit({"weights": files}, json, lines)
    else:
        found = stage.artifact(Path(what), verify)
        _emit(found, json, [dump_yaml(_brief(found)).rstrip()])


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
