"""BankWriter: makes the shards of a bank, each cut from images, copied without some sources, or shared.

A shard is made whole or not at all, and one that is there, whole, is not made again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np

from pipelines.artifact import fsync_directory, sha256_file, tool_version, write_atomic
from pipelines.bank.segments import Decompose, decompose
from pipelines.bank.shard import (
    BadScene,
    Codec,
    Piece,
    Shard,
    Source,
    encode_pixels,
    encode_shard,
    read_shard,
    without_sources,
)
from pipelines.data.check import reason_of
from pipelines.data.digest import record_digests
from pipelines.data.scene import IGNORED, Dataset, Scene, SceneRecord
from pipelines.errors import ArtifactError, DataError, EnvironmentFault
from pipelines.index.shape_search import packed_canonical


@dataclass(frozen=True)
class Share:
    """A shard taken over as it is."""

    name: str
    path: Path
    sha256: str


@dataclass(frozen=True)
class Cut:
    """A shard to be cut from images, each with its digest."""

    name: str
    records: tuple[SceneRecord, ...]
    digests: tuple[str, ...]

    @property
    def sources(self) -> int:
        return len(self.records)


@dataclass(frozen=True)
class Thin:
    """A shard to be copied without some of its sources."""

    name: str
    path: Path
    removed: frozenset[str]
    sources: int


@dataclass(frozen=True)
class Made:
    """A shard as the bytes of its file, and the scenes of it that could not be used."""

    data: bytes
    bad: list[BadScene]


Cutter = Callable[[Dataset, SceneRecord, str], tuple[Source, list[Piece]]]
"""Cuts one scene, given with its digest, into pieces of one kind. Raises DataError when it cannot be used."""


@dataclass(frozen=True)
class BankWriter:
    """Makes shards in a folder, cut from the scenes of `data`. Picklable, as its cutter must be, for workers."""

    folder: Path
    data: Dataset | None
    cutter: Cutter

    def __call__(self, task: Cut | Thin) -> list[BadScene]:
        """Make one shard unless it is there, whole. The scenes of it that could not be used."""
        bad = self.there(task)
        return self.keep(task, self.make(task)) if bad is None else bad

    def there(self, task: Cut | Thin) -> list[BadScene] | None:
        """The bad scenes of a shard that is in the folder, whole; None when it has to be made."""
        path = self.folder / task.name
        if path.exists():
            with suppress(ArtifactError):
                return list(read_shard(path).bad)
        return None

    def make(self, task: Cut | Thin) -> Made:
        """A shard in memory; touches nothing."""
        shard = self.cut(task) if isinstance(task, Cut) else without_sources(read_shard(task.path), task.removed)
        return Made(encode_shard(shard), list(shard.bad))

    def keep(self, task: Cut | Thin, made: Made) -> list[BadScene]:
        """Write a shard into the folder, whole or not at all."""
        write_atomic(self.folder / task.name, made.data)
        return made.bad

    def cut(self, task: Cut) -> Shard:
        """The pieces of some images."""
        sources: list[tuple[Source, list[Piece]]] = []
        bad: list[BadScene] = []
        for record, digest in zip(task.records, task.digests, strict=True):
            try:
                sources.append(self.cut_source(record, digest))
            except DataError as error:
                assert self.data is not None
                bad.append(BadScene(record.id, reason_of(error, self.data.root)))
        return Shard(sources, bad)

    def cut_source(self, record: SceneRecord, digest: str) -> tuple[Source, list[Piece]]:
        """The pieces of one image. Raises DataError when it cannot be used."""
        assert self.data is not None
        return self.cutter(self.data, record, digest)


def library_versions() -> dict[str, str]:
    """What the bytes of a shard depend on, beside its images and settings."""
    packages = ("numpy", "h5py", "opencv-python-headless", "pillow")
    return {"rgs": tool_version(), **{name: metadata.version(name) for name in packages}}


@dataclass(frozen=True)
class Elsewhere:
    """Makes shards on other machines: for the same bytes they need the versions and see the files of this one."""

    writer: BankWriter
    versions: dict[str, str] = field(default_factory=library_versions)

    def __call__(self, task: Cut | Thin) -> Made:
        """Raises EnvironmentFault where this machine could make another shard than the one that asks for it."""
        others = [
            f"{name} {here} instead of {self.versions[name]}"
            for name, here in library_versions().items()
            if here != self.versions[name]
        ]
        if others:
            raise EnvironmentFault(
                f"a machine of the cluster has other versions: {', '.join(others)}",
                fix="install the same versions on every machine: the bytes of a bank depend on them",
            )
        if isinstance(task, Cut):
            assert self.writer.data is not None
            seen = record_digests(self.writer.data, task.records, threads=1)
            for record, digest in zip(task.records, task.digests, strict=True):
                if seen[record.id] != digest:
                    raise EnvironmentFault(
                        f"a machine of the cluster does not see the scene {record.id} as it is here",
                        where=self.writer.data.root,
                        fix="put the dataset where every machine finds it under this path, for instance on NFS",
                    )
        return self.writer.make(task)


def share_shards(shares: Sequence[Share], folder: Path, threads: int) -> None:
    """Link the shards into the folder, or copy them where links cannot be had; check that they are as recorded."""

    def take(share: Share) -> None:
        target = folder / share.name
        if not (target.exists() and target.samefile(share.path)):
            temporary = folder / f".{share.name}.{os.getpid()}.tmp"
            try:
                os.link(share.path, temporary)
            except OSError:
                shutil.copyfile(share.path, temporary)
                with temporary.open("rb") as handle:
                    os.fsync(handle.fileno())
            os.replace(temporary, target)
        if sha256_file(target) != share.sha256:
            raise ArtifactError(
                f"the shard {share.name} was changed after it was written",
                where=share.path,
                fix="build that bank again",
            )

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(take, shares))
    fsync_directory(folder)


def cut_scene(
    data: Dataset, record: SceneRecord, digest: str, *, things: np.ndarray, settings: Decompose, codec: Codec
) -> tuple[Source, list[Piece]]:
    """The segments of a scene of `data`. Raises DataError when it cannot be used."""
    scene = data.read(record)
    pieces = cut_segments(scene, things, settings, codec)
    assert scene.image is not None
    height, width = scene.image.shape[:2]
    return Source(record.id, record.group, record.licence, height, width, labeled_pixels(scene), digest), pieces


def cut_segments(scene: Scene, things: np.ndarray, settings: Decompose, codec: Codec) -> list[Piece]:
    """The segments of a scene as pieces. Raises DataError when it has no image or labels, or they differ in size."""
    if scene.image is None or scene.labels is None:
        lacking = "image" if scene.image is None else "label map"
        raise DataError(f"the scene has no {lacking}", where=scene.id)
    if scene.image.shape[:2] != scene.labels.shape:
        sizes = [f"{h}x{w}" for h, w in (scene.image.shape[:2], scene.labels.shape)]
        raise DataError(f"the image is {sizes[0]} but its label map {sizes[1]}", where=scene.id)
    parts = decompose(scene.labels, scene.instances, things, settings)
    pieces = []
    for ordinal, segment in enumerate(parts.segments):
        x, y, w, h = segment.box
        mask = parts.owner[y : y + h, x : x + w] == ordinal
        crop = cv2.copyTo(scene.image[y : y + h, x : x + w], mask.view(np.uint8))  # 0 outside the mask
        pieces.append(
            Piece(
                ordinal=ordinal,
                category=segment.category,
                thing=segment.thing,
                area=segment.area,
                box=segment.box,
                pixels=encode_pixels(crop, codec),
                mask=np.packbits(mask).tobytes(),
                canonical=packed_canonical(mask).tobytes(),
            )
        )
    return pieces


def labeled_pixels(scene: Scene) -> int:
    return 0 if scene.labels is None else int(np.count_nonzero(scene.labels != IGNORED))
