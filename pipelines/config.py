"""Configs: pydantic models whose field docstrings are the help, resolved from layers.

    model defaults < preset YAML < --config file.yaml < --set train.batch=8 < plain flags

Every layer is a plain nested dict with a name. Unknown keys are refused with the nearest name, and an error says
which layer the wrong value came from. YAML 1.1 reads `1e-4` as text and `[0, 0.9]` as an int and a float; the
models coerce both.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.errors import ConfigError


class Config(BaseModel):
    """Base of every config: immutable, unknown keys refused, a docstring under each field."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


ConfigT = TypeVar("ConfigT", bound=Config)


class Layer(NamedTuple):
    """One source of values; `name` is what an error calls it, for instance «--config my.yaml»."""

    name: str
    values: Mapping[str, Any]


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file with one mapping. Raises ConfigError with the line of a syntax error."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the config: {error}", where=path) from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"this is not YAML: {error}", where=where) from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError("a config must be a mapping of keys to values", where=where)
    return values


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """`["train.batch=8"]` -> `{"train": {"batch": 8}}`; values are YAML."""
    result: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not all(key.split(".")):
            raise ConfigError(f"--set {text!r} is not KEY=VALUE", fix="write for instance --set train.batch=8")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"the value of --set {key} is not YAML: {error}") from error
        result = merge(result, nested(key, parsed))
    return result


def nested(key: str, value: Any) -> dict[str, Any]:
    """`nested("a.b", 1)` -> `{"a": {"b": 1}}`."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`, mapping by mapping; anything that is no mapping is replaced whole."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def resolve(model: type[ConfigT], layers: Sequence[Layer]) -> ConfigT:
    """Merge the layers in order and validate. Raises ConfigError naming key, layer and the nearest known name."""
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = merge(merged, layer.values)
    try:
        return model.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(_explain(model, error, layers)) from error


def dump_yaml(values: Mapping[str, Any] | Config) -> str:
    """YAML in the order of the fields, for config.yaml and dry runs."""
    data = values.model_dump(mode="json") if isinstance(values, Config) else dict(values)
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def _explain(model: type[BaseModel], error: ValidationError, layers: Sequence[Layer]) -> str:
    lines = []
    for fault in error.errors(include_url=False):
        path = [str(part) for part in fault["loc"]]
        key = ".".join(path)
        origin = next((la.name for la in reversed(layers) if _has(la.values, path)), None)
        if fault["type"] == "extra_forbidden":
            known = _fields_at(model, path[:-1])
            near = difflib.get_close_matches(path[-1], known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known here: {', '.join(sorted(known)) or 'none'}"
            text = f"unknown key {key!r}{hint}"
        else:
            got = "" if fault["type"] == "missing" else f", not {fault['input']!r}"
            text = f"{key or 'config'}: {fault['msg'].removeprefix('Value error, ')}{got}"
        lines.append(text + (f"  (from {origin})" if origin else ""))
    return "; ".join(lines)


def _has(values: Any, path: Sequence[str]) -> bool:
    for part in path:
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True


def _fields_at(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    for part in path:
        field = model.model_fields.get(part)
        inner = _inner_model(field.annotation) if field else None
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType):
        for option in get_args(annotation):
            if (inner := _inner_model(option)) is not None:
                return inner
    return None
