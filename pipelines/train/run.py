"""Run: the one mutable artifact, a training directory at its final path.

    runs/g/  manifest.json config.yaml checkpoints/step-0001000/ metrics.jsonl events… samples/

The manifest is rewritten atomically at each checkpoint with status («training», «stopped», «finished») and step.
Consumers pin the sha256 and the step of the weights they used; a run has no digest of its own beyond that.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from pipelines.artifact import (
    CONFIG,
    KINDS,
    MANIFEST,
    Input,
    command_line,
    digest_json,
    environment,
    manifest_digest,
    open_artifact,
    relative_path,
    sha256_file,
    tool_version,
    write_atomic,
)
from pipelines.config import Config, dump_yaml
from pipelines.errors import ArtifactError, ConfigError
from pipelines.train.checkpoint import STATE, WEIGHTS, checkpoint_path, write_checkpoint

FREE_SECTION = "log"
"""The part of a training config that may change between a run and its resumption."""

SPENT = ("seconds", "cpu_seconds")
"""Statistics that add up over interruptions."""


@dataclass(frozen=True)
class Weights:
    """Weights of one step of a run, pinned by their sha256."""

    run: Path
    step: int
    sha256: str
    manifest: dict[str, Any]

    @property
    def file(self) -> Path:
        return checkpoint_path(self.run, self.step) / WEIGHTS

    def as_input(self, role: str, relative_to: Path) -> Input:
        return Input(role, relative_path(self.run, relative_to), self.sha256, self.step)


def parse_reference(text: str) -> tuple[Path, int | None]:
    """`runs/g@12000` -> (runs/g, 12000); `runs/g` -> (runs/g, None), the newest weights."""
    path, at, step = text.rpartition("@")
    if not at or not step.isdigit():
        return Path(text), None
    return Path(path), int(step)


def open_weights(path: Path, step: int | None = None, trainable: str | None = None) -> Weights:
    """The newest weights of a run, or those of a step. Their sha256 is checked against the manifest.

    Raises ArtifactError when the run is of another trainable, has no weights yet or not of that step.
    """
    artifact = open_artifact(path, "run")
    name = artifact.manifest["trainable"]
    if trainable is not None and name != trainable:
        raise ArtifactError(f"this is a run of {name}, not of {trainable}", where=path)
    kept = {int(w["step"]): str(w["sha256"]) for w in artifact.manifest["weights"]}
    if not kept:
        raise ArtifactError("the run has no checkpoint yet", where=path, fix="let it train on")
    chosen = max(kept) if step is None else step
    if chosen not in kept:
        raise ArtifactError(f"the run keeps no weights of step {chosen}", where=path, fix=f"it has {sorted(kept)}")
    weights = Weights(path, chosen, kept[chosen], artifact.manifest)
    if sha256_file(weights.file) != weights.sha256:
        raise ArtifactError(
            "the weights were changed after they were written",
            where=weights.file,
            fix=f"use those of another step ({path}@STEP), copy them again, or train again",
        )
    return weights


class RunWriter:
    """Writes one run: begins or resumes it, and seals a checkpoint with the manifest after it.

    resumed_from: the step of the checkpoint that training goes on from, or None at the beginning.
    """

    def __init__(self, path: Path, trainable: str, config: Config, inputs: list[Input], facts: dict[str, Any]) -> None:
        self.path = path
        self.resumed_from: int | None = None
        self.finished = False
        self._base: dict[str, Any] = {
            "format": KINDS["run"],
            "trainable": trainable,
            "version": tool_version(),
            "command": command_line(),
            "config": config.model_dump(mode="json"),
            "inputs": [i.to_json() for i in inputs],
            "environment": environment(),
            **facts,
        }
        self._kept: list[dict[str, Any]] = []
        self._spent = dict.fromkeys(SPENT, 0.0)  # by what this run goes on from
        self._config_text = dump_yaml(config)
        if (path / MANIFEST).is_file():
            self._resume()
        elif path.exists() and any(not _begun(e.name) for e in path.iterdir()):
            raise ArtifactError("the output exists and is no run", where=path, fix="choose another --out")

    def _resume(self) -> None:
        old = open_artifact(self.path, "run").manifest  # with every checkpoint that it names
        fault = differences(old, self._base)
        if fault:
            raise ConfigError(
                f"this run was begun differently: {fault}",
                where=self.path,
                fix="run the command that began it, or choose another --out",
            )
        self._kept = old["weights"]
        if self._kept:
            self.resumed_from = max(int(w["step"]) for w in self._kept)
        self.finished = old["status"] == "finished"
        self._spent = {key: float(old["statistics"].get(key, 0.0)) for key in SPENT}

    def checkpoint_to_resume(self) -> Path:
        """The directory of the newest checkpoint, its files verified. Raises ArtifactError when one was changed."""
        newest = max(self._kept, key=lambda w: int(w["step"]))
        folder = checkpoint_path(self.path, newest["step"])
        for name, digest in ((WEIGHTS, newest["sha256"]), (STATE, newest["state"])):
            if sha256_file(folder / name) != digest:
                raise ArtifactError(
                    f"{name} was changed after it was written", where=folder, fix="begin the run again elsewhere"
                )
        return folder

    def begin(self) -> None:
        """Write the first manifest and config.yaml, and cut the metrics back to the checkpoint."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path / CONFIG, self._config_text.encode())
        named = {checkpoint_path(self.path, w["step"]) for w in self._kept}
        for left in set((self.path / "checkpoints").glob("*")) - named:  # of a kill before the manifest named them
            shutil.rmtree(left)
        cut_metrics(self.path / "metrics.jsonl", self.resumed_from or 0)
        self.seal("training", {})

    def checkpoint(
        self,
        step: int,
        nets: Mapping[str, nn.Module],
        averaged: Mapping[str, nn.Module],
        state: dict[str, Any],
        keep: int,
        status: str,
        statistics: dict[str, Any],
    ) -> None:
        """Write a checkpoint, then the manifest that names it, then drop the oldest beyond `keep`."""
        written = write_checkpoint(self.path, step, nets, averaged, state)
        entry = {"step": step, "sha256": sha256_file(written / WEIGHTS), "state": sha256_file(written / STATE)}
        self._kept = [*(w for w in self._kept if w["step"] != step), entry]
        dropped, self._kept = self._kept[:-keep], self._kept[-keep:]
        self.seal(status, statistics)
        for old in dropped:
            shutil.rmtree(checkpoint_path(self.path, old["step"]), ignore_errors=True)

    def seal(self, status: str, statistics: dict[str, Any]) -> None:
        """Rewrite the manifest atomically."""
        files = []
        for weights in self._kept:
            for name, digest in ((WEIGHTS, weights["sha256"]), (STATE, weights["state"])):
                file = checkpoint_path(self.path, weights["step"]) / name
                relative = str(file.relative_to(self.path))
                files.append({"path": relative, "bytes": file.stat().st_size, "sha256": digest})
        spent = {key: round(before + statistics.get(key, 0.0), 3) for key, before in self._spent.items()}
        manifest = {
            **self._base,
            "status": status,
            "step": self._kept[-1]["step"] if self._kept else 0,
            "weights": self._kept,
            "files": files,
            "statistics": {**statistics, **spent},
        }
        manifest["digest"] = manifest_digest(manifest)
        write_atomic(self.path / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False).encode())


