"""Option types that several verbs share, and the layers that they become."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

Out = Annotated[Path, typer.Option("--out", "-o", help="Directory to write; must not exist yet.", show_default=False)]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file with any of the config's keys.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One config value, e.g. train.batch=8; repeatable."),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the path.")]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Print the resolved config, the inputs and the bytes to be written; do nothing."),
]
Jobs = Annotated[int, typer.Option("--jobs", "-j", min=1, help="Processes to share the work.")]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="folder, coco, ade20k, cityscapes, visual-genome, pairs, cvusa, cvact, vigor; recognized when not given.",
    ),
]
Data = Annotated[Path, typer.Option("--data", help="A dataset.", show_default=False)]
Weights = Annotated[
    Path | None, typer.Option("--weights", help="Folder with published weights; the torch cache is looked at too.")
]

With = Annotated[
    list[str] | None, typer.Option("--with", metavar="ROLE=RUN", help="A frozen run, e.g. segmenter=runs/s.")
]

DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?")


def parse_roles(texts: list[str] | None) -> dict[str, str]:
    """Several «ROLE=RUN» to runs by role."""
    from pipelines.errors import ConfigError

    runs = {}
    for text in texts or []:
        role, equals, path = text.partition("=")
        if not equals or not role or not path:
            raise ConfigError(f"--with {text!r} is not ROLE=RUN", fix="write for instance --with segmenter=runs/s")
        runs[role] = path
    return runs


def seconds(text: str) -> float:
    """«20m», «1h30m», «90s» or «90» to seconds."""
    from pipelines.errors import ConfigError

    match = DURATION.fullmatch(text.strip())
    if match is None or not any(match.groups()):
        raise ConfigError(f"{text!r} is no duration", where="--stop-after", fix="write for instance 20m, 1h30m or 90s")
    hours, minutes, rest = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + rest


def parse_size(text: str) -> tuple[int, int]:
    """«64» or «256x512» (height x width) to (h, w)."""
    from pipelines.errors import ConfigError

    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip())
    if match is None or int(match[1]) == 0 or (match[2] and int(match[2]) == 0):
        raise ConfigError(f"{text!r} is no size", where="--size", fix="write 64, or HEIGHTxWIDTH like 256x512")
    return int(match[1]), int(match[2] or match[1])


def flag_layer(flags: dict[str, Any]) -> Any:
    """The plain flags as the top layer: dotted config key -> value, None where the flag was not given."""
    from pipelines.config import Layer, merge, nested

    values: dict[str, Any] = {}
    for key, value in flags.items():
        if value is not None:
            values = merge(values, nested(key, value))
    return Layer("the command line", values)


def user_layers(config: Path | None, assignments: list[str] | None, flags: dict[str, Any]) -> list[Any]:
    """--config below --set below the plain flags."""
    from pipelines.config import Layer, parse_assignments, read_yaml

    layers = []
    if config is not None:
        layers.append(Layer(f"--config {config}", read_yaml(config)))
    if assignments:
        layers.append(Layer("--set", parse_assignments(assignments)))
    layers.append(flag_layer(flags))
    return layers
