"""The part of rgs eval that looks at what the system has seen: its bank, its training images, or both.

Numbers of a samples artifact beside its bank, and of outputs beside training images, next to the same numbers of
held-out photos; none needs a judge. What they find becomes scores like all others, and pairs of pictures to look at.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipelines.artifact import Artifact, Input, relative_path
from pipelines.bank.bank import Bank
from pipelines.data.scene import Schema
from pipelines.errors import ConfigError
from pipelines.metrics.scores import Context, NotComputed
from pipelines.progress import Progress
from pipelines.stages.evaluate_bank import Findings, Subject, check_pasted, check_segments, measure_retrieval, open_bank
from pipelines.stages.evaluate_training import (
    JudgeView,
    Training,
    check_features,
    check_photos,
    open_training,
    read_training,
)


@dataclass(frozen=True)
class Seen:
    """What the samples are compared with: a bank, training images, or neither; and both as inputs of the report."""

    bank: Bank | None
    training: Training | None
    inputs: list[Input]


def open_seen(
    bank: Path | None,
    training: Path | None,
    format: str | None,
    split: str | None,
    samples: Artifact,
    schema: Schema,
    home: Path,
) -> Seen:
    """Open the bank and the training dataset. Raises ConfigError for a split of nothing."""
    inputs = []
    opened_bank, opened_training = None, None
    if bank is not None:
        opened_bank = open_bank(bank, samples, schema)
        inputs.append(opened_bank.artifact.as_input("bank", home))
    if training is not None:
        opened_training = open_training(training, format, split, samples.statistics.get("target_view"))
        inputs.append(Input("training", relative_path(training, home), opened_training.digest))
    elif split is not None:
        raise ConfigError("--training-split names a split of --training", fix="give --training too, or leave it out")
    return Seen(opened_bank, opened_training, inputs)


def lacking(seen: Seen, samples: Artifact) -> list[NotComputed]:
    """What was not asked for, and how to."""
    missing = []
    if seen.bank is None and "source_view" not in samples.statistics and "graphs" not in samples.statistics:
        names = ["retrieval"] if samples.input("bank") is not None else []
        missing += [NotComputed(name, "needs the bank (--bank)") for name in (*names, "copy/segments")]
    if seen.training is None:
        missing.append(NotComputed("copy/photos", "needs the training images (--training)"))
    return missing


def look_at_pieces(
    seen: Seen, subject: Subject, context: Context, progress: Progress, judge: JudgeView | None
) -> Findings:
    """All that the bank and the training images allow: retrieval, the copy check, the audit of the photos."""
    made = Findings()
    if seen.bank is not None:
        made.add(measure_retrieval(subject, seen.bank, context, progress))
        made.add(check_pasted(subject, context, progress))
        made.add(check_segments(subject, seen.bank, context, progress))
    if seen.training is not None:
        extract, size = (judge.extract, judge.size) if judge else (None, None)
        images = read_training(seen.training, progress, extract, size)
        made.add(check_photos(subject, seen.training, images, context))
        if judge is not None:
            made.add(check_features(subject, seen.training, images, judge, context))
    return made