def identity(manifest: Mapping[str, Any]) -> str:
    """What a run is whatever its step: trainable, config and inputs. Two runs of one identity have the same weights."""
    config = {key: value for key, value in manifest["config"].items() if key != FREE_SECTION}
    return digest_json([manifest["trainable"], config, sorted([i["role"], i["digest"]] for i in manifest["inputs"])])


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """What keeps a run from being resumed: the first differing config key, input digest or trainable."""
    if old["trainable"] != new["trainable"]:
        return f"it trains {old['trainable']}, not {new['trainable']}"
    before, after = _flat(old["config"]), _flat(new["config"])
    for key in sorted(before.keys() | after.keys()):
        if not key.startswith(FREE_SECTION + ".") and before.get(key) != after.get(key):
            return f"{key} was {before.get(key)!r} and is {after.get(key)!r} now"
    digests = [{i["role"]: (i["digest"], i["path"]) for i in m["inputs"]} for m in (old, new)]
    for role in sorted(digests[0].keys() | digests[1].keys()):
        was, now = digests[0].get(role), digests[1].get(role)
        if was is None or now is None or was[0] != now[0]:
            return (
                f"its {role} was {was and was[1]} ({was and was[0][:8]}) and is {now and now[1]} ({now and now[0][:8]})"
            )
    return None


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def cut_metrics(file: Path, step: int) -> None:
    """Keep the lines of metrics.jsonl up to a step, so that a resumed log equals an uninterrupted one."""
    if not file.is_file():
        return
    kept = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            break
    write_atomic(file, "".join(kept).encode())


def _begun(name: str) -> bool:
    """Is this a file of a run that was killed before its first manifest."""
    return name in (".lock", CONFIG) or name.endswith(".tmp")
