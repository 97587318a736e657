"""Which numbers may share a row, and what their difference is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipelines.metrics.compare import compare, paired_owners

PROTOCOL = {"variant": "per image", "library": "torchmetrics 1.9.0", "images": 6, "interval_protocol": "95 %"}


def score(name: str, value: float, per_image: list[Any] | None = None, **other: Any) -> dict[str, Any]:
    known = {"title": name.upper(), "unit": "", "better": "higher", "on_real": None, "warning": None, "interval": None}
    return {"name": name, "value": value, "per_image": per_image, "protocol": PROTOCOL, **known, **other}


def report(*scores: dict[str, Any], images: int = 6, digest: str | None = "d" * 64, **other: Any) -> dict[str, Any]:
    reference = None if digest is None else {"name": "real", "kind": "folder", "digest": digest, "images": images}
    return {"scores": list(scores), "images": [f"s{i}" for i in range(images)], "reference": reference, **other}


def mean_of(values: list[float]) -> dict[str, Any]:
    return score("ssim", float(np.mean(values)), values)


def test_a_paired_difference_is_surer_than_the_numbers() -> None:
    one = [0.1, 0.9, 0.3, 0.7, 0.2, 0.8]
    (row,) = compare([report(mean_of(one)), report(mean_of([v + 0.05 for v in one]))], 0)
    first, second = row["entries"]
    assert first["difference"] is None
    assert second["difference"] == pytest.approx(0.05)
    assert second["difference_interval"] == pytest.approx((0.05, 0.05))
    assert second["note"].startswith("paired") and "6 layouts" in second["note"]


def test_the_interval_is_that_of_the_mean_difference() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.normal(0, 1, 400), rng.normal(0.2, 1, 400)
    names = {"images": 400}
    reports = [report(mean_of(one.tolist()), **names), report(mean_of(other.tolist()), **names)]
    (row,) = compare(reports, 0)
    low, high = row["entries"][1]["difference_interval"]
    error = (other - one).std(ddof=1) / 20
    assert (low, high) == pytest.approx(
        ((other - one).mean() - 1.96 * error, (other - one).mean() + 1.96 * error), abs=0.25 * error
    )


def test_medians_and_counts_are_told_from_means_by_the_reported_value() -> None:
    one, other = [1.0, 2.0, 9.0, 3.0, 2.0, None], [2.0, 3.0, 99.0, 4.0, 3.0, None]
    (row,) = compare([report(score("m", 2.0, one)), report(score("m", 3.0, other))], 0)
    assert row["entries"][1]["difference"] == 1 and row["entries"][1]["difference_interval"] is not None
    right = [{"0": [k, 10, 10], "1": [5, 5, 15 - k]} for k in range(4, 10)]
    wrong = [{"0": [0, 10, 5], "1": [0, 5, 10]} for _ in range(6)]
    accuracy = sum(k + 5 for k in range(4, 10)) / 90
    (row,) = compare([report(score("accuracy", accuracy, right)), report(score("accuracy", 0.0, wrong))], 0)
    low, high = row["entries"][1]["difference_interval"]
    assert -1 < low < row["entries"][1]["difference"] < high < 0


def test_a_value_that_its_images_do_not_make_is_not_paired() -> None:
    (row,) = compare([report(score("x", 0.5, [0.1] * 6)), report(score("x", 0.6, [0.1] * 6))], 0)
    assert row["entries"][1]["difference"] == pytest.approx(0.1)
    assert row["entries"][1]["difference_interval"] is None and "no interval" in row["entries"][1]["note"]
    (row,) = compare([report(score("fid", 9.0)), report(score("fid", 8.0))], 0)
    assert row["entries"][1]["difference"] == -1 and "no interval" in row["entries"][1]["note"]


def test_other_images_are_not_paired() -> None:
    a, b = report(mean_of([0.5] * 6)), report(mean_of([0.6] * 6), images=6)
    b["images"] = [f"t{i}" for i in range(6)]
    (row,) = compare([a, b], 0)
    assert row["entries"][1]["note"] == "unpaired: other images or photos"
    assert row["entries"][1]["difference_interval"] is None


@pytest.mark.parametrize("key", ["variant", "library", "images"])
def test_another_protocol_is_another_row(key: str) -> None:
    other = score("ssim", 0.6, [0.6] * 6, protocol={**PROTOCOL, key: "other"})
    first, second = compare([report(mean_of([0.5] * 6)), report(other)], 0)
    assert first["entries"][1] is None and second["entries"][0] is None
    assert first["differs"] == {} and second["differs"] == {key: "other"}
    assert second["entries"][1]["difference"] is None and "incomparable" in second["entries"][1]["note"]


def test_other_reference_photos_are_another_row_but_not_for_retrieval() -> None:
    scores = [mean_of([0.5] * 6), score("retrieval/iou", 0.5, [0.5] * 6)]
    rows = compare([report(*scores), report(*scores, digest="e" * 64)], 0)
    assert [row["name"] for row in rows] == ["ssim", "ssim", "retrieval/iou"]
    assert "reference photos" in rows[1]["differs"]
    assert rows[2]["entries"][1]["difference"] == 0


def test_what_belongs_to_a_run_may_differ() -> None:
    protocols = [{**PROTOCOL, "synthesis seed": s, "interval_protocol": str(s), "pieces from": str(s)} for s in (1, 2)]
    (row,) = compare([report(score("ssim", 0.5, [0.5] * 6, protocol=p)) for p in protocols], 0)
    assert all(row["entries"]) and "synthesis seed" not in row["protocol"]


def test_a_score_that_the_first_run_lacks_is_kept() -> None:
    rows = compare([report(mean_of([0.5] * 6)), report(mean_of([0.5] * 6), score("psnr", 20.0)), report()], 0)
    assert [(row["name"], [e is not None for e in row["entries"]]) for row in rows] == [
        ("ssim", [True, True, False]),
        ("psnr", [False, True, False]),
    ]


def test_variants_of_a_layout_are_drawn_together() -> None:
    reports = [report(mean_of([0.1, 0.9] * 3), sources=["a", "a", "b", "b", "c", "c"]) for _ in range(2)]
    owners = paired_owners(*reports)
    assert owners is not None and owners.tolist() == [0, 0, 1, 1, 2, 2]
    assert paired_owners(reports[0], report(mean_of([0.1, 0.9] * 3))) is None


def test_a_warning_is_said_once() -> None:
    few, own = score("x", 1.0, warning="few"), score("x", 2.0, warning="own")
    (row,) = compare([report(few), report(few), report(own), report(score("x", 3.0))], 0)
    assert row["warnings"] == [{"text": "few", "of": [0, 1]}, {"text": "own", "of": [2]}]
