"""Artifacts: finished directories with a manifest.

A stage writes into `<out>.partial` and, when all is there, the manifest last and then one rename: a directory
with a manifest is complete, one without is resumable. The digest of an artifact covers format, config, the
digests of its inputs and the hashes of its files, but not time, host, command or paths: the same work elsewhere
gives the same digest. A run is the one mutable artifact; see pipelines/train/run.py.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from pipelines.config import Config, dump_yaml
from pipelines.errors import ArtifactError, EnvironmentFault, RgsError
from pipelines.manifest import KINDS, MANIFEST, digest_json, manifest_digest, read_manifest, unreadable

CONFIG = "config.yaml"


@dataclass(frozen=True)
class Input:
    """What an artifact was made from: role («bank», «data»), the path it was found at, the digest it had."""

    role: str
    path: str
    digest: str
    step: int | None = None

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {"role": self.role, "path": self.path, "digest": self.digest}
        return data if self.step is None else {**data, "step": self.step}


class _Statistics(dict[str, Any]):
    """What a stage counted. An entry that is missing is damage to the manifest, no bug."""

    def __init__(self, values: Mapping[str, Any], where: Path) -> None:
        super().__init__(values)
        self.where = where

    def __missing__(self, key: str) -> Any:
        raise unreadable(self.where / MANIFEST, f"statistics.{key} is missing")


@dataclass(frozen=True)
class Artifact:
    """A complete artifact on disk. `path` is its directory, `manifest` the parsed manifest.json."""

    path: Path
    manifest: dict[str, Any] = field(repr=False)

    @property
    def kind(self) -> str:
        return str(self.manifest["format"]).removeprefix("rgs/").partition("@")[0]

    @property
    def digest(self) -> str:
        return str(self.manifest["digest"])

    @property
    def config(self) -> dict[str, Any]:
        return dict(self.manifest["config"])

    @property
    def statistics(self) -> dict[str, Any]:
        return _Statistics(self.manifest["statistics"], self.path)

    def input(self, role: str) -> Input | None:
        found = next((i for i in self.manifest["inputs"] if i["role"] == role), None)
        return None if found is None else Input(found["role"], found["path"], found["digest"], found.get("step"))

    def as_input(self, role: str, relative_to: Path) -> Input:
        return Input(role, relative_path(self.path, relative_to), self.digest)


def open_artifact(path: Path, kind: str) -> Artifact:
    """Open a complete artifact of a kind, and check its digest and that its files are all there with their sizes.

    Raises ArtifactError when it is missing, unfinished, of another kind, from a newer rgs, or damaged.
    """
    artifact = Artifact(path, read_manifest(path))
    if artifact.kind != kind:
        raise ArtifactError(
            f"this is {_called(artifact.kind)}, not {_called(kind)}", where=path, fix=f"name {_called(kind)}"
        )
    if artifact.digest != manifest_digest(artifact.manifest):
        raise unreadable(path / MANIFEST, "its digest is not that of its content, so it was changed or damaged")
    files = artifact.manifest["files"]
    checkpoints = [digest for w in artifact.manifest.get("weights", []) for digest in (w["sha256"], w["state"])]
    if kind == "run" and [file["sha256"] for file in files] != checkpoints:  # a run's digest covers these alone
        raise unreadable(path / MANIFEST, "its files are not those of its checkpoints")
    for file in files:
        on_disk = path / file["path"]
        if Path(file["path"]).is_absolute() or ".." in Path(file["path"]).parts:
            raise unreadable(path / MANIFEST, f"it names the file {file['path']!r}, which lies outside {path}")
        size = on_disk.stat().st_size if on_disk.is_file() else None
        if size != file["bytes"]:
            state = "is missing" if size is None else f"has {size} bytes instead of {file['bytes']}"
            raise ArtifactError(f"{file['path']} {state}: the {kind} is damaged", where=path, fix="build it again")
    return artifact


def _called(kind: str) -> str:
    return {"index": "an index", "samples": "a folder of samples"}.get(kind, f"a {kind}")


def verify_files(artifact: Artifact) -> None:
    """Recompute every file's sha256. Raises ArtifactError naming the first that differs."""
    for file in artifact.manifest["files"]:
        if sha256_file(artifact.path / file["path"]) != file["sha256"]:
            raise ArtifactError(
                f"{file['path']} was changed after it was written",
                where=artifact.path,
                fix="make the artifact again",
            )


def require_free(out: Path) -> None:
    """Raises ArtifactError when the output exists; `writing` asks too, but a stage may have much to do before."""
    if out.exists():
        raise ArtifactError("the output exists already", where=out, fix="choose another --out, or remove it first")


@contextmanager
def writing(
    out: Path,
    kind: str,
    config: Config,
    inputs: list[Input],
    statistics: dict[str, Any],
) -> Iterator[Path]:
    """Write an artifact: yields `<out>.partial`, and on a clean exit seals it and renames it to `out`.

    The partial directory is locked against a second writer, and kept when the stage fails or is killed, so that
    the stage can go on with what is there; it is emptied first when it was begun with another config or other
    inputs. `statistics` may be filled until the context ends.
    """
    require_free(out)
    partial = out.with_name(out.name + ".partial")
    plan = _plan(kind, config, inputs)
    with disk_faults(out), locked(partial):
        require_free(out)  # another writer may have finished while this one waited
        for left in partial.rglob(".*.tmp"):  # of a writer that was killed
            left.unlink()
        stamp = partial / "plan.json"
        if not stamp.is_file() or stamp.read_bytes() != _stamp(plan):
            _empty(partial)
            write_atomic(stamp, _stamp(plan))
        yield partial
        seal(partial, kind, config, inputs, statistics)
        stamp.unlink()
        (partial / ".lock").unlink(missing_ok=True)
        os.replace(partial, out)
        fsync_directory(out.parent)


