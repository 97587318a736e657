"""Sizes and durations as a person writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import ConfigError
from rgs_cli.options import flag_layer, parse_size, seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("90s", 90), ("20m", 1200), ("1h30m", 5400), ("1h", 3600), (" 1.5h ", 5400), ("1h1m1s", 3661)],
)
def test_durations(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "m", "1d", "-5", "5m1h", "1 h", "nan"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ConfigError, match="is no duration"):
        seconds(text)


@given(st.integers(1, 10**5), st.integers(1, 10**5))
def test_a_size_is_height_by_width(height: int, width: int) -> None:
    assert parse_size(f"{height}x{width}") == (height, width)
    assert parse_size(str(height)) == (height, height)


@pytest.mark.parametrize("text", ["", "0", "64x0", "x64", "64x", "64*64", "-64", "6.4", "64x64x3", "big"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_size(text)
    assert error.value.exit_code == 2 and "256x512" in str(error.value.fix)


def test_flags_that_were_not_given_set_nothing() -> None:
    layer = flag_layer({"train.steps": 5, "train.batch": None, "split": None, "log.workers": 0})
    assert layer.values == {"train": {"steps": 5}, "log": {"workers": 0}}
