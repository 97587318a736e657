"""mIoU and pixel accuracy from the confusion matrix of the whole set."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipelines.metrics.segmentation import agreement, class_counts, confusion


def counts(reference: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    return class_counts(confusion(reference, predicted, classes))


def test_two_images_by_hand() -> None:
    zeros = np.zeros(100, dtype=np.int16)
    mixed = np.array([1] * 90 + [0] * 10, dtype=np.int16)
    total = counts(zeros, zeros, 3) + counts(mixed, np.ones(100, dtype=np.int64), 3)
    found = agreement(total)
    assert found.iou[:2] == pytest.approx([100 / 110, 0.9])
    assert np.isnan(found.iou[2])
    assert found.miou == pytest.approx(0.904545454545)
    assert found.accuracy == pytest.approx(0.95)


def test_ignored_pixels_count_nowhere() -> None:
    reference = np.array([[0, -1], [1, -1]], dtype=np.int16)
    predicted = np.array([[0, 2], [1, 0]])
    found = agreement(counts(reference, predicted, 3))
    assert (found.miou, found.accuracy) == (1.0, 1.0)
    assert np.isnan(found.iou[2])


def test_a_class_that_is_only_predicted_lowers_the_mean() -> None:
    found = agreement(counts(np.zeros(4, dtype=np.int16), np.array([0, 0, 0, 1]), 2))
    assert found.miou == pytest.approx((0.75 + 0) / 2)


def test_nothing_labelled_is_no_score() -> None:
    found = agreement(counts(np.full(4, -1, dtype=np.int16), np.zeros(4, dtype=np.int64), 2))
    assert np.isnan([found.miou, found.accuracy]).all()


@given(
    st.integers(1, 6).flatmap(
        lambda c: st.tuples(
            st.just(c),
            arrays(np.int16, (5, 7), elements=st.integers(-1, c - 1)),
            arrays(np.int64, (5, 7), elements=st.integers(0, c - 1)),
        )
    )
)
def test_against_sets_of_pixels(case: tuple[int, np.ndarray, np.ndarray]) -> None:
    classes, reference, predicted = case
    found = agreement(counts(reference, predicted, classes))
    ious = []
    for c in range(classes):
        wanted = {tuple(p) for p in np.argwhere(reference == c)}
        given_ = {tuple(p) for p in np.argwhere((predicted == c) & (reference >= 0))}
        if wanted | given_:
            ious.append(len(wanted & given_) / len(wanted | given_))
    if ious:
        assert found.miou == pytest.approx(np.mean(ious))
        assert found.accuracy == pytest.approx((reference == predicted).sum() / (reference >= 0).sum())
    else:
        assert np.isnan(found.miou)
