"""rgs show: what artifacts, systems, weights and this machine are, as plain data."""

from __future__ import annotations

import importlib
import os
import platform
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipelines.artifact import MANIFEST, Artifact, environment, open_artifact, read_manifest, verify_files
from pipelines.data.open import open_dataset
from pipelines.data.scene import Schema
from pipelines.errors import ArtifactError, DataError


def schema_of(path: Path, format: str | None = None) -> Schema:
    """The classes of a dataset, a bank, a run or samples. Raises DataError or ArtifactError where there are none."""
    if not (path / MANIFEST).is_file():
        schema = open_dataset(path, format).schema
        if not schema.classes:
            raise DataError("this dataset has no classes", where=path, fix="name one of labelled photos")
        return schema
    manifest = read_manifest(path)
    stored = manifest.get("schema") or manifest["statistics"].get("schema")
    if stored is None or not (schema := Schema.from_json(stored)).classes:
        raise ArtifactError("this artifact has no classes of its own", where=path, fix="name a dataset, bank or run")
    return schema


def artifact(path: Path, verify: bool = False) -> dict[str, Any]:
    """The manifest of an artifact without its file list. verify: recompute the hash of every file."""
    manifest = read_manifest(path)
    opened: Artifact = open_artifact(path, str(manifest["format"]).removeprefix("rgs/").partition("@")[0])
    if verify:
        verify_files(opened)
    files = manifest.pop("files")
    summary = {"path": str(path), **manifest, "files": len(files), "bytes": sum(f["bytes"] for f in files)}
    return {**summary, "verified": True} if verify else summary


def systems() -> list[dict[str, Any]]:
    """Every system with its one-line description and presets."""
    from pipelines.systems.table import SYSTEMS, presets

    return [
        {"name": name, "about": _first_line(kind), "presets": list(presets(name))} for name, kind in SYSTEMS.items()
    ]


def system(name: str) -> dict[str, Any]:
    """Paper, presets, config fields and synthesis options of a system, or of the segmenter."""
    from pipelines.stages.train import config_of
    from pipelines.systems.table import find_trainable, presets

    kind = find_trainable(name)
    package = importlib.import_module(kind.__module__.rpartition(".")[0])
    about: dict[str, Any] = {"name": name, "paper": (package.__doc__ or "").strip(), "presets": list(presets(name))}
    options = getattr(kind, "Options", None)
    if options is not None:
        about["options"] = fields(options())
    return {**about, "config": fields(config_of(name)())}


def fields(defaults: BaseModel, prefix: str = "") -> list[dict[str, Any]]:
    """Every field of a config at its defaults, nested ones with dots: key, default, what it means."""
    rows: list[dict[str, Any]] = []
    for name, info in type(defaults).model_fields.items():
        value = getattr(defaults, name)
        if isinstance(value, BaseModel):
            rows += fields(value, f"{prefix}{name}.")
        else:
            rows.append({"key": prefix + name, "default": value, "help": " ".join((info.description or "").split())})
    return rows


def machine() -> dict[str, Any]:
    """Versions, cores and devices, for a bug report."""
    import torch

    return {
        **environment(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu": platform.processor() or platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def weights(directory: Path | None = None) -> list[dict[str, Any]]:
    """The published weights that rgs can use, and whether they are on this machine."""
    from pipelines.errors import EnvironmentFault
    from pipelines.weights import USES, resolve

    rows = []
    for name, use in USES.items():
        try:
            found: str | None = str(resolve(name, directory))
        except EnvironmentFault:
            found = None
        rows.append({"file": name, "for": use, "found": found})
    return rows


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0]
