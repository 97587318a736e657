"""The part of rgs eval that looks at training images: how close outputs come, and whether photos are among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.data.augment import Size, resize_image
from pipelines.data.digest import dataset_digest
from pipelines.data.listing import decode_view
from pipelines.data.open import open_dataset
from pipelines.data.pixels import read_image
from pipelines.data.scene import SceneRecord
from pipelines.errors import DataError, RgsError
from pipelines.metrics import copying
from pipelines.metrics.report import Figure
from pipelines.metrics.scores import Context
from pipelines.progress import Progress
from pipelines.stages.evaluate_bank import PAIRS, Findings, Subject, closest

Extract = Callable[[np.ndarray], np.ndarray]
"""Images (n, h, w, 3) uint8 of one size to features (n, d)."""


@dataclass(frozen=True)
class Training:
    """Training images to compare with, one view of paired data. digest: of the dataset's records."""

    root: Path
    kind: str
    records: list[SceneRecord]
    digest: str
    view: str | None

    def read(self, record: SceneRecord) -> np.ndarray:
        """(h, w, 3) uint8 RGB."""
        if self.view is not None:
            return decode_view(record.views[self.view])
        assert record.image is not None
        return read_image(record.image)


@dataclass(frozen=True)
class JudgeView:
    """What a judge sees. outputs: (n, d) features; reals: (layouts, d) by number of the layout, None without photos."""

    label: str
    outputs: np.ndarray
    reals: np.ndarray | None
    size: Size
    extract: Extract


def open_training(root: Path, format: str | None, split: str | None, view: str | None) -> Training:
    """The training images of a dataset, or a view of its places. Raises DataError when it has none."""
    dataset = open_dataset(root, format)
    records = [r for r in dataset.records(split) if (r.image is not None if view is None else view in r.views)]
    if not records:
        raise DataError(
            f"the training dataset has no {view or ''} images".replace("  ", " "),
            where=root,
            fix="name its split with --training-split",
        )
    kind = f"{dataset.format} dataset" + (f", split {split}" if split else "")
    return Training(root, kind, records, dataset_digest(dataset, records), view)


@dataclass(frozen=True)
class Photos:
    """The training images that could be read, and what could not: thumbnails (m, side² · 3), fingerprints, features."""

    records: list[SceneRecord]
    thumbs: np.ndarray
    prints: list[tuple[str, np.ndarray]]
    features: np.ndarray | None
    bad: list[str]


def read_training(
    training: Training, progress: Progress, extract: Extract | None = None, size: Size | None = None
) -> Photos:
    """Read every training image once; features are of the images at a size. Raises DataError when none can be read."""
    records, thumbs, prints, features, bad = [], [], [], [], []
    for done, record in enumerate(training.records, start=1):
        try:
            image = training.read(record)
        except RgsError as error:
            bad.append(f"{record.id}: {error.what}")
        else:
            records.append(record)
            thumbs.append(_thumb(image))
            prints.append(copying.fingerprint(image))
            if extract is not None and size is not None:
                features.append(extract(resize_image(image, size)[None])[0])
        progress("copy check: training images", done, len(training.records))
    if not records:
        raise DataError("no training image can be read", where=training.root)
    return Photos(records, np.stack(thumbs), prints, np.stack(features) if features else None, bad)


def _thumb(image: np.ndarray) -> np.ndarray:
    """(side² · 3,) whose Euclidean distance is the root mean square of RGB in levels of 255."""
    small = copying.patch(image, side=copying.PHOTO_SIDE).colors
    return small.reshape(-1).astype(np.float64) * (255 / np.sqrt(small.size))


def check_photos(subject: Subject, training: Training, photos: Photos, context: Context) -> Findings:
    """How close each output is to its nearest training image, beside its photo; and photos that were trained on."""
    outputs = np.stack([_thumb(read_image(sample.image)) for sample in subject.samples])
    originals, reals = {}, None
    if subject.reference is not None:
        originals = {source: subject.reference.read(source) for source in sorted(subject.reference.images)}
        reals = np.stack([_thumb(originals[sample.source]) for sample in subject.samples])
    made = _against(
        "photos", "", outputs, reals, photos.thumbs, copying.PHOTO_PROTOCOL, subject, training, photos, context
    )
    if originals:
        _audit(made, training, photos, originals)
    return made


def check_features(
    subject: Subject, training: Training, photos: Photos, judge: JudgeView, context: Context
) -> Findings:
    """The same in features of the judge."""
    assert photos.features is not None
    reals = None if judge.reals is None else judge.reals[context.owners]
    variant = f"Euclidean distance of pooled penultimate features of {judge.label}; the least over all training images"
    return _against(
        "features",
        ", judge's features",
        judge.outputs,
        reals,
        photos.features,
        variant,
        subject,
        training,
        photos,
        context,
    )


def _against(
    key: str,
    suffix: str,
    outputs: np.ndarray,
    reals: np.ndarray | None,
    candidates: np.ndarray,
    variant: str,
    subject: Subject,
    training: Training,
    photos: Photos,
    context: Context,
) -> Findings:
    """Vectors of outputs and photos (n, d) against those of the training images, and the closest pairs."""
    title = f"Nearest training image{suffix}"
    mine = copying.nearest_features(outputs, candidates)
    theirs = np.full(len(outputs), np.nan) if reals is None else copying.nearest_features(reals, candidates).distance
    found = copying.compare(mine.distance, theirs, context.owners)
    known = f"{training.root.resolve().name} ({training.kind}), {len(photos.records)} images, {training.digest[:8]}"
    own = {"variant": variant, "training images": known}
    scores, missing = copying.comparison_scores(key, title, found, context, own)
    figures = []
    for i in closest(found):
        sample, record = subject.samples[i], photos.records[mine.number[i]]
        image = read_image(sample.image)
        pictures = {
            "output": image,
            "training image": training.read(record),
            "photo": subject.real(sample, image),
        }
        text = f"{sample.name} and {record.id}: distance {mine.distance[i]:.1f}, the photo's {theirs[i]:.1f}"
        figures.append(Figure(pictures, text))
    return Findings(scores, missing, figures={title: figures})


def _audit(made: Findings, training: Training, photos: Photos, originals: Mapping[str, np.ndarray]) -> None:
    """List the photos that are training images too; each spoils every number that compares with photos."""
    names = list(originals)
    leaks = copying.audit([copying.fingerprint(originals[name]) for name in names], photos.prints)
    made.sections["audit"] = {
        "protocol": copying.AUDIT_PROTOCOL,
        "references": len(names),
        "training": len(photos.records),
        "unreadable": photos.bad,
        "leaks": [
            {
                "reference": names[leak.reference],
                "training": photos.records[leak.training].id,
                "identical": leak.same,
                "bits": leak.bits,
            }
            for leak in leaks
        ],
    }
    if leaks:
        made.figures["Real photos among the training images"] = [
            Figure(
                {
                    "photo": originals[names[leak.reference]],
                    "training image": training.read(photos.records[leak.training]),
                },
                f"{names[leak.reference]} and {photos.records[leak.training].id}: "
                + ("the same pixels" if leak.same else f"{leak.bits} of 64 hash bits differ"),
            )
            for leak in leaks[:PAIRS]
        ]
