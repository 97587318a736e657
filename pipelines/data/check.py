"""Validation of a whole dataset: every picture is decoded; what is wrong is collected with its file, not raised."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.data.listing import Fault, ListedDataset
from pipelines.data.open import open_dataset
from pipelines.data.pairs import AERIAL, GROUND
from pipelines.data.scene import IGNORED, Dataset, Scene, SceneRecord
from pipelines.data.vigor import SAME_AREA
from pipelines.errors import DataError

LAYERS = {"image": "photo", "labels": "label map", "instances": "instance map"}
"""What people call the layers of a scene."""

BOX_TOLERANCE = 1.0
"""Pixels by which a box may reach over the image's border, since annotations are rounded."""


@dataclass(frozen=True)
class ClassCount:
    """How much there is of a class: share of the labelled pixels, scenes that show it, instances (0 for stuff)."""

    name: str
    id: int
    share: float
    scenes: int
    instances: int


@dataclass(frozen=True)
class SourceCount:
    """How much there is of a source of paired data: pairs, aerial pictures, groups."""

    name: str
    pairs: int
    aerials: int
    groups: int


@dataclass
class CheckReport:
    """What a dataset holds and what is wrong with it.

    faults and warnings: the first `limit` of each; total_faults and total_warnings count them all. sizes: how many
    images have each (height, width), views: how many pictures of each view. unlabelled: share of all pixels that are
    ignored. pairs and sources: of paired data alone.
    """

    root: Path
    format: str = ""
    splits: dict[str, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    total_faults: int = 0
    warnings: list[Fault] = field(default_factory=list)
    total_warnings: int = 0
    notes: list[str] = field(default_factory=list)
    classes: list[ClassCount] = field(default_factory=list)
    unlabelled: float = 0.0
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)
    groups: int = 0
    domains: dict[str, int] = field(default_factory=dict)
    pairs: int = 0
    sources: list[SourceCount] = field(default_factory=list)
    views: dict[str, dict[tuple[int, int], int]] = field(default_factory=dict)

    @property
    def scenes(self) -> int:
        return sum(self.splits.values())

    @property
    def valid(self) -> bool:
        return self.total_faults == 0

    def to_json(self) -> dict[str, Any]:
        def listed(sizes: dict[tuple[int, int], int]) -> list[dict[str, int]]:
            return [{"height": h, "width": w, "images": n} for (h, w), n in sorted(sizes.items())]

        return {
            **asdict(self),
            "root": str(self.root),
            "scenes": self.scenes,
            "valid": self.valid,
            "faults": [{**asdict(fault), "file": str(fault.file)} for fault in self.faults],
            "warnings": [{**asdict(fault), "file": str(fault.file)} for fault in self.warnings],
            "sizes": listed(self.sizes),
            "views": {name: listed(sizes) for name, sizes in self.views.items()},
        }


