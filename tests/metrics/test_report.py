"""Pieces of the report page: numbers, pictures, curves."""

from __future__ import annotations

import base64
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.metrics.curves import draw_curves, loss_names, read_metrics, smooth
from pipelines.metrics.report import data_uri, show_number


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0000"),
        (0.73125, "0.7312"),
        (23.411, "23.41"),
        (1204.4, "1204"),
        (123456.0, "123456"),
        (-0.5, "-0.5000"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert show_number(value) == text


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_unknown_numbers_are_a_dash(value: float | None) -> None:
    assert show_number(value) == "–"


def test_pictures_are_exact_and_large_ones_shrink() -> None:
    def decoded(uri: str) -> np.ndarray:
        data = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        return picture[..., ::-1]

    small = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    assert np.array_equal(decoded(data_uri(small)), small)
    assert decoded(data_uri(np.zeros((300, 600, 3), dtype=np.uint8))).shape == (128, 256, 3)


def test_smoothing_has_no_start_up_bias_and_passes_over_gaps() -> None:
    assert smooth(np.full(9, 4.0), 5) == pytest.approx(np.full(9, 4.0))
    values = np.array([np.nan, 2.0, np.inf, 2.0])
    assert smooth(values, 3)[1:] == pytest.approx([2, 2, 2])
    assert np.array_equal(smooth(np.array([3.0, 1.0]), 1), [3.0, 1.0])


def test_curves_are_one_svg_that_repeats_itself() -> None:
    lines = [{"step": s, "G/hinge": float(s % 7), "D/hinge": 1.0, "time": 0.0} for s in range(1, 2000)]
    lines[5]["G/hinge"] = float("nan")
    assert loss_names(lines) == ["G/hinge", "D/hinge"]
    svg = draw_curves(lines)
    root = ET.fromstring(svg)
    assert root.tag.endswith("svg") and "width" not in root.attrib and "viewBox" in root.attrib
    assert svg == draw_curves(lines)
    assert "currentColor" in svg and "purl.org" not in svg and len(svg) < 200_000


def test_a_cut_off_log_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    text = "".join(json.dumps({"step": s, "G/x": 1.0}) + "\n" for s in (10, 20, 30)) + '{"step": 40, "G/'
    (tmp_path / "metrics.jsonl").write_text(text)
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [10, 20, 30]
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl", 20)] == [10, 20]
