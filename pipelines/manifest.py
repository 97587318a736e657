"""Manifests: what manifest.json of an artifact must say, reading it with care, and the digest of what it says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.errors import ArtifactError

MANIFEST = "manifest.json"
KINDS = {
    "bank": "rgs/bank@1",
    "index": "rgs/index@1",
    "run": "rgs/run@1",
    "samples": "rgs/samples@1",
    "report": "rgs/report@1",
    "comparison": "rgs/comparison@1",
}


class _Model(BaseModel):
    """A part of a manifest as it must be; what else it says, its kind knows."""

    model_config = ConfigDict(strict=True, extra="allow")


class _File(_Model):
    path: str
    bytes: int
    sha256: str


class _Given(_Model):
    role: str
    path: str
    digest: str
    step: int | None = None


class _Manifest(_Model):
    format: str
    version: str
    digest: str
    command: list[str]
    config: dict[str, Any]
    inputs: list[_Given]
    files: list[_File]
    statistics: dict[str, Any]
    environment: dict[str, Any]


class _Weights(_Model):
    step: int
    sha256: str
    state: str


class _RunManifest(_Manifest):
    trainable: str
    status: str
    step: int
    weights: list[_Weights]


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of any artifact, format and version checked."""
    if not path.is_dir():
        raise ArtifactError("there is no such artifact", where=path, fix="check the path, or make it first")
    file = path / MANIFEST
    if not file.is_file():
        raise ArtifactError(
            "this directory holds no finished artifact (it has no manifest.json)",
            where=path,
            fix="run the command that makes it again: it goes on where it stopped",
        )
    try:
        manifest = json.loads(file.read_bytes())
        name, _, version = str(manifest["format"]).partition("@")
        number = int(version)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise unreadable(file, str(error)) from error
    known = {form.partition("@")[0]: int(form.partition("@")[2]) for form in KINDS.values()}
    if name not in known:
        raise ArtifactError(
            f"unknown artifact format {manifest['format']!r}", where=file, fix="make the artifact with this rgs"
        )
    if number > known[name]:
        raise ArtifactError(f"{manifest['format']} was written by a newer rgs", where=file, fix="upgrade rgs")
    try:
        (_RunManifest if name == "rgs/run" else _Manifest).model_validate(manifest)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise unreadable(file, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    return dict(manifest)


def unreadable(file: Path, why: str) -> ArtifactError:
    return ArtifactError(
        f"the manifest cannot be read: {why}",
        where=file,
        fix="copy the artifact again from where it came from, or make it again",
    )


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """The digest of what a manifest says; of a run that of its weights, since it grows."""
    if manifest["format"] == KINDS["run"]:
        return digest_json([manifest["config"], manifest["weights"], manifest["trainable"]])
    return digest_json(
        {
            "format": manifest["format"],
            "config": manifest["config"],
            "inputs": sorted([i["role"], i["digest"], i.get("step")] for i in manifest["inputs"]),
            "files": {file["path"]: file["sha256"] for file in manifest["files"]},
        }
    )


def digest_json(value: Any) -> str:
    """sha256 of the canonical JSON of a value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
