"""The part of rgs eval that looks at a bank: how well retrieval fits, and how much of the pieces is copied."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.artifact import Artifact
from pipelines.bank.bank import Bank
from pipelines.bank.segments import Decompose, Decomposition, decompose
from pipelines.data.augment import resize_image
from pipelines.data.instances import connected_instances
from pipelines.data.pixels import read_image, read_index_map
from pipelines.data.scene import Schema
from pipelines.errors import ArtifactError
from pipelines.metrics import copying, retrieval
from pipelines.metrics.copying import Comparison, Nearest, Patch
from pipelines.metrics.report import Figure
from pipelines.metrics.samples import Reference, Sample, read_labels
from pipelines.metrics.scores import Context, NotComputed, Score
from pipelines.progress import Progress
from pipelines.stages.train import require_same_classes

PAIRS = 6
"""Pairs of pictures that the page shows of each comparison."""


@dataclass(frozen=True)
class Subject:
    """What is looked at: samples in order, their schema and artifact, and the real photos if there are any."""

    artifact: Artifact
    schema: Schema
    samples: Sequence[Sample]
    reference: Reference | None

    def labels(self, sample: Sample, image: np.ndarray) -> np.ndarray:
        assert sample.layout is not None  # a bank of pieces serves layouts
        return read_labels(sample.layout, self.schema, (image.shape[0], image.shape[1]))

    def index(self, sample: Sample) -> np.ndarray:
        return read_index_map(self.artifact.path / "provenance" / f"{sample.name}.png")

    def real(self, sample: Sample, like: np.ndarray) -> np.ndarray:
        assert self.reference is not None
        return resize_image(self.reference.read(sample.source), (like.shape[0], like.shape[1]))


@dataclass
class Findings:
    """Scores, what was not computed, the JSON sections of the report, and figures by the heading they stand under."""

    scores: list[Score] = field(default_factory=list)
    missing: list[NotComputed] = field(default_factory=list)
    sections: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, list[Figure]] = field(default_factory=dict)

    def add(self, other: Findings) -> None:
        self.scores += other.scores
        self.missing += other.missing
        self.sections |= other.sections
        self.figures |= other.figures


def open_bank(path: Path, samples: Artifact, schema: Schema) -> Bank:
    """The bank that pieces are compared with: the one that the samples were made from, if they were from any.

    Raises ArtifactError when it is another one, has other classes, or holds no segments.
    """
    bank = Bank.open(path)
    bank.require_kind("segments", "an evaluation of pieces")
    require_same_classes(schema, bank.schema, "the bank", path)
    used = samples.input("bank")
    if used is not None and used.digest != bank.digest:
        raise ArtifactError(
            f"the samples were made from bank {used.digest[:12]} but this one is {bank.digest[:12]}",
            where=path,
            fix=f"give the bank that they were made from: it was at {used.path}, as seen from beside the samples",
        )
    return bank


def measure_retrieval(subject: Subject, bank: Bank, context: Context, progress: Progress) -> Findings:
    """Scores of the pieces that were placed, before any generator."""
    made = Findings()
    if not (subject.artifact.path / retrieval.RECORDS).is_file():
        made.missing.append(NotComputed("retrieval", "these samples were made without retrieved pieces"))
        return made
    pieces = retrieval.read_pieces(subject.artifact.path, subject.schema.names)
    fits = []
    for done, sample in enumerate(subject.samples, start=1):
        mine = pieces.get(sample.name, [])
        index = subject.index(sample)
        labels = subject.labels(sample, index)
        masks = {piece.row: bank.mask(_row(bank, piece.row)) for piece in mine}
        segments = [segment.category for segment in _segments(labels, subject.schema, bank).segments]
        fits.append(retrieval.fit(labels, index, mine, masks, segments))
        progress("retrieval", done, len(subject.samples))
    made.scores, made.missing = retrieval.scores(fits, context, **{"pieces from": _bank_text(bank)})
    return made


def _row(bank: Bank, row: int) -> int:
    if not 0 <= row < len(bank):
        raise ArtifactError(f"the samples use row {row} of a bank of {len(bank)} pieces", where=bank.path)
    return row


def _bank_text(bank: Bank) -> str:
    return f"bank {bank.digest[:8]}, {len(bank)} pieces of {len(bank.source_table)} images"


def _segments(labels: np.ndarray, schema: Schema, bank: Bank) -> Decomposition:
    """A layout's segments as the bank would cut them; things are connected components, as no instance map is kept."""
    settings = Decompose.model_validate(bank.config["decompose"])
    return decompose(labels, connected_instances(labels, schema), schema.things, settings)


def check_pasted(subject: Subject, context: Context, progress: Progress) -> Findings:
    """How much of the pieces in the guidance is taken over unchanged, by outputs and by chance by their photos."""
    made = Findings()
    if (
        any(sample.guidance is None for sample in subject.samples)
        or not (subject.artifact.path / "provenance").is_dir()
    ):
        made.missing.append(NotComputed("copy/pasted", "these samples were made without retrieved pieces"))
        return made
    outputs: list[float | None] = []
    reals: list[float | None] = []
    for done, sample in enumerate(subject.samples, start=1):
        assert sample.guidance is not None
        image, guidance, covered = read_image(sample.image), read_image(sample.guidance), subject.index(sample) > 0
        outputs.append(copying.taken_over(image, guidance, covered))
        if subject.reference is not None:
            reals.append(copying.taken_over(subject.real(sample, image), guidance, covered))
        progress("copy check: pieces", done, len(subject.samples))
    made.scores, made.missing = copying.pasted_scores(outputs, reals, context)
    return made


