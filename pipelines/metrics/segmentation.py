"""Agreement of predicted with wanted label maps: mIoU and pixel accuracy from counts over a whole set.

Pixels whose reference is ignored count nowhere. The three counts of a class (pixels right, pixels of the reference,
pixels predicted) are all that the scores need, and they add up over images: TP, TP + FN and TP + FP.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PROTOCOL = "confusion matrix of the whole set; classes in neither reference nor prediction left out"


@dataclass(frozen=True)
class Agreement:
    """Scores of a set. iou: (classes,), NaN for a class in neither reference nor prediction."""

    miou: float
    accuracy: float
    iou: np.ndarray


def confusion(reference: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """(classes, classes) int64: pixels by reference (row) and predicted (column) class; reference -1 is ignored."""
    valid = reference >= 0
    pairs = reference[valid].astype(np.int64) * classes + predicted[valid]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def class_counts(matrix: np.ndarray) -> np.ndarray:
    """(classes, 3) int64 of a confusion matrix: pixels right, of the reference, predicted."""
    return np.stack([np.diag(matrix), matrix.sum(1), matrix.sum(0)], axis=1)


def agreement(counts: np.ndarray) -> Agreement:
    """Scores from `class_counts`, summed over images. NaN where no pixel has a reference."""
    return Agreement(float(miou(counts)), float(accuracy(counts)), class_iou(counts))


def class_iou(counts: np.ndarray) -> np.ndarray:
    """(..., classes) of counts (..., classes, 3): TP / (TP + FP + FN), NaN where that is 0 / 0."""
    right, reference, predicted = np.moveaxis(counts.astype(np.float64), -1, 0)
    union = reference + predicted - right
    return np.divide(right, union, out=np.full_like(right, np.nan), where=union > 0)


def miou(counts: np.ndarray) -> np.ndarray:
    """(...) mean over the classes that are in reference or prediction; NaN where no pixel has a reference."""
    iou = class_iou(counts)
    there = ~np.isnan(iou)
    labelled = counts[..., 1].sum(-1) > 0
    total, classes = np.where(there, iou, 0).sum(-1), there.sum(-1)
    return np.divide(total, classes, out=np.full(labelled.shape, np.nan), where=labelled)


def accuracy(counts: np.ndarray) -> np.ndarray:
    """(...) share of the labelled pixels that are right; NaN where there are none."""
    right, labelled = counts[..., 0].sum(-1).astype(np.float64), counts[..., 1].sum(-1)
    return np.divide(right, labelled, out=np.full(right.shape, np.nan), where=labelled > 0)


def class_accuracy(counts: np.ndarray) -> np.ndarray:
    """(...) mean over the classes of the reference of the share of theirs that is right; NaN where there are none."""
    right, reference = counts[..., 0].astype(np.float64), counts[..., 1]
    there = reference > 0
    shares = np.divide(right, reference, out=np.zeros_like(right), where=there)
    classes = there.sum(-1)
    return np.divide(shares.sum(-1), classes, out=np.full(classes.shape, np.nan), where=classes > 0)
