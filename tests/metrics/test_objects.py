"""Objects that are cut out of images, and what is made of a classifier's answers: numbers by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data.scene import Category, Schema
from pipelines.metrics import segmentation
from pipelines.metrics.compare import paired_statistic
from pipelines.metrics.objects import Seen, cut, object_scores, object_table
from pipelines.metrics.scores import OWN, Context, JudgeName, NotComputed, Score

SCHEMA = Schema(tuple(Category(i, name, (i, 0, 0), False) for i, name in enumerate(("sky", "road", "car"))))
JUDGE = JudgeName("c", "0123abcd", False, "classifier")


def seen(image: list[int], wanted: list[int], given: list[int], features: np.ndarray | None = None) -> Seen:
    """Objects that a sure classifier gives some classes."""
    logits = np.full((len(given), 3), -20.0)
    logits[np.arange(len(given)), given] = 20
    return Seen(np.array(image), np.array(wanted), logits, logits if features is None else features)


def named(found: list[Score | NotComputed]) -> dict[str, Score | NotComputed]:
    return {one.name.partition("[")[0]: one for one in found}


# ---- boxes ----------------------------------------------------------------------------------------------------------


def test_boxes_are_cut_at_the_nearest_pixels() -> None:
    image = np.arange(8 * 10, dtype=np.uint8).reshape(8, 10, 1).repeat(3, 2)
    assert (cut(image, np.array([0, 0, 1, 1])) == image).all()
    assert (cut(image, np.array([0.5, 0, 1, 0.5])) == image[:4, 5:]).all()
    assert (cut(image, np.array([0.26, 0.26, 0.74, 0.74])) == image[2:6, 3:7]).all()


@settings(max_examples=200, deadline=None)
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    box=st.tuples(*[st.floats(-0.5, 1.5)] * 4),
)
def test_any_box_shows_a_pixel_at_least(size: tuple[int, int], box: tuple[float, ...]) -> None:
    shown = cut(np.zeros((*size, 3), np.uint8), np.array(box))
    assert shown.shape[0] >= 1 and shown.shape[1] >= 1


# ---- accuracy -------------------------------------------------------------------------------------------------------


def test_accuracies_by_hand() -> None:
    # image 0: sky right, road taken for car; image 1: two cars right, one car taken for sky
    context = Context({}, np.arange(2), 2, 0)
    outputs = seen([0, 0, 1, 1, 1], [0, 1, 2, 2, 2], [0, 2, 2, 2, 0])
    reals = seen([0, 0, 1, 1, 1], [0, 1, 2, 2, 2], [0, 1, 2, 2, 0])
    found = named(object_scores(outputs, reals, "", JUDGE, context))
    plain, alike = found["object_accuracy"], found["object_accuracy_balanced"]
    assert isinstance(plain, Score) and plain.value == pytest.approx(3 / 5) and plain.on_real == pytest.approx(4 / 5)
    assert isinstance(alike, Score) and alike.value == pytest.approx((1 + 0 + 2 / 3) / 3)
    assert alike.on_real == pytest.approx((1 + 1 + 2 / 3) / 3)
    assert plain.name == "object_accuracy[classifier:c]" and plain.warning is None
    assert plain.interval == pytest.approx((1 / 2, 2 / 3))
    # per class: right, wanted, given
    assert plain.per_image == [{"0": [1, 1, 1], "1": [0, 1, 0], "2": [0, 0, 1]}, {"0": [0, 0, 1], "2": [2, 3, 2]}]


@pytest.mark.parametrize("name", ["object_accuracy", "object_accuracy_balanced"])
def test_two_reports_can_be_compared_in_pairs(name: str) -> None:
    context = Context({}, np.arange(2), 2, 0)
    good = seen([0, 0, 1, 1], [0, 1, 2, 2], [0, 1, 2, 2])
    poor = seen([0, 0, 1, 1], [0, 1, 2, 2], [0, 2, 2, 0])
    first, second = (named(object_scores(s, None, "", JUDGE, context))[name].to_json() for s in (poor, good))
    difference = paired_statistic(first, second)
    assert difference is not None
    assert difference(np.arange(2)) == pytest.approx(second["value"] - first["value"])
    assert difference(np.array([1, 1])) == pytest.approx(0.5)


def test_classes_without_objects_count_nowhere() -> None:
    counts = np.array([[3, 4, 5], [0, 0, 2], [1, 1, 1]])
    assert segmentation.class_accuracy(counts) == pytest.approx((3 / 4 + 1) / 2)
    assert np.isnan(segmentation.class_accuracy(np.zeros((3, 3))))
    assert segmentation.class_accuracy(np.stack([counts, counts])).shape == (2,)


def test_the_table_of_classes() -> None:
    outputs, reals = seen([0, 0, 1], [0, 2, 2], [0, 2, 1]), seen([0], [2], [2])
    rows = object_table(outputs, reals, SCHEMA)
    assert [(row["name"], row["objects"], row["accuracy"], row["on_real"]) for row in rows] == [
        ("sky", 1, 1.0, None),
        ("car", 2, 0.5, 1.0),
    ]
    assert all(row["on_real"] is None for row in object_table(outputs, None, SCHEMA))


def test_a_classifier_that_helped_to_train_is_marked() -> None:
    own = replace(JUDGE, own=True)
    found = object_scores(seen([0], [0], [0]), None, "no photos", own, Context({}, np.arange(1), 1, 0))
    assert all(one.warning == OWN["classifier"] for one in found if isinstance(one, Score))


# ---- sets of objects ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_the_class_score_of_k_equally_frequent_sure_classes_is_k(classes: int) -> None:
    count = 6000  # in parts of 600, which have the classes nearly equally often
    objects = [number % classes for number in range(count)]
    context = Context({}, np.arange(2), 2, 0)
    outputs = seen(sorted(number % 2 for number in range(count)), objects, objects)
    found = named(object_scores(outputs, outputs, "", JUDGE, context))["class_score"]
    assert isinstance(found, Score) and found.value == pytest.approx(classes, rel=0.01)
    assert found.on_real == found.value


def test_predictions_that_are_all_alike_have_a_class_score_of_1() -> None:
    context = Context({}, np.arange(20), 20, 0)
    logits = np.tile([0.3, 2.0, -1.0], (20, 1))
    outputs = Seen(np.arange(20), np.zeros(20, np.int64), logits, logits)
    found = named(object_scores(outputs, None, "", JUDGE, context))["class_score"]
    assert isinstance(found, Score) and found.value == pytest.approx(1) and found.interval == pytest.approx((1, 1))
    assert found.name == "class_score[classifier:c]" and "Inception" not in found.title


def test_the_distance_of_objects_to_themselves_is_0_and_a_shift_is_its_square() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 4))
    numbers, classes = np.repeat(np.arange(10), 4).tolist(), [0] * 40
    context = Context({}, np.arange(10), 10, 0)
    reals = seen(numbers, classes, classes, features)
    same = named(object_scores(reals, reals, "", JUDGE, context))["frechet_objects"]
    assert isinstance(same, Score) and abs(same.value) < 1e-9 and same.warning is None
    moved = seen(numbers, classes, classes, features + np.array([3, 0, 4, 0]))
    far = named(object_scores(moved, reals, "", JUDGE, context))["frechet_objects"]
    assert isinstance(far, Score) and far.value == pytest.approx(25) and far.interval is not None
    assert far.interval[0] <= 25 <= far.interval[1] and far.protocol["objects"] == 40
    few = seen([0, 1, 2, 3], classes[:4], classes[:4], features[:4])
    singular = named(object_scores(few, few, "", JUDGE, Context({}, np.arange(4), 4, 0)))["frechet_objects"]
    assert isinstance(singular, Score) and singular.warning is not None and "singular" in singular.warning


def test_what_needs_more_objects_or_photos_is_not_computed() -> None:
    context = Context({}, np.arange(1), 1, 0)
    found = named(object_scores(seen([0], [0], [0]), None, "no photos", JUDGE, context))
    for name, why in (("class_score", "needs 10 objects"), ("frechet_objects", "no photos")):
        one = found[name]
        assert isinstance(one, NotComputed) and why in one.reason