@dataclass(frozen=True)
class Regions:
    """The segments of all images: of which image, box and pixels, and the patches of outputs and of photos."""

    image: np.ndarray
    category: np.ndarray
    pixels: np.ndarray
    windows: list[tuple[slice, slice]]
    masks: list[np.ndarray]
    outputs: list[Patch]
    reals: list[Patch]


def check_segments(subject: Subject, bank: Bank, context: Context, progress: Progress) -> Findings:
    """How close the segments of each output are to the nearest piece of the bank, beside those of its photo."""
    made = Findings()
    regions = _regions(subject, bank)
    outputs, reals = _nearest_pieces(regions, bank, progress)
    count = len(subject.samples)
    of_image = [np.flatnonzero(regions.image == i) for i in range(count)]
    distances = [copying.mean_distance(outputs.distance[at], regions.pixels[at]) for at in of_image]
    photos = [copying.mean_distance(reals.distance[at], regions.pixels[at]) for at in of_image] if reals else None
    comparison = copying.compare(distances, photos or [np.nan] * count, context.owners)
    own = {"variant": copying.SEGMENT_PROTOCOL, "compared with": _bank_text(bank)}
    made.scores, made.missing = copying.comparison_scores("segments", "Nearest bank segment", comparison, context, own)
    if reals is not None:
        made.figures["Nearest bank segment"] = [
            _segment_pair(subject, bank, regions, outputs, reals, of_image[i], comparison, i)
            for i in closest(comparison)
        ]
    return made


def _regions(subject: Subject, bank: Bank) -> Regions:
    rows: list[tuple[int, int, int]] = []
    windows, masks = [], []
    outputs: list[Patch] = []
    reals: list[Patch] = []
    for number, sample in enumerate(subject.samples):
        image = read_image(sample.image)
        real = None if subject.reference is None else subject.real(sample, image)
        parts = _segments(subject.labels(sample, image), subject.schema, bank)
        for i, segment in enumerate(parts.segments):
            if segment.area < copying.LEAST_PIXELS:
                continue
            x, y, w, h = segment.box
            window = np.s_[y : y + h, x : x + w]
            mask = parts.owner[window] == i
            rows.append((number, segment.category, segment.area))
            windows.append(window)
            masks.append(mask)
            outputs.append(copying.patch(image[window], mask))
            if real is not None:
                reals.append(copying.patch(real[window], mask))
    table = np.array(rows, np.int64).reshape(-1, 3)
    return Regions(table[:, 0], table[:, 1], table[:, 2], windows, masks, outputs, reals)


def _nearest_pieces(regions: Regions, bank: Bank, progress: Progress) -> tuple[Nearest, Nearest | None]:
    """The nearest piece of each region's class in output and photo; numbers are rows of the bank."""
    count, both = len(regions.outputs), [*regions.outputs, *regions.reals]
    categories = np.tile(regions.category, len(both) // count if count else 1)
    distance, number = np.full(len(both), np.inf), np.full(len(both), -1, np.int64)
    wanted = np.unique(regions.category)
    total, done = int(np.isin(bank.categories, wanted).sum()), 0

    def read(rows: np.ndarray) -> Iterator[Patch]:
        nonlocal done
        for row in rows.tolist():
            yield copying.patch(bank.crop(row), bank.mask(row))
            done += 1
            progress("copy check: bank", done, total)

    for category in wanted:
        mine, rows = np.flatnonzero(categories == category), np.flatnonzero(bank.categories == category)
        found = copying.nearest_patches([both[i] for i in mine], read(rows))
        known = found.number >= 0
        distance[mine] = found.distance
        number[mine[known]] = rows[found.number[known]]
    outputs = Nearest(distance[:count], number[:count])
    return outputs, Nearest(distance[count:], number[count:]) if regions.reals else None


def closest(comparison: Comparison) -> list[int]:
    """The images with the least ratio of their own distance to their photo's."""
    known = np.flatnonzero(np.isfinite(comparison.ratio))
    return known[np.argsort(comparison.ratio[known], kind="stable")][:PAIRS].tolist()


def _segment_pair(
    subject: Subject,
    bank: Bank,
    regions: Regions,
    outputs: Nearest,
    reals: Nearest,
    mine: np.ndarray,
    comparison: Comparison,
    number: int,
) -> Figure:
    """The segment that makes an image close: the one where output and photo differ most, by distance times pixels."""
    gain = (reals.distance[mine] - outputs.distance[mine]) * regions.pixels[mine]
    at = int(mine[np.argmax(np.where(np.isfinite(gain), gain, -np.inf))])
    sample = subject.samples[number]
    image = read_image(sample.image)
    window, mask = regions.windows[at], regions.masks[at]

    pictures = {"output": _cut(image[window], mask)}
    name = subject.schema.names[int(regions.category[at])]
    text = f"{name} of {sample.name}"
    row = int(outputs.number[at])
    if row >= 0:
        pictures["nearest piece"] = _cut(bank.crop(row), bank.mask(row))
        text += f", piece of {bank.source_of(row).id}"
    pictures["photo"] = _cut(subject.real(sample, image)[window], mask)
    text += f": {outputs.distance[at]:.1f} levels, the photo's segment {reals.distance[at]:.1f}"
    return Figure(pictures, f"{text}; whole image at {comparison.ratio[number]:.2f} of its photo's distance")


def _cut(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(h, w, 4): the pixels, transparent outside of their mask."""
    return np.dstack([pixels, np.where(mask, 255, 0).astype(np.uint8)])