def check_dataset(
    root: Path,
    format: str | None = None,
    limit: int = 10,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Read all of a dataset and report its contents, faults, warnings and notes.

    A dataset that cannot be opened is one fault. limit: how many faults and warnings to keep. progress: called with
    scenes done and scenes in all. Raises ConfigError for an unknown format.
    """
    report = CheckReport(root)
    try:
        dataset = open_dataset(root, format)
    except DataError as error:
        _add(report, _fault(error, root), limit)
        return report
    report.format = dataset.format
    report.splits = dict(Counter(record.split for record in dataset.listed))
    report.groups = len({record.group for record in dataset.listed if record.group})
    report.domains = dict(sorted(Counter(record.domain for record in dataset.listed if record.domain).items()))
    report.notes += dataset.notes
    for fault in dataset.faults:
        _add(report, fault, limit)
    if not dataset.listed:
        _add(report, Fault(root, "the dataset has no scenes"), limit)
    totals = _Totals(len(dataset.schema.classes))
    for number, record in enumerate(dataset.listed):
        for fault in _check_scene(dataset, record, totals):
            _add(report, fault, limit)
        if progress is not None:
            progress(number + 1, len(dataset.listed))
    for fault in [*totals.copies, *_groups_in_two_splits(dataset), *totals.missing_instances(dataset)]:
        _add(report, fault, limit)
    _summarize(report, dataset, totals)
    return report


def usable(
    dataset: Dataset,
    records: Sequence[SceneRecord],
    needs: Collection[str],
    max_bad: int,
    threads: int = 4,
    views: Sequence[str] = (),
) -> tuple[list[SceneRecord], dict[str, str]]:
    """The records that can be read and have what is needed, and why the others cannot be used, by id; all are decoded.

    needs: «image», «labels», «instances». views: those that must be readable where a record has them; others are not
    decoded. Raises DataError when more than `max_bad` scenes cannot be used, or all.
    """

    def fault(record: SceneRecord) -> str | None:
        try:
            if views:
                for view in record.views.keys() & set(views):
                    dataset.read_view(record, view)
                return None
            scene = dataset.read(record)
        except DataError as error:
            return reason_of(error, dataset.root)
        lacks = [LAYERS[need] for need in needs if getattr(scene, need) is None]
        return f"there is no {' and no '.join(lacks)}" if lacks else None

    with ThreadPoolExecutor(threads) as pool:
        faults = list(pool.map(fault, records))
    bad = {record.id: why for record, why in zip(records, faults, strict=True) if why is not None}
    if len(bad) > max_bad or len(bad) == len(records):
        raise too_many_bad(list(bad.items()), max_bad, dataset.root)
    return [record for record in records if record.id not in bad], bad


def reason_of(error: DataError, root: Path) -> str:
    """What is wrong with a scene and where, without the place of the dataset: banks store and hash it."""
    text = error.what if error.where is None else f"{error.where}: {error.what}"
    return text.replace(f"{root}{os.sep}", "")


def too_many_bad(bad: Sequence[tuple[str, str]], max_bad: int, root: Path | None) -> DataError:
    """The error for more than `max_bad` scenes (id and reason) that cannot be used, or for none that can."""
    return DataError(
        (f"more than {max_bad} scenes cannot be used: " if len(bad) > max_bad else "no scene can be used: ")
        + "; ".join(f"{scene} ({reason})" for scene, reason in bad[: max(3, max_bad + 1)]),
        where=root,
        fix="mend or remove them, or raise --max-bad",
    )


class _Totals:
    """Counts over the scenes that could be read."""

    def __init__(self, classes: int) -> None:
        self.pixels = np.zeros(classes + 1, dtype=np.int64)  # by class index, ignored last
        self.scenes = np.zeros(classes, dtype=np.int64)
        self.instances = np.zeros(classes, dtype=np.int64)
        self.bare = np.zeros(classes, dtype=np.int64)  # pixels of things in no instance
        self.bare_in: dict[int, list[Path]] = defaultdict(list)
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.views: dict[str, Counter[tuple[int, int]]] = defaultdict(Counter)
        self.copies: list[Fault] = []
        self._first: dict[tuple[str, tuple[int, ...], bytes], SceneRecord] = {}

    def add(self, scene: Scene, things: np.ndarray) -> None:
        for name, view in scene.views.items():
            self._add_view(scene.record, name, view)
        shown = scene.image if scene.image is not None else scene.labels
        if shown is not None:
            self.sizes[(shown.shape[0], shown.shape[1])] += 1
        if scene.labels is None:
            return
        classes = len(self.scenes)
        labels = np.where(scene.labels == IGNORED, classes, scene.labels)
        pixels = np.bincount(labels.ravel(), minlength=classes + 1)
        self.pixels += pixels
        self.scenes += pixels[:classes] > 0
        if scene.instances is None:
            return
        _, first = np.unique(scene.instances, return_index=True)
        of_thing = scene.instances.ravel()[first] > 0
        self.instances += np.bincount(labels.ravel()[first[of_thing]], minlength=classes + 1)[:classes]
        bare = np.bincount(labels[scene.instances == 0], minlength=classes + 1)[:classes] * things
        self.bare += bare
        for index in np.flatnonzero(bare):
            self.bare_in[int(index)].append(scene.record.instances or scene.record.labels or Path(scene.id))

    def _add_view(self, record: SceneRecord, name: str, view: np.ndarray) -> None:
        """Count a view; a picture of two places is told, as a fault where it is on both sides of a split."""
        self.views[name][(view.shape[0], view.shape[1])] += 1
        digest = hashlib.blake2b(view.data, digest_size=16).digest()
        first = self._first.setdefault((name, view.shape, digest), record)
        if first.group != record.group and GROUND in first.views and GROUND in record.views:
            reason = f"the {name} view of {record.id} is pixel by pixel that of {first.id}, of another group"
            self.copies.append(
                Fault(record.views[name].path, reason, "warning" if first.split == record.split else "error")
            )

    def missing_instances(self, dataset: ListedDataset) -> list[Fault]:
        """One warning for each class of things with pixels outside all instances, crowds among them."""
        faults = []
        for index, files in sorted(self.bare_in.items()):
            pixels, share = self.bare[index], self.bare[index] / self.pixels[index]
            reason = (
                f"{pixels} pixels of {dataset.schema.names[index]}, {share:.1%} of the class, are in no instance"
                f" ({len(files)} scenes, the first named)"
            )
            faults.append(Fault(files[0], reason, "warning"))
        return faults


def _check_scene(dataset: ListedDataset, record: SceneRecord, totals: _Totals) -> list[Fault]:
    try:
        scene = dataset.read(record)
    except DataError as error:
        return [_fault(error, dataset.root)]
    totals.add(scene, dataset.schema.things)
    shown = scene.image if scene.image is not None else scene.labels
    if shown is None:
        return []
    height, width = shown.shape[:2]
    faults = []
    for number, item in enumerate(record.objects):
        x, y, w, h = item.box
        if min(x, y) < -BOX_TOLERANCE or x + w > width + BOX_TOLERANCE or y + h > height + BOX_TOLERANCE:
            reason = (
                f"the box ({x:g}, {y:g}, {w:g}, {h:g}) of object {number}, {dataset.schema.names[item.category]},"
                f" reaches out of the image of {width}x{height}"
            )
            faults.append(Fault(record.image or record.labels or dataset.root, reason))
    return faults


def _groups_in_two_splits(dataset: ListedDataset) -> list[Fault]:
    """A group in several splits: of paired data a fault, for a place that was learned is no test of retrieval."""
    splits: dict[str, set[str]] = defaultdict(set)
    for record in dataset.listed:
        if record.group:
            splits[record.group].add(record.split)
    divided = [(group, ", ".join(sorted(names))) for group, names in sorted(splits.items()) if len(names) > 1]
    if dataset.format in SAME_AREA and divided:
        reason = f"the published lists divide {len(divided)} groups, the first {divided[0][0]!r}: {divided[0][1]}"
        return [Fault(dataset.root, reason, "warning")]
    paired = any(record.views for record in dataset.listed)
    return [
        Fault(
            dataset.root,
            f"the group {group!r} is in several splits: {names}",
            "error" if paired else "warning",
        )
        for group, names in divided
    ]


def _summarize(report: CheckReport, dataset: ListedDataset, totals: _Totals) -> None:
    labelled = int(totals.pixels[:-1].sum())
    report.unlabelled = float(totals.pixels[-1] / max(1, totals.pixels.sum()))
    report.sizes = dict(totals.sizes)
    report.classes = [
        ClassCount(
            category.name,
            category.id,
            float(totals.pixels[index] / max(1, labelled)),
            int(totals.scenes[index]),
            int(totals.instances[index]),
        )
        for index, category in enumerate(dataset.schema.classes)
    ]
    unused = [count.name for count in report.classes if not count.scenes]
    if unused and labelled:
        report.notes.append(f"{len(unused)} classes have no pixel: {', '.join(unused)}")
    if any(record.views for record in dataset.listed):
        _summarize_pairs(report, dataset, totals)
        return
    kinds = (("photos", "image"), ("label maps", "labels"), ("instance maps", "instances"))
    for what, name in kinds:
        without = sum(getattr(record, name) is None for record in dataset.listed)
        if without and not (name != "image" and dataset.format == "coco"):
            report.notes.append(f"{without} of {report.scenes} scenes have no {what}")


def _summarize_pairs(report: CheckReport, dataset: ListedDataset, totals: _Totals) -> None:
    report.views = {name: dict(sizes) for name, sizes in sorted(totals.views.items())}
    by_source: dict[str, list[SceneRecord]] = defaultdict(list)
    for record in dataset.listed:
        by_source[record.domain].append(record)
    report.sources = [
        SourceCount(
            name,
            sum(GROUND in record.views for record in records),
            len({record.extra["aerial_id"] for record in records if AERIAL in record.views}),
            len({record.group for record in records}),
        )
        for name, records in sorted(by_source.items())
    ]
    report.pairs = sum(source.pairs for source in report.sources)
    if alone := sum(GROUND not in record.views for record in dataset.listed if record.views):
        report.notes.append(f"{alone} aerial pictures have no street picture: they are in galleries only")


def _fault(error: DataError, root: Path) -> Fault:
    reason = error.what if error.fix is None else f"{error.what}; {error.fix}"
    return Fault(Path(error.where) if error.where else root, reason)


def _add(report: CheckReport, fault: Fault, limit: int) -> None:
    kept = report.faults if fault.kind == "error" else report.warnings
    if fault.kind == "error":
        report.total_faults += 1
    else:
        report.total_warnings += 1
    if len(kept) < limit:
        kept.append(fault)
