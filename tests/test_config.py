"""Layers, coercion and what a wrong key is answered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from pipelines.config import Config, Layer, dump_yaml, merge, nested, parse_assignments, parse_yaml, resolve
from pipelines.errors import ConfigError


class Inner(Config):
    rate: float = 1e-3
    """How fast."""
    betas: tuple[float, float] = (0.0, 0.9)
    """Two of them."""


class Outer(Config):
    batch: int = Field(8, ge=1)
    """How many."""
    inner: Inner = Inner()
    """What is inside."""
    maybe: Inner | None = None
    """Or not."""


def test_later_layers_win_key_by_key() -> None:
    layers = [Layer("preset", {"batch": 4, "inner": {"rate": 0.5}}), Layer("--set", {"inner": {"betas": [0.5, 0.9]}})]
    config = resolve(Outer, layers)
    assert (config.batch, config.inner.rate, config.inner.betas) == (4, 0.5, (0.5, 0.9))


def test_yaml_1_1_traps_are_coerced() -> None:
    config = resolve(Outer, [Layer("file", parse_yaml("inner: {rate: 1e-4, betas: [0, 0.9]}", "file"))])
    assert config.inner.rate == 1e-4
    assert config.inner.betas == (0.0, 0.9) and all(isinstance(b, float) for b in config.inner.betas)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"bach": 4}, "unknown key 'bach'; did you mean 'batch'?"),
        ({"inner": {"rat": 1}}, "unknown key 'inner.rat'; did you mean 'rate'?"),
        ({"maybe": {"bets": 1}}, "unknown key 'maybe.bets'; did you mean 'betas'?"),
        ({"zzz": 1}, "known here: batch, inner, maybe"),
        ({"batch": 0}, "batch: Input should be greater than or equal to 1, not 0"),
        ({"inner": {"rate": float("nan")}}, "inner.rate"),
    ],
)
def test_a_wrong_value_is_named_with_its_layer(values: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        resolve(Outer, [Layer("preset", {"batch": 4}), Layer("--config my.yaml", values)])
    assert said in error.value.what and "(from --config my.yaml)" in error.value.what
    assert error.value.exit_code == 2


def test_assignments_are_yaml_and_nest() -> None:
    assert parse_assignments(["a.b=1", "a.c=[1, 2]", "d=x"]) == {"a": {"b": 1, "c": [1, 2]}, "d": "x"}


@pytest.mark.parametrize("text", ["batch", "=3", "a..b=1", "a.=1", "a={"])
def test_a_malformed_assignment_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_assignments([text])


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2", "just text"])
def test_what_is_no_mapping_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"YAML|mapping"):
        parse_yaml(text, "file.yaml")


keys = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(".".join)


@given(st.lists(st.tuples(keys, st.integers()), max_size=8))
def test_merging_keeps_the_last_value_of_every_key(pairs: list[tuple[str, int]]) -> None:
    merged: dict[str, object] = {}
    for key, value in pairs:
        merged = merge(merged, nested(key, value))
    for i, (key, value) in enumerate(pairs):
        later = [k for k, _ in pairs[i + 1 :]]
        if any(k == key or k.startswith(key + ".") or key.startswith(k + ".") for k in later):
            continue
        found: object = merged
        for part in key.split("."):
            assert isinstance(found, dict)
            found = found[part]
        assert found == value


def test_a_dumped_config_resolves_to_itself() -> None:
    config = Outer(batch=3, inner=Inner(rate=0.1))
    assert resolve(Outer, [Layer("dump", parse_yaml(dump_yaml(config), "dump"))]) == config
