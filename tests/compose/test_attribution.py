"""The picture of a provenance: what is where in it, and that nothing in a record breaks it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipelines.compose.attribution import (
    COLORS,
    LISTED,
    OTHERS,
    PANEL,
    UNFED,
    WIDTH,
    attribution_picture,
    font,
    percent,
    source_map,
    write_picture,
)
from pipelines.compose.provenance import output_record
from pipelines.errors import ConfigError


def made(index: np.ndarray, sources: list[str], licence: str = "CC0-1.0") -> tuple[np.ndarray, dict[str, Any]]:
    """A gray guidance and the record of an index image whose k-th piece is of sources[k - 1]."""
    pixels = np.bincount(index.ravel(), minlength=len(sources) + 1)
    pieces = [
        {"source": s, "licence": licence, "pixels": int(n), "category": "wall"}
        for s, n in zip(sources, pixels[1:], strict=True)
    ]
    return np.full((*index.shape, 3), 128, np.uint8), output_record("x", "shape", index, pieces)


def hue(color: Any) -> np.ndarray:
    """A color without its brightness."""
    values = np.asarray(color, np.float64)
    return values / np.linalg.norm(values)


def test_the_map_shows_each_source_in_its_color_of_the_legend() -> None:
    index = np.zeros((40, 40), np.uint16)
    index[:20, :20], index[:20, 20:], index[20:, :10] = 1, 2, 3
    guidance, record = made(index, ["b", "a", "b"])  # «b» has most pixels: the first color
    drawn = source_map(guidance, index, record)
    assert drawn.shape == (PANEL, PANEL, 3)
    at = {name: drawn[y * 8, x * 8] for name, (y, x) in {"b": (4, 4), "a": (4, 36), "b too": (36, 4)}.items()}
    np.testing.assert_allclose(hue(at["b"]), hue(COLORS[0]), atol=0.02)
    np.testing.assert_allclose(hue(at["b too"]), hue(COLORS[0]), atol=0.02)
    np.testing.assert_allclose(hue(at["a"]), hue(COLORS[1]), atol=0.02)
    assert tuple(drawn[36 * 8, 30 * 8]) == UNFED
    page = attribution_picture(guidance, guidance, index, record)
    assert page.dtype == np.uint8 and page.shape[1] == WIDTH
    for color in (COLORS[0], COLORS[1], UNFED):  # swatches of the legend
        assert (page[PANEL:] == color).all(axis=2).sum() > 100
    assert not (page == COLORS[2]).all(axis=2).any() and not (page == OTHERS).all(axis=2).any()


def test_many_sources_share_a_color_and_a_row() -> None:
    index = np.repeat(np.arange(1, 41, dtype=np.uint16), 8).reshape(40, 8)
    guidance, record = made(index, [f"s{k:02}" for k in range(40)])
    page = attribution_picture(guidance, guidance, index, record)
    assert (page[PANEL:] == OTHERS).all(axis=2).any()
    few = attribution_picture(*[guidance] * 2, *fed_by(index, LISTED))
    assert not (few[PANEL:] == OTHERS).all(axis=2).any()


def fed_by(index: np.ndarray, count: int) -> tuple[np.ndarray, dict[str, Any]]:
    return index, made(index, [f"s{k % count}" for k in range(int(index.max()))])[1]


@pytest.mark.parametrize("shape", [(1, 500), (500, 1), (64, 64), (300, 700)])
def test_any_shape_and_any_name(shape: tuple[int, int]) -> None:
    index = np.ones(shape, np.uint16)
    names = ["Straße/\u0444\u043e\u0442\u043e " + "long " * 40]
    guidance, record = made(index, names, licence="https://creativecommons.org/licenses/by-nc-sa/4.0/ " * 5)
    page = attribution_picture(guidance, guidance, index, {**record, "name": "n" * 300})
    assert page.shape[1] == WIDTH and page.shape[0] < 2 * PANEL


def test_nothing_was_placed() -> None:
    index = np.zeros((8, 8), np.uint16)
    for retrieval in ("none", "oracle"):
        guidance, record = made(index, [])
        page = attribution_picture(guidance, guidance, index, {**record, "retrieval": retrieval})
        assert (page == UNFED).all(axis=2).any()


def test_the_same_record_gives_the_same_picture() -> None:
    index = np.arange(64, dtype=np.uint16).reshape(8, 8)
    guidance, record = made(index, [f"s{k}" for k in range(63)])
    first, second = (attribution_picture(guidance, guidance, index, record) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_shares_are_said_as_people_read_them() -> None:
    assert [percent(x) for x in (0, 0.0004, 0.001, 0.1234, 1)] == ["0.0 %", "< 0.1 %", "0.1 %", "12.3 %", "100.0 %"]


def test_the_font_has_letters_beyond_ascii() -> None:
    boxes = {bytes(font(20).getmask(letter)) for letter in "\u00e9\u0444\u03b1\u2026"}
    assert len(boxes) == 4  # were one missing, it would be drawn as the same empty box as another


def test_written_by_the_ending_of_the_name(tmp_path: Path) -> None:
    picture = np.full((20, 30, 3), (250, 20, 90), np.uint8)
    for name, start in (("a.png", b"\x89PNG"), ("b.jpg", b"\xff\xd8"), ("c.JPEG", b"\xff\xd8")):
        write_picture(tmp_path / name, picture)
        assert (tmp_path / name).read_bytes().startswith(start)
        read = cv2.imread(str(tmp_path / name))[..., ::-1]
        np.testing.assert_allclose(read.astype(int), picture, atol=4)
    for name in ("d.gif", "e"):
        with pytest.raises(ConfigError, match="PNG or JPEG"):
            write_picture(tmp_path / name, picture)
