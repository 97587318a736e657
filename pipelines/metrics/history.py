"""Where samples came from: the run that made them, its training curves, and the commands and inputs of both."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

from pipelines.artifact import Artifact, read_manifest
from pipelines.errors import ArtifactError
from pipelines.metrics.curves import draw_curves, loss_names, read_metrics


@dataclass(frozen=True)
class Curves:
    """Training curves as an <svg> element or None, and a sentence on what they show or why there are none."""

    note: str
    svg: str | None = None


@dataclass(frozen=True)
class History:
    """system: the name of the system. made_by: the run in words. inputs: of run and samples, each with «of»."""

    system: str
    made_by: str
    commands: list[dict[str, str]]
    inputs: list[dict[str, Any]]
    curves: Curves


def trace(samples: Artifact) -> History:
    """Follow samples back to their run, as far as it is still where it was."""
    system = str(samples.statistics.get("system", "unknown system"))
    command = {"what": "Synthesis", "text": shlex.join(samples.manifest["command"])}
    inputs = [{"of": "samples", "step": None, **entry} for entry in samples.manifest["inputs"]]
    run = samples.input("run")
    if run is None:
        return History(system, system, [command], inputs, Curves("The samples name no run."))
    made_by = f"{system}, weights {run.digest[:8]}" + ("" if run.step is None else f" of step {run.step}")
    path = samples.path.parent / run.path
    try:
        manifest = read_manifest(path)
    except ArtifactError as error:
        note = f"No curves: the run is not found at {run.path} ({error.what})."
        return History(system, made_by, [command], inputs, Curves(note))
    if manifest.get("trainable") != system or run.digest not in {w["sha256"] for w in manifest["weights"]}:
        note = f"No curves: the run at {run.path} does not hold the weights that made these samples."
        return History(system, made_by, [command], inputs, Curves(note))
    commands = [{"what": "Training", "text": shlex.join(manifest["command"])}, command]
    inputs = [*({"of": "run", "step": None, **entry} for entry in manifest["inputs"]), *inputs]
    log = path / "metrics.jsonl"
    lines = read_metrics(log, run.step) if log.is_file() else []
    if not loss_names(lines):
        return History(system, made_by, commands, inputs, Curves("No curves: the run has logged no losses."))
    rates = [line["images_per_second"] for line in lines if "images_per_second" in line]
    note = f"Loss terms over {lines[-1]['step']} steps; the bold line is a running average of the faint one."
    if rates:
        note += f" {sum(rates) / len(rates):.3g} images per second on average."
    return History(system, made_by, commands, inputs, Curves(note, draw_curves(lines)))
