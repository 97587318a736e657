"""Presets: each is understood, its networks can be built, and what a dry run prints is a config again."""

from __future__ import annotations

import pytest
import torch
from pydantic import BaseModel

from pipelines.config import Layer, dump_yaml, parse_yaml, resolve
from pipelines.data.toy.solids import SCHEMA
from pipelines.errors import ConfigError
from pipelines.nn.layers.spectral import SpectralConv2d
from pipelines.stages.train import config_of
from pipelines.systems.table import SYSTEMS, TRAINABLES, find_trainable, preset_layer, presets

SHIPPED = [pytest.param(name, preset, id=f"{name}-{preset}") for name in TRAINABLES for preset in presets(name)]


@pytest.mark.parametrize(("name", "preset"), SHIPPED)
def test_a_preset_resolves_and_its_dump_means_the_same(name: str, preset: str) -> None:
    config = resolve(config_of(name), [preset_layer(name, preset)])
    again = resolve(config_of(name), [Layer("dump", parse_yaml(dump_yaml(config), "dump"))])
    assert again == config
    assert dump_yaml(again) == dump_yaml(config)


@pytest.mark.parametrize(("name", "preset"), SHIPPED)
def test_every_value_of_a_preset_arrives(name: str, preset: str) -> None:
    config = resolve(config_of(name), [preset_layer(name, preset)])
    assert _within(presets(name)[preset], config.model_dump(mode="json"))


@pytest.mark.parametrize(("name", "preset"), SHIPPED)
def test_the_plan_of_a_preset_fits_its_networks(name: str, preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SpectralConv2d, "power_iterate", lambda layer, steps=1: None)  # there are no weights to settle
    config = resolve(config_of(name), [preset_layer(name, preset)])
    kind = find_trainable(name)
    plan = kind.plan(config.model, SCHEMA, config.train.steps)
    with torch.device("meta"):  # shapes without memory: published networks are large
        nets = kind(config.model, SCHEMA).networks()
    assert plan.optimizers.keys() == nets.keys()
    assert plan.averaged.keys() <= nets.keys()
    assert {net for phase in plan.phases for net in phase.nets} == nets.keys()
    for adam in plan.optimizers.values():
        assert 0 < adam.lr(0) < 1 and adam.lr(config.train.steps - 1) >= 0


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_ships_a_toy_and_a_published_preset(name: str) -> None:
    assert {"toy", "paper"} <= presets(name).keys()


def test_an_unknown_preset_or_system_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError) as error:
        preset_layer("spade", "huge")
    assert error.value.what == "spade has no preset 'huge'" and "paper, small, toy" in str(error.value.fix)
    with pytest.raises(ConfigError) as error:
        preset_layer("gaugan", "toy")
    assert all(name in str(error.value.fix) for name in SYSTEMS)


def _within(part: object, whole: object) -> bool:
    """Is every value of a nested mapping in the other one."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(k in whole and _within(v, whole[k]) for k, v in part.items())
    return part == whole


@pytest.mark.parametrize("name", TRAINABLES)
def test_setting_one_nested_key_leaves_its_siblings_at_their_defaults(name: str) -> None:
    """A default made for one field (Framing(load=2)) would be lost as soon as a sibling is set."""

    def check(config: BaseModel) -> None:
        for field in type(config).model_fields:
            value = getattr(config, field)
            if isinstance(value, BaseModel):
                assert value == type(value)(), f"{type(config).__name__}.{field} is not the default of its class"
                check(value)

    check(config_of(name)())
