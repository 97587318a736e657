"""One pass over samples and references: each image is read once, and shown to all that measures it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from pipelines.data.augment import Size, resize_image
from pipelines.data.pixels import read_image
from pipelines.data.scene import Schema
from pipelines.metrics import segmentation
from pipelines.metrics.extract import segment
from pipelines.metrics.instruments import JUDGE, Instruments
from pipelines.metrics.samples import Reference, Sample, read_labels
from pipelines.progress import Progress


@dataclass
class Measured:
    """What was seen of the images, in the order of the samples; `real_…` of the distinct references.

    values: by name, one value per image, fewer where images are too small. counts: `segmentation.class_counts` of the
    judge's prediction against the layout. features: by name, (d,) per image. References are in the order in which the
    samples first name their layout.
    """

    values: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    counts: list[np.ndarray] = field(default_factory=list)
    real_counts: list[np.ndarray] = field(default_factory=list)
    features: dict[str, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))
    real_features: dict[str, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))
    sizes: set[Size] = field(default_factory=set)
    real_sizes: set[Size] = field(default_factory=set)


def measure(
    samples: Sequence[Sample],
    reference: Reference | None,
    schema: Schema,
    instruments: Instruments,
    batch: int,
    progress: Progress,
) -> Measured:
    """Show every sample, and every reference once at the size of its first sample, to the instruments."""
    seen = Measured()
    firsts = {sample.source: sample for sample in reversed(samples)}
    done = 0
    for chunk in _same_size(samples, batch):
        members = [sample for sample, _ in chunk]
        outputs = np.stack([image for _, image in chunk])
        size: Size = outputs.shape[1:3]
        seen.sizes.add(size)
        layouts = [read_labels(sample.layout, schema, size) for sample in members if sample.layout is not None]
        _look(outputs, layouts, schema, instruments, seen.counts, seen.features)
        if reference is not None:
            photos = [reference.read(sample.source) for sample in members]
            seen.real_sizes |= {(photo.shape[0], photo.shape[1]) for photo in photos}
            references = np.stack([resize_image(photo, size) for photo in photos])
            for name, (side, distance) in instruments.pairwise.items():
                if min(size) >= side:
                    seen.values[name] += distance(outputs, references).tolist()
            new = [i for i, sample in enumerate(members) if firsts[sample.source] is sample]
            if new:
                wanted = [layouts[i] for i in new] if layouts else []
                _look(references[new], wanted, schema, instruments, seen.real_counts, seen.real_features)
        done += len(chunk)
        progress("eval", done, len(samples))
    return seen


def owners(samples: Sequence[Sample]) -> tuple[np.ndarray, int]:
    """The layout of each sample, numbered as the samples first name them, and how many there are."""
    numbers: dict[str, int] = {}
    own = np.array([numbers.setdefault(sample.source, len(numbers)) for sample in samples])
    return own, len(numbers)


def _look(
    images: np.ndarray,
    layouts: Sequence[np.ndarray],
    schema: Schema,
    instruments: Instruments,
    counts: list[np.ndarray],
    features: dict[str, list[np.ndarray]],
) -> None:
    """Add what judge and extractors say of images to counts and features."""
    if instruments.judge is not None:
        classes = len(schema.classes)
        predicted, pooled = segment(instruments.judge, images, instruments.device)
        if layouts:  # scene graphs have none
            pairs = zip(layouts, predicted, strict=True)
            counts += [segmentation.class_counts(segmentation.confusion(wanted, p, classes)) for wanted, p in pairs]
        features[JUDGE] += list(pooled)
    for extract in instruments.features:
        for name, found in extract(images).items():
            features[name] += list(found)


def _same_size(samples: Sequence[Sample], batch: int) -> Iterator[list[tuple[Sample, np.ndarray]]]:
    """Consecutive samples of one size with their images, at most `batch` of them."""
    read = ((sample, read_image(sample.image)) for sample in samples)
    for _, group in groupby(read, key=lambda pair: pair[1].shape):
        chunk = []
        for pair in group:
            chunk.append(pair)
            if len(chunk) == batch:
                yield chunk
                chunk = []
        if chunk:
            yield chunk