@contextmanager
def filling(out: Path) -> Iterator[Path]:
    """Write a folder that is no artifact: yields `<out>.partial`, empty and locked, and renames it on a clean exit."""
    require_free(out)
    partial = out.with_name(out.name + ".partial")
    with disk_faults(out), locked(partial):
        require_free(out)
        _empty(partial)
        yield partial
        (partial / ".lock").unlink(missing_ok=True)
        os.replace(partial, out)
        fsync_directory(out.parent)


def _empty(partial: Path) -> None:
    for entry in partial.iterdir():
        if entry.name != ".lock":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def seal(partial: Path, kind: str, config: Config, inputs: list[Input], statistics: dict[str, Any]) -> None:
    """Write config.yaml, hash every file, and write the manifest last."""
    write_atomic(partial / CONFIG, dump_yaml(config).encode())
    files = [
        {"path": str(p.relative_to(partial)), "bytes": p.stat().st_size, "sha256": sha256_file(p)}
        for p in sorted(partial.rglob("*"))
        if p.is_file() and p.name not in (MANIFEST, CONFIG, "plan.json", ".lock")
    ]
    plan = _plan(kind, config, inputs)
    manifest = {
        "format": KINDS[kind],
        "version": tool_version(),
        "command": command_line(),
        "config": plan["config"],
        "config_hash": digest_json(plan["config"]),
        "inputs": [i.to_json() for i in inputs],
        "files": files,
        "statistics": statistics,
        "environment": environment(),
    }
    manifest["digest"] = manifest_digest(manifest)
    write_atomic(partial / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False).encode())


def _plan(kind: str, config: Config, inputs: list[Input]) -> dict[str, Any]:
    """What the work is, apart from where and by whom it is done."""
    return {
        "format": KINDS[kind],
        "config": config.model_dump(mode="json"),
        "inputs": sorted([i.role, i.digest, i.step] for i in inputs),
    }


def _stamp(plan: dict[str, Any]) -> bytes:
    return json.dumps(plan, indent=1).encode()


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the directory for one writer. Raises EnvironmentFault when another process holds it."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise EnvironmentFault(
                "another process is writing here", where=directory, fix="wait for it, or stop it"
            ) from error
        except OSError as error:
            raise EnvironmentFault(
                f"this file system cannot lock files ({error.strerror})", where=directory, fix="choose another --out"
            ) from error
        _held.add(handle)
        try:
            yield
        finally:
            _held.discard(handle)


_held: set[IO[str]] = set()
"""Locks of this process. A forked worker that kept its copy would hold them beyond the death of the writer."""


def _let_go() -> None:
    for handle in _held:
        handle.close()
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


@contextmanager
def disk_faults(where: str | Path) -> Iterator[None]:
    """Turn what a disk or the system refuses (full, read-only, no permission, …) into an EnvironmentFault (exit 4)."""
    reasons = {
        errno.ENOSPC: (
            "the disk is full",
            "free some space and run the command again: it goes on where it stopped",
        ),
        errno.EDQUOT: ("the disk quota is used up", "free some space and run the command again"),
        errno.EROFS: ("the output is on a read-only file system", "choose another --out"),
        errno.EACCES: ("no permission to write here", "choose another --out, or change the permission"),
        errno.ENOTDIR: ("a file is where a folder is needed", "choose another --out"),
        errno.EEXIST: ("a file is where a folder is needed", "choose another --out"),
        errno.EISDIR: ("a folder is where a file is needed", "choose another --out"),
        errno.ELOOP: ("a link leads to itself", "mend the link, or choose another path"),
        errno.ENAMETOOLONG: ("the name is too long for the file system", "choose a shorter --out"),
        errno.EFBIG: ("a file would be larger than is allowed here", "raise the limit (ulimit -f), or write elsewhere"),
        errno.EIO: ("the disk reports an error", "check the disk, or choose another --out"),
        errno.EMFILE: ("too many files are open", "raise the limit (ulimit -n), or use fewer --jobs"),
        errno.ENOMEM: ("out of memory", "use a smaller batch or size, or fewer --jobs"),
    }
    try:
        yield
    except RgsError:
        raise
    except OSError as error:
        if error.errno not in reasons:
            raise
        what, fix = reasons[error.errno]
        raise EnvironmentFault(what, where=error.filename or where, fix=fix) from error


def write_atomic(path: Path, data: bytes) -> None:
    """Write whole or not at all: temporary name, fsync, rename, fsync of the folder."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_directory(path.parent)


def fsync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_file(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def relative_path(path: Path, start: Path) -> str:
    return os.path.relpath(path.resolve(), start.resolve())


def command_line() -> list[str]:
    """The command as typed, its program without a path."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]


def tool_version() -> str:
    try:
        return metadata.version("rgs")
    except metadata.PackageNotFoundError:
        return "0+uninstalled"


@cache
def environment() -> dict[str, Any]:
    """Versions and the machine's kind, as far as results can depend on them. No host name, user or path."""
    packages = (
        "torch",
        "torchvision",
        "numpy",
        "h5py",
        "faiss-cpu",
        "faiss-gpu",
        "opencv-python-headless",
        "numba",
    )
    versions: Mapping[str, str] = {name: v for name in packages if (v := _version(name)) is not None}
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": dict(versions),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
